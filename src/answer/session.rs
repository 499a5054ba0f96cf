//! A conversation with a model in one place: history, settings, and one call per turn.

use super::{Assistant, GuardMode, Reply, Turn, Understanding};
use crate::generate::text::NEXT_QUESTION;
use crate::generate::{Finish, GenerateSettings, Generator, SamplingSettings};
use crate::model::Model;
use crate::ops::{Device, Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How answers are made.
#[derive(Clone, Copy, Debug)]
pub struct ConversationSettings {
    /// How each token is chosen.
    pub sampling: SamplingSettings,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// What the guard does.
    pub guard: GuardMode,
}

impl Default for ConversationSettings {
    fn default() -> Self {
        Self {
            sampling: SamplingSettings {
                temperature: 0.7,
                top_p: 0.9,
                ..SamplingSettings::default()
            },
            max_new_tokens: 224,
            guard: GuardMode::Replace,
        }
    }
}

/// One answer with what it took.
pub struct Answered {
    /// The reply.
    pub reply: Reply,
    /// What the question was understood as.
    pub understanding: Understanding,
    /// Why the model ended; `Cancelled` where the guard or the caller stopped it.
    pub finish: Finish,
    /// Whether the caller stopped it.
    pub stopped: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens that the model made.
    pub new_tokens: usize,
    /// Until the model's first token.
    pub first_token: Duration,
    /// Until something could be shown; `None` if nothing was released before the end.
    pub first_text: Option<Duration>,
    /// Until the whole reply.
    pub total: Duration,
}

/// A conversation with one model.
pub struct Conversation<'a, D: Device> {
    assistant: &'a Assistant,
    tokenizer: &'a Tokenizer,
    generator: Generator<'a, D>,
    history: Vec<Turn>,
    /// How the next answers are made.
    pub settings: ConversationSettings,
}

impl<'a, D: Operations + Planner> Conversation<'a, D> {
    /// An empty conversation. Errors: no memory.
    pub fn new(
        assistant: &'a Assistant,
        device: &'a D,
        model: &'a Model<D>,
        tokenizer: &'a Tokenizer,
        settings: ConversationSettings,
    ) -> Result<Self> {
        Ok(Self {
            assistant,
            tokenizer,
            generator: Generator::new(device, model)?,
            history: Vec::new(),
            settings,
        })
    }

    /// What was said so far.
    pub fn history(&self) -> &[Turn] {
        &self.history
    }

    /// Forgets what was said.
    pub fn clear(&mut self) {
        self.history.clear();
    }

    /// The prompt for a question. What was said before goes in as far as a long answer still fits behind it; the question
    /// itself may be longer.
    fn prompt(&self, question: &str) -> Result<String> {
        let context = self.generator.context();
        let answer = self.settings.max_new_tokens.min(context * 3 / 4);
        let room = context.saturating_sub(answer);
        let with_history = self
            .assistant
            .prompt(self.tokenizer, &self.history, question, room);
        with_history
            .or_else(|_| {
                self.assistant
                    .prompt(self.tokenizer, &[], question, context * 3 / 4)
            })
            .with_context(|| format!("the model's window has {context} tokens"))
    }

    /// Answers one question. `on_text` is called for each piece of the model's text with what can be shown now, which may be
    /// nothing, and may stop the answer; a stopped one is not remembered. Errors: an empty question or one too long for the model, what the model and `on_text` return.
    pub fn ask(
        &mut self,
        question: &str,
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<Answered> {
        let start = Instant::now();
        let understanding = self.assistant.understand(&self.history, question);
        let prompt = self.prompt(question)?;
        let settings = GenerateSettings {
            sampling: SamplingSettings {
                // Each turn draws anew, and the same conversation draws the same.
                seed: self
                    .settings
                    .sampling
                    .seed
                    .wrapping_add(self.history.len() as u64),
                ..self.settings.sampling
            },
            max_new_tokens: Some(self.settings.max_new_tokens),
            end_token: Some(self.tokenizer.end_of_text()),
            stop_strings: vec![NEXT_QUESTION.to_string()],
            trim: true,
        };
        let mut guard = self
            .assistant
            .guard(understanding.clone(), self.settings.guard);
        let (mut first_text, mut stopped) = (None, false);
        let output =
            self.generator
                .generate_text(self.tokenizer, &prompt, &settings, &mut |text| {
                    let progress = guard.push(text);
                    if !progress.release.is_empty() {
                        first_text.get_or_insert_with(|| start.elapsed());
                    }
                    // Also where nothing can be shown yet: whoever waits may have had enough.
                    stopped = on_text(&progress.release)?.is_break();
                    Ok(match progress.stop || stopped {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    })
                })?;
        let (rest, reply) = guard.finish();
        if !stopped && !rest.is_empty() {
            first_text.get_or_insert_with(|| start.elapsed());
            stopped = on_text(&rest)?.is_break();
        }
        if !stopped {
            self.history.push(Turn::citizen(question));
            self.history.push(Turn::assistant(reply.text.clone()));
        }
        Ok(Answered {
            reply,
            understanding,
            finish: output.finish,
            stopped,
            prompt_tokens: output.prompt_token_ids.len(),
            new_tokens: output.token_ids.len(),
            first_token: output.prefill,
            first_text,
            total: start.elapsed(),
        })
    }
}
