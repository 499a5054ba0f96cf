//! What is counted, in Prometheus' text format. Only numbers: nothing here says what anybody asked.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper ends of the histograms' buckets in seconds.
const BUCKETS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Durations by bucket.
#[derive(Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (count, end) in self.counts.iter().zip(BUCKETS) {
            if seconds <= end {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let microseconds = duration.as_micros().min(u128::from(u64::MAX)) as u64;
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        head(text, name, "histogram", help);
        for (count, end) in self.counts.iter().zip(BUCKETS) {
            let count = count.load(Ordering::Relaxed);
            line(text, &format!("{name}_bucket{{le=\"{end}\"}}"), count);
        }
        let count = self.count.load(Ordering::Relaxed);
        line(text, &format!("{name}_bucket{{le=\"+Inf\"}}"), count);
        let seconds = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(text, "{name}_sum {seconds}");
        line(text, &format!("{name}_count"), count);
    }
}

/// Counts by a few labels whose values are all known to the program.
#[derive(Default)]
pub(super) struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    /// Counts one; `labels` as Prometheus writes them, e.g. `route="/health"`.
    pub(crate) fn add(&self, labels: String) {
        let mut counts = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        *counts.entry(labels).or_default() += 1;
    }

    fn write(&self, name: &str, help: &str, text: &mut String) {
        head(text, name, "counter", help);
        let counts = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        for (labels, count) in counts.iter() {
            line(text, &format!("{name}{{{labels}}}"), *count);
        }
    }
}

/// All figures of a server.
pub(super) struct Metrics {
    /// By route, method and status.
    pub requests: Counters,
    /// Answers by what the guard said.
    pub answers: Counters,
    /// By rating, office and verdict.
    pub feedback: Counters,
    /// Refused before work began, by reason.
    pub refused: Counters,
    /// Until an answer's first token, from the request's arrival.
    pub first_token: Histogram,
    /// Until an answer's end.
    pub answer: Histogram,
    /// Tokens of prompts and of answers.
    pub prompt_tokens: AtomicU64,
    pub answer_tokens: AtomicU64,
    /// Answers whose client went away or whose time ran out.
    pub cancelled: AtomicU64,
    /// Open connections, and answers under way.
    pub connections: AtomicU64,
    pub running: AtomicU64,
    started: Instant,
}

impl Metrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self {
            requests: Counters::default(),
            answers: Counters::default(),
            feedback: Counters::default(),
            refused: Counters::default(),
            first_token: Histogram::default(),
            answer: Histogram::default(),
            prompt_tokens: AtomicU64::new(0),
            answer_tokens: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            running: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// The text that Prometheus collects, with the number of requests in the queue.
    pub(crate) fn text(&self, waiting: usize) -> String {
        let mut text = String::new();
        for (counters, name, help) in [
            (&self.requests, "muni_requests_total", "HTTP requests."),
            (
                &self.answers,
                "muni_answers_total",
                "Answers by the guard's verdict.",
            ),
            (&self.feedback, "muni_feedback_total", "Ratings of answers."),
            (
                &self.refused,
                "muni_refused_total",
                "Requests refused before any work.",
            ),
        ] {
            counters.write(name, help, &mut text);
        }
        for (counter, kind, name, help) in [
            (
                &self.prompt_tokens,
                "counter",
                "muni_prompt_tokens_total",
                "Tokens of prompts.",
            ),
            (
                &self.answer_tokens,
                "counter",
                "muni_answer_tokens_total",
                "Tokens of answers.",
            ),
            (
                &self.cancelled,
                "counter",
                "muni_cancelled_total",
                "Answers given up by the client or out of time.",
            ),
            (
                &self.connections,
                "gauge",
                "muni_connections",
                "Open connections.",
            ),
            (&self.running, "gauge", "muni_running", "Answers under way."),
        ] {
            head(&mut text, name, kind, help);
            line(&mut text, name, counter.load(Ordering::Relaxed));
        }
        self.first_token.write(
            "muni_first_token_seconds",
            "From a request's arrival to its answer's first token.",
            &mut text,
        );
        self.answer.write(
            "muni_answer_seconds",
            "From a request's arrival to its answer's end.",
            &mut text,
        );
        head(&mut text, "muni_waiting", "gauge", "Requests in the queue.");
        line(&mut text, "muni_waiting", waiting as u64);
        head(
            &mut text,
            "muni_uptime_seconds",
            "gauge",
            "Since the start.",
        );
        line(
            &mut text,
            "muni_uptime_seconds",
            self.started.elapsed().as_secs(),
        );
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, value: u64) {
    let _ = writeln!(text, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        metrics
            .requests
            .add("route=\"/health\",status=\"200\"".into());
        metrics
            .requests
            .add("route=\"/health\",status=\"200\"".into());
        metrics.first_token.observe(Duration::from_millis(30));
        metrics.first_token.observe(Duration::from_secs(90));
        let text = metrics.text(3);
        for expected in [
            "# TYPE muni_requests_total counter\n\
             muni_requests_total{route=\"/health\",status=\"200\"} 2\n",
            "muni_first_token_seconds_bucket{le=\"0.025\"} 0\n",
            "muni_first_token_seconds_bucket{le=\"0.05\"} 1\n",
            "muni_first_token_seconds_bucket{le=\"60\"} 1\n",
            "muni_first_token_seconds_bucket{le=\"+Inf\"} 2\n",
            "muni_first_token_seconds_sum 90.03\n",
            "muni_first_token_seconds_count 2\n",
            "# TYPE muni_running gauge\nmuni_running 0\n",
            "muni_waiting 3\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
