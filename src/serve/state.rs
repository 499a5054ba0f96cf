//! What all handlers share.

use super::engine::Queue;
use super::log::{ConversationLog, unix_seconds};
use super::metrics::Metrics;
use super::openai::response::Disclosure;
use super::rate::RateLimit;
use super::settings::Settings;
use crate::answer::Assistant;
use crate::answer::exchange::{Pipeline, Window};
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;
use tokio::sync::watch;

/// One server's state.
pub(super) struct State {
    pub settings: Settings,
    pub assistant: Assistant,
    /// The model's tokenizer, and most tokens of prompt and answer together; `None` where there is
    /// no model.
    model: Option<(Tokenizer, usize)>,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    pub rate: RateLimit,
    pub conversations: Option<ConversationLog>,
    /// True from the signal to stop on.
    pub stopping: watch::Sender<bool>,
    /// When the server started, in seconds since 1970.
    pub started: u64,
    /// Keyed by the system's random numbers, so that ids and seeds cannot be guessed.
    random: RandomState,
    drawn: AtomicU64,
}

impl State {
    /// `model`: the model's tokenizer and context, where there is a model.
    ///
    /// # Errors
    /// If the settings are out of range or the conversation file cannot be opened.
    pub(crate) fn new(
        settings: Settings,
        assistant: Assistant,
        model: Option<(Tokenizer, usize)>,
    ) -> Result<Self> {
        settings.validate()?;
        Ok(Self {
            queue: Arc::new(Queue::new(settings.queue)),
            metrics: Arc::new(Metrics::new()),
            rate: RateLimit::new(settings.rate_limit),
            conversations: settings
                .conversations
                .as_deref()
                .map(ConversationLog::open)
                .transpose()?,
            stopping: watch::Sender::new(false),
            started: unix_seconds(SystemTime::now()),
            random: RandomState::new(),
            drawn: AtomicU64::new(0),
            settings,
            assistant,
            model,
        })
    }

    /// The way from a question to its reply.
    pub(crate) fn pipeline(&self) -> Pipeline<'_> {
        let model = self.model.as_ref();
        Pipeline {
            assistant: &self.assistant,
            window: model.map(|(tokenizer, context)| Window {
                tokenizer,
                context: *context,
            }),
        }
    }

    /// Whether there is no model, and the knowledge base answers alone.
    pub(crate) fn is_knowledge_only(&self) -> bool {
        self.model.is_none()
    }

    /// What a client is told about every answer.
    pub(crate) fn disclosure(&self) -> Disclosure {
        Disclosure {
            logged: self.conversations.is_some(),
            knowledge_only: self.is_knowledge_only(),
        }
    }

    /// Whether the server is about to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// A number that nobody can foresee.
    pub(crate) fn random(&self) -> u64 {
        self.random
            .hash_one(self.drawn.fetch_add(1, Ordering::Relaxed))
    }

    /// What citizens are told, wherever they ask from (EU AI Act, Article 50).
    pub(crate) fn notice(&self) -> String {
        let kept = match self.conversations {
            Some(_) => {
                "Ihre Fragen und die Antworten werden gespeichert. Bitte geben Sie keine \
                 persönlichen Daten ein."
            }
            None => "Ihre Fragen und die Antworten werden nicht gespeichert.",
        };
        let machine = match self.is_knowledge_only() {
            false => "(künstliche Intelligenz) erzeugt die Antworten",
            true => "wählt die Antworten aus der Wissensbasis der Stadt aus",
        };
        format!(
            "Sie schreiben mit einer Maschine. Ein Computerprogramm {machine}; sie können Fehler \
             enthalten. Verbindlich ist nur, was das Amt Ihnen mitteilt. {kept}"
        )
    }
}
