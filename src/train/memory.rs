//! How much memory a run needs, found by a dry run: the same code allocates the same buffers on a
//! device that computes nothing. So no formula here can fall behind the code that it describes.

use anyhow::{Result, bail};
use std::fmt;

use crate::model::{Batch, Model, ModelConfig, Parameters, StepScales};
use crate::ops::{MemoryClass, MemoryUse, TrainingDevice, allocating};
use crate::train::settings::TrainSettings;
use crate::train::step::Engine;

/// What other programs and the card's driver may still take while a run goes on.
const HEADROOM: u64 = 256 << 20;
/// Sizes of batches at which an operation's scratch memory may be largest: within each of these
/// pieces it only grows.
const PIECE: usize = 64;
/// Largest batch, in tokens, up to which every piece is tried.
const FINE: usize = 8192;
/// Most tokens of a chunk of the head.
const CHUNK: usize = 2048;

/// The memory of a run, and the micro-batches that it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryPlan {
    /// Logical batches of a micro-batch.
    pub micro_batch: usize,
    /// Most tokens of a micro-batch.
    pub tokens: usize,
    /// Bytes by class.
    pub memory: MemoryUse,
}

/// What the command does with the model besides training, e.g. answer questions: it needs memory
/// too.
pub(crate) type Besides<'a, D> = dyn Fn(&D, &Model<D>) -> Result<()> + 'a;

/// Bytes for people: in GiB, or in MiB below one.
pub(crate) fn format_bytes(bytes: u64) -> String {
    match bytes >> 30 {
        0 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let classes: Vec<String> = MemoryClass::ALL
            .into_iter()
            .map(|class| format!("{} {}", class.name(), format_bytes(self.memory.of(class))))
            .collect();
        write!(
            formatter,
            "{} for micro-batches of {} x {} tokens ({})",
            format_bytes(self.memory.total()),
            self.micro_batch,
            self.tokens / self.micro_batch.max(1),
            classes.join(", ")
        )
    }
}

/// The plan of a run with micro-batches of so many logical batches, found on `dry_device`, a
/// device for dry runs that was not used before.
///
/// # Errors
/// When the settings or the sizes make no run.
pub fn plan<D: TrainingDevice>(
    dry_device: &D,
    config: &ModelConfig,
    settings: &TrainSettings,
    micro_batch: usize,
    besides: &Besides<D>,
) -> Result<MemoryPlan> {
    let micro_batch = micro_batch.min(settings.gradient_accumulation_steps);
    let parameters = allocating(dry_device, MemoryClass::Weights, || {
        Parameters::zeros(dry_device, config)
    })?;
    let model = Model::new(config.clone(), parameters)?;
    let mut engine = Engine::new(
        dry_device,
        model,
        &no_weights(config),
        settings,
        micro_batch,
    )?;
    let tokens = engine.workspace.max_tokens();
    let step = full_step(settings)?;
    engine.step(dry_device, &step, 1, 0.0)?;
    engine.validate(dry_device, &step[..1])?;
    for count in piece_ends(tokens) {
        engine.model.forward_backward(
            dry_device,
            &full_batch(count, settings)?,
            &mut engine.workspace,
            &mut engine.gradients,
            StepScales {
                token: 1.0,
                balance: 1.0,
            },
        )?;
        engine.workspace.totals(dry_device)?;
    }
    besides(dry_device, &engine.model)?;
    Ok(MemoryPlan {
        micro_batch,
        tokens,
        memory: dry_device.memory_use(),
    })
}

/// Plans a run on `device` and makes its arena. Without `micro_batch`, micro-batches are as large
/// as fit the device and `limit` bytes, up to a whole step. `None` where the device plans nothing.
///
/// # Errors
/// When the run does not fit; says what would.
pub fn prepare<D: TrainingDevice>(
    device: &D,
    config: &ModelConfig,
    settings: &TrainSettings,
    micro_batch: Option<usize>,
    limit: Option<u64>,
    besides: &Besides<D>,
) -> Result<Option<MemoryPlan>> {
    let plan_for = |micro_batch| -> Result<Option<MemoryPlan>> {
        match device.dry_run()? {
            Some(dry_device) => plan(&dry_device, config, settings, micro_batch, besides).map(Some),
            None => Ok(None),
        }
    };
    let free = device
        .free_memory()?
        .map(|free| free.saturating_sub(HEADROOM));
    let room = match (free, limit) {
        (Some(free), Some(limit)) => Some(free.min(limit)),
        (room, None) | (None, room) => room,
    };
    let most = settings.gradient_accumulation_steps;
    let wanted = micro_batch.unwrap_or(most);
    let Some(first) = plan_for(wanted)? else {
        return Ok(None);
    };
    let fits = |plan: &MemoryPlan| room.is_none_or(|room| plan.memory.total() <= room);
    let mut chosen = fits(&first).then_some(first);
    if chosen.is_none() && wanted > 1 {
        chosen = largest(wanted - 1, |micro_batch| {
            Ok(plan_for(micro_batch)?.filter(fits))
        })?;
    }
    match chosen {
        Some(chosen) if micro_batch.is_none() || chosen == first => {
            device.reserve(&chosen.memory, room)?;
            Ok(Some(chosen))
        }
        Some(fitting) => bail!(
            "the run needs {first}, but {}; the largest micro-batch that fits is --micro-batch {}, \
             which needs {}",
            limit_text(room, limit),
            fitting.micro_batch,
            format_bytes(fitting.memory.total())
        ),
        None => {
            let smallest = plan_for(1)?.unwrap_or(first);
            bail!(
                "the run needs at least {smallest}, but {}; a smaller --batch-size (now {}) or \
                 --max-length (now {}) needs less",
                limit_text(room, limit),
                settings.batch_size,
                settings.max_length
            )
        }
    }
}

/// Zeros for a dry run, which reads none of them.
pub fn no_weights(config: &ModelConfig) -> Vec<Vec<f32>> {
    let specs = config.parameters();
    specs.iter().map(|spec| vec![0.0; spec.len()]).collect()
}

/// How much there is, and why.
fn limit_text(room: Option<u64>, limit: Option<u64>) -> String {
    match (room, limit) {
        (Some(room), Some(limit)) if room == limit => {
            format!("--vram-limit allows {}", format_bytes(limit))
        }
        (room, _) => format!(
            "the device has only {} free, {} of headroom apart",
            format_bytes(room.unwrap_or_default()),
            format_bytes(HEADROOM)
        ),
    }
}

/// The largest number from 1 to `most` for which `try_it` finds something, if it does for any; what
/// it finds for one it finds for all smaller ones.
pub(crate) fn largest<T>(
    most: usize,
    mut try_it: impl FnMut(usize) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let (mut low, mut high) = (0, most);
    let mut found = None;
    while low < high {
        let middle = (low + high).div_ceil(2);
        match try_it(middle)? {
            Some(better) => (low, found) = (middle, Some(better)),
            None => high = middle - 1,
        }
    }
    Ok(found)
}

/// The logical batches of a step, all of their rows full.
///
/// # Errors
/// When a row would have no token.
pub(crate) fn full_step(settings: &TrainSettings) -> Result<Vec<Batch>> {
    let logical = full_batch(settings.batch_size * settings.max_length, settings)?;
    Ok(vec![logical; settings.gradient_accumulation_steps])
}

/// A logical batch of so many tokens, all of which carry loss, in examples as long as may be.
fn full_batch(tokens: usize, settings: &TrainSettings) -> Result<Batch> {
    let mut batch = Batch::new();
    let zeros = vec![0; settings.max_length.min(tokens)];
    let mut left = tokens;
    while left > 0 {
        let length = zeros.len().min(left);
        batch.push_segment(&zeros[..length], &zeros[..length])?;
        left -= length;
    }
    Ok(batch)
}

/// Sizes below `tokens` at which pieces end: of 64 tokens (tiles and blocks of kernels) for small
/// batches. For larger ones the product tile is the large one throughout, and what an operation
/// takes grows but for the chunks of the head, which are largest at multiples of 2,048: the last of
/// those is enough.
fn piece_ends(tokens: usize) -> impl Iterator<Item = usize> {
    let fine = (PIECE..=FINE).step_by(PIECE);
    let last = tokens.saturating_sub(1) / CHUNK * CHUNK;
    fine.take_while(move |&count| count < tokens)
        .chain((last > FINE).then_some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_found_by_few_trials() {
        for (most, true_up_to) in [(1, 0), (1, 1), (7, 3), (16, 16), (100, 1), (5, 0)] {
            let mut trials = 0;
            let found = largest(most, |n| {
                trials += 1;
                Ok((n <= true_up_to).then_some(n))
            });
            assert_eq!(found.unwrap(), (true_up_to > 0).then_some(true_up_to));
            assert!(trials <= 7, "{trials}");
        }
    }

    #[test]
    fn sizes_in_between_end_before_the_whole() {
        assert_eq!(piece_ends(64).count(), 0);
        assert_eq!(piece_ends(200).collect::<Vec<_>>(), [64, 128, 192]);
        assert_eq!(piece_ends(16_384).last(), Some(14_336));
        assert_eq!(piece_ends(16_400).last(), Some(16_384));
    }

    #[test]
    fn bytes_are_said_in_fitting_units() {
        assert_eq!(format_bytes(5 << 20), "5.0 MiB");
        assert_eq!(format_bytes(13 << 29), "6.50 GiB");
    }
}
