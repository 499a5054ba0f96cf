//! The training set: dialogues made from the knowledge base. `catalog` lists what can be asked, `plan` says which example is
//! about what, `techniques` put it into words, `formats` lay it out, `encode` turns it into tokens. Everything follows from the
//! seed, whatever the number of threads.

pub mod catalog;
mod draw;
mod encode;
mod formats;
mod german;
mod plan;
pub mod statistics;
pub mod techniques;

pub use encode::LONGEST_EXAMPLE;
pub use techniques::{Register, Technique};

use crate::knowledge::{Knowledge, fold};
use crate::tokenizer::Tokenizer;
use anyhow::{Result, bail, ensure};
use catalog::Catalog;
use draw::{Draw, Purpose};
use encode::{Encoded, encode};
use formats::{FORMATS, Format};
use plan::{ATTEMPTS, Slot, TrainingPlan, ValidationPlan, validation_count};
use rayon::prelude::*;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use techniques::{TechniqueSet, cook};

/// Changes with everything that changes the examples made from the same knowledge.
pub const GENERATOR_VERSION: &str = "1";

/// A named size of the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// 75 examples.
    Basis,
    /// 500 examples.
    Large,
    /// 2,000 examples.
    Super,
    /// 20,000 examples.
    Ultra,
    /// 500,000 examples.
    Massive,
}

impl Stage {
    const ALL: [Stage; 5] = [
        Stage::Basis,
        Stage::Large,
        Stage::Super,
        Stage::Ultra,
        Stage::Massive,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Basis => "basis",
            Stage::Large => "large",
            Stage::Super => "super",
            Stage::Ultra => "ultra",
            Stage::Massive => "massive",
        }
    }

    /// How many examples it has.
    pub fn examples(self) -> usize {
        match self {
            Stage::Basis => 75,
            Stage::Large => 500,
            Stage::Super => 2_000,
            Stage::Ultra => 20_000,
            Stage::Massive => 500_000,
        }
    }
}

impl FromStr for Stage {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Stage> {
        match Stage::ALL.into_iter().find(|stage| stage.name() == name) {
            Some(stage) => Ok(stage),
            None => bail!(
                "there is no stage \"{name}\": expected basis, large, super, ultra or massive"
            ),
        }
    }
}

/// Which part of the data set an example belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// For training.
    Train,
    /// For validation: its question phrasing is trained nowhere.
    Val,
}

impl Part {
    /// Name in the data set's records.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Val => "val",
        }
    }
}

/// Who says something in a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The citizen.
    User,
    /// The city.
    Assistant,
}

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// One example of the data set, as it is written to a JSON line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DatasetExample {
    /// Stage and number.
    pub id: String,
    /// Office id, or `ausserhalb`.
    pub office: String,
    /// Service id, or the id of the foreign request.
    pub service: String,
    /// What the first question asks for.
    pub intent: &'static str,
    /// Techniques used.
    pub techniques: Vec<&'static str>,
    /// Layout.
    pub format: &'static str,
    /// How the other side is addressed.
    pub register: Register,
    /// Training or validation.
    pub split: Part,
    /// The dialogue.
    pub turns: Vec<Turn>,
    /// The dialogue as the model sees it.
    pub text: String,
    /// The text as stored tokens, with a separator before and behind.
    #[serde(skip)]
    pub tokens: Vec<u16>,
    /// Token ranges of the answers.
    #[serde(skip)]
    pub answers: Vec<(u32, u32)>,
    /// Index of the office in [`Dataset::offices`].
    #[serde(skip)]
    pub office_index: u16,
    /// The techniques as bits, in the order of [`Technique::ALL`].
    #[serde(skip)]
    pub technique_bits: u32,
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
}

/// A finished data set.
pub struct Dataset {
    /// Training examples, then validation examples.
    pub examples: Vec<DatasetExample>,
    /// Office ids; an example's office is an index into them.
    pub offices: Vec<String>,
    /// What was left out on the way.
    pub rejected: Rejected,
    /// Services for which it is not said which office is responsible, because their fact `wo` does not name it.
    pub without_office: Vec<String>,
}

/// Candidates that were left out and replaced.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rejected {
    /// Equal to an earlier one after folding case, spacing and punctuation.
    pub duplicates: usize,
    /// Longer than [`LONGEST_EXAMPLE`] tokens.
    pub too_long: usize,
}

/// Makes the data set. `progress` is called with the number of finished examples; setting `stop` ends the work with an error.
///
/// Fails if the knowledge has no services, or can't give that many distinct examples; the error says how many it can.
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
    let validation = validation_count(&catalog, settings.examples);
    let mut kitchen = Kitchen {
        catalog: &catalog,
        tokenizer,
        settings,
        stop,
        seen: HashSet::new(),
        rejected: Rejected::default(),
    };
    let plan = TrainingPlan::new(&catalog);
    let train = kitchen.make(
        settings.examples - validation,
        Part::Train,
        &|index, attempt| plan.slot(index, attempt),
        progress,
    )?;
    let trained: HashSet<usize> = train.iter().map(|made| made.subject).collect();
    let plan = ValidationPlan::new(&catalog, |subject| trained.contains(&subject));
    let offset = train.len();
    let val = kitchen.make(
        validation,
        Part::Val,
        &|index, attempt| plan.slot(index, attempt),
        &|done| progress(offset + done),
    )?;
    let made = train.len() + val.len();
    if made < settings.examples {
        bail!(
            "stage {} needs {} distinct examples, but this knowledge base gives only about {made} ({} for training, {} for validation) with \
             seed {}: add services, facts or questions, or ask for fewer with --examples",
            settings.stage.name(),
            settings.examples,
            train.len(),
            val.len(),
            settings.seed
        );
    }
    let number = train.into_iter().chain(val).enumerate();
    let examples = number
        .map(|(index, made)| finish(&catalog, settings.stage, index, made))
        .collect();
    let rejected = kitchen.rejected;
    let Catalog {
        offices,
        without_office,
        ..
    } = catalog;
    Ok(Dataset {
        examples,
        offices,
        rejected,
        without_office,
    })
}

/// An example before it has its number.
struct Made {
    subject: usize,
    format: &'static Format,
    register: Register,
    techniques: TechniqueSet,
    part: Part,
    pairs: Vec<(String, String)>,
    text: String,
    encoded: Encoded,
    key: u128,
}

/// What became of one attempt.
enum Candidate {
    /// A whole example, not yet compared with others of its chunk.
    New(Box<Made>),
    /// Its text was there before.
    Duplicate,
    /// The recipe did not suit.
    Unsuitable,
}

struct Kitchen<'a> {
    catalog: &'a Catalog<'a>,
    tokenizer: &'a Tokenizer,
    settings: &'a Settings,
    stop: &'a AtomicBool,
    seen: HashSet<u128>,
    rejected: Rejected,
}

type SlotOf<'a> = dyn Fn(usize, usize) -> Option<Slot<'a>> + Sync + 'a;

impl<'a> Kitchen<'a> {
    // Makes `count` examples; fewer if hardly any new ones are found any more. Candidates are made in parallel and accepted in
    // the order of their index, so that threads don't matter.
    fn make(
        &mut self,
        count: usize,
        part: Part,
        slot_of: &SlotOf<'a>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Made>> {
        const CHUNK: usize = 4096;
        const POINTLESS: usize = 60_000;
        let mut made: Vec<Option<Made>> = (0..count).map(|_| None).collect();
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
                    .map(|&index| self.candidate(index, attempt, part, slot_of))
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
                // Less than one new example in a hundred candidates, again and again: the knowledge is used up.
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

    fn accept(&mut self, candidate: Candidate) -> Option<Made> {
        match candidate {
            Candidate::New(made) if made.encoded.tokens.len() > LONGEST_EXAMPLE + 2 => {
                self.rejected.too_long += 1;
                None
            }
            Candidate::New(made) if self.seen.insert(made.key) => Some(*made),
            Candidate::New(_) | Candidate::Duplicate => {
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
        part: Part,
        slot_of: &SlotOf<'a>,
    ) -> Result<Candidate> {
        let Some(slot) = slot_of(index, attempt) else {
            return Ok(Candidate::Unsuitable);
        };
        let subject = &self.catalog.subjects[slot.subject];
        let purpose = if part == Part::Train {
            Purpose::Example
        } else {
            Purpose::Validation
        };
        let mut draw = Draw::new(self.settings.seed, purpose, index as u64, attempt as u64);
        let format = if slot.first {
            &FORMATS[0]
        } else {
            Format::draw(&mut draw)
        };
        let held_out = part == Part::Val;
        let Some(draft) = cook(
            slot.recipe,
            self.catalog,
            subject,
            &slot.phrasing.text,
            held_out,
            &mut draw,
        ) else {
            return Ok(Candidate::Unsuitable);
        };
        let rendered = format.render(&subject.asked(), &draft.pairs);
        let key = key(&rendered.text);
        // Encoding costs more than all the rest: what is known already is left out before it. `seen` does not change while a
        // chunk is made.
        if self.seen.contains(&key) {
            return Ok(Candidate::Duplicate);
        }
        let encoded = encode(self.tokenizer, &rendered.text, &rendered.answers)?;
        let (register, techniques, pairs) = (draft.register, draft.techniques, draft.pairs);
        Ok(Candidate::New(Box::new(Made {
            subject: slot.subject,
            format,
            register,
            techniques,
            part,
            pairs,
            text: rendered.text,
            encoded,
            key,
        })))
    }
}

fn finish(catalog: &Catalog, stage: Stage, index: usize, made: Made) -> DatasetExample {
    let subject = &catalog.subjects[made.subject];
    let turns = made.pairs.into_iter().flat_map(|(question, answer)| {
        [
            Turn {
                role: Role::User,
                content: question,
            },
            Turn {
                role: Role::Assistant,
                content: answer,
            },
        ]
    });
    DatasetExample {
        id: format!("{}-{index:06}", stage.name()),
        office: catalog.offices[subject.office].clone(),
        service: subject.service_id().to_string(),
        intent: subject.intent(),
        techniques: made.techniques.names(),
        format: made.format.id,
        register: made.register,
        split: made.part,
        turns: turns.collect(),
        text: made.text,
        tokens: made.encoded.tokens,
        answers: made.encoded.answers,
        office_index: subject.office as u16,
        technique_bits: made.techniques.0,
    }
}

// 128 bits of a hash of the folded text: two of a million different texts collide with a chance of 10^-27.
fn key(text: &str) -> u128 {
    let digest = Sha256::digest(fold(text).as_bytes());
    digest
        .iter()
        .take(16)
        .fold(0, |key, byte| key << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests;
