//! The decode loop: continuous batching over one model. Sequences join and leave between steps. One
//! decode pass makes the next token of all of them, so a weight is read once per step and not once
//! per sequence.
//!
//! On the CPU a sequence's logits have the same bits whoever else is there, because no pass has
//! more rows than the products that work row by row take (64). Devices that choose another product
//! for more rows round differently; there a sequence's tokens may depend on its company where two
//! candidates are equal to within rounding.
//!
//! [`Generator`](super::Generator) drives a scheduler with room for one sequence.

use super::constraint::{Next, Walk};
use super::sampling::Sampler;
use super::settings::{Finish, GenerateSettings};
use crate::model::{KvCache, Model, Workspace};
use crate::ops::{Operations, Planner};
use anyhow::{Error, Result, bail, ensure};
use rayon::prelude::*;

/// Most sequences of a batch: the rows that a pass may have without changing the bits of any.
pub const MAX_SEQUENCES: usize = 64;

/// Prompt tokens of one prefill pass: enough to read each weight for many of them, and no more than
/// the CPU's products that work row by row take, so a prompt has the same bits however it is cut
/// (after a shared prefix, beside others).
const PREFILL_TOKENS: usize = 64;

/// Prompt tokens per step where several sequences share the scheduler: two questions of usual
/// length. More would delay the running sequences noticeably, fewer would keep newcomers waiting
/// while others finish.
const PREFILL_TOKENS_PER_STEP: usize = 2 * PREFILL_TOKENS;

/// Number of a sequence, never used again by the same scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// What a step brought for one sequence.
#[derive(Debug)]
pub enum SequenceEvent {
    /// A new token; the end token is not reported.
    Token(SequenceId, u32),
    /// The sequence is over and has left.
    Finished(SequenceId, Finish),
    /// The sequence alone failed, e.g. because its logits are not finite, and has left.
    Failed(SequenceId, Error),
}

/// One sequence under way.
struct Sequence<D: Operations + Planner> {
    id: SequenceId,
    cache: KvCache<D>,
    sampler: Sampler,
    /// Prompt and continuation.
    context: Vec<u32>,
    /// Length of the prompt.
    prompt: usize,
    limit: usize,
    end_token: Option<u32>,
    /// Where only certain texts are allowed: how far this one is.
    walk: Option<Walk>,
    /// The tokens that may come next; `None`: all.
    allowed: Option<Vec<u32>>,
    /// Whether what comes before the first choice was appended.
    begun: bool,
}

impl<D: Operations + Planner> Sequence<D> {
    /// Tokens whose keys and values are not in the cache yet.
    fn pending(&self) -> &[u32] {
        &self.context[self.cache.len()..]
    }

    /// Whether there is more to read than the last token: the prompt, or tokens that came without
    /// a choice.
    fn is_in_prefill(&self) -> bool {
        self.cache.len() < self.prompt || self.pending().len() > 1
    }

    fn draw(&mut self, logits: &mut [f32]) -> Result<u32> {
        match &self.allowed {
            Some(allowed) => self.sampler.next_of(logits, &self.context, allowed),
            None => self.sampler.next(logits, &self.context),
        }
    }

    /// Takes a drawn token, and all that must follow it. Whether the text is over then.
    fn take(&mut self, token: u32, room: usize, events: &mut Vec<SequenceEvent>) -> Option<Finish> {
        let is_end = match &self.walk {
            Some(walk) => walk.is_end(token),
            None => self.end_token == Some(token),
        };
        if is_end {
            return Some(Finish::EndOfText);
        }
        self.append(token, events);
        self.follow(room - 1, events)
    }

    /// Appends the tokens that must come next, up to the next choice. `room`: tokens for which the
    /// model has room.
    fn follow(&mut self, mut room: usize, events: &mut Vec<SequenceEvent>) -> Option<Finish> {
        loop {
            let left = self.limit.saturating_sub(self.context.len() - self.prompt);
            let full = match (left, room) {
                (0, _) => Some(Finish::MaxNewTokens),
                (_, 0) => Some(Finish::ContextFull),
                _ => None,
            };
            let Some(walk) = &self.walk else {
                return full;
            };
            match walk.next(left.min(room)) {
                Next::Forced(token) => self.append(token, events),
                Next::Choice(tokens) => {
                    self.allowed = Some(tokens);
                    return full;
                }
                Next::End => return Some(Finish::EndOfText),
                Next::Nothing if room < left => return Some(Finish::ContextFull),
                Next::Nothing => return Some(Finish::MaxNewTokens),
            }
            room -= 1;
        }
    }

    fn append(&mut self, token: u32, events: &mut Vec<SequenceEvent>) {
        events.push(SequenceEvent::Token(self.id, token));
        self.context.push(token);
        if let Some(walk) = &mut self.walk {
            walk.push(token);
        }
    }
}

/// The cache of a sequence that left, with the tokens whose keys and values it holds.
struct FreeCache<D: Operations + Planner> {
    cache: KvCache<D>,
    tokens: Vec<u32>,
}

impl<D: Operations + Planner> FreeCache<D> {
    /// The cache for a new sequence, with what the two have in common at their beginning.
    fn starting_with(mut self, prompt: &[u32]) -> KvCache<D> {
        let pairs = self.tokens.iter().zip(prompt);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        // The last token's logits are wanted, so it is always computed.
        let kept = shared.min(prompt.len().saturating_sub(1));
        self.cache.truncate(kept);
        self.cache
    }
}

/// A model that continues several sequences at once.
pub struct Scheduler<'a, D: Operations + Planner> {
    device: &'a D,
    model: &'a Model<D>,
    workspace: Workspace<D>,
    /// In the order they joined.
    sequences: Vec<Sequence<D>>,
    free: Vec<FreeCache<D>>,
    max_sequences: usize,
    next: u64,
}

impl<'a, D: Operations + Planner> Scheduler<'a, D> {
    /// Room for `max_sequences` sequences, each up to the model's context. A sequence's cache is
    /// made when it is first needed.
    ///
    /// # Errors
    /// If `max_sequences` is not 1 to [`MAX_SEQUENCES`], or there is no memory.
    pub fn new(device: &'a D, model: &'a Model<D>, max_sequences: usize) -> Result<Self> {
        ensure!(
            (1..=MAX_SEQUENCES).contains(&max_sequences),
            "a batch of {max_sequences} sequences was asked for, expected 1 to {MAX_SEQUENCES}"
        );
        let config = &model.config;
        let context = config.max_position_embeddings;
        let rows = PREFILL_TOKENS.min(context).max(max_sequences);
        let workspace = Workspace::for_inference(device, config, rows, 1, 1)?;
        Ok(Self {
            device,
            model,
            workspace: match max_sequences {
                1 => workspace,
                _ => workspace.with_sequences(device, max_sequences)?,
            },
            sequences: Vec::new(),
            free: Vec::new(),
            max_sequences,
            next: 0,
        })
    }

    /// Room for one sequence, whose cache is made now and kept with what it holds: a prompt that
    /// begins as the last sequence did costs only what is new.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn single(device: &'a D, model: &'a Model<D>) -> Result<Self> {
        let config = &model.config;
        let cache = KvCache::new(device, config, config.max_position_embeddings)?;
        let mut scheduler = Self::new(device, model, 1)?;
        scheduler.free.push(FreeCache {
            cache,
            tokens: Vec::new(),
        });
        Ok(scheduler)
    }

    /// Sequences under way.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Whether another sequence can join.
    pub fn has_room(&self) -> bool {
        self.sequences.len() < self.max_sequences
    }

    /// Most tokens of a prompt and its continuation together.
    pub(crate) fn context(&self) -> usize {
        self.model.config.max_position_embeddings
    }

    /// Lets a sequence join; the next step works on it. Stop strings and trimming are the caller's
    /// business.
    ///
    /// # Errors
    /// If there is no room, the prompt is empty, leaves no room or has tokens outside the
    /// vocabulary, no token is asked for, the sampling settings are out of range, or there is no
    /// memory for a cache.
    pub fn join(&mut self, prompt: &[u32], settings: &GenerateSettings) -> Result<SequenceId> {
        ensure!(
            self.has_room(),
            "the batch is full with {} sequences",
            self.sequences.len()
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
            Some(free) => free.starting_with(prompt),
            None => KvCache::new(self.device, config, self.context())?,
        };
        let id = SequenceId(self.next);
        self.next += 1;
        self.sequences.push(Sequence {
            id,
            cache,
            sampler,
            context: prompt.to_vec(),
            prompt: prompt.len(),
            limit,
            end_token: settings.end_token,
            walk: settings.allowed.clone().map(Walk::new),
            allowed: None,
            begun: false,
        });
        Ok(id)
    }

    /// Takes a sequence out; one that has left already is no error.
    pub fn leave(&mut self, sequence: SequenceId) {
        if let Some(index) = self.sequences.iter().position(|s| s.id == sequence) {
            let Sequence {
                cache, mut context, ..
            } = self.sequences.remove(index);
            // Nothing is shared between sequences of a batch: which cache is free depends on who
            // left last, and the time of an answer must not tell one citizen what another asked.
            let kept = if self.max_sequences == 1 {
                cache.len()
            } else {
                0
            };
            context.truncate(kept);
            self.free.push(FreeCache {
                cache,
                tokens: context,
            });
        }
    }

    /// Makes the next token of all running sequences, with those that must follow it, then reads on
    /// in the prompts of those that came last. Nothing to do is no error.
    ///
    /// # Errors
    /// If the device fails; then all sequences are lost.
    pub fn step(&mut self) -> Result<Vec<SequenceEvent>> {
        let mut events = Vec::new();
        self.begin(&mut events);
        self.decode(&mut events)?;
        self.prefill(&mut events)?;
        Ok(events)
    }

    /// Appends what needs no model to the sequences that came last.
    fn begin(&mut self, events: &mut Vec<SequenceEvent>) {
        let capacity = self.context();
        let mut over = Vec::new();
        for sequence in self.sequences.iter_mut().filter(|s| !s.begun) {
            sequence.begun = true;
            let room = capacity - sequence.context.len();
            if let Some(finish) = sequence.follow(room, events) {
                over.push((sequence.id, finish));
            }
        }
        for (id, finish) in over {
            events.push(SequenceEvent::Finished(id, finish));
            self.leave(id);
        }
    }

    /// Reads prompts and what came without a choice, oldest first, up to the step's share.
    fn prefill(&mut self, events: &mut Vec<SequenceEvent>) -> Result<()> {
        // A sequence that has the scheduler to itself delays no other.
        let mut share = match self.max_sequences {
            1 => usize::MAX,
            _ => PREFILL_TOKENS_PER_STEP,
        };
        let waiting: Vec<SequenceId> = self
            .sequences
            .iter()
            .filter(|sequence| sequence.is_in_prefill())
            .map(|sequence| sequence.id)
            .collect();
        for id in waiting {
            let Some(sequence) = self.sequences.iter_mut().find(|s| s.id == id) else {
                continue;
            };
            let pending = sequence.pending();
            // What does not fit whole is cut where the passes are.
            let count = match pending.len() <= share {
                true => pending.len(),
                false => share - share % PREFILL_TOKENS,
            };
            if count == 0 {
                return Ok(());
            }
            share -= count;
            let tokens = pending[..count].to_vec();
            let mut logits = self.model.prefill(
                self.device,
                &tokens,
                &mut sequence.cache,
                &mut self.workspace,
            )?;
            if !sequence.pending().is_empty() {
                return Ok(());
            }
            let drawn = sequence.draw(&mut logits);
            self.settle(id, drawn, events);
        }
        Ok(())
    }

    /// One pass over all sequences whose prompt is read.
    fn decode(&mut self, events: &mut Vec<SequenceEvent>) -> Result<()> {
        let mut running: Vec<&mut Sequence<D>> = self
            .sequences
            .iter_mut()
            .filter(|sequence| !sequence.is_in_prefill())
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        let tokens: Vec<u32> = running
            .iter()
            .flat_map(|sequence| sequence.pending().iter().copied())
            .collect();
        let mut caches: Vec<&mut KvCache<D>> = running
            .iter_mut()
            .map(|sequence| &mut sequence.cache)
            .collect();
        let mut logits =
            self.model
                .decode_batch(self.device, &tokens, &mut caches, &mut self.workspace)?;
        let vocab = self.model.config.vocab_size;
        let drawn: Vec<(SequenceId, Result<u32>)> = running
            .par_iter_mut()
            .zip(logits.par_chunks_mut(vocab))
            .map(|(sequence, logits)| {
                let drawn = sequence.draw(logits);
                (sequence.id, drawn)
            })
            .collect();
        for (id, drawn) in drawn {
            self.settle(id, drawn, events);
        }
        Ok(())
    }

    /// What a drawn token means for its sequence.
    fn settle(&mut self, id: SequenceId, drawn: Result<u32>, events: &mut Vec<SequenceEvent>) {
        let capacity = self.context();
        let Some(sequence) = self.sequences.iter_mut().find(|s| s.id == id) else {
            return;
        };
        let finish = match drawn {
            Err(error) => {
                events.push(SequenceEvent::Failed(id, error));
                return self.leave(id);
            }
            Ok(token) => {
                let room = capacity - sequence.context.len();
                sequence.take(token, room, events)
            }
        };
        if let Some(finish) = finish {
            events.push(SequenceEvent::Finished(id, finish));
            self.leave(id);
        }
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
        "the prompt has {found} tokens, expected fewer than the model's context of {context}: \
         shorten it"
    );
    Ok(())
}
