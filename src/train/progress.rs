//! What a person sees of a run: a bar in a terminal, a plain line every so often elsewhere. All of
//! it goes to stderr.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::train::metrics::StepMetrics;

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the steps of a run.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    began: Instant,
    first_step: Option<u64>,
    last_line: Option<Instant>,
    val_loss: Option<f64>,
    /// Smoothed, so that one slow step does not make the display jump.
    tokens_per_second: Option<f64>,
}

impl Progress {
    /// A display of a run of `total` steps that has `done` behind it.
    pub(crate) fn new(total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{bar:24} {pos}/{len}  {msg}";
            bar.set_style(
                ProgressStyle::with_template(template)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_position(done);
            bar
        });
        Self {
            bar,
            total,
            began: Instant::now(),
            first_step: None,
            last_line: None,
            val_loss: None,
            tokens_per_second: None,
        }
    }

    /// Prints a message above the bar.
    pub(crate) fn message(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows a finished step.
    pub(crate) fn step(&mut self, metrics: &StepMetrics) {
        self.val_loss = metrics.val_loss.or(self.val_loss);
        let speed = metrics.tokens_per_second;
        let smoothed = self
            .tokens_per_second
            .map_or(speed, |earlier| 0.9 * earlier + 0.1 * speed);
        self.tokens_per_second = Some(smoothed);
        let first = *self.first_step.get_or_insert(metrics.step);
        let seconds_per_step =
            self.began.elapsed().as_secs_f64() / (metrics.step - first + 1) as f64;
        let left = seconds_per_step * self.total.saturating_sub(metrics.step) as f64;
        let text = describe(metrics, self.val_loss, smoothed, left);
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(text);
            return;
        }
        let due = self
            .last_line
            .is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if due || metrics.val_loss.is_some() || metrics.step == self.total {
            self.last_line = Some(Instant::now());
            eprintln!("step {}/{}  {text}", metrics.step, self.total);
        }
    }

    /// Leaves the last state of the bar standing.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn describe(metrics: &StepMetrics, val_loss: Option<f64>, speed: f64, left: f64) -> String {
    let val = val_loss.map_or_else(|| "-".to_string(), |loss| format!("{loss:.3}"));
    let shares: Vec<String> = metrics
        .expert_share
        .iter()
        .map(|share| format!("{:.0}", 100.0 * share))
        .collect();
    format!(
        "loss {:.3}  val {val}  {speed:.0} tok/s  experts {}%  {} left",
        metrics.loss,
        shares.join("/"),
        duration(left)
    )
}

/// `1h02m`, `3m20s` or `15s`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{:02}s", seconds % 60),
        _ => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(15.2), "15s");
        assert_eq!(duration(200.0), "3m20s");
        assert_eq!(duration(3725.0), "1h02m");
        assert_eq!(duration(-1.0), "0s");
    }

    #[test]
    fn a_line_shows_what_people_look_for() {
        let metrics = StepMetrics {
            step: 3,
            epoch: 1,
            tokens: 3072,
            loss: 2.5,
            router_loss: 2.0,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens_per_second: 1000.0,
            elapsed_s: 3.0,
            expert_share: vec![0.25, 0.75],
            val_loss: None,
        };
        assert_eq!(
            describe(&metrics, Some(2.25), 1000.0, 61.0),
            "loss 2.500  val 2.250  1000 tok/s  experts 25/75%  1m01s left"
        );
    }
}
