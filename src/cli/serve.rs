//! `muni-engine serve`: the HTTP server with OpenAI's API, the page and the widget.

use super::assistant::KnowledgeArguments;
use super::device::Task;
use super::model::ModelArguments;
use super::values::seconds;
use crate::answer::GuardMode;
use crate::open::OpenModel;
use crate::ops::TrainingDevice;
use crate::serve::{ApiKeys, Origin, ServedModel, Settings, serve};
use anyhow::{Context, Result};
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What the API calls a model, and a server without one, unless `--model-name` says otherwise.
const MODEL_NAME: &str = "muni";
const KNOWLEDGE_NAME: &str = "muni-engine-knowledge";

/// Arguments of `muni-engine serve`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The address to listen at; 0.0.0.0 or :: are all of this machine's. TLS is the business of a
    /// reverse proxy before it.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen at; 0: any free one, which the first line of the log names.
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    #[command(flatten)]
    knowledge: KnowledgeArguments,
    /// What happens to answers that the knowledge base does not support: replace (by its own),
    /// mark, off.
    #[arg(long, value_name = "MODE", default_value = "replace", value_parser = GuardMode::from_str)]
    guard: GuardMode,
    /// The model's name in the API [default: muni, or muni-engine-knowledge where there is no
    /// model].
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// File with API keys, one per line: without one of them /v1 and /metrics stay closed. The page
    /// and the widget have no key, so they do not work then.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A web page's origin that may ask, e.g. https://www.musterstadt.de, for the widget there. Can
    /// be given several times.
    #[arg(long, value_name = "ORIGIN", value_parser = Origin::from_str)]
    allow_origin: Vec<Origin>,
    /// Requests that may wait; one more gets 429 and Retry-After.
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: usize,
    /// Answers made at the same time, at most 64: more serve more people, each a little slower.
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_concurrent: usize,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 160)]
    max_tokens: usize,
    /// Bytes of a request's body at most.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10)]
    max_body: usize,
    /// Connections at the same time.
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_connections: usize,
    /// Seconds from a request's arrival to the end of its answer.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    request_timeout: Duration,
    /// Seconds that a stopping server waits for answers under way.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    shutdown_timeout: Duration,
    /// Requests per minute from one address (one /64 network of IPv6); 0: no limit.
    #[arg(long, value_name = "N", default_value_t = 60)]
    rate_limit: u32,
    /// A reverse proxy's address: what it says in X-Forwarded-For is believed. Can be given several
    /// times.
    #[arg(long, value_name = "ADDRESS")]
    trusted_proxy: Vec<IpAddr>,
    /// Keep questions and answers in this file, one JSON object per line; citizens are told so.
    /// Without it nothing is kept.
    #[arg(long, value_name = "FILE")]
    log_conversations: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let address = (arguments.host, arguments.port);
    // First of all: a port that is taken should not cost the time to load a model.
    let listener = TcpListener::bind(address).with_context(|| {
        format!(
            "cannot listen at {}:{}: is another server running there? Choose another --port",
            arguments.host, arguments.port
        )
    })?;
    let settings = arguments.settings()?;
    settings.validate()?;
    arguments.model.device.run(ServeTask {
        listener,
        settings,
        arguments: &arguments,
    })
}

impl Arguments {
    fn settings(&self) -> Result<Settings> {
        Ok(Settings {
            model_name: self
                .model_name
                .clone()
                .unwrap_or_else(|| MODEL_NAME.to_string()),
            guard: self.guard,
            max_concurrent: self.max_concurrent,
            queue: self.queue,
            max_tokens: self.max_tokens,
            max_body: self.max_body,
            max_connections: self.max_connections,
            request_timeout: self.request_timeout,
            shutdown_timeout: self.shutdown_timeout,
            keys: self
                .api_key_file
                .as_deref()
                .map(ApiKeys::load)
                .transpose()?,
            origins: self.allow_origin.clone(),
            rate_limit: self.rate_limit,
            proxies: self
                .trusted_proxy
                .iter()
                .map(IpAddr::to_canonical)
                .collect(),
            conversations: self.log_conversations.clone(),
        })
    }
}

struct ServeTask<'a> {
    listener: TcpListener,
    settings: Settings,
    arguments: &'a Arguments,
}

impl Task for ServeTask<'_> {
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()> {
        let knowledge = &self.arguments.knowledge;
        // The knowledge base is read while the model is: as a job of the pool that both compute on.
        // A thread of its own would wait for a pool of one thread, this one, for ever.
        let mut assistant = None;
        let open = rayon::in_place_scope(|scope| {
            scope.spawn(|_| assistant = Some(knowledge.open()));
            self.arguments.model.open_if_any(device)
        });
        let assistant = assistant.context("the knowledge base was not read")?;
        let (open, assistant) = (open?, assistant?);
        let mut settings = self.settings;
        if open.is_none() && self.arguments.model_name.is_none() {
            settings.model_name = KNOWLEDGE_NAME.to_string();
        }
        let (model, tokenizer) = match open {
            Some(OpenModel { model, tokenizer }) => (Some(model), Some(tokenizer)),
            None => (None, None),
        };
        let served = model
            .as_ref()
            .zip(tokenizer)
            .map(|(model, tokenizer)| ServedModel {
                device,
                model,
                tokenizer,
            });
        serve(self.listener, served, assistant, settings)
    }
}
