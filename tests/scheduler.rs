//! A batch of sequences gives each what it gets alone.

use crate::hf::{fixture, integers, upload};
use muni_engine::generate::scheduler::MAX_SEQUENCES;
use muni_engine::generate::{
    Finish, GenerateSettings, Generator, SamplingSettings, Scheduler, SequenceEvent, SequenceId,
    TokenAutomaton,
};
use muni_engine::hf::load_folder;
use muni_engine::model::{KvCache, Model, Workspace};
use muni_engine::ops::cpu::CpuDevice;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

fn model_of(device: &CpuDevice, name: &str) -> Model<CpuDevice> {
    upload(device, load_folder(&fixture(name)).unwrap())
}

/// Prompts and settings that differ in everything: length, temperature, limits, end tokens.
fn requests(count: u32) -> Vec<(Vec<u32>, GenerateSettings)> {
    (0..count)
        .map(|i| {
            let prompt = (0..1 + i * 7 % 50).map(|t| (t * t + i) % 97).collect();
            let settings = GenerateSettings {
                sampling: SamplingSettings {
                    temperature: (i % 3) as f32 * 0.5,
                    top_p: if i % 4 == 1 { 0.8 } else { 1.0 },
                    repetition_penalty: if i % 5 == 2 { 1.3 } else { 1.0 },
                    seed: u64::from(i),
                    ..SamplingSettings::default()
                },
                max_new_tokens: (i % 6 != 0).then_some(1 + i as usize % 9),
                end_token: (i % 2 == 0).then_some(i),
                ..GenerateSettings::default()
            };
            (prompt, settings)
        })
        .collect()
}

/// What a generator of its own makes of a request: the tokens that the callback sees, and why they
/// end.
fn alone(
    device: &CpuDevice,
    model: &Model<CpuDevice>,
    request: &(Vec<u32>, GenerateSettings),
) -> (Vec<u32>, Finish) {
    let mut tokens = Vec::new();
    let output = Generator::new(device, model)
        .unwrap()
        .generate_ids(&request.0, &request.1, &mut |token| {
            tokens.push(token);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    (tokens, output.finish)
}

/// Runs a batch in which a request joins whenever there is room.
fn together(
    device: &CpuDevice,
    model: &Model<CpuDevice>,
    requests: &[(Vec<u32>, GenerateSettings)],
    max_sequences: usize,
) -> Vec<(Vec<u32>, Finish)> {
    let mut scheduler = Scheduler::new(device, model, max_sequences).unwrap();
    let mut waiting = requests.iter().enumerate();
    let mut running: BTreeMap<SequenceId, (usize, Vec<u32>)> = BTreeMap::new();
    let mut done = BTreeMap::new();
    while done.len() < requests.len() {
        while scheduler.has_room() {
            let Some((index, (prompt, settings))) = waiting.next() else {
                break;
            };
            let id = scheduler.join(prompt, settings).unwrap();
            running.insert(id, (index, Vec::new()));
        }
        assert!(scheduler.len() <= max_sequences && !scheduler.is_empty());
        for event in scheduler.step().unwrap() {
            match event {
                SequenceEvent::Token(id, token) => running.get_mut(&id).unwrap().1.push(token),
                SequenceEvent::Finished(id, finish) => {
                    let (index, tokens) = running.remove(&id).unwrap();
                    done.insert(index, (tokens, finish));
                }
                SequenceEvent::Failed(id, error) => panic!("{id:?}: {error:#}"),
            }
        }
    }
    assert!(scheduler.is_empty() && running.is_empty());
    done.into_values().collect()
}

#[test]
fn every_sequence_of_a_batch_is_what_it_is_alone() {
    let device = CpuDevice::new();
    for name in ["gqa", "mha"] {
        let model = model_of(&device, name);
        let requests = requests(30);
        let expected: Vec<_> = requests.iter().map(|r| alone(&device, &model, r)).collect();
        for max_sequences in [1, 3, 8, MAX_SEQUENCES] {
            let found = together(&device, &model, &requests, max_sequences);
            assert_eq!(found, expected, "{name}, {max_sequences} at once");
        }
    }
}

#[test]
fn a_pass_over_many_texts_has_the_bits_of_each_alone() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let config = &model.config;
    let mut workspace = Workspace::for_inference(&device, config, MAX_SEQUENCES, 1, 1)
        .unwrap()
        .with_sequences(&device, MAX_SEQUENCES)
        .unwrap();
    let read = |count: usize, workspace: &mut Workspace<CpuDevice>| -> Vec<KvCache<CpuDevice>> {
        (0..count as u32)
            .map(|i| {
                let mut cache = KvCache::new(&device, config, 40).unwrap();
                let prompt: Vec<u32> = (0..=i % 37).map(|t| (t * 5 + i) % 131).collect();
                model
                    .prefill(&device, &prompt, &mut cache, workspace)
                    .unwrap();
                cache
            })
            .collect()
    };
    for count in [1, 2, 5, 8, MAX_SEQUENCES] {
        let tokens: Vec<u32> = (0..count as u32).map(|i| i * 11 % 131).collect();
        let mut caches = read(count, &mut workspace);
        let mut refs: Vec<_> = caches.iter_mut().collect();
        let together = model
            .decode_batch(&device, &tokens, &mut refs, &mut workspace)
            .unwrap();
        let mut caches = read(count, &mut workspace);
        for (i, cache) in caches.iter_mut().enumerate() {
            let alone = model
                .prefill(&device, &tokens[i..=i], cache, &mut workspace)
                .unwrap();
            let row = &together[i * config.vocab_size..][..config.vocab_size];
            let same = row
                .iter()
                .zip(&alone)
                .all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "text {i} of {count}");
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_however_it_is_cut() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let prompt: Vec<u32> = (0..60).map(|t| t * 3 % 131).collect();
    let logits = |pieces: &[usize]| {
        let mut workspace = Workspace::for_inference(&device, &model.config, 64, 1, 1).unwrap();
        let mut cache = KvCache::new(&device, &model.config, 64).unwrap();
        let mut rest = &prompt[..];
        let mut logits = Vec::new();
        for &piece in pieces {
            let (now, later) = rest.split_at(piece);
            logits = model
                .prefill(&device, now, &mut cache, &mut workspace)
                .unwrap();
            rest = later;
        }
        logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
    };
    let whole = logits(&[60]);
    for pieces in [&[1, 59][..], &[30, 30], &[59, 1], &[3, 5, 7, 11, 34]] {
        assert_eq!(logits(pieces), whole, "{pieces:?}");
    }
}

#[test]
fn a_text_that_leaves_changes_nobody_and_makes_room() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let greedy = GenerateSettings {
        max_new_tokens: Some(12),
        ..GenerateSettings::default()
    };
    let prompt = integers(
        &fixture("gqa").join("oracle.safetensors"),
        "generate.prompt",
    );
    let expected = alone(&device, &model, &(prompt.clone(), greedy.clone()));
    let mut scheduler = Scheduler::new(&device, &model, 2).unwrap();
    let stays = scheduler.join(&prompt, &greedy).unwrap();
    let leaves = scheduler.join(&[9, 8, 7], &greedy).unwrap();
    assert!(!scheduler.has_room());
    let error = scheduler.join(&[1], &greedy).unwrap_err().to_string();
    assert!(error.contains("full with 2"), "{error}");
    let mut tokens = Vec::new();
    for step in 0.. {
        if step == 4 {
            scheduler.leave(leaves);
            scheduler.leave(leaves);
            assert!(scheduler.has_room());
            // The one that joins gets the cache of the one that left.
            scheduler.join(&[5], &greedy).unwrap();
        }
        let mut finished = None;
        for event in scheduler.step().unwrap() {
            match event {
                SequenceEvent::Token(id, token) if id == stays => tokens.push(token),
                SequenceEvent::Finished(id, finish) if id == stays => finished = Some(finish),
                SequenceEvent::Token(id, _) => assert!(id != leaves || step < 4),
                SequenceEvent::Finished(..) => {}
                SequenceEvent::Failed(_, error) => panic!("{error:#}"),
            }
        }
        if let Some(finish) = finished {
            assert_eq!((tokens, finish), expected);
            return;
        }
    }
}

#[test]
fn what_cannot_join_is_an_error_and_a_damaged_model_fails_text_by_text() {
    let device = CpuDevice::new();
    let mut model = model_of(&device, "gqa");
    for max_sequences in [0, MAX_SEQUENCES + 1] {
        assert!(Scheduler::new(&device, &model, max_sequences).is_err());
    }
    let greedy = GenerateSettings::default();
    let mut scheduler = Scheduler::new(&device, &model, 4).unwrap();
    for (prompt, part) in [
        (vec![], "empty"),
        (vec![1; 64], "context of 64"),
        (vec![3, 131], "token 131"),
    ] {
        let error = scheduler.join(&prompt, &greedy).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let none = GenerateSettings {
        max_new_tokens: Some(0),
        ..greedy.clone()
    };
    assert!(scheduler.join(&[1], &none).is_err());
    let hot = GenerateSettings {
        sampling: SamplingSettings {
            temperature: -1.0,
            ..SamplingSettings::default()
        },
        ..greedy.clone()
    };
    assert!(scheduler.join(&[1], &hot).is_err());
    assert!(scheduler.is_empty() && scheduler.step().unwrap().is_empty());

    // A damaged embedding shows in the logits: the texts fail, each with the reason, and leave.
    model.parameters.values[0][7] = f32::NAN;
    let mut scheduler = Scheduler::new(&device, &model, 4).unwrap();
    scheduler.join(&[1, 2], &greedy).unwrap();
    scheduler.join(&[3], &greedy).unwrap();
    let events = scheduler.step().unwrap();
    let failed = events
        .iter()
        .filter(|event| match event {
            SequenceEvent::Failed(_, error) => error.to_string().contains("NaN"),
            _ => false,
        })
        .count();
    assert_eq!((events.len(), failed), (2, 2), "{events:?}");
    assert!(scheduler.is_empty());
}

/// Ends a text of the tests below.
const END: u32 = 130;

/// Texts that share their beginnings; some are the beginning of others.
fn texts(seed: u32) -> Vec<Vec<u32>> {
    let of = |parts: &[u32]| parts.iter().map(|part| (part * 17 + seed) % 130).collect();
    vec![
        of(&[1, 2, 3]),
        of(&[1, 2, 3, 4, 5, 6, 7, 8]),
        of(&[1, 2, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]),
        of(&[1, 2, 9, 10, 11, 12, 19]),
        of(&[20, 21]),
    ]
}

/// Requests whose answers may only be one of their texts.
fn held(count: u32) -> Vec<(Vec<u32>, GenerateSettings)> {
    let with_texts = requests(count).into_iter().zip(0..);
    with_texts
        .map(|((prompt, settings), seed)| {
            let all = texts(seed);
            let automaton = TokenAutomaton::of_texts(all.iter().map(Vec::as_slice), &[END]);
            let settings = GenerateSettings {
                max_new_tokens: [None, Some(2), Some(7), Some(30)][seed as usize % 4],
                allowed: Some(Arc::new(automaton)),
                ..settings
            };
            (prompt, settings)
        })
        .collect()
}

#[test]
fn a_text_that_is_held_is_one_of_those_allowed_alone_and_in_a_batch() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let requests = held(32);
    let expected: Vec<_> = requests
        .iter()
        .map(|(prompt, settings)| {
            // Texts of which one alone is asked have their own end in the output.
            let free = GenerateSettings {
                end_token: None,
                ..settings.clone()
            };
            alone(&device, &model, &(prompt.clone(), free))
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    for (seed, (tokens, finish)) in expected.iter().enumerate() {
        let place = texts(seed as u32).iter().position(|text| text == tokens);
        seen.insert(place.unwrap_or_else(|| panic!("{seed}: {tokens:?}")));
        assert_eq!(*finish, Finish::EndOfText, "{seed}");
        let most = requests[seed].1.max_new_tokens.unwrap_or(usize::MAX);
        assert!(tokens.len() <= most, "{seed}: {tokens:?}");
    }
    assert!(seen.len() > 3, "{seen:?}");
    for max_sequences in [1, 3, MAX_SEQUENCES] {
        let found = together(&device, &model, &requests, max_sequences);
        assert_eq!(found, expected, "{max_sequences} at once");
    }
}

#[test]
fn what_must_follow_costs_no_choice_and_changes_none() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    for (seed, (prompt, settings)) in held(24).into_iter().enumerate() {
        let greedy = GenerateSettings {
            sampling: SamplingSettings::default(),
            max_new_tokens: None,
            end_token: None,
            ..settings
        };
        // By hand: the model reads everything anew, and the likeliest allowed token is taken.
        let allowed: Vec<Vec<u32>> = texts(seed as u32);
        let mut said: Vec<u32> = Vec::new();
        loop {
            let left = allowed.iter().filter(|text| text.starts_with(&said));
            let mut next: Vec<u32> = left
                .map(|text| text.get(said.len()).copied().unwrap_or(END))
                .collect();
            next.sort_unstable();
            next.dedup();
            let mut workspace = Workspace::for_inference(&device, &model.config, 64, 1, 1).unwrap();
            let mut cache = KvCache::new(&device, &model.config, 64).unwrap();
            let whole = [&prompt[..], &said].concat();
            let logits = model
                .prefill(&device, &whole, &mut cache, &mut workspace)
                .unwrap();
            let of = |token: &u32| logits[*token as usize];
            let best =
                next.iter().copied().reduce(
                    |best, token| {
                        if of(&token) > of(&best) { token } else { best }
                    },
                );
            match best.unwrap() {
                END => break,
                token => said.push(token),
            }
        }
        let found = alone(&device, &model, &(prompt, greedy));
        assert_eq!(found, (said, Finish::EndOfText), "{seed}");
    }
}

#[test]
fn a_text_for_which_there_is_no_room_ends_at_once() {
    let device = CpuDevice::new();
    let model = model_of(&device, "gqa");
    let long = [7_u32; 40];
    let automaton = Arc::new(TokenAutomaton::of_texts([&long[..]], &[END]));
    for (prompt, most, finish) in [
        (4, Some(39), Finish::MaxNewTokens),
        (30, None, Finish::ContextFull),
        (4, Some(40), Finish::EndOfText),
    ] {
        let settings = GenerateSettings {
            max_new_tokens: most,
            allowed: Some(automaton.clone()),
            ..GenerateSettings::default()
        };
        let (tokens, found) = alone(&device, &model, &(vec![3; prompt], settings));
        let expected = if finish == Finish::EndOfText { 40 } else { 0 };
        assert_eq!(
            (tokens.len(), found),
            (expected, finish),
            "{prompt} {most:?}"
        );
    }
}
