//! One model, one text at a time: runs the prompt, then token after token over the KV cache.

use super::sampling::{Sampler, SamplingSettings};
use super::text::TextStream;
use crate::model::{KvCache, Model, Workspace};
use crate::ops::{Device, Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Result, ensure};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Prompt tokens computed at once: enough to read each weight for many of them, and no more than the CPU's products that work
/// row by row take, so that a prompt has the same bits however it is cut (after a shared beginning, beside others).
pub(super) const PREFILL_TOKENS: usize = 64;

/// How to continue a text.
#[derive(Clone, Debug, Default)]
pub struct GenerateSettings {
    /// How each token is chosen.
    pub sampling: SamplingSettings,
    /// Most new tokens; `None`: until the context is full.
    pub max_new_tokens: Option<usize>,
    /// The token that ends a text, e.g. `<|endoftext|>`; `None`: none does.
    pub end_token: Option<u32>,
    /// Strings that end a text, not shown themselves; only for [`Generator::generate_text`].
    pub stop_strings: Vec<String>,
    /// Drop white space at both ends of the text; only for [`Generator::generate_text`].
    pub trim: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    MaxNewTokens,
    /// Prompt and text fill the model's context.
    ContextFull,
    /// The caller had enough.
    Cancelled,
}

/// A continued text.
#[derive(Clone, Debug)]
pub struct GenerateOutput {
    /// What was shown; empty from [`Generator::generate_ids`].
    pub text: String,
    /// The new tokens, with the end token where that came, as Transformers' `generate` returns them.
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
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        let steps = self.token_ids.len().checked_sub(1).filter(|&n| n > 0)?;
        let seconds = self.decode.as_secs_f64();
        (seconds > 0.0).then(|| steps as f64 / seconds)
    }
}

/// A model ready to continue texts. Keeps the last text's keys and values, so that a prompt which begins the same way
/// (the next turn of a chat) costs only what is new.
pub struct Generator<'a, D: Device> {
    device: &'a D,
    model: &'a Model<D>,
    cache: KvCache<D>,
    workspace: Workspace<D>,
    /// Tokens whose keys and values are in the cache.
    cached: Vec<u32>,
}

impl<'a, D: Operations + Planner> Generator<'a, D> {
    /// Buffers for texts up to the model's context. Errors: no memory.
    pub fn new(device: &'a D, model: &'a Model<D>) -> Result<Self> {
        let config = &model.config;
        let context = config.max_position_embeddings;
        let rows = context.min(PREFILL_TOKENS);
        Ok(Self {
            device,
            model,
            cache: KvCache::new(device, config, context)?,
            workspace: Workspace::for_inference(device, config, rows, 1, 1)?,
            cached: Vec::new(),
        })
    }

    /// Most tokens of prompt and continuation together.
    pub fn context(&self) -> usize {
        self.cache.capacity()
    }

    /// Continues the tokens of `prompt`. `on_token` sees each new token except the end token and may end the text.
    /// Errors: an empty prompt, one that leaves no room, tokens outside the vocabulary, what `on_token` returns.
    pub fn generate_ids(
        &mut self,
        prompt: &[u32],
        settings: &GenerateSettings,
        on_token: &mut dyn FnMut(u32) -> Result<ControlFlow<Finish>>,
    ) -> Result<GenerateOutput> {
        let start = Instant::now();
        let mut sampler = Sampler::new(settings.sampling)?;
        check_prompt(prompt, self.context())?;
        let mut context = prompt.to_vec();
        let mut output = GenerateOutput {
            text: String::new(),
            token_ids: Vec::new(),
            prompt_token_ids: prompt.to_vec(),
            finish: Finish::MaxNewTokens,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let limit = settings.max_new_tokens.unwrap_or(usize::MAX);
        if limit == 0 {
            return Ok(output);
        }
        output.finish = loop {
            let mut logits = self.forward(&context)?;
            let token = sampler.next(&mut logits, &context)?;
            if output.token_ids.is_empty() {
                output.prefill = start.elapsed();
            }
            output.token_ids.push(token);
            if settings.end_token == Some(token) {
                break Finish::EndOfText;
            }
            if let ControlFlow::Break(finish) = on_token(token)? {
                break finish;
            }
            if output.token_ids.len() >= limit {
                break Finish::MaxNewTokens;
            }
            context.push(token);
            if context.len() >= self.context() {
                break Finish::ContextFull;
            }
        };
        output.decode = start.elapsed().saturating_sub(output.prefill);
        Ok(output)
    }

    /// Continues `prompt` as a training example begins: after the separator token. `on_text` sees the text piece by
    /// piece, as soon as characters are whole, and may end it. Errors: as [`Generator::generate_ids`].
    pub fn generate_text(
        &mut self,
        tokenizer: &Tokenizer,
        prompt: &str,
        settings: &GenerateSettings,
        on_text: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<GenerateOutput> {
        let mut ids = vec![tokenizer.end_of_text()];
        ids.extend(tokenizer.encode(prompt)?);
        let mut decoder = tokenizer.decode_stream();
        let mut stream = TextStream::new(&settings.stop_strings, settings.trim);
        let mut output = self.generate_ids(&ids, settings, &mut |token| {
            let shown = stream.push(&decoder.push(token)?);
            if show(&shown, on_text)?.is_break() {
                return Ok(ControlFlow::Break(Finish::Cancelled));
            }
            Ok(match stream.stopped() {
                true => ControlFlow::Break(Finish::StopString),
                false => ControlFlow::Continue(()),
            })
        })?;
        if output.finish != Finish::Cancelled {
            let mut rest = stream.push(&decoder.finish());
            rest.push_str(&stream.finish());
            // Nothing is left that could be cancelled.
            let _ = show(&rest, on_text)?;
        }
        output.text = stream.text().to_string();
        Ok(output)
    }

    /// The logits after `context`, computing only what the cache does not hold.
    fn forward(&mut self, context: &[u32]) -> Result<Vec<f32>> {
        let shared = self
            .cached
            .iter()
            .zip(context)
            .take_while(|(a, b)| a == b)
            .count();
        // The last token's logits are wanted, so it is always computed.
        let past = shared.min(context.len().saturating_sub(1));
        self.cached.truncate(past);
        self.cache.truncate(past);
        let logits = self.model.prefill(
            self.device,
            &context[past..],
            &mut self.cache,
            &mut self.workspace,
        )?;
        self.cached.extend_from_slice(&context[past..]);
        Ok(logits)
    }
}

/// Refuses a prompt that a model with this context cannot continue.
pub(super) fn check_prompt(prompt: &[u32], context: usize) -> Result<()> {
    ensure!(
        !prompt.is_empty(),
        "the prompt is empty, expected at least one token"
    );
    let found = prompt.len();
    ensure!(
        found < context,
        "the prompt has {found} tokens, expected fewer than the model's context of {context}: shorten it"
    );
    Ok(())
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
