//! Tokenizing speed on the texts of a data set: `cargo bench --bench tokenizer -- --jsonl FILE
//! [--every N] [--rounds 5] [--threads 2]`, where FILE comes from `muni-engine dataset --jsonl` and
//! one text of N is taken. Prints a line of JSON; `benches/peers/tokenizers_speed.py` runs it
//! beside others on the same texts.

use std::time::Instant;

use muni_engine::tokenizer::Tokenizer;
use serde_json::json;
use sha2::{Digest, Sha256};

type Ids = Vec<Vec<u32>>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| {
        value(name).map_or(default, |value| {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{name} wants a number, not {value}"))
        })
    };
    let Some(file) = value("--jsonl") else {
        // `cargo bench` runs every bench; without texts there is nothing to time.
        eprintln!("tokenizer: give --jsonl FILE (see benches/peers/README.md)");
        return;
    };
    let (rounds, threads) = (number("--rounds", 5), number("--threads", 2));
    let texts = texts(&file, number("--every", 1));
    let bytes: usize = texts.iter().map(String::len).sum();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads");
    let plain = Tokenizer::gpt2().expect("the built-in tokenizer");
    let one_by_one = |encode: &dyn Fn(&str) -> anyhow::Result<Vec<u32>>| -> Ids {
        let ids = texts.iter().map(|text| encode(text));
        ids.map(|ids| ids.expect("text can be encoded")).collect()
    };
    let mut timed: Vec<(&str, usize, f64, String)> = Vec::new();
    for _ in 0..rounds {
        let mut time = |name: &'static str, threads: usize, run: &dyn Fn() -> Ids| {
            let begin = Instant::now();
            let ids = run();
            let seconds = begin.elapsed().as_secs_f64();
            match timed
                .iter_mut()
                .find(|way| (way.0, way.1) == (name, threads))
            {
                Some(way) => way.2 = way.2.min(seconds),
                None => timed.push((name, threads, seconds, fingerprint(&ids))),
            }
        };
        // A new tokenizer each time: its memory of words begins empty.
        let new = || Tokenizer::gpt2().expect("the built-in tokenizer");
        let (fast, shared) = (new(), new());
        time("encode in a loop", 1, &|| {
            one_by_one(&|text| fast.encode(text))
        });
        time("encode_batch", threads, &|| {
            pool.install(|| shared.encode_batch(&texts))
                .expect("texts can be encoded")
        });
        time("through the tokenizers crate alone", 1, &|| {
            one_by_one(&|text| plain.encode_plainly(text))
        });
    }
    let ids = &timed[0].3;
    for way in &timed {
        assert_eq!(&way.3, ids, "{} gives other ids", way.0);
    }
    let tokens: usize = one_by_one(&|text| plain.encode(text))
        .iter()
        .map(Vec::len)
        .sum();
    let ways = timed.iter().map(|(name, threads, seconds, ids)| {
        json!({
            "name": name,
            "threads": threads,
            "mb_per_s": bytes as f64 / 1e6 / seconds,
            "ids_sha256": ids,
        })
    });
    let ways: Vec<_> = ways.collect();
    println!(
        "{}",
        json!({"bytes": bytes, "texts": texts.len(), "tokens": tokens, "ways": ways})
    );
}

/// One of `every` texts of a file of examples.
fn texts(file: &str, every: usize) -> Vec<String> {
    let content = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let chosen = content.lines().step_by(every.max(1));
    chosen
        .map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            record["text"]
                .as_str()
                .expect("a record has a text")
                .to_string()
        })
        .collect()
}

/// SHA-256 over each text's number of ids and the ids, as 32-bit numbers.
fn fingerprint(ids: &Ids) -> String {
    let mut digest = Sha256::new();
    for of_text in ids {
        digest.update((of_text.len() as u32).to_le_bytes());
        for id in of_text {
            digest.update(id.to_le_bytes());
        }
    }
    let bytes = digest.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
