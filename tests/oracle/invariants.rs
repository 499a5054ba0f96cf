//! What the model promises about itself: cutting a step into micro-batches, reusing buffers,
//! packing examples and caching keys and values change nothing, and wrong use is an error.

use super::fixture::{FIXTURES, Fixture, assert_close, model_of, scales, step, workspace};
use muni_engine::model::{Batch, KvCache, Model, Parameters, Workspace, random_weights};
use muni_engine::ops::TrainingDevice;

pub(super) fn micro_batches_change_nothing<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, model) = (fixture.name, fixture.model(device));
        let batches = ["steps.0.", "steps.1.", "steps.2."].map(|prefix| fixture.batch(prefix));
        let [first, second, third] = &batches;
        let (apart, apart_totals) = step(device, &model, &[first, second, third]);
        let (apart, pair) = (
            apart.download(device).unwrap(),
            Batch::concat(&batches[..2]).unwrap(),
        );
        for micro_batches in [vec![&pair, third], vec![&Batch::concat(&batches).unwrap()]] {
            let (together, totals) = step(device, &model, &micro_batches);
            assert_eq!(totals.expert_counts, apart_totals.expert_counts, "{name}");
            for (what, found, expected) in [
                (
                    "token loss",
                    totals.token_loss_sum,
                    apart_totals.token_loss_sum,
                ),
                (
                    "router loss",
                    totals.router_loss_sum,
                    apart_totals.router_loss_sum,
                ),
            ] {
                assert_close(
                    &format!("{name}: {what}"),
                    &[found as f32],
                    &[expected as f32],
                    1e-6,
                );
            }
            let together = together.download(device).unwrap();
            for (spec, (found, expected)) in model
                .parameters
                .specs
                .iter()
                .zip(together.iter().zip(&apart))
            {
                assert_close(
                    &format!("{name}: gradient of {}", spec.name),
                    found,
                    expected,
                    1e-5,
                );
            }
        }
    }
}

/// The same bits from buffers that a larger batch has filled, as from fresh ones.
pub(super) fn a_used_workspace_changes_nothing<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, model) = (fixture.name, fixture.model(device));
        let [first, second] = ["steps.0.", "steps.1."].map(|prefix| fixture.batch(prefix));
        let pair = Batch::concat(&[first.clone(), second.clone()]).unwrap();
        let scales = scales(&model.config, second.counted_targets(), 1);
        let mut used = workspace(device, &model.config, &pair);
        let mut gradients = Parameters::zeros(device, &model.config).unwrap();
        for batch in [&pair, &first] {
            model
                .forward_backward(device, batch, &mut used, &mut gradients, scales)
                .unwrap();
        }
        used.totals(device).unwrap();
        let mut run = |workspace: &mut Workspace<D>| {
            gradients.clear(device).unwrap();
            model
                .forward_backward(device, &second, workspace, &mut gradients, scales)
                .unwrap();
            (
                gradients.download(device).unwrap(),
                workspace.totals(device).unwrap(),
            )
        };
        let fresh = run(&mut workspace(device, &model.config, &second));
        assert!(run(&mut used) == fresh, "{name}");
    }
}

/// Example number `example` of a batch, alone.
fn alone(batch: &Batch, example: usize) -> Batch {
    let range = batch.segments[example] as usize..batch.segments[example + 1] as usize;
    let ends = vec![0, range.len() as u32];
    Batch {
        tokens: batch.tokens[range.clone()].to_vec(),
        targets: batch.targets[range.clone()].to_vec(),
        positions: batch.positions[range].to_vec(),
        segments: ends.clone(),
        groups: ends,
    }
}

pub(super) fn packed_examples_do_not_see_each_other<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (batch, model) = (fixture.batch(""), fixture.model(device));
        let mut workspace = workspace(device, &model.config, &batch);
        let packed = model.logits(device, &batch, &mut workspace).unwrap();
        let mut separate = Vec::new();
        for example in 0..batch.segments.len() - 1 {
            separate.extend(
                model
                    .logits(device, &alone(&batch, example), &mut workspace)
                    .unwrap(),
            );
        }
        assert_close(
            &format!("{}: logits", fixture.name),
            &packed,
            &separate,
            1e-5,
        );
    }
}

pub(super) fn the_cache_changes_nothing<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, model, packed) = (
            fixture.name,
            fixture.model(device),
            fixture.batch("steps.1."),
        );
        let longest = (0..packed.segments.len() - 1)
            .max_by_key(|&example| packed.segments[example + 1] - packed.segments[example]);
        let example = alone(&packed, longest.unwrap());
        let (tokens, vocab) = (&example.tokens, model.config.vocab_size);
        let mut whole = workspace(device, &model.config, &example);
        let logits = model.logits(device, &example, &mut whole).unwrap();
        let expected = |position: usize| &logits[position * vocab..(position + 1) * vocab];

        // A workspace of 3 tokens cuts a longer prefill into pieces; one for training must do as
        // well.
        let small = Workspace::for_inference(device, &model.config, 3, 1, 1).unwrap();
        for mut workspace in [small, whole] {
            let mut cache = KvCache::new(device, &model.config, tokens.len()).unwrap();
            for (start, end) in [
                (0, 5),
                (0, 1),
                (1, tokens.len() - 1),
                (tokens.len() - 1, tokens.len()),
            ] {
                cache.truncate(start);
                let found = model
                    .prefill(device, &tokens[start..end], &mut cache, &mut workspace)
                    .unwrap();
                assert_eq!(cache.len(), end);
                assert_close(
                    &format!("{name}: logits after {start}..{end}"),
                    &found,
                    expected(end - 1),
                    1e-5,
                );
            }
            let error = model
                .prefill(device, &tokens[..1], &mut cache, &mut workspace)
                .unwrap_err();
            assert!(
                error.to_string().contains("the text is too long"),
                "{error:#}"
            );
            assert_eq!(
                (cache.len(), cache.capacity()),
                (tokens.len(), tokens.len())
            );
            cache.truncate(0);
            for (position, &token) in tokens.iter().enumerate() {
                let found = model
                    .prefill(device, &[token], &mut cache, &mut workspace)
                    .unwrap();
                assert_close(
                    &format!("{name}: logits at {position}"),
                    &found,
                    expected(position),
                    1e-5,
                );
            }
        }
    }
}

pub(super) fn wrong_use_is_an_error<D: TrainingDevice>(device: &D) {
    let fixture = Fixture::open("gqa");
    let (config, model, batch) = (&fixture.config, fixture.model(device), fixture.batch(""));
    let tokens = batch.tokens.len();
    let refused = |message: &str,
                   workspace: &mut Workspace<D>,
                   model: &Model<D>,
                   gradients: &mut Parameters<D>| {
        let result =
            model.forward_backward(device, &batch, workspace, gradients, scales(config, 1, 1));
        let error = format!("{:#}", result.unwrap_err());
        assert!(error.contains(message), "{error:?} lacks {message:?}");
    };
    let mut gradients = Parameters::zeros(device, config).unwrap();
    let mut inference = Workspace::for_inference(device, config, tokens, 9, 9).unwrap();
    refused("made for inference", &mut inference, &model, &mut gradients);
    for (sizes, message) in [
        (
            (tokens - 1, 9, 9),
            format!(
                "{tokens} tokens, the workspace was made for at most {}",
                tokens - 1
            ),
        ),
        (
            (tokens, 2, 9),
            "examples, the workspace was made for at most 2".to_owned(),
        ),
    ] {
        let mut small = Workspace::new(device, config, sizes.0, sizes.1, sizes.2).unwrap();
        refused(&message, &mut small, &model, &mut gradients);
    }
    let mut narrow = config.clone();
    narrow.intermediate_size -= 1;
    let other = model_of(device, &narrow, &random_weights(&narrow, 0));
    refused(
        "the workspace was made for",
        &mut workspace(device, config, &batch),
        &other,
        &mut gradients,
    );
    let mut other_gradients = Parameters::zeros(device, &narrow).unwrap();
    refused(
        "the gradients belong to a model of other sizes",
        &mut workspace(device, config, &batch),
        &model,
        &mut other_gradients,
    );

    assert!(
        Parameters::upload(device, &narrow, &fixture.fused).is_err(),
        "weights of other sizes"
    );
    assert!(
        KvCache::new(device, config, config.max_position_embeddings + 1).is_err(),
        "more positions than the model has"
    );
    let mut cache = KvCache::new(device, config, 4).unwrap();
    for wrong in [&[][..], &[config.vocab_size as u32], &[0; 5]] {
        assert!(
            model
                .prefill(device, wrong, &mut cache, &mut inference)
                .is_err()
        );
        assert!(cache.is_empty());
    }
}
