//! The loop of a run: steps, validations, checkpoints, and what happens when something goes wrong.

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::hf;
use crate::model::{Batch, Model};
use crate::ops::{Device, Recorder, TrainingDevice};
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint::{self, Best, State};
use crate::train::interrupt;
use crate::train::metrics::{JsonLines, StepMetrics};
use crate::train::optimizer::Moments;
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::schedule::{Plan, Schedule};
use crate::train::settings::{METRICS_EVERY, RunOptions, TrainSettings};
use crate::train::source::Source;
use crate::train::step::{Engine, StepResult};

/// Where no `--save-every` is given, a checkpoint is at most this old.
const SAVE_INTERVAL: Duration = Duration::from_secs(600);

/// Answers a few fixed questions with the model as it is: (question, answer) pairs. Called at each
/// validation.
pub(crate) type SampleFn<'a, D> = dyn FnMut(&Model<D>) -> Result<Vec<(String, String)>> + 'a;

/// How a run ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop, and saved a checkpoint.
    Interrupted,
}

/// What a run is made of.
pub struct Setup<'a, D: Device> {
    /// Where to compute.
    pub device: &'a D,
    /// What to train with.
    pub settings: TrainSettings,
    /// How to carry it out.
    pub options: RunOptions,
    /// Where batches come from.
    pub source: Source,
    /// SHA-256 of the shard folder's manifest.
    pub shards_sha256: String,
    /// Goes into every model folder.
    pub tokenizer: &'a Tokenizer,
    /// Where everything is written.
    pub run: RunFolder,
    /// Early look at answers, if wanted.
    pub sample: Option<Box<SampleFn<'a, D>>>,
}

/// What a run continues from.
pub struct Resume<'r> {
    /// Where it stood.
    pub(crate) state: &'r State,
    /// Its optimizer's moments.
    pub(crate) moments: &'r [Moments],
}

/// A run in progress.
pub struct Trainer<'a, D: Recorder> {
    setup: Setup<'a, D>,
    engine: Engine<D>,
    plan: Plan,
    schedule: Schedule,
    eval_every: u64,
    validation: Vec<Batch>,
    metrics: JsonLines,
    samples: JsonLines,
    progress: Progress,
    position: Position,
    metrics_every: usize,
    /// Steps whose results were not collected yet, and when the first of them began.
    issued: Vec<Issued>,
    issued_since: Instant,
    /// Why the newest save of the best model failed.
    best_failure: Option<String>,
    metrics_failed: bool,
    /// Whether this process has done a step.
    warm: bool,
    /// Tokens of all steps of this process but the first.
    warm_tokens: u64,
}

/// Where the run stands.
struct Position {
    step: u64,
    tokens: u64,
    best: Option<Best>,
    /// Seconds of earlier sittings.
    earlier_s: f64,
    began: Instant,
    /// Step of the newest checkpoint, and when this process saved it or began.
    saved_step: Option<u64>,
    saved_at: Instant,
}

/// What is known of a step before its results are.
struct Issued {
    step: u64,
    /// From 1.
    epoch: usize,
    learning_rate: f32,
}

/// One line of `samples.jsonl`.
#[derive(Serialize)]
struct SampleLine<'a> {
    step: u64,
    question: &'a str,
    answer: &'a str,
}

impl<'a, D: TrainingDevice> Trainer<'a, D> {
    /// A run from its first step with these weights (one vector per fused parameter, from which
    /// master copies begin), or from a checkpoint: then the weights are the checkpoint's and come
    /// with their moments.
    ///
    /// # Errors
    /// When there is nothing to train on, a file cannot be opened, or the device has no memory.
    pub fn new(
        setup: Setup<'a, D>,
        model: Model<D>,
        weights: &[Vec<f32>],
        resume: Option<Resume>,
    ) -> Result<Self> {
        setup.settings.validate()?;
        setup.options.validate()?;
        let settings = &setup.settings;
        let plan = Plan::new(
            setup.source.batches_per_epoch(settings.epochs),
            settings.gradient_accumulation_steps,
            settings.max_steps,
        );
        let total = plan.total_steps();
        ensure!(total > 0, "the shards hold no training batch");
        let validation = setup.source.validation(settings.eval_batches)?;
        let metrics_every = setup.options.metrics_every.unwrap_or({
            if setup.device.runs_ahead() {
                METRICS_EVERY
            } else {
                1
            }
        });
        let mut engine = Engine::new(
            setup.device,
            model,
            weights,
            settings,
            setup.options.micro_batch,
        )?;
        let mut position = Position::start();
        if let Some(resume) = resume {
            let config = &engine.model.config;
            let updates = resume.state.updates.unwrap_or(resume.state.step);
            engine
                .optimizer
                .restore(setup.device, config, weights, resume.moments, updates)?;
            position.restore(resume.state);
            if let Some(scale) = &resume.state.loss_scale {
                setup.device.set_loss_scale(scale)?;
            }
            checkpoint::remove_leftovers(&setup.run.checkpoints())?;
        }
        Ok(Self {
            schedule: Schedule::new(settings, total),
            eval_every: settings.eval_every.unwrap_or(plan.tenth()),
            metrics: JsonLines::open_after(&setup.run.metrics(), position.step)?,
            samples: JsonLines::open_after(&setup.run.samples(), position.step)?,
            progress: Progress::new(total, position.step),
            engine,
            plan,
            validation,
            position,
            metrics_every,
            issued: Vec::new(),
            issued_since: Instant::now(),
            setup,
            best_failure: None,
            metrics_failed: false,
            warm: false,
            warm_tokens: 0,
        })
    }

    /// Steps of the whole run.
    pub(crate) fn total_steps(&self) -> u64 {
        self.plan.total_steps()
    }

    /// Tokens of the steps that a profile has measured.
    pub(crate) fn profiled_tokens(&self) -> u64 {
        self.warm_tokens
    }

    /// Trains until the end, or until the process is asked to stop.
    ///
    /// # Errors
    /// When a step is not finite, the device fails, or the final checkpoint or the best model could
    /// not be saved. What was saved before stays.
    pub fn run(&mut self) -> Result<Outcome> {
        let result = self.run_steps();
        self.progress.finish();
        result
    }

    fn run_steps(&mut self) -> Result<Outcome> {
        let total = self.plan.total_steps();
        while self.position.step < total {
            let step = self.issue_step()?;
            let due = step.is_multiple_of(self.eval_every) || step == total;
            let look = due
                || self.issued.len() >= self.metrics_every
                || interrupt::requested()
                || self.save_is_due(due);
            if !look {
                continue;
            }
            let mut finished = self.collect()?;
            if due {
                let loss = self.validate()?;
                if let Some(last) = finished.last_mut() {
                    last.val_loss = loss;
                }
            }
            for metrics in &finished {
                self.write_metrics(metrics);
                self.progress.step(metrics);
            }
            if due {
                self.look_at_samples();
            }
            let stop = interrupt::requested() && step < total;
            if stop || self.save_is_due(due) {
                self.save_checkpoint(stop || step == total)?;
            }
            if stop {
                return Ok(Outcome::Interrupted);
            }
        }
        self.finish()
    }

    /// The run is only a success if its result is on the disk.
    fn finish(&mut self) -> Result<Outcome> {
        let folder = self.setup.run.best_model();
        if let Some(failure) = &self.best_failure {
            bail!(
                "the run is finished, but its best model could not be saved: {failure}. {} holds \
                 an earlier one, if any; the last step's model is {}",
                folder.display(),
                self.last_good()
            );
        }
        hf::find_folder(&folder)?;
        Ok(Outcome::Finished)
    }

    /// Issues the next step and returns its number; its results come with [`Trainer::collect`].
    fn issue_step(&mut self) -> Result<u64> {
        if self.issued.is_empty() {
            self.issued_since = Instant::now();
        }
        let step = self.position.step + 1;
        let at = self
            .plan
            .step(step)
            .with_context(|| format!("step {step} lies outside the run"))?;
        let batches = (at.first..at.first + at.count)
            .map(|index| self.setup.source.batch(at.epoch, index))
            .collect::<Result<Vec<_>>>()?;
        let learning_rate = self.schedule.learning_rate(step);
        // The first step of a sitting loads the kernels, so it is not part of a profile.
        self.setup.device.profile(self.warm);
        let issued = self
            .engine
            .issue(self.setup.device, &batches, step, learning_rate);
        self.setup.device.profile(false);
        issued?;
        if self.warm {
            self.warm_tokens += batches.iter().map(|batch| batch.len() as u64).sum::<u64>();
        }
        self.warm = true;
        self.position.step = step;
        self.issued.push(Issued {
            step,
            epoch: at.epoch + 1,
            learning_rate,
        });
        Ok(step)
    }

    /// Waits for the steps issued so far, checks their results and makes their lines.
    fn collect(&mut self) -> Result<Vec<StepMetrics>> {
        let results = self.engine.collect(self.setup.device)?;
        let seconds = self.issued_since.elapsed().as_secs_f64().max(1e-9);
        let tokens: u64 = results.iter().map(|result| result.tokens).sum();
        let issued = std::mem::take(&mut self.issued);
        let mut finished = Vec::with_capacity(results.len());
        for (issued, result) in issued.into_iter().zip(results) {
            if !result.grad_norm.is_finite() && result.loss.is_finite() {
                self.say_skipped(&issued, &result)?;
            } else {
                self.refuse_non_finite(&issued, &result)?;
            }
            self.position.tokens += result.tokens;
            finished.push(StepMetrics {
                step: issued.step,
                epoch: issued.epoch,
                tokens: self.position.tokens,
                loss: result.loss,
                router_loss: result.router_loss,
                learning_rate: issued.learning_rate,
                grad_norm: result.grad_norm,
                tokens_per_second: tokens as f64 / seconds,
                elapsed_s: self.position.elapsed_s(),
                expert_share: result.expert_share,
                val_loss: None,
            });
        }
        Ok(finished)
    }

    /// A gradient that overflows the device's storage is no failure while the loss scale can go
    /// down: the weights are as they were, the scale is half, and the next step goes on.
    fn say_skipped(&self, issued: &Issued, result: &StepResult) -> Result<()> {
        match self.setup.device.loss_scale()? {
            // At its lowest the scale has done what it can: the gradients themselves are not
            // finite.
            Some(now) if now.scale > 1.0 => {
                self.progress.message(&format!(
                    "step {}: gradients beyond the device's numbers; the weights are unchanged, \
                     the loss scale is now {}",
                    issued.step, now.scale
                ));
                Ok(())
            }
            _ => self.refuse_non_finite(issued, result),
        }
    }

    /// The optimizer has left the weights as they were; going on would repeat the same, so the run
    /// stops here.
    fn refuse_non_finite(&self, issued: &Issued, result: &StepResult) -> Result<()> {
        if result.grad_norm.is_finite() && result.loss.is_finite() {
            return Ok(());
        }
        bail!(
            "step {} is not finite: loss {}, gradient norm {} (learning rate {:e}). Nothing of it \
             was saved; {}",
            issued.step,
            result.loss,
            result.grad_norm,
            issued.learning_rate,
            self.way_on()
        )
    }

    /// What to do after a step that is not finite.
    fn way_on(&self) -> String {
        let advice = "if the same step fails again, start a new run with a lower --learning-rate";
        match self.position.saved_step {
            Some(step) => format!(
                "the last good checkpoint is {}, and `muni-engine train --resume {}` continues \
                 from it; {advice}",
                checkpoint::folder_of(&self.setup.run.checkpoints(), step).display(),
                self.setup.run.root().display()
            ),
            None => format!("there is no checkpoint yet; {advice}"),
        }
    }

    /// Measures the validation loss and keeps the model if it is the best so far.
    fn validate(&mut self) -> Result<Option<f64>> {
        let loss = self.engine.validate(self.setup.device, &self.validation)?;
        let step = self.position.step;
        let better = match (loss, self.position.best) {
            (Some(loss), Some(best)) => (loss as f32) < best.loss,
            (Some(loss), None) => loss.is_finite(),
            // Without a validation split the newest model is the best one.
            (None, _) => true,
        };
        if better {
            let folder = self.setup.run.best_model();
            let saved =
                hf::replace_folder(&folder, "config.json", |folder| self.write_model(folder));
            match saved {
                Ok(()) => {
                    self.position.best = loss.map(|loss| Best {
                        loss: loss as f32,
                        step,
                    });
                    self.best_failure = None;
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    self.progress.message(&format!(
                        "warning: the best model so far (step {step}) was not saved: {text}"
                    ));
                    self.best_failure = Some(text);
                }
            }
        }
        Ok(loss)
    }

    /// Answers the fixed questions into the log. A failure here is told, and costs the run nothing.
    fn look_at_samples(&mut self) {
        let Some(sample) = &mut self.setup.sample else {
            return;
        };
        match sample(&self.engine.model) {
            Ok(samples) => {
                for (question, answer) in &samples {
                    let step = self.position.step;
                    self.progress.message(&format!("  {question} -> {answer}"));
                    if let Err(error) = self.samples.write(&SampleLine {
                        step,
                        question,
                        answer,
                    }) {
                        self.progress
                            .message(&format!("warning: samples.jsonl: {error:#}"));
                    }
                }
            }
            Err(error) => self
                .progress
                .message(&format!("warning: no samples: {error:#}")),
        }
    }

    fn write_metrics(&mut self, metrics: &StepMetrics) {
        match self.metrics.write(metrics) {
            Ok(()) => self.metrics_failed = false,
            // Once is enough: on a full disk every step fails the same way.
            Err(error) if !self.metrics_failed => {
                self.metrics_failed = true;
                self.progress.message(&format!(
                    "warning: metrics.jsonl lacks step {} and perhaps later ones: {error:#}",
                    metrics.step
                ));
            }
            Err(_) => {}
        }
    }

    fn save_is_due(&self, after_validation: bool) -> bool {
        let step = self.position.step;
        let regular = match self.setup.options.save_every {
            Some(every) => step.is_multiple_of(every),
            None => after_validation || self.position.saved_at.elapsed() >= SAVE_INTERVAL,
        };
        regular || step == self.plan.total_steps()
    }

    /// Saves a checkpoint. Where it is not the `last` thing that the run does, a failure is a
    /// warning: the earlier checkpoint stays, and the next interval tries again.
    fn save_checkpoint(&mut self, last: bool) -> Result<()> {
        let step = self.position.step;
        self.position.saved_at = Instant::now();
        let checkpoints = self.setup.run.checkpoints();
        let saved = checkpoint::save(&checkpoints, self.state()?, |folder| {
            self.write_model(folder)?;
            let moments = self
                .engine
                .optimizer
                .moments(self.setup.device, &self.engine.model.parameters)?;
            ensure_finite(moments.iter().flat_map(|both| [&both.first, &both.second]))?;
            checkpoint::write_moments(folder, &self.engine.model.config, &moments)
        });
        match saved {
            Ok(_) => {
                self.position.saved_step = Some(step);
                let keep = self.setup.options.keep;
                if let Err(error) = checkpoint::prune(&checkpoints, step, keep) {
                    self.progress.message(&format!("warning: {error:#}"));
                }
                Ok(())
            }
            Err(error) if error.is::<NotFinite>() => bail!(
                "the weights are not finite after step {step}, so they were not saved; {}",
                self.way_on()
            ),
            Err(error) if last => Err(error.context(format!(
                "the checkpoint of step {step} could not be saved; the last good one is {}",
                self.last_good()
            ))),
            Err(error) => {
                self.progress.message(&format!(
                    "warning: the checkpoint of step {step} was not saved: {error:#}. The run goes \
                     on and tries again at the next one; the last good one is {}",
                    self.last_good()
                ));
                Ok(())
            }
        }
    }

    fn last_good(&self) -> String {
        match self.position.saved_step {
            Some(step) => checkpoint::folder_of(&self.setup.run.checkpoints(), step)
                .display()
                .to_string(),
            None => "none yet".to_string(),
        }
    }

    /// Writes the model's files into a folder.
    fn write_model(&self, folder: &Path) -> Result<()> {
        let engine = &self.engine;
        let weights = engine
            .optimizer
            .weights(self.setup.device, &engine.model.parameters)?;
        ensure_finite(weights.iter())?;
        hf::write_files(
            folder,
            &engine.model.config,
            &weights,
            Some(self.setup.tokenizer),
        )
    }

    fn state(&self) -> Result<State> {
        let next = self.plan.step(self.position.step + 1);
        Ok(State {
            format_version: checkpoint::FORMAT_VERSION,
            engine_version: env!("CARGO_PKG_VERSION").to_string(),
            checksum: String::new(),
            step: self.position.step,
            total_steps: self.plan.total_steps(),
            epoch: next.map_or(self.setup.settings.epochs, |at| at.epoch),
            batch: next.map_or(0, |at| at.first),
            tokens: self.position.tokens,
            elapsed_s: self.position.elapsed_s(),
            best: self.position.best,
            shards_sha256: self.setup.shards_sha256.clone(),
            settings: self.setup.settings.clone(),
            loss_scale: self.setup.device.loss_scale()?,
            updates: Some(self.engine.optimizer.updates(self.setup.device)?),
            files: Default::default(),
        })
    }
}

impl Position {
    fn start() -> Self {
        let now = Instant::now();
        Self {
            step: 0,
            tokens: 0,
            best: None,
            earlier_s: 0.0,
            began: now,
            saved_step: None,
            saved_at: now,
        }
    }

    fn restore(&mut self, state: &State) {
        self.step = state.step;
        self.tokens = state.tokens;
        self.best = state.best;
        self.earlier_s = state.elapsed_s;
        self.saved_step = Some(state.step);
    }

    fn elapsed_s(&self) -> f64 {
        self.earlier_s + self.began.elapsed().as_secs_f64()
    }
}

/// Weights or moments that must not be saved.
#[derive(Debug)]
struct NotFinite;

impl std::fmt::Display for NotFinite {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "weights or optimizer state are not finite")
    }
}

impl std::error::Error for NotFinite {}

fn ensure_finite<'v>(tensors: impl Iterator<Item = &'v Vec<f32>>) -> Result<()> {
    for values in tensors {
        ensure!(values.par_iter().all(|value| value.is_finite()), NotFinite);
    }
    Ok(())
}
