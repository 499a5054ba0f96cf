//! Many texts over one model at once (continuous batching): texts join and leave between steps, and one pass makes the next
//! token of all of them, so that a weight is read once per step and not once per text.
//!
//! A text's tokens are those of [`Generator::generate_ids`](super::Generator::generate_ids) with the same prompt and settings.
//! On the CPU its logits are the same to the bit whoever else is there, because no pass has more rows than the products that
//! work row by row take (64). Devices that choose another product for more rows round differently; there a text's tokens may
//! depend on its company where two candidates are equal to within rounding.

use super::sampling::Sampler;
use super::session::{Finish, GenerateSettings, PREFILL_TOKENS, check_prompt};
use crate::model::{KvCache, Model, Workspace};
use crate::ops::{Device, Operations, Planner};
use anyhow::{Error, Result, bail, ensure};
use rayon::prelude::*;

/// Most texts of a batch: as many rows as a pass may have without changing anybody's bits.
pub const MAX_TEXTS: usize = 64;

/// Prompt tokens computed per step, whole pieces, before the running texts get their next token: two questions of usual
/// length. More would make them wait noticeably, fewer would keep newcomers waiting while others finish.
const PROMPT_TOKENS_PER_STEP: usize = 2 * PREFILL_TOKENS;

/// Number of a text, never used again in the same batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(u64);

/// What a step brought for one text.
#[derive(Debug)]
pub enum BatchEvent {
    /// A new token; the end token is not reported.
    Token(TextId, u32),
    /// The text is over and has left the batch.
    Finished(TextId, Finish),
    /// The text alone failed, e.g. because its logits are not finite, and has left the batch.
    Failed(TextId, Error),
}

/// One text under way.
struct Text<D: Device> {
    id: TextId,
    cache: KvCache<D>,
    sampler: Sampler,
    /// Prompt and answer.
    context: Vec<u32>,
    /// Length of the prompt.
    prompt: usize,
    limit: usize,
    end_token: Option<u32>,
}

impl<D: Operations + Planner> Text<D> {
    /// Tokens whose keys and values are not in the cache yet.
    fn pending(&self) -> &[u32] {
        &self.context[self.cache.len()..]
    }

    /// Whether its first token has not come yet.
    fn reads_prompt(&self) -> bool {
        self.context.len() == self.prompt
    }
}

/// A model that continues several texts at once.
pub struct Batch<'a, D: Device> {
    device: &'a D,
    model: &'a Model<D>,
    workspace: Workspace<D>,
    /// In the order they came.
    texts: Vec<Text<D>>,
    /// Caches of texts that left.
    free: Vec<KvCache<D>>,
    max_texts: usize,
    next: u64,
}

impl<'a, D: Operations + Planner> Batch<'a, D> {
    /// Room for `max_texts` texts, each up to the model's context. A text's cache is made when it is first needed.
    ///
    /// # Errors
    /// If `max_texts` is not 1 to [`MAX_TEXTS`], or there is no memory.
    pub fn new(device: &'a D, model: &'a Model<D>, max_texts: usize) -> Result<Self> {
        ensure!(
            (1..=MAX_TEXTS).contains(&max_texts),
            "a batch of {max_texts} texts was asked for, expected 1 to {MAX_TEXTS}"
        );
        let rows = PREFILL_TOKENS.max(max_texts);
        let workspace = Workspace::for_inference(device, &model.config, rows, 1, 1)?;
        Ok(Self {
            device,
            model,
            workspace: workspace.with_sequences(device, max_texts)?,
            texts: Vec::new(),
            free: Vec::new(),
            max_texts,
            next: 0,
        })
    }

    /// Texts under way.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether another text can join.
    pub fn has_room(&self) -> bool {
        self.texts.len() < self.max_texts
    }

    /// Most tokens of a prompt and its continuation together.
    pub fn context(&self) -> usize {
        self.model.config.max_position_embeddings
    }

    /// Lets a text join; the next step works on it. Of the settings, stop strings and trimming are the caller's business, as
    /// in [`Generator::generate_ids`](super::Generator::generate_ids).
    ///
    /// # Errors
    /// If there is no room, the prompt is empty, leaves no room or has tokens outside the vocabulary, no token is asked for, the
    /// sampling settings are out of range, or there is no memory for a cache.
    pub fn join(&mut self, prompt: &[u32], settings: &GenerateSettings) -> Result<TextId> {
        ensure!(
            self.has_room(),
            "the batch is full with {} texts",
            self.texts.len()
        );
        let config = &self.model.config;
        check_prompt(prompt, self.context())?;
        if let Some(token) = prompt.iter().find(|&&t| t as usize >= config.vocab_size) {
            bail!(
                "token {token} of the prompt is not below {}, the size of the vocabulary",
                config.vocab_size
            );
        }
        let limit = settings.max_new_tokens.unwrap_or(usize::MAX);
        ensure!(limit > 0, "no token was asked for, expected at least one");
        let sampler = Sampler::new(settings.sampling)?;
        let cache = match self.free.pop() {
            Some(cache) => cache,
            None => KvCache::new(self.device, config, self.context())?,
        };
        let id = TextId(self.next);
        self.next += 1;
        self.texts.push(Text {
            id,
            cache,
            sampler,
            context: prompt.to_vec(),
            prompt: prompt.len(),
            limit,
            end_token: settings.end_token,
        });
        Ok(id)
    }

    /// Takes a text out; one that has left already is no error.
    pub fn leave(&mut self, text: TextId) {
        if let Some(index) = self.texts.iter().position(|t| t.id == text) {
            let mut cache = self.texts.remove(index).cache;
            cache.truncate(0);
            self.free.push(cache);
        }
    }

    /// Reads on in the prompts of those that came last, then makes the next token of all others. Nothing to do is no error.
    ///
    /// # Errors
    /// If the device fails; then all texts are lost.
    pub fn step(&mut self) -> Result<Vec<BatchEvent>> {
        let mut events = Vec::new();
        self.continue_texts(&mut events)?;
        self.read_prompts(&mut events)?;
        Ok(events)
    }

    /// Reads prompts, oldest first, up to the step's share.
    fn read_prompts(&mut self, events: &mut Vec<BatchEvent>) -> Result<()> {
        let mut share = PROMPT_TOKENS_PER_STEP;
        let waiting: Vec<TextId> = self
            .texts
            .iter()
            .filter(|text| text.reads_prompt())
            .map(|text| text.id)
            .collect();
        for id in waiting {
            let Some(text) = self.texts.iter_mut().find(|text| text.id == id) else {
                continue;
            };
            while text.reads_prompt() {
                let piece: Vec<u32> = text
                    .pending()
                    .iter()
                    .copied()
                    .take(PREFILL_TOKENS)
                    .collect();
                if piece.len() > share {
                    return Ok(());
                }
                share -= piece.len();
                let workspace = &mut self.workspace;
                let mut logits =
                    self.model
                        .prefill(self.device, &piece, &mut text.cache, workspace)?;
                if !text.pending().is_empty() {
                    continue;
                }
                let drawn = text.sampler.next(&mut logits, &text.context);
                self.settle(id, drawn, events);
                break;
            }
        }
        Ok(())
    }

    /// One pass over all texts whose last token is new.
    fn continue_texts(&mut self, events: &mut Vec<BatchEvent>) -> Result<()> {
        let mut running: Vec<&mut Text<D>> = self
            .texts
            .iter_mut()
            .filter(|text| !text.reads_prompt())
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        let tokens: Vec<u32> = running
            .iter()
            .flat_map(|text| text.pending().iter().copied())
            .collect();
        let mut caches: Vec<&mut KvCache<D>> =
            running.iter_mut().map(|text| &mut text.cache).collect();
        let mut logits =
            self.model
                .decode_batch(self.device, &tokens, &mut caches, &mut self.workspace)?;
        let vocab = self.model.config.vocab_size;
        let drawn: Vec<(TextId, Result<u32>)> = running
            .par_iter_mut()
            .zip(logits.par_chunks_mut(vocab))
            .map(|(text, logits)| (text.id, text.sampler.next(logits, &text.context)))
            .collect();
        for (id, drawn) in drawn {
            self.settle(id, drawn, events);
        }
        Ok(())
    }

    /// What a drawn token means for its text, in the order in which a single text's session asks.
    fn settle(&mut self, id: TextId, drawn: Result<u32>, events: &mut Vec<BatchEvent>) {
        let capacity = self.context();
        let Some(text) = self.texts.iter_mut().find(|text| text.id == id) else {
            return;
        };
        let finish = match drawn {
            Err(error) => {
                events.push(BatchEvent::Failed(id, error));
                return self.leave(id);
            }
            Ok(token) if text.end_token == Some(token) => Some(Finish::EndOfText),
            Ok(token) => {
                events.push(BatchEvent::Token(id, token));
                text.context.push(token);
                if text.context.len() - text.prompt >= text.limit {
                    Some(Finish::MaxNewTokens)
                } else if text.context.len() >= capacity {
                    Some(Finish::ContextFull)
                } else {
                    None
                }
            }
        };
        if let Some(finish) = finish {
            events.push(BatchEvent::Finished(id, finish));
            self.leave(id);
        }
    }
}
