//! `muni-engine train`: arguments to checked settings, a new run or a resumed one, and what is said
//! at its end.

mod arguments;

pub(crate) use arguments::Arguments;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::device::Task;
use super::plan::{card_of, profile_text};
use crate::generate::text::NEXT_QUESTION;
use crate::generate::{GenerateSettings, Generator, question_prompt};
use crate::hf;
use crate::model::{Model, ModelConfig, Parameters, random_weights};
use crate::ops::TrainingDevice;
use crate::ops::cuda::driver::profile::Profile;
use crate::roofline::operations::StepShape;
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::memory;
use crate::train::optimizer::Moments;
use crate::train::run_folder::{self, RunFolder};
use crate::train::source::{ShardFolder, Source};
use crate::train::{
    Outcome, Resume, RunOptions, SampleFn, Setup, Stage, TrainSettings, Trainer, interrupt,
};

/// Asked at each validation, for an early look.
const SAMPLE_QUESTIONS: [&str; 3] = [
    "Wo kann ich mich ummelden?",
    "Was kostet ein neuer Personalausweis?",
    "Welche Unterlagen brauche ich für die Eheschließung?",
];
/// Long enough to judge an early answer, short enough not to hold up the run.
const SAMPLE_TOKENS: usize = 40;
/// Asked of the finished model.
const FINAL_QUESTION: &str = SAMPLE_QUESTIONS[0];
const FINAL_TOKENS: usize = 120;

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let profile = arguments.profile.then(Arc::<Profile>::default);
    arguments
        .device
        .run_profiled(profile.as_ref(), Train(&arguments, profile.as_deref()))
}

struct Train<'a>(&'a Arguments, Option<&'a Profile>);

impl Task for Train<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        train(device, self.0, self.1)
    }
}

fn train<D: TrainingDevice>(
    device: &D,
    arguments: &Arguments,
    profile: Option<&Profile>,
) -> Result<()> {
    let tokenizer = Tokenizer::gpt2()?;
    let (mut checked, origin) = match &arguments.resume {
        None => fresh(arguments, &tokenizer)?,
        Some(folder) => resumed(arguments, folder.as_deref(), &tokenizer)?,
    };
    checked.settings.validate()?;
    checked.options.validate()?;
    check_fit(&checked.config, &checked.settings, &tokenizer)?;
    let source = Source::new(&checked.shards, &checked.settings)?;
    if let Some(warning) = source.cut_warning() {
        eprintln!("warning: {warning}");
    }
    plan_memory(device, &mut checked, &origin, arguments, &tokenizer)?;
    let (weights, moments) = origin.load(&checked)?;
    let parameters = Parameters::upload(device, &checked.config, &weights)?;
    let model = Model::new(checked.config.clone(), parameters)?;
    // A new folder is made only now, when everything that could be refused has been accepted.
    let (run, checkpoint) = match origin {
        Origin::Scratch(root) => (checked.create_run(&root, device)?, None),
        Origin::Run(run, checkpoint) => {
            warn_of_another_device(&run, &device.name())?;
            (run, checkpoint)
        }
    };
    let root = run.root().to_path_buf();
    interrupt::install()?;
    let setup = Setup {
        device,
        settings: checked.settings,
        options: checked.options,
        source,
        shards_sha256: checked.shards.manifest_sha256().to_string(),
        tokenizer: &tokenizer,
        run,
        sample: Some(sampler(device, &tokenizer)),
    };
    let resume = checkpoint.as_deref().map(|checkpoint| Resume {
        state: &checkpoint.state,
        moments: &moments,
    });
    let mut trainer = Trainer::new(setup, model, &weights, resume)?;
    drop((weights, moments));
    eprintln!(
        "training {} parameters on {} for {} steps; everything goes to {}",
        checked.config.parameter_count(),
        device.name(),
        trainer.total_steps(),
        root.display()
    );
    let outcome = trainer.run()?;
    if let Some(profile) = profile {
        let shape = profiled_shape(profile, trainer.profiled_tokens(), &checked.shards);
        let card = card_of(&device.name());
        eprint!("{}", profile_text(profile, &checked.config, &shape, card)?);
    }
    // The answer below is the saved model's, so the memory of the training one is free for it.
    drop(trainer);
    match outcome {
        Outcome::Finished => say_finished(device, &tokenizer, &root),
        Outcome::Interrupted => {
            let root = root.display();
            eprintln!("stopped and saved; `muni-engine train --resume {root}` continues");
            Ok(())
        }
    }
}

/// The mean step of a profile. What carries no loss is not told apart: the head's floors are those
/// of all tokens.
fn profiled_shape(profile: &Profile, tokens: u64, shards: &ShardFolder) -> StepShape {
    StepShape {
        micro_tokens: (tokens / profile.steps().max(1)) as usize,
        micro_batches: 1,
        example_tokens: shards.mean_example(),
        counted: 1.0,
    }
}

/// Makes the run's arena, where the device has one, and settles the size of its micro-batches.
fn plan_memory<D: TrainingDevice>(
    device: &D,
    checked: &mut Checked,
    origin: &Origin,
    arguments: &Arguments,
    tokenizer: &Tokenizer,
) -> Result<()> {
    // A resumed run keeps its own, so that it goes on to the same bits.
    let fixed = match origin {
        Origin::Run(..) => Some(checked.options.micro_batch),
        Origin::Scratch(_) => arguments.micro_batch,
    };
    let plan = memory::prepare(
        device,
        &checked.config,
        &checked.settings,
        fixed,
        arguments.vram_limit,
        &|device, model| {
            // What fails here fails at a validation too, where it costs the run nothing.
            drop(sampler(device, tokenizer)(model));
            Ok(())
        },
    )?;
    match plan {
        Some(plan) => {
            eprintln!("memory: {plan}");
            checked.options.micro_batch = plan.micro_batch;
        }
        None if arguments.vram_limit.is_some() => eprintln!(
            "warning: --vram-limit says nothing about {}, whose memory is not planned",
            device.name()
        ),
        None => {}
    }
    Ok(())
}

/// What a run is made with, before anything is written.
struct Checked {
    shards: ShardFolder,
    settings: TrainSettings,
    options: RunOptions,
    config: ModelConfig,
}

/// Where a run begins.
enum Origin {
    /// With fresh weights, in a new folder of this path.
    Scratch(PathBuf),
    /// In the folder of an earlier run, from its newest checkpoint, or anew where it was stopped
    /// before its first.
    Run(RunFolder, Option<Box<Checkpoint>>),
}

fn fresh(arguments: &Arguments, tokenizer: &Tokenizer) -> Result<(Checked, Origin)> {
    let shards = arguments.shards.as_deref().unwrap_or(Path::new("shards"));
    let shards = ShardFolder::open(shards, tokenizer)?;
    let stage = shards.stage().unwrap_or(Stage::Super);
    let settings = arguments.settings(&TrainSettings::preset(stage));
    let config = match arguments.config()? {
        Some(config) => config,
        None => {
            let mut config = ModelConfig::default_47m();
            let longest = config.max_position_embeddings.max(settings.max_length);
            config.max_position_embeddings = longest;
            config
        }
    };
    let root = match &arguments.out {
        Some(root) => root.clone(),
        None => Path::new("runs").join(run_name(settings.preset)?),
    };
    RunFolder::ensure_free(&root)?;
    let options = arguments.options(&RunOptions::default());
    let checked = Checked {
        shards,
        settings,
        options,
        config,
    };
    Ok((checked, Origin::Scratch(root)))
}

/// What is not given is taken from the run; what is given and would change its result is refused.
fn resumed(
    arguments: &Arguments,
    folder: Option<&Path>,
    tokenizer: &Tokenizer,
) -> Result<(Checked, Origin)> {
    let root = match (folder, &arguments.out) {
        (Some(folder), Some(out)) if folder != out => bail!(
            "--resume names {} and --out names {}: a resumed run stays in its folder",
            folder.display(),
            out.display()
        ),
        (Some(root), _) => root.to_path_buf(),
        (None, Some(root)) => root.clone(),
        (None, None) => run_folder::latest(Path::new("runs"))?,
    };
    let run = RunFolder::open(&root)?;
    let description = run.read_description()?;
    let (checkpoint, damaged) = checkpoint::newest(&run.checkpoints())?;
    for problem in damaged {
        eprintln!("warning: {problem}; an earlier checkpoint is used");
    }
    let earlier = match &checkpoint {
        Some(checkpoint) => {
            eprintln!("resuming from {}", checkpoint.folder.display());
            Earlier::of_checkpoint(checkpoint)?
        }
        None => {
            eprintln!("{} has no checkpoint yet: beginning again", root.display());
            Earlier::of_description(&description)
                .with_context(|| format!("{}/run.json is damaged", root.display()))?
        }
    };
    let shards = match (&arguments.shards, description["shards"].as_str()) {
        (Some(shards), _) => shards.as_path(),
        (None, Some(shards)) => Path::new(shards),
        (None, None) => bail!(
            "{} does not say where its shards are: give --shards",
            root.display()
        ),
    };
    let shards = ShardFolder::open(shards, tokenizer)?;
    let settings = arguments.settings(&earlier.settings);
    earlier
        .refuse_differences(&settings, &shards, arguments.config()?.as_ref())
        .with_context(|| format!("{} cannot be continued like this", root.display()))?;
    let config = earlier.config;
    let stored: RunOptions =
        serde_json::from_value(description["options"].clone()).unwrap_or_default();
    let options = arguments.options(&stored);
    if options.micro_batch != stored.micro_batch {
        eprintln!(
            "warning: --micro-batch is {}, the run had {}: the result differs by rounding",
            options.micro_batch, stored.micro_batch
        );
    }
    let checked = Checked {
        shards,
        settings,
        options,
        config,
    };
    Ok((checked, Origin::Run(run, checkpoint.map(Box::new))))
}

/// Another device, or another precision, is no reason to refuse; but nobody should go on with one
/// unawares.
fn warn_of_another_device(run: &RunFolder, now: &str) -> Result<()> {
    let description = run.read_description()?;
    // The number of threads does not matter.
    let kind = |name: &str| -> Vec<String> {
        let parts = name.split(", ").filter(|part| !part.contains("thread"));
        parts.map(str::to_string).collect()
    };
    match description["device"].as_str() {
        Some(before) if kind(before) != kind(now) => eprintln!(
            "warning: the run began on {before} and goes on with {now}: the result may not be \
            that of a run that was never stopped; \
             --device and --precision say where and with what to compute"
        ),
        _ => {}
    }
    Ok(())
}

impl Origin {
    /// Weights, and the optimizer's moments where there are any.
    fn load(&self, checked: &Checked) -> Result<(Vec<Vec<f32>>, Vec<Moments>)> {
        match self {
            Origin::Run(_, Some(checkpoint)) => Ok((
                hf::load_folder(&checkpoint.folder)?.fused,
                checkpoint::read_moments(&checkpoint.folder, &checked.config)?,
            )),
            Origin::Scratch(_) | Origin::Run(_, None) => Ok((
                random_weights(&checked.config, checked.settings.seed),
                Vec::new(),
            )),
        }
    }
}

impl Checked {
    fn create_run<D: TrainingDevice>(&self, root: &Path, device: &D) -> Result<RunFolder> {
        let run = RunFolder::create(root)?;
        let shards = self.shards.path();
        run.write_description(&json!({
            "engine_version": env!("CARGO_PKG_VERSION"),
            "device": device.name(),
            "shards": std::path::absolute(shards).unwrap_or(shards.to_path_buf()),
            "shards_sha256": self.shards.manifest_sha256(),
            "settings": self.settings.to_json()?,
            "options": self.options,
            "model": self.config.to_json(),
        }))?;
        Ok(run)
    }
}

/// What decides the result of a run that is to be continued.
struct Earlier {
    settings: TrainSettings,
    shards_sha256: String,
    config: ModelConfig,
}

impl Earlier {
    fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            settings: checkpoint.state.settings.clone(),
            shards_sha256: checkpoint.state.shards_sha256.clone(),
            config: hf::folder::load_config(&checkpoint.folder)?,
        })
    }

    fn of_description(description: &Value) -> Result<Self> {
        let model = description["model"].to_string();
        Ok(Self {
            settings: serde_json::from_value(description["settings"].clone())?,
            shards_sha256: serde_json::from_value(description["shards_sha256"].clone())?,
            config: ModelConfig::from_json(&model, Path::new("run.json"))?,
        })
    }

    /// Refuses anything that would change the run's result, naming all of it.
    fn refuse_differences(
        &self,
        settings: &TrainSettings,
        shards: &ShardFolder,
        config: Option<&ModelConfig>,
    ) -> Result<()> {
        let mut differences = settings.differences(&self.settings)?;
        if shards.manifest_sha256() != self.shards_sha256 {
            differences.push(format!(
                "shards: the manifest of {} has SHA-256 {}, not {}",
                shards.path().display(),
                shards.manifest_sha256(),
                self.shards_sha256
            ));
        }
        if config.is_some_and(|given| *given != self.config) {
            differences.push("--model-config: not the model of this run".to_string());
        }
        ensure!(
            differences.is_empty(),
            "a resumed run keeps its settings, and these differ: {}. Leave them out, or start a \
            new run with another --out",
            differences.join("; ")
        );
        Ok(())
    }
}

/// Refuses a model that the texts do not fit.
fn check_fit(config: &ModelConfig, settings: &TrainSettings, tokenizer: &Tokenizer) -> Result<()> {
    ensure!(
        config.vocab_size == tokenizer.vocab_size(),
        "vocab_size of the model configuration is {}, the tokenizer has {} tokens: use that number",
        config.vocab_size,
        tokenizer.vocab_size()
    );
    ensure!(
        settings.max_length <= config.max_position_embeddings,
        "--max-length is {}, the model configuration's max_position_embeddings only {}: lower the \
        one or raise the other",
        settings.max_length,
        config.max_position_embeddings
    );
    Ok(())
}

/// `20260701-093000-super`, in UTC.
fn run_name(preset: Stage) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now
        .context("the clock stands before 1970: set it, or give --out")?
        .as_secs();
    Ok(format!("{}-{}", date_time(seconds), preset.name()))
}

/// `YYYYMMDD-HHMMSS` of seconds since 1970, by the civil calendar of 400-year cycles that begin in
/// March.
fn date_time(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = 400 * cycle + year + next;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Answers the fixed questions with the model in training.
fn sampler<'a, D: TrainingDevice>(device: &'a D, tokenizer: &'a Tokenizer) -> Box<SampleFn<'a, D>> {
    Box::new(move |model| {
        let mut generator = Generator::new(device, model)?;
        SAMPLE_QUESTIONS
            .iter()
            .map(|&question| {
                let text = answer(&mut generator, tokenizer, question, SAMPLE_TOKENS)?;
                Ok((question.to_string(), text))
            })
            .collect()
    })
}

/// The most probable answer, on one line.
fn answer<D: TrainingDevice>(
    generator: &mut Generator<D>,
    tokenizer: &Tokenizer,
    question: &str,
    tokens: usize,
) -> Result<String> {
    let settings = GenerateSettings {
        max_new_tokens: Some(tokens),
        end_token: Some(tokenizer.end_of_text()),
        stop_strings: vec![NEXT_QUESTION.to_string()],
        trim: true,
        ..GenerateSettings::default()
    };
    let prompt = question_prompt(question)?;
    let output = generator.generate_text(tokenizer, &prompt, &settings, &mut |_| {
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(output.text.replace('\n', " "))
}

/// Where the model is, how to ask it, and one answer of what was really saved.
fn say_finished<D: TrainingDevice>(device: &D, tokenizer: &Tokenizer, root: &Path) -> Result<()> {
    let folder = root.join("best_model");
    let loaded = hf::load_folder(&folder)?;
    let parameters = Parameters::upload(device, &loaded.config, &loaded.fused)?;
    let model = Model::new(loaded.config, parameters)?;
    let mut generator = Generator::new(device, &model)?;
    let text = answer(&mut generator, tokenizer, FINAL_QUESTION, FINAL_TOKENS)?;
    let folder = folder.display();
    println!("The best model is {folder}. Ask it:");
    println!(
        "  muni-engine prompt --model-path {folder} --prompt \"Frage: {FINAL_QUESTION}\\nAntwort:\""
    );
    println!("\nFrage: {FINAL_QUESTION}\nAntwort: {text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(date_time(0), "19700101-000000");
        assert_eq!(date_time(951_782_399), "20000228-235959");
        assert_eq!(date_time(951_782_400), "20000229-000000");
        assert_eq!(date_time(1_798_761_599), "20261231-235959");
        assert_eq!(date_time(1_772_323_200), "20260301-000000");
    }
}
