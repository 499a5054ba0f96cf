//! Tokenizing speed on the texts of a data set: `cargo bench --bench tokenizer -- --jsonl FILE [--rounds 5]`, where FILE comes
//! from `muni-engine dataset --jsonl`. One thread. Prints a line of JSON; `benches/peers/tokenizers_speed.py` runs it beside
//! others on the same texts.

use std::time::Instant;

use muni_engine::tokenizer::Tokenizer;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let Some(file) = value("--jsonl") else {
        // `cargo bench` runs every bench; without texts there is nothing to time.
        eprintln!("tokenizer: give --jsonl FILE (see benches/peers/README.md)");
        return;
    };
    let rounds: usize =
        value("--rounds").map_or(5, |rounds| rounds.parse().expect("--rounds is a number"));
    let content = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let texts: Vec<String> = content
        .lines()
        .map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            record["text"]
                .as_str()
                .expect("a record has a text")
                .to_string()
        })
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let plain = Tokenizer::gpt2().expect("the built-in tokenizer");
    let mut best = [f64::INFINITY; 2];
    let mut tokens = [0; 2];
    let mut time = |way: usize, encode: &dyn Fn(&str) -> anyhow::Result<Vec<u32>>| {
        let begin = Instant::now();
        let ids = texts
            .iter()
            .map(|text| encode(text).expect("text can be encoded").len());
        tokens[way] = ids.sum();
        best[way] = best[way].min(begin.elapsed().as_secs_f64());
    };
    for _ in 0..rounds {
        // A new tokenizer each time: its memory of words begins empty.
        let fast = Tokenizer::gpt2().expect("the built-in tokenizer");
        time(0, &|text| fast.encode(text));
        time(1, &|text| plain.encode_plainly(text));
    }
    assert_eq!(tokens[0], tokens[1], "both ways give the same tokens");
    let rate = |seconds: f64| bytes as f64 / 1e6 / seconds;
    println!(
        "{{\"bytes\":{bytes},\"texts\":{},\"tokens\":{},\"engine_mb_per_s\":{:.1},\"crate_mb_per_s\":{:.2}}}",
        texts.len(),
        tokens[0],
        rate(best[0]),
        rate(best[1])
    );
}
