//! The routing analysis on a model whose router is known: attention and experts add nothing, so
//! every layer sees the token's own embedding, and weights say which experts that leads to.

use crate::hf::upload;
use muni_engine::eval::routing::{
    Corpus, LabelledText, RoutingReport, RoutingSettings, TokenClass, classify, inputs, routing,
};
use muni_engine::hf::{LoadedModel, save_folder};
use muni_engine::model::ModelConfig;
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::shards::{ShardSet, Split};
use muni_engine::tokenizer::Tokenizer;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const HIDDEN: usize = 8;
const EXPERTS: usize = 4;
const LAYERS: usize = 3;

fn config() -> ModelConfig {
    ModelConfig {
        hidden_size: HIDDEN,
        intermediate_size: 4,
        num_hidden_layers: LAYERS,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 8,
        num_local_experts: EXPERTS,
        ..ModelConfig::default_47m()
    }
}

/// First and second expert of a token in a layer, as [`weights`] make it.
fn chosen(token: u32, layer: usize) -> [usize; 2] {
    let first = (token as usize % HIDDEN + layer) % EXPERTS;
    [first, (first + 1) % EXPERTS]
}

/// Token t is the unit vector t mod 8. After the norm that is `sqrt(8)` times it, so the router's
/// logits are `sqrt(8)` times a column of its weight: 2 for the first expert, 1 for the second, 0
/// for the rest.
fn weights() -> Vec<Vec<f32>> {
    let config = config();
    config
        .parameters()
        .iter()
        .map(|parameter| {
            let mut values = vec![0.0; parameter.len()];
            if parameter.name.ends_with("norm") {
                values.fill(1.0);
            } else if parameter.name == "embedding" {
                for (token, row) in values.chunks_exact_mut(HIDDEN).enumerate() {
                    row[token % HIDDEN] = 1.0;
                }
            } else if parameter.name.ends_with("router") {
                let layer = parameter.name.split('.').nth(1).unwrap().parse().unwrap();
                for column in 0..HIDDEN {
                    let [first, second] = chosen(column as u32, layer);
                    values[first * HIDDEN + column] = 2.0;
                    values[second * HIDDEN + column] = 1.0;
                }
            }
            values
        })
        .collect()
}

fn analyse(corpus: &Corpus, settings: &RoutingSettings) -> RoutingReport {
    let device = CpuDevice::new();
    let model = upload(
        &device,
        LoadedModel {
            config: config(),
            fused: weights(),
        },
    );
    let tokenizer = Tokenizer::gpt2().unwrap();
    let mut seen = Vec::new();
    let report = routing(&device, &model, &tokenizer, corpus, settings, &mut |done| {
        seen.push(done)
    })
    .unwrap();
    assert_eq!(seen.last(), Some(&corpus.texts.len()));
    report
}

/// Every count of the report, by the rule that the weights follow.
fn check_counts(report: &RoutingReport, corpus: &Corpus) {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let tokens: usize = corpus.texts.iter().map(|text| text.tokens.len()).sum();
    assert_eq!(report.tokens, tokens as u64);
    assert_eq!(report.layers.len(), LAYERS);
    for (layer, found) in report.layers.iter().enumerate() {
        let mut counts = vec![0; EXPERTS];
        let mut first_choice = vec![0; EXPERTS];
        let mut by_office = vec![vec![0; EXPERTS]; corpus.offices.len()];
        let mut by_class = vec![vec![0; EXPERTS]; TokenClass::ALL.len()];
        for text in &corpus.texts {
            let classes = classify(&tokenizer, &text.tokens).unwrap();
            for (&token, class) in text.tokens.iter().zip(classes) {
                first_choice[chosen(token, layer)[0]] += 1;
                for expert in chosen(token, layer) {
                    counts[expert] += 1;
                    by_office[text.office][expert] += 1;
                    by_class[class as usize][expert] += 1;
                }
            }
        }
        assert_eq!(found.counts, counts);
        assert_eq!(found.first_choice, first_choice);
        assert_eq!(found.by_office, by_office);
        assert_eq!(found.by_class, by_class);
        // sqrt(8) times 2, 1, 0, 0 through a softmax.
        let scale = (HIDDEN as f64).sqrt();
        let sum = (2.0 * scale).exp() + scale.exp() + 2.0;
        let loss: f64 = (0..EXPERTS)
            .map(|expert| {
                let second = first_choice[(expert + EXPERTS - 1) % EXPERTS];
                let rest = tokens as u64 - first_choice[expert] - second;
                let prob_sum = first_choice[expert] as f64 * (2.0 * scale).exp()
                    + second as f64 * scale.exp()
                    + rest as f64;
                counts[expert] as f64 / tokens as f64 * prob_sum / sum / tokens as f64
            })
            .sum();
        let loss = loss * EXPERTS as f64;
        assert!(
            (found.aux_loss - loss).abs() < 1e-5,
            "{} {loss}",
            found.aux_loss
        );
        let mean = 2.0 * tokens as f64 / EXPERTS as f64;
        let most = *counts.iter().max().unwrap() as f64;
        assert!((found.max_over_mean - most / mean).abs() < 1e-12);
    }
    let all: u64 = report.layers.iter().flat_map(|layer| &layer.counts).sum();
    assert_eq!(all, (tokens * 2 * LAYERS) as u64);
}

fn text(office: usize, tokens: impl IntoIterator<Item = u32>) -> LabelledText {
    LabelledText {
        office,
        tokens: tokens.into_iter().collect(),
    }
}

#[test]
fn every_choice_is_counted_where_it_belongs() {
    // Texts of all lengths, over several passes, one empty.
    let corpus = Corpus {
        offices: vec!["a".into(), "b".into(), "c".into()],
        texts: (0..60u32)
            .map(|index| {
                text(
                    index as usize % 3,
                    (0..index * 4).map(|i| (i * 37 + index * 911) % 50257),
                )
            })
            .collect(),
    };
    let report = analyse(&corpus, &RoutingSettings::default());
    check_counts(&report, &corpus);
    assert_eq!((report.texts, report.shortened), (60, 0));
    let tokens: u64 = report.offices.iter().map(|office| office.tokens).sum();
    assert_eq!(tokens, report.tokens);
    let tokens: u64 = report.classes.iter().map(|class| class.tokens).sum();
    assert_eq!(tokens, report.tokens);
}

#[test]
fn specialisation_is_measured_in_bits() {
    // Office a has only tokens that are 0 mod 4, office b only such that are 2 mod 4: their experts
    // have nothing in common.
    let texts = (0..40u32).map(|index| {
        let office = index % 2;
        text(
            office as usize,
            (0..8).map(move |i| 400 + 4 * (index + i) + 2 * office),
        )
    });
    let corpus = Corpus {
        offices: vec!["a".into(), "b".into()],
        texts: texts.collect(),
    };
    let settings = RoutingSettings {
        permutations: 99,
        top_tokens: 3,
        min_count: 2,
        ..RoutingSettings::default()
    };
    let report = analyse(&corpus, &settings);
    check_counts(&report, &corpus);
    for layer in &report.layers {
        let information = &layer.office_information;
        assert!((information.bits - 1.0).abs() < 1e-12, "{information:?}");
        assert!(information.shuffled_95_bits < 0.3 && information.p_value == 0.01);
        // Two of four experts per office, evenly.
        assert!((layer.entropy_bits - 2.0).abs() < 1e-12);
        for (expert, tokens) in layer.top_tokens.iter().enumerate() {
            assert_eq!(tokens.len(), 3);
            for token in tokens {
                assert!(chosen(token.id, layer.layer).contains(&expert), "{token:?}");
                // Half a token's choices go to an expert with a quarter of the load.
                assert!((token.pmi_bits - 1.0).abs() < 1e-12, "{token:?}");
                assert!(token.count >= 2);
            }
        }
    }
    assert_eq!(report, analyse(&corpus, &settings));
}

#[test]
fn texts_beyond_the_context_are_shortened_and_said_to_be() {
    let long = Corpus {
        offices: vec!["a".into()],
        texts: vec![text(0, vec![1; 300]), text(0, vec![2; 10])],
    };
    let report = analyse(&long, &RoutingSettings::default());
    assert_eq!((report.shortened, report.tokens), (1, 266));
    assert_eq!(report.layers[0].first_choice, [0, 256, 10, 0]);
}

struct Binary {
    folder: tempfile::TempDir,
}

impl Binary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        save_folder(
            &model,
            &config(),
            &weights(),
            Some(&Tokenizer::gpt2().unwrap()),
        )
        .unwrap();
        Self { folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_muni-engine"))
            .args(["routing", "--device", "cpu", "--model-path"])
            .arg(self.folder.path().join("model"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap()
    }

    fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn failure(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[test]
fn the_command_counts_the_bundled_shards() {
    let binary = Binary::new();
    let page = binary.folder.path().join("routing.html");
    let json = binary.stdout(&[
        "--json",
        "--permutations",
        "20",
        "--html",
        page.to_str().unwrap(),
    ]);
    let report: Value = serde_json::from_str(&json).unwrap();
    let tokenizer = Tokenizer::gpt2().unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("shards");
    let shards = ShardSet::open(dir, &tokenizer.fingerprint()).unwrap();
    let mut counts = vec![vec![0u64; EXPERTS]; LAYERS];
    let mut tokens = 0;
    for split in [Split::Validation, Split::ValidationOod] {
        for index in 0..shards.examples(split) {
            for token in inputs(shards.example(split, index).unwrap().tokens).unwrap() {
                tokens += 1;
                for (layer, counts) in counts.iter_mut().enumerate() {
                    for expert in chosen(token, layer) {
                        counts[expert] += 1;
                    }
                }
            }
        }
    }
    assert_eq!(report["tokens"], tokens);
    for (layer, counts) in counts.iter().enumerate() {
        assert_eq!(report["layers"][layer]["counts"], serde_json::json!(counts));
    }
    let names: Vec<&str> = report["offices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|office| office["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, shards.manifest().offices);

    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<svg").count(), 1 + 2 * LAYERS);
    for forbidden in ["<script", "http:", "https:", "src=", "<link", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let table = binary.stdout(&["--max-tokens", "2000", "--permutations", "5"]);
    assert!(
        table.contains("layer ") && table.contains("L2 e3"),
        "{table}"
    );
}

#[test]
fn the_command_reads_questions_and_names_what_is_wrong() {
    let binary = Binary::new();
    let questions = "tests/questions/citizens.jsonl";
    let json = binary.stdout(&["--questions", questions, "--json", "--permutations", "1"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    let lines = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(questions))
        .unwrap()
        .lines()
        .count();
    assert_eq!(report["texts"], lines);
    assert_eq!(report["offices"].as_array().unwrap().len(), 9);
    assert_eq!(report["offices"][8]["name"], "ausserhalb");

    let bad = binary.folder.path().join("bad.jsonl");
    std::fs::write(
        &bad,
        "{\"question\":\"Wo?\",\"office\":\"bauamt\",\"service\":\"bau_schloss\",\
         \"expect\":[\"x\"]}\n",
    )
    .unwrap();
    let error = binary.failure(&["--questions", bad.to_str().unwrap()]);
    assert!(
        error.contains("bad.jsonl:1")
            && error.contains("bau_schloss")
            && error.contains("bau_zaun"),
        "{error}"
    );
    assert!(binary.failure(&["--shards", "nowhere"]).contains("nowhere"));
    assert!(
        binary
            .failure(&["--questions", "nowhere.jsonl"])
            .contains("nowhere.jsonl")
    );
}
