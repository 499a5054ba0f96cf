//! One text continued: the model reads the prompt, then token after token over the KV cache.

use super::scheduler::{Scheduler, SequenceEvent, check_prompt};
use super::settings::{Finish, GenerateSettings};
use super::text::{TokenText, prompt_ids};
use crate::model::Model;
use crate::ops::{Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::Result;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// A continued text.
#[derive(Clone, Debug)]
pub struct GenerateOutput {
    /// What was shown; empty from [`Generator::generate_ids`].
    pub text: String,
    /// The new tokens, with the end token where that came, as Transformers' `generate` returns
    /// them.
    pub token_ids: Vec<u32>,
    /// The prompt as the model saw it.
    pub prompt_token_ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Time for the prompt, up to the first new token.
    pub prefill: Duration,
    /// Time for the new tokens after the first.
    pub decode: Duration,
}

impl GenerateOutput {
    /// Decoding speed; `None` where there was at most one new token.
    pub(crate) fn decode_tokens_per_second(&self) -> Option<f64> {
        let steps = self.token_ids.len().checked_sub(1).filter(|&n| n > 0)?;
        let seconds = self.decode.as_secs_f64();
        (seconds > 0.0).then(|| steps as f64 / seconds)
    }
}

/// A model ready to continue one text at a time. Keeps the last text's keys and values, so that a
/// prompt which begins the same way (the next turn of a chat) costs only what is new.
pub struct Generator<'a, D: Operations + Planner> {
    scheduler: Scheduler<'a, D>,
}

impl<'a, D: Operations + Planner> Generator<'a, D> {
    /// Buffers for texts up to the model's context.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(device: &'a D, model: &'a Model<D>) -> Result<Self> {
        Ok(Self {
            scheduler: Scheduler::single(device, model)?,
        })
    }

    /// Most tokens of prompt and continuation together.
    pub(crate) fn context(&self) -> usize {
        self.scheduler.context()
    }

    /// Continues the tokens of `prompt`. `on_token` sees each new token except the end token and
    /// may end the text.
    ///
    /// # Errors
    /// If the prompt is empty, leaves no room or has tokens outside the vocabulary, the sampling
    /// settings are out of range, the device fails, or `on_token` does.
    pub fn generate_ids(
        &mut self,
        prompt: &[u32],
        settings: &GenerateSettings,
        on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<Finish>>,
    ) -> Result<GenerateOutput> {
        let start = Instant::now();
        let mut output = GenerateOutput {
            text: String::new(),
            token_ids: Vec::new(),
            prompt_token_ids: prompt.to_vec(),
            finish: Finish::MaxNewTokens,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        if settings.max_new_tokens == Some(0) {
            settings.sampling.validate()?;
            check_prompt(prompt, self.context())?;
            return Ok(output);
        }
        let sequence = self.scheduler.join(prompt, settings)?;
        let finish = self.decode(settings, &mut output, start, on_token);
        // Also after an error: the next text finds the scheduler empty.
        self.scheduler.leave(sequence);
        output.finish = finish?;
        output.decode = start.elapsed().saturating_sub(output.prefill);
        Ok(output)
    }

    /// Steps until the one sequence ends.
    fn decode(
        &mut self,
        settings: &GenerateSettings,
        output: &mut GenerateOutput,
        start: Instant,
        on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<Finish>>,
    ) -> Result<Finish> {
        loop {
            for event in self.scheduler.step()? {
                if output.token_ids.is_empty() {
                    output.prefill = start.elapsed();
                }
                match event {
                    SequenceEvent::Token(_, token) => {
                        output.token_ids.push(token);
                        if let ControlFlow::Break(finish) = on_token(token)? {
                            return Ok(finish);
                        }
                    }
                    SequenceEvent::Finished(_, finish) => {
                        if finish == Finish::EndOfText {
                            output.token_ids.extend(settings.end_token);
                        }
                        return Ok(finish);
                    }
                    SequenceEvent::Failed(_, error) => return Err(error),
                }
            }
        }
    }

    /// Continues `prompt` as a training example begins: after the separator token. `on_text` sees
    /// the text piece by piece, as soon as characters are whole, and may end it.
    ///
    /// # Errors
    /// As [`Generator::generate_ids`].
    pub(crate) fn generate_text(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &str,
        settings: &GenerateSettings,
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<GenerateOutput> {
        let ids = prompt_ids(tokenizer, prompt)?;
        let mut text = TokenText::new(tokenizer, &settings.stop_strings, settings.trim);
        let mut output = self.generate_ids(&ids, settings, &mut |token| {
            let shown = text.push(token)?;
            if show(&shown, on_text)?.is_break() {
                return Ok(ControlFlow::Break(Finish::Cancelled));
            }
            Ok(match text.stopped() {
                true => ControlFlow::Break(Finish::StopString),
                false => ControlFlow::Continue(()),
            })
        })?;
        output.text = text.shown().to_string();
        if output.finish != Finish::Cancelled {
            let rest = text.finish();
            // Nothing is left that could be cancelled.
            let _ = show(&rest, on_text)?;
            output.text.push_str(&rest);
        }
        Ok(output)
    }
}

fn show(
    text: &str,
    on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    if text.is_empty() {
        return Ok(ControlFlow::Continue(()));
    }
    on_text(text)
}
