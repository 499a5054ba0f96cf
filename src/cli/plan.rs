//! What a training run would take of a card that need not be there: its memory by class, its
//! operations beside the card's limits, and a profile beside both.

use anyhow::{Result, bail};
use half::f16;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use crate::model::{Model, ModelConfig, Parameters};
use crate::ops::Kind;
use crate::ops::cuda::CudaDevice;
use crate::ops::cuda::driver::fake::FakeDriver;
use crate::ops::cuda::driver::profile::{Measured, Profile};
use crate::ops::{MemoryClass, allocating};
use crate::roofline::cards::{CARDS, Card};
use crate::roofline::operations::{Operation, StepShape, family, operations};
use crate::roofline::{BANDWIDTH_EFFICIENCY, Prediction, SECONDS_PER_LAUNCH};
use crate::train::TrainSettings;
use crate::train::memory::{self, MemoryPlan, format_bytes};
use crate::train::step::Engine;

/// Size of the data set whose hours are told.
const EXAMPLES: f64 = 500_000.0;
const EPOCHS: f64 = 3.0;
/// Tokens of the largest micro-batch that is looked for.
const MOST_TOKENS: usize = 1 << 18;

/// What a plan is made for.
pub(super) struct Request {
    pub config: ModelConfig,
    /// A step, which is one micro-batch.
    pub settings: TrainSettings,
    /// Tokens of an example on average.
    pub example_tokens: f64,
}

/// A plan on a card.
pub(super) struct CardPlan {
    card: &'static Card,
    memory: MemoryPlan,
    /// Tokens of the largest micro-batch that fits; 0 where none does.
    largest: usize,
    prediction: Prediction,
    launches: u64,
}

impl Request {
    /// With steps of at least so many tokens, in whole rows; `None`: the settings' own.
    pub(crate) fn of_tokens(
        config: ModelConfig,
        mut settings: TrainSettings,
        tokens: Option<usize>,
        example_tokens: f64,
    ) -> Self {
        if let Some(tokens) = tokens {
            let rows = tokens.div_ceil(settings.max_length).max(1);
            settings.batch_size = settings.batch_size.min(rows);
            settings.gradient_accumulation_steps = rows.div_ceil(settings.batch_size);
        }
        let example_tokens = example_tokens.min(settings.max_length as f64);
        Self {
            config,
            settings,
            example_tokens,
        }
    }

    fn logical_tokens(&self) -> usize {
        self.settings.batch_size * self.settings.max_length
    }

    fn memory(&self, card: &Card, micro_batch: usize) -> Result<MemoryPlan> {
        let settings = TrainSettings {
            gradient_accumulation_steps: micro_batch,
            ..self.settings.clone()
        };
        let dry_device = CudaDevice::<f16>::dry(card.multiprocessors)?;
        let answers = |device: &CudaDevice<f16>, model: &Model<CudaDevice<f16>>| {
            crate::generate::Generator::new(device, model).map(drop)
        };
        memory::plan(&dry_device, &self.config, &settings, micro_batch, &answers)
    }

    /// Launches of one step, by family of kernels.
    fn launches(&self, card: &Card) -> Result<BTreeMap<String, u64>> {
        let driver = Arc::new(FakeDriver::new(card.multiprocessors));
        let device = CudaDevice::<f16>::dry_on(driver.clone())?;
        let parameters = allocating(&device, MemoryClass::Weights, || {
            Parameters::zeros(&device, &self.config)
        })?;
        let model = Model::new(self.config.clone(), parameters)?;
        let micro_batch = self.settings.gradient_accumulation_steps;
        let weights = memory::no_weights(&self.config);
        let mut engine = Engine::new(&device, model, &weights, &self.settings, micro_batch)?;
        let step = memory::full_step(&self.settings)?;
        driver.take_launches();
        engine.step(&device, &step, 1, 0.0)?;
        let mut families = BTreeMap::new();
        for (kernel, count) in driver.take_launches() {
            *families.entry(family(kernel)).or_default() += count;
        }
        Ok(families)
    }

    fn shape(&self) -> StepShape {
        StepShape {
            micro_tokens: self.logical_tokens() * self.settings.gradient_accumulation_steps,
            micro_batches: 1,
            example_tokens: self.example_tokens,
            counted: 1.0,
        }
    }

    /// The plan on a card.
    pub(crate) fn plan(&self, card: &'static Card) -> Result<CardPlan> {
        let wanted = self.settings.gradient_accumulation_steps;
        let memory = self.memory(card, wanted)?;
        let most = (MOST_TOKENS / self.logical_tokens()).max(wanted);
        let largest = memory::largest(most, |micro_batch| {
            let plan = self.memory(card, micro_batch)?;
            Ok((plan.memory.total() <= card.usable()).then_some(plan.tokens))
        })?;
        let launches = self.launches(card)?;
        let of = |operation: &Operation| -> u64 {
            let kernels = operation.kernels.iter();
            kernels.filter_map(|kernel| launches.get(*kernel)).sum()
        };
        let prediction = Prediction::new(card, &self.config, &self.shape(), &of)?;
        let known: Vec<&str> = prediction
            .rows
            .iter()
            .flat_map(|row| row.operation.kernels.iter().copied())
            .collect();
        if let Some(unknown) = launches.keys().find(|name| !known.contains(&name.as_str())) {
            bail!("a step launches {unknown}, which no operation of the roofline names");
        }
        Ok(CardPlan {
            card,
            memory,
            largest: largest.unwrap_or(0),
            launches: launches.values().sum(),
            prediction,
        })
    }
}

impl CardPlan {
    /// Whether it fits the card.
    ///
    /// # Errors
    /// Where it does not, with what would.
    pub(crate) fn check(&self) -> Result<()> {
        let (need, usable) = (self.memory.memory.total(), self.card.usable());
        if need <= usable {
            return Ok(());
        }
        let way_out = match self.largest {
            0 => "not even one row fits".to_string(),
            tokens => format!("the largest micro-batch that fits has {tokens} tokens"),
        };
        bail!(
            "the run needs {}, of the {}'s {} it may take {}: {way_out}",
            format_bytes(need),
            self.card.name,
            format_bytes(self.card.memory),
            format_bytes(usable)
        )
    }

    /// A line on what fits.
    pub(crate) fn fits(&self) -> String {
        match self.largest {
            0 => "not enough memory to train the 47M model".to_string(),
            tokens => format!(
                "trains the 47M model in micro-batches of up to {tokens} tokens, at about {:.0} \
                 tokens/s (predicted)",
                self.prediction.tokens_per_second
            ),
        }
    }

    /// For people.
    pub(crate) fn text(&self, request: &Request) -> String {
        let card = self.card;
        let mut text = format!(
            "{} ({:.1} TFLOP/s fp16 with fp32 accumulation, {:.0} GB/s, {}): {} parameters, \
             micro-batches of {} tokens\n\n",
            card.name,
            card.flops_per_second() / 1e12,
            card.bytes_per_second / 1e9,
            format_bytes(card.memory),
            request.config.parameter_count(),
            self.memory.tokens
        );
        for class in MemoryClass::ALL {
            let bytes = format_bytes(self.memory.memory.of(class));
            let _ = writeln!(text, "  {:<16}{bytes:>12}", class.name());
        }
        let _ = writeln!(
            text,
            "  {:<16}{:>12}   of {} that a run may take; the largest micro-batch that fits has {} \
             tokens\n",
            "all, one arena",
            format_bytes(self.memory.memory.total()),
            format_bytes(card.usable()),
            self.largest
        );
        let _ = writeln!(
            text,
            "  {:<56}{:>9}{:>9}{:>10}{:>14}",
            "one step", "GFLOP", "MB", "floor ms", "predicted ms"
        );
        for row in &self.prediction.rows {
            let _ = writeln!(
                text,
                "  {:<56}{:>9.2}{:>9.1}{:>10.3}{} {:>12.3}",
                row.operation.name,
                row.operation.flops / 1e9,
                row.operation.bytes / 1e6,
                row.floor_s * 1e3,
                if row.bound_by_arithmetic { 'a' } else { 'm' },
                row.predicted_s * 1e3
            );
        }
        let prediction = &self.prediction;
        let _ = writeln!(
            text,
            "  {:<74}{:>10.3}  {:>12.3}\n  (a: bound by arithmetic, m: by memory)\n",
            format!("all, {} launches", self.launches),
            prediction.floor_s * 1e3,
            prediction.predicted_s * 1e3
        );
        let _ = writeln!(
            text,
            "Predicted: {:.0} tokens/s, {:.0}% of the card's arithmetic ({:.1} MFLOP per token); \
             {:.2} h for 500,000 examples x 3 epochs at {:.0} tokens per example.",
            prediction.tokens_per_second,
            100.0 * prediction.utilisation,
            prediction.flops_per_token / 1e6,
            self.hours(request),
            request.example_tokens
        );
        text + &assumptions()
    }

    fn hours(&self, request: &Request) -> f64 {
        self.prediction
            .hours(EXAMPLES * EPOCHS, request.example_tokens)
    }

    /// For programs.
    pub(crate) fn json(&self, request: &Request) -> Value {
        let classes: serde_json::Map<String, Value> = MemoryClass::ALL
            .into_iter()
            .map(|class| {
                (
                    class.name().replace(' ', "_"),
                    self.memory.memory.of(class).into(),
                )
            })
            .collect();
        json!({
            "card": self.card,
            "flops_per_second": self.card.flops_per_second(),
            "micro_batch_tokens": self.memory.tokens,
            "bytes": classes,
            "total_bytes": self.memory.memory.total(),
            "usable_bytes": self.card.usable(),
            "fits": self.check().is_ok(),
            "largest_micro_batch_tokens": self.largest,
            "launches": self.launches,
            "example_tokens": request.example_tokens,
            "prediction": self.prediction,
            "hours_for_500000_examples_x_3_epochs": self.hours(request),
        })
    }
}

/// The prediction's efficiencies, in a sentence.
fn assumptions() -> String {
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .filter(|kind| **kind != Kind::Memory)
        .map(|kind| format!("{kind:?} {:.0}%", 100.0 * kind.efficiency()).to_lowercase())
        .collect();
    format!(
        "Assumed: {} of the tensor cores' rate, {:.0}% of the memory's, {:.1} us per launch.\n",
        kinds.join(", "),
        100.0 * BANDWIDTH_EFFICIENCY,
        1e6 * SECONDS_PER_LAUNCH
    )
}

/// All cards in one table, in Markdown.
pub(super) fn table(request: &Request) -> Result<String> {
    let mut text = String::from(
        "| card | TFLOP/s | GB/s | memory | needs | largest micro-batch, tokens | floor, ms | \
         predicted, ms | tokens/s | of peak | hours |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for card in &CARDS {
        let plan = request.plan(card)?;
        let prediction = &plan.prediction;
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.0} | {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0}% | {:.2} |",
            card.name,
            card.flops_per_second() / 1e12,
            card.bytes_per_second / 1e9,
            format_bytes(card.memory),
            format_bytes(plan.memory.memory.total()),
            plan.largest,
            prediction.floor_s * 1e3,
            prediction.predicted_s * 1e3,
            prediction.tokens_per_second,
            100.0 * prediction.utilisation,
            plan.hours(request)
        );
    }
    Ok(text)
}

/// A measured profile beside the floors of a card, where the card is one of the table.
pub(super) fn profile_text(
    profile: &Profile,
    config: &ModelConfig,
    shape: &StepShape,
    card: Option<&'static Card>,
) -> Result<String> {
    let steps = profile.steps().max(1) as f64;
    let mut families: BTreeMap<String, Measured> = BTreeMap::new();
    for (kernel, measured) in profile.kernels() {
        let family = families.entry(family(kernel)).or_default();
        family.launches += measured.launches;
        family.seconds += measured.seconds;
    }
    let total: f64 = families.values().map(|found| found.seconds).sum();
    let mut text = format!(
        "\nprofile of {} steps of {} tokens on average{}\n  {:<56}{:>10}{:>10}{:>7}{:>10}{:>8}\n",
        profile.steps(),
        shape.tokens(),
        card.map(|card| format!(", beside the floor of a {}", card.name))
            .unwrap_or_default(),
        "one step",
        "launches",
        "ms",
        "share",
        "floor ms",
        "ratio"
    );
    let mut line = |name: &str, measured: Measured, floor: Option<f64>| {
        let ms = measured.seconds * 1e3 / steps;
        let floor = floor.map(|floor| floor * 1e3);
        let _ = writeln!(
            text,
            "  {name:<56}{:>10.1}{ms:>10.3}{:>6.1}%{:>10}{:>8}",
            measured.launches as f64 / steps,
            100.0 * measured.seconds / total,
            floor.map_or("-".to_string(), |floor| format!("{floor:.3}")),
            floor.map_or("-".to_string(), |floor| format!("{:.2}", ms / floor)),
        );
    };
    let mut whole = Measured::default();
    let mut whole_floor = 0.0;
    for operation in operations(config, shape)? {
        let mut measured = Measured::default();
        for kernel in operation.kernels {
            if let Some(found) = families.remove(*kernel) {
                measured.launches += found.launches;
                measured.seconds += found.seconds;
            }
        }
        let floor = card.map(|card| {
            (operation.flops / card.flops_per_second()).max(operation.bytes / card.bytes_per_second)
        });
        whole.launches += measured.launches;
        whole.seconds += measured.seconds;
        whole_floor += floor.unwrap_or(0.0);
        line(operation.name, measured, floor);
    }
    for (name, measured) in families {
        whole.launches += measured.launches;
        whole.seconds += measured.seconds;
        line(&name, measured, None);
    }
    line("all", whole, card.map(|_| whole_floor));
    Ok(text)
}

/// The card of the table whose name a device's name contains, the longest such name.
pub(super) fn card_of(device: &str) -> Option<&'static Card> {
    let short = |card: &'static Card| {
        let name = card.name.trim_start_matches("GeForce ");
        name.split(" 8 GB")
            .next()
            .unwrap_or(name)
            .split(" 12 GB")
            .next()
            .unwrap_or(name)
            .trim_end_matches(" SXM")
    };
    CARDS
        .iter()
        .filter(|card| device.contains(short(card)))
        .max_by_key(|card| short(card).len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Stage;

    #[test]
    fn every_launch_of_a_step_belongs_to_an_operation_of_the_roofline() {
        let settings = TrainSettings::preset(Stage::Massive);
        let request = Request::of_tokens(ModelConfig::default_47m(), settings, None, 100.0);
        let card = &CARDS[1];
        let plan = request.plan(card).unwrap();
        assert_eq!(plan.memory.tokens, 4096);
        let launches = request.launches(card).unwrap();
        for row in &plan.prediction.rows {
            for kernel in row.operation.kernels {
                assert!(launches.contains_key(*kernel), "{kernel}");
            }
        }
        // The largest that is said to fit does, and a logical batch more does not.
        let per_batch = request.logical_tokens();
        let total = |tokens: usize| {
            let plan = request.memory(card, tokens / per_batch).unwrap();
            plan.memory.total()
        };
        assert!(total(plan.largest) <= card.usable());
        assert!(total(plan.largest + per_batch) > card.usable());
    }

    #[test]
    fn devices_find_their_cards() {
        let key = |name: &str| card_of(name).map(|card| card.key);
        assert_eq!(
            key("cuda:0 (NVIDIA GeForce RTX 4070 Ti, sm_89, 60 SMs)"),
            Some("rtx4070ti")
        );
        assert_eq!(
            key("cuda:0 (NVIDIA GeForce RTX 4060 Ti, sm_89)"),
            Some("rtx4060ti")
        );
        assert_eq!(key("cuda:1 (NVIDIA H200, sm_90, 132 SMs)"), Some("h200"));
        assert_eq!(key("NVIDIA GeForce RTX 3060"), Some("rtx3060"));
        assert_eq!(key("simulator (2 threads)"), None);
    }
}
