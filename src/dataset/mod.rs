//! The training set: dialogues made from the knowledge base. `catalog` lists what can be asked and
//! how it can be answered (`wording`), `plan` says which example is about what, `techniques` put it
//! into words, `layouts` lay it out, `encode` turns it into tokens; `quality` checks, `statistics`
//! counts and `variety` measures what came out. Everything follows from the seed, whatever the
//! number of threads.

pub(crate) mod card;
pub(crate) mod catalog;
mod encode;
mod hashing;
mod layouts;
mod near_duplicates;
mod plan;
pub(crate) mod quality;
mod record;
pub(crate) mod report;
mod rng;
pub(crate) mod statistics;
mod stems;
mod techniques;
pub(crate) mod variety;

pub(crate) use crate::shards::Split;
pub use crate::shards::Stage;
pub(crate) use encode::LONGEST_EXAMPLE;
pub(crate) use techniques::{Technique, TechniqueSet};

use crate::german::{Register, fold};
use crate::knowledge::Knowledge;
use crate::tokenizer::Tokenizer;
use anyhow::{Result, bail, ensure};
use catalog::Catalog;
use encode::{Encoded, encode};
use layouts::{LAYOUTS, Layout};
use near_duplicates::alike_to_any;
use plan::{ATTEMPTS, Slot, TrainingPlan, ValidationPlan, validation_counts};
use rayon::prelude::*;
use rng::{KeyedRng, Purpose};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use techniques::{Task, render};

/// Changes with everything that changes the examples made from the same knowledge.
pub(crate) const GENERATOR_VERSION: &str = "3";

/// One example of the data set. Half a million of them are in memory at once, so it holds no names;
/// `Dataset::record` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Index into [`Dataset::subjects`].
    pub subject: u32,
    /// Index of the layout.
    layout: u16,
    /// How the other side is addressed.
    pub register: Register,
    /// Techniques that made it.
    pub techniques: TechniqueSet,
    /// Training or validation.
    pub split: Split,
    /// The dialogue as the model sees it.
    pub text: Box<str>,
    /// Byte ranges of the turns in the text: question, answer, question, answer, ...
    turns: Box<[(u32, u32)]>,
    /// The text as stored tokens, with a separator before and behind.
    pub tokens: Box<[u16]>,
    /// Token ranges of the answers.
    pub answers: Box<[(u32, u32)]>,
}

impl Example {
    /// The turns: question, answer, question, answer, ...
    pub fn turns(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.turns
            .iter()
            .map(|&(start, end)| &self.text[start as usize..end as usize])
    }

    /// The first question.
    pub(crate) fn question(&self) -> &str {
        self.turns().next().unwrap_or_default()
    }

    /// Name of the layout.
    pub(crate) fn layout(&self) -> &'static str {
        LAYOUTS[usize::from(self.layout)].id
    }
}

/// What an example is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectName {
    /// Index into [`Dataset::offices`].
    pub office: u16,
    /// Service id, or the id of the foreign request.
    pub service: String,
    /// What is asked for.
    pub intent: &'static str,
}

/// What to make.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the stage.
    pub stage: Stage,
    /// Number of examples.
    pub examples: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// The techniques that may be used.
    pub techniques: TechniqueSet,
}

impl Settings {
    /// A stage at its own size, with all techniques.
    pub fn of_stage(stage: Stage, seed: u64) -> Settings {
        Settings {
            stage,
            examples: stage.examples(),
            seed,
            techniques: TechniqueSet::of(&Technique::ALL),
        }
    }
}

/// A finished data set.
pub struct Dataset {
    /// Name of the stage.
    pub stage: Stage,
    /// Training examples, then validation examples, then those outside of the offices' remit.
    pub examples: Vec<Example>,
    /// Office ids; a subject's office is an index into them.
    pub offices: Vec<String>,
    /// What the examples are about.
    pub subjects: Vec<SubjectName>,
    /// What was left out on the way.
    pub(crate) rejected: Rejected,
    /// Services for which it is not said which office is responsible, because their fact `wo` does
    /// not name it.
    pub without_office: Vec<String>,
    /// What encoding took.
    pub(crate) encoding: Encoding,
}

/// How much text was encoded on the way, rejected candidates included, and how long that took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoding {
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Time, added up over the threads.
    pub time: Duration,
}

/// Candidates that were left out and replaced.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rejected {
    /// Equal to an earlier one after folding case, spacing and punctuation.
    pub duplicates: usize,
    /// Longer than `LONGEST_EXAMPLE` tokens.
    pub too_long: usize,
    /// For validation, but too much like a training question.
    pub too_alike: usize,
}

/// Makes the data set. `progress` is called with the number of finished examples; setting `stop`
/// ends the work with an error.
///
/// Fails if the knowledge has no services, or can't give that many distinct examples; the error
/// says how many it can.
pub fn generate(
    knowledge: &Knowledge,
    tokenizer: &Tokenizer,
    settings: &Settings,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Dataset> {
    ensure!(
        settings.examples >= 2,
        "{} examples asked for: at least 2 are needed, one to train and one to validate",
        settings.examples
    );
    let catalog = Catalog::new(knowledge, settings.seed);
    let (within, outside) = validation_counts(&catalog, settings.examples);
    let mut generator = Generator {
        catalog: &catalog,
        knowledge,
        tokenizer,
        settings,
        stop,
        seen: HashSet::new(),
        rejected: Rejected::default(),
        encoded_bytes: AtomicU64::new(0),
        encoding_nanos: AtomicU64::new(0),
    };
    let plan = TrainingPlan::new(&catalog);
    let mut examples = generator.make(
        settings.examples - within - outside,
        Split::Train,
        &|index, attempt| plan.slot(index, attempt),
        progress,
    )?;
    let trained: HashSet<u32> = examples.iter().map(|made| made.subject).collect();
    let train = examples.len();
    for (count, split) in [(within, Split::Validation), (outside, Split::ValidationOod)] {
        let plan = ValidationPlan::new(&catalog, split == Split::ValidationOod, |subject| {
            trained.contains(&(subject as u32))
        });
        // More than are needed: those too much like a training question are left out.
        let candidates = generator.make(
            count + count / 2 + usize::from(count > 0) * 16,
            split,
            &|index, attempt| plan.slot(index, attempt),
            &|_| {},
        )?;
        let chosen = generator.unlike_training(candidates, &examples[..train], count);
        examples.extend(chosen);
        progress(examples.len());
    }
    let made = examples.len();
    if made < settings.examples {
        bail!(
            "stage {} needs {} distinct examples, but this knowledge base gives only about {made} \
             ({train} for training, {} for validation) with seed {}: add services, facts or \
             questions, or ask for fewer with \
             --examples",
            settings.stage.name(),
            settings.examples,
            made - train,
            settings.seed
        );
    }
    let rejected = generator.rejected;
    let encoding = Encoding {
        bytes: generator.encoded_bytes.into_inner(),
        time: Duration::from_nanos(generator.encoding_nanos.into_inner()),
    };
    let subjects = catalog
        .subjects
        .iter()
        .map(|subject| SubjectName {
            office: subject.office as u16,
            service: subject.service_id().to_string(),
            intent: subject.intent(),
        })
        .collect();
    Ok(Dataset {
        stage: settings.stage,
        examples,
        offices: catalog.offices,
        subjects,
        rejected,
        without_office: catalog.without_office,
        encoding,
    })
}

/// What became of one attempt.
enum Candidate {
    /// A whole example with the hash of its folded text, not yet compared with others of its chunk.
    New(Box<Example>, u128),
    /// Its text was there before.
    Duplicate,
    /// The template did not suit.
    Unsuitable,
}

struct Generator<'a> {
    catalog: &'a Catalog<'a>,
    knowledge: &'a Knowledge,
    tokenizer: &'a Tokenizer,
    settings: &'a Settings,
    stop: &'a AtomicBool,
    seen: HashSet<u128>,
    rejected: Rejected,
    encoded_bytes: AtomicU64,
    encoding_nanos: AtomicU64,
}

impl<'a> Generator<'a> {
    // Makes `count` examples; fewer if hardly any new ones are found any more. Candidates are made
    // in parallel and accepted in the order of their index, so that threads don't matter.
    fn make(
        &mut self,
        count: usize,
        split: Split,
        slot_of: &(dyn Fn(usize, usize) -> Option<Slot<'a>> + Sync),
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Example>> {
        const CHUNK: usize = 4096;
        const POINTLESS: usize = 60_000;
        let mut made: Vec<Option<Example>> = (0..count).map(|_| None).collect();
        let mut done = 0;
        let mut in_vain = 0;
        let mut pending: Vec<usize> = (0..count).collect();
        for attempt in 0..ATTEMPTS {
            let mut again = Vec::new();
            for chunk in pending.chunks(CHUNK) {
                ensure!(
                    !self.stop.load(Ordering::Relaxed),
                    "interrupted: nothing was written"
                );
                let before = done;
                let candidates: Result<Vec<Candidate>> = chunk
                    .par_iter()
                    .map(|&index| self.candidate(index, attempt, split, slot_of))
                    .collect();
                for (&index, candidate) in chunk.iter().zip(candidates?) {
                    match self.accept(candidate) {
                        Some(accepted) => {
                            made[index] = Some(accepted);
                            done += 1;
                        }
                        None => again.push(index),
                    }
                }
                progress(done);
                // Less than one new example in a hundred candidates, again and again: the knowledge
                // is used up.
                in_vain = if (done - before) * 100 < chunk.len() {
                    in_vain + chunk.len()
                } else {
                    0
                };
                if in_vain > POINTLESS {
                    return Ok(made.into_iter().flatten().collect());
                }
            }
            pending = again;
            if pending.is_empty() {
                break;
            }
        }
        Ok(made.into_iter().flatten().collect())
    }

    fn accept(&mut self, candidate: Candidate) -> Option<Example> {
        match candidate {
            Candidate::New(made, _) if made.tokens.len() > LONGEST_EXAMPLE + 2 => {
                self.rejected.too_long += 1;
                None
            }
            Candidate::New(made, key) if self.seen.insert(key) => Some(*made),
            Candidate::New(..) | Candidate::Duplicate => {
                self.rejected.duplicates += 1;
                None
            }
            Candidate::Unsuitable => None,
        }
    }

    fn candidate(
        &self,
        index: usize,
        attempt: usize,
        split: Split,
        slot_of: &(dyn Fn(usize, usize) -> Option<Slot<'a>> + Sync),
    ) -> Result<Candidate> {
        let Some(slot) = slot_of(index, attempt) else {
            return Ok(Candidate::Unsuitable);
        };
        let subject = &self.catalog.subjects[slot.subject];
        let purpose = if split == Split::Train {
            Purpose::Example
        } else {
            Purpose::Validation
        };
        let mut rng = KeyedRng::new(self.settings.seed, purpose, index as u64, attempt as u64);
        let layout = if slot.first {
            &LAYOUTS[0]
        } else {
            Layout::draw(&mut rng)
        };
        let task = Task {
            catalog: self.catalog,
            phrases: &self.knowledge.phrases,
            subject,
            question: &slot.phrasing.text,
            // The first question and the patterns ask for the fact as a whole.
            narrow: slot.phrasing.hand_written && !slot.phrasing.main,
            from_pattern: !slot.phrasing.hand_written,
            held_out: split != Split::Train,
            enabled: self.settings.techniques,
        };
        let Some(draft) = render(slot.template, &task, &mut rng) else {
            return Ok(Candidate::Unsuitable);
        };
        let laid_out = layout.lay_out(&subject.asked(), &draft.pairs);
        let key = key(&laid_out.text);
        // What is known already is left out before it is encoded. `seen` does not change while a
        // chunk is made.
        if self.seen.contains(&key) {
            return Ok(Candidate::Duplicate);
        }
        let begin = Instant::now();
        let Encoded { tokens, answers } =
            encode(self.tokenizer, &laid_out.text, &laid_out.answers)?;
        let nanos = begin.elapsed().as_nanos() as u64;
        self.encoding_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.encoded_bytes
            .fetch_add(laid_out.text.len() as u64, Ordering::Relaxed);
        let number = LAYOUTS.iter().position(|other| other.id == layout.id);
        let example = Example {
            subject: slot.subject as u32,
            layout: number.unwrap_or_default() as u16,
            register: draft.register,
            techniques: draft.techniques,
            split,
            text: laid_out.text.into(),
            turns: laid_out.turns.into(),
            tokens: tokens.into(),
            answers: answers.into(),
        };
        Ok(Candidate::New(Box::new(example), key))
    }

    // Of the candidates whose first question is no near duplicate of a training question `count`,
    // offices taking turns.
    fn unlike_training(
        &mut self,
        candidates: Vec<Example>,
        train: &[Example],
        count: usize,
    ) -> Vec<Example> {
        let questions: Vec<&str> = candidates.iter().map(Example::question).collect();
        let trained: Vec<&str> = train.iter().map(Example::question).collect();
        let alike = alike_to_any(&questions, &trained);
        let mut rank_in_office: BTreeMap<usize, usize> = BTreeMap::new();
        let mut ranked = Vec::with_capacity(candidates.len());
        for (candidate, alike) in candidates.into_iter().zip(alike) {
            if alike {
                self.rejected.too_alike += 1;
                continue;
            }
            let office = self.catalog.subjects[candidate.subject as usize].office;
            let rank = rank_in_office.entry(office).or_default();
            ranked.push((*rank, candidate));
            *rank += 1;
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.truncate(count);
        ranked.into_iter().map(|(_, example)| example).collect()
    }
}

// 128 bits of a hash of the folded text: two of a million different texts collide with a chance of
// 10^-27.
fn key(text: &str) -> u128 {
    let digest = Sha256::digest(fold(text).as_bytes());
    digest
        .iter()
        .take(16)
        .fold(0, |key, byte| key << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests;
