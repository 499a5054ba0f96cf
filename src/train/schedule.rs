//! The learning rate over a run, and which batches make up which step.

use crate::train::settings::TrainSettings;

/// Linear warmup to the peak, then half a cosine down to a floor at the last step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Schedule {
    peak: f64,
    floor: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// The schedule of a run of `total` steps.
    pub(crate) fn new(settings: &TrainSettings, total: u64) -> Self {
        let default_warmup = (total / 20).clamp(1, 1000);
        let peak = f64::from(settings.learning_rate);
        Self {
            peak,
            floor: peak * f64::from(settings.final_learning_rate_ratio),
            warmup: settings.warmup_steps.unwrap_or(default_warmup),
            total,
        }
    }

    /// Learning rate of a step, counted from 1. The first step already learns; after `total` it
    /// stays at the floor.
    pub(crate) fn learning_rate(&self, step: u64) -> f32 {
        if step <= self.warmup {
            return (self.peak * step as f64 / self.warmup as f64) as f32;
        }
        let past = (step - self.warmup) as f64;
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * (past / length).min(1.0)).cos());
        (self.floor + (self.peak - self.floor) * cosine) as f32
    }
}

/// Where a step takes its logical batches from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepBatches {
    /// Epoch, from 0.
    pub epoch: usize,
    /// First logical batch within the epoch.
    pub first: usize,
    /// Number of logical batches: the accumulation, or what is left of the epoch.
    pub count: usize,
}

/// All steps of a run: epochs of so many logical batches, cut into accumulations. Epochs may differ
/// in length, because each packs its own order of examples.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    batches_per_epoch: Vec<usize>,
    accumulation: usize,
    total: u64,
}

impl Plan {
    /// A plan over `batches_per_epoch`, cut off at `max_steps`.
    pub(crate) fn new(
        batches_per_epoch: Vec<usize>,
        accumulation: usize,
        max_steps: Option<u64>,
    ) -> Self {
        let whole: u64 = batches_per_epoch
            .iter()
            .map(|batches| batches.div_ceil(accumulation) as u64)
            .sum();
        Self {
            batches_per_epoch,
            accumulation,
            total: max_steps.map_or(whole, |limit| limit.min(whole)),
        }
    }

    /// Steps of the run.
    pub(crate) fn total_steps(&self) -> u64 {
        self.total
    }

    /// Steps in a tenth of the run, rounded up: there are ten at most, and in a run of hundreds of
    /// steps the last is about as long as the others. Rounded down, a few steps would be left over
    /// at the end.
    pub(crate) fn tenth(&self) -> u64 {
        self.total.div_ceil(10).max(1)
    }

    /// The batches of a step, counted from 1; `None` outside the run.
    pub(crate) fn step(&self, step: u64) -> Option<StepBatches> {
        if step == 0 || step > self.total {
            return None;
        }
        let mut left = step - 1;
        for (epoch, &batches) in self.batches_per_epoch.iter().enumerate() {
            let steps = batches.div_ceil(self.accumulation) as u64;
            if left < steps {
                let first = left as usize * self.accumulation;
                return Some(StepBatches {
                    epoch,
                    first,
                    count: self.accumulation.min(batches - first),
                });
            }
            left -= steps;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::settings::Stage;

    fn schedule(warmup: Option<u64>, total: u64) -> Schedule {
        let settings = TrainSettings {
            learning_rate: 1.0,
            warmup_steps: warmup,
            ..TrainSettings::preset(Stage::Super)
        };
        Schedule::new(&settings, total)
    }

    #[test]
    fn rate_rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = schedule(Some(10), 110);
        assert_eq!(schedule.learning_rate(1), 0.1);
        assert_eq!(schedule.learning_rate(10), 1.0);
        assert!((schedule.learning_rate(60) - 0.55).abs() < 1e-6);
        assert_eq!(schedule.learning_rate(110), 0.1);
        assert_eq!(schedule.learning_rate(1_000), 0.1);
        for step in 10..110 {
            assert!(schedule.learning_rate(step + 1) < schedule.learning_rate(step));
        }
    }

    #[test]
    fn warmup_may_be_absent_longer_than_the_run_or_default() {
        assert_eq!(schedule(Some(0), 10).learning_rate(10), 0.1);
        assert_eq!(schedule(Some(20), 10).learning_rate(10), 0.5);
        assert_eq!(schedule(None, 1).learning_rate(1), 1.0);
        assert_eq!(schedule(None, 200).learning_rate(10), 1.0);
    }

    #[test]
    fn plan_uses_every_batch_of_every_epoch_once() {
        let plan = Plan::new(vec![5, 4, 0, 1], 2, None);
        let mut seen = Vec::new();
        for step in 1..=plan.total_steps() {
            let at = plan.step(step).unwrap();
            assert!((1..=2).contains(&at.count));
            seen.extend((at.first..at.first + at.count).map(|batch| (at.epoch, batch)));
        }
        let expected: Vec<_> = [(0, 5), (1, 4), (3, 1)]
            .into_iter()
            .flat_map(|(epoch, batches)| (0..batches).map(move |batch| (epoch, batch)))
            .collect();
        assert_eq!(seen, expected);
        assert_eq!(plan.step(0), None);
        assert_eq!(plan.step(plan.total_steps() + 1), None);
    }

    #[test]
    fn max_steps_cuts_the_plan() {
        assert_eq!(Plan::new(vec![5, 5], 2, Some(4)).total_steps(), 4);
        assert_eq!(Plan::new(vec![5, 5], 2, Some(40)).total_steps(), 6);
    }

    #[test]
    fn tenths_end_with_the_run() {
        for total in [0, 1, 9, 10, 11, 99, 2_131, 2_556] {
            let tenth = Plan::new(vec![total], 1, None).tenth() as usize;
            assert!(tenth >= 1);
            let whole = total / tenth;
            let rest = total % tenth;
            assert!(whole + usize::from(rest > 0) <= 10, "{total}");
            assert!(total < 100 || rest == 0 || 2 * rest > tenth, "{total}");
        }
    }
}
