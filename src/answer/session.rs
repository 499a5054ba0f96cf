//! A conversation in one place: history, settings, and one call per turn.

use super::exchange::{ExchangeSettings, Pipeline, Window};
use super::{Assistant, Reply, Turn, Understanding};
use crate::generate::{Finish, GenerateOutput, Generator, SamplingSettings};
use crate::model::Model;
use crate::ops::{Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// One answer with what it took.
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// What the question was understood as.
    pub understanding: Understanding,
    /// What the model made; `finish` is `Cancelled` where the guard or the caller stopped it.
    /// `None` where no model was run.
    pub output: Option<GenerateOutput>,
    /// Whether the caller stopped it.
    pub stopped: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Until something could be shown; `None` if nothing was released.
    pub first_text: Option<Duration>,
    /// Until the whole reply.
    pub total: Duration,
}

/// A conversation with one model, or with the knowledge base alone.
pub struct Conversation<'a, D: Operations + Planner> {
    pipeline: Pipeline<'a>,
    generator: Option<Generator<'a, D>>,
    history: Vec<Turn>,
    /// How the next answers are made.
    pub settings: ExchangeSettings,
}

impl<'a, D: Operations + Planner> Conversation<'a, D> {
    /// An empty conversation with a model.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(
        assistant: &'a Assistant,
        device: &'a D,
        model: &'a Model<D>,
        tokenizer: &'a Tokenizer,
        settings: ExchangeSettings,
    ) -> Result<Self> {
        let generator = Generator::new(device, model)?;
        let window = Window {
            tokenizer,
            context: generator.context(),
        };
        Ok(Self {
            pipeline: Pipeline {
                assistant,
                window: Some(window),
            },
            generator: Some(generator),
            history: Vec::new(),
            settings,
        })
    }

    /// An empty conversation in which the knowledge base answers alone.
    pub(crate) fn without_model(assistant: &'a Assistant, settings: ExchangeSettings) -> Self {
        Self {
            pipeline: Pipeline {
                assistant,
                window: None,
            },
            generator: None,
            history: Vec::new(),
            settings,
        }
    }

    /// The same conversation with what was said before.
    pub(crate) fn with_history(mut self, history: Vec<Turn>) -> Self {
        self.history = history;
        self
    }

    /// The assistant that understands and guards.
    pub(crate) fn assistant(&self) -> &'a Assistant {
        self.pipeline.assistant
    }

    /// Whether a model answers.
    pub(crate) fn has_model(&self) -> bool {
        self.generator.is_some()
    }

    /// Forgets what was said.
    pub(crate) fn clear(&mut self) {
        self.history.clear();
    }

    /// Answers one question. `on_text` is called after each of the model's tokens with what can be
    /// shown now, which may be nothing, and may stop the answer; a stopped one is not remembered.
    ///
    /// # Errors
    /// If the question is empty or too long for the model; what the model and `on_text` return.
    pub fn ask(
        &mut self,
        question: &str,
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Answer> {
        let start = Instant::now();
        let settings = ExchangeSettings {
            sampling: SamplingSettings {
                // Each turn draws anew, and the same conversation draws the same.
                seed: (self.settings.sampling.seed).wrapping_add(self.history.len() as u64),
                ..self.settings.sampling
            },
            ..self.settings.clone()
        };
        let pipeline = self.pipeline;
        let request = pipeline.request(&self.history, question, &settings);
        let request = match pipeline.window {
            Some(Window { context, .. }) => {
                request.with_context(|| format!("the model's window has {context} tokens"))?
            }
            None => request?,
        };
        let mut exchange = pipeline.begin(&request);
        let (mut first_text, mut stopped) = (None, false);
        let mut output = match self.generator.as_mut().filter(|_| request.needs_model()) {
            None => None,
            Some(generator) => Some(generator.generate_ids(
                request.prompt(),
                request.generate_settings(),
                &mut |token| {
                    let release = exchange.push(token)?;
                    if !release.text.is_empty() {
                        first_text.get_or_insert_with(|| start.elapsed());
                    }
                    // Also where nothing can be shown yet: whoever waits may have had enough.
                    stopped = on_text(&release.text)?.is_break();
                    Ok(match (release.stop, stopped) {
                        (Some(finish), false) => ControlFlow::Break(finish),
                        (_, true) => ControlFlow::Break(Finish::Cancelled),
                        (None, false) => ControlFlow::Continue(()),
                    })
                },
            )?),
        };
        let (rest, reply) = exchange.finish();
        if let Some(output) = &mut output {
            output.text.clone_from(&reply.model_text);
        }
        if !stopped && !rest.is_empty() {
            first_text.get_or_insert_with(|| start.elapsed());
            stopped = on_text(&rest)?.is_break();
        }
        if !stopped {
            self.history.push(Turn::citizen(question));
            self.history.push(Turn::assistant(reply.text.clone()));
        }
        Ok(Answer {
            reply,
            understanding: request.understanding().clone(),
            output,
            stopped,
            prompt_tokens: request.prompt().len(),
            first_text,
            total: start.elapsed(),
        })
    }
}
