//! What an operator decides, checked once.

use super::access::{ApiKeys, Origin};
use crate::answer::GuardMode;
use crate::generate::scheduler::MAX_SEQUENCES;
use anyhow::{Result, ensure};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything about a server but model and knowledge.
pub(crate) struct Settings {
    /// What `/v1/models` calls the model.
    pub model_name: String,
    /// What happens to answers that the knowledge base does not support.
    pub guard: GuardMode,
    /// Answers made at the same time.
    pub max_concurrent: usize,
    /// Requests that may wait for a place.
    pub queue: usize,
    /// Most tokens of an answer; a request may ask for fewer.
    pub max_tokens: usize,
    /// Bytes of a request's body at most.
    pub max_body: usize,
    /// Connections at the same time.
    pub max_connections: usize,
    /// From a request's arrival to the end of its answer.
    pub request_timeout: Duration,
    /// How long a stopping server waits for answers under way.
    pub shutdown_timeout: Duration,
    /// Keys without which `/v1` and `/metrics` stay closed; `None`: open to all.
    pub keys: Option<ApiKeys>,
    /// Pages of other origins that may ask.
    pub origins: Vec<Origin>,
    /// Requests per minute and client; 0: no limit.
    pub rate_limit: u32,
    /// Reverse proxies whose `X-Forwarded-For` is believed.
    pub proxies: Vec<IpAddr>,
    /// Where conversations are kept; `None`: nowhere.
    pub conversations: Option<PathBuf>,
}

impl Settings {
    /// # Errors
    /// A value outside its range, by name.
    pub(crate) fn validate(&self) -> Result<()> {
        ensure!(
            (1..=MAX_SEQUENCES).contains(&self.max_concurrent),
            "{} answers at the same time, expected 1 to {MAX_SEQUENCES}",
            self.max_concurrent
        );
        ensure!(
            !self.model_name.is_empty() && self.model_name.len() <= 100,
            "the model's name has {} bytes, expected 1 to 100",
            self.model_name.len()
        );
        for (what, found) in [
            ("the queue", self.queue),
            ("most tokens of an answer", self.max_tokens),
            ("most connections", self.max_connections),
            ("the body limit", self.max_body),
        ] {
            ensure!(found > 0, "{what}: 0, expected at least 1");
        }
        for (what, found) in [
            ("the request timeout", self.request_timeout),
            ("the shutdown timeout", self.shutdown_timeout),
        ] {
            ensure!(
                (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&found),
                "{what} is {found:?}, expected up to a day"
            );
        }
        Ok(())
    }
}
