//! The assistant without a model: what it understands, what its guard lets through, and its
//! prompts.

mod danger;
mod guard;
mod prompts;
mod understanding;

use muni_engine::answer::{Assistant, GuardMode, Register, Reply, Understanding};
use muni_engine::dataset::{Dataset, Settings, Stage, generate};
use muni_engine::knowledge::{Intent, Knowledge};
use muni_engine::tokenizer::Tokenizer;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

fn knowledge() -> &'static Knowledge {
    static KNOWLEDGE: OnceLock<Knowledge> = OnceLock::new();
    KNOWLEDGE.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/knowledge");
        Knowledge::load(Path::new(folder)).unwrap()
    })
}

fn assistant() -> &'static Assistant {
    static ASSISTANT: OnceLock<Assistant> = OnceLock::new();
    ASSISTANT.get_or_init(|| Assistant::new(knowledge().clone()).unwrap())
}

fn examples() -> &'static Dataset {
    static DATASET: OnceLock<Dataset> = OnceLock::new();
    DATASET.get_or_init(|| {
        let settings = Settings {
            examples: 1500,
            ..Settings::of_stage(Stage::Basis, 11)
        };
        let tokenizer = Tokenizer::gpt2().unwrap();
        let running = AtomicBool::new(false);
        generate(knowledge(), &tokenizer, &settings, &running, &|_| {}).unwrap()
    })
}

/// Feeds an answer in pieces; what was released, and the reply.
fn guarded(understanding: Understanding, mode: GuardMode, pieces: &[&str]) -> Reply {
    let mut guard = assistant().guard(understanding, mode);
    let mut released = String::new();
    for piece in pieces {
        let progress = guard.push(piece);
        released.push_str(&progress.release);
        if progress.stop {
            break;
        }
    }
    let (rest, reply) = guard.finish();
    released.push_str(&rest);
    assert_eq!(released, reply.released);
    reply
}

fn check(id: &str, intents: &[Intent], register: Register, answer: &str) -> Reply {
    let understanding = assistant().about(id, intents, register).unwrap();
    guarded(understanding, GuardMode::Replace, &[answer])
}

/// Cuts a text into pieces of one to a dozen characters.
fn cut<'t>(text: &'t str, random: &mut ChaCha8Rng) -> Vec<&'t str> {
    let ends: Vec<usize> = text
        .char_indices()
        .map(|(at, _)| at)
        .skip(1)
        .chain([text.len()])
        .collect();
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    while start < text.len() {
        at = (at + random.random_range(0..12)).min(ends.len() - 1);
        pieces.push(&text[start..ends[at]]);
        start = ends[at];
        at += 1;
    }
    pieces
}
