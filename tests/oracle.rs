//! The whole model against Transformers: logits, losses, every gradient, the weights after three
//! optimizer steps and a greedy continuation, from the files in `tests/fixtures/`; and in
//! `invariants` what it promises about itself.

mod fixture;
mod invariants;

use fixture::{FIXTURES, Fixture, assert_close, step, workspace};
use muni_engine::model::{KvCache, Workspace, hf_tensor};
use muni_engine::ops::{AdamStep, AdamW, Buffer, GlobalNorm, TrainingDevice, issue};

/// Every check of this file, on one device.
macro_rules! on_device {
    ($module:ident, $device:expr) => {
        mod $module {
            #[test]
            fn outputs_equal_transformers() {
                super::outputs_equal_transformers(&$device);
            }
            #[test]
            fn gradients_equal_transformers() {
                super::gradients_equal_transformers(&$device);
            }
            #[test]
            fn optimizer_steps_equal_pytorch() {
                super::optimizer_steps_equal_pytorch(&$device);
            }
            #[test]
            fn greedy_continuation_equals_transformers() {
                super::greedy_continuation_equals_transformers(&$device);
            }
            #[test]
            fn micro_batches_change_nothing() {
                super::invariants::micro_batches_change_nothing(&$device);
            }
            #[test]
            fn a_used_workspace_changes_nothing() {
                super::invariants::a_used_workspace_changes_nothing(&$device);
            }
            #[test]
            fn packed_examples_do_not_see_each_other() {
                super::invariants::packed_examples_do_not_see_each_other(&$device);
            }
            #[test]
            fn the_cache_changes_nothing() {
                super::invariants::the_cache_changes_nothing(&$device);
            }
            #[test]
            fn wrong_use_is_an_error() {
                super::invariants::wrong_use_is_an_error(&$device);
            }
        }
    };
}

on_device!(cpu, muni_engine::ops::cpu::CpuDevice::new());
on_device!(reference, muni_engine::ops::reference::ReferenceDevice);

fn outputs_equal_transformers<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, batch, model) = (fixture.name, fixture.batch(""), fixture.model(device));
        let mut training = workspace(device, &model.config, &batch);
        let mut inference =
            Workspace::for_inference(device, &model.config, batch.tokens.len(), 9, 1).unwrap();
        for workspace in [&mut training, &mut inference] {
            let logits = model.logits(device, &batch, workspace).unwrap();
            assert_close(
                &format!("{name}: logits"),
                &logits,
                &fixture.floats("logits"),
                1e-4,
            );
            let losses = model.losses(device, &batch, workspace).unwrap();
            assert_eq!(losses.len(), batch.tokens.len());
            let mean = losses.iter().sum::<f32>() / batch.counted_targets() as f32;
            assert_close(
                &format!("{name}: token loss"),
                &[mean],
                &fixture.floats("token_loss"),
                1e-5,
            );
        }
        let untouched = training.totals(device).unwrap();
        assert_eq!(
            untouched.token_loss_sum + untouched.router_loss_sum,
            0.0,
            "{name}: only training counts"
        );
    }
}

fn gradients_equal_transformers<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, batch, model) = (fixture.name, fixture.batch(""), fixture.model(device));
        let (gradients, totals) = step(device, &model, &[&batch]);
        let token_loss = (totals.token_loss_sum / batch.counted_targets() as f64) as f32;
        assert_close(
            &format!("{name}: token loss"),
            &[token_loss],
            &fixture.floats("token_loss"),
            1e-5,
        );
        let router_loss = totals.router_loss_sum as f32;
        assert_close(
            &format!("{name}: router loss"),
            &[router_loss],
            &fixture.floats("router_loss"),
            1e-5,
        );
        let choices =
            batch.tokens.len() * model.config.num_hidden_layers * model.config.num_experts_per_tok;
        assert_eq!(
            totals.expert_counts.iter().sum::<f64>(),
            choices as f64,
            "{name}: expert counts"
        );
        let fused = gradients.download(device).unwrap();
        for tensor in model.config.tensors() {
            let expected = fixture.floats(&format!("grad.{}", tensor.name));
            let found = hf_tensor(&model.config, &fused, &tensor);
            assert_close(
                &format!("{name}: gradient of {}", tensor.name),
                found,
                &expected,
                1e-3,
            );
        }
    }
}

fn optimizer_steps_equal_pytorch<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (name, mut model) = (fixture.name, fixture.model(device));
        let sizes: Vec<usize> = model
            .parameters
            .specs
            .iter()
            .map(|spec| spec.len())
            .collect();
        let weights = model.parameters.download(device).unwrap();
        let mut states: Vec<_> = weights
            .iter()
            .map(|values| device.adam_state(values).unwrap())
            .collect();
        let mut norm = device.zeros_single(2).unwrap();
        let mut rate = device.zeros_single(1).unwrap();
        for (index, learning_rate) in fixture
            .floats("steps.learning_rate")
            .into_iter()
            .enumerate()
        {
            let batch = fixture.batch(&format!("steps.{index}."));
            let (mut gradients, totals) = step(device, &model, &[&batch]);
            let token_loss = totals.token_loss_sum / batch.counted_targets() as f64;
            let loss =
                token_loss + f64::from(model.config.router_aux_loss_coef) * totals.router_loss_sum;
            assert_close(
                &format!("{name}: loss {index}"),
                &[loss as f32],
                &fixture.floats("steps.loss")[index..][..1],
                1e-5,
            );
            let all = gradients.values.iter().zip(&sizes);
            issue(
                device,
                GlobalNorm {
                    gradients: all.map(|(gradient, &len)| gradient.vector(len)).collect(),
                    norm: norm.vector_mut(2),
                },
            )
            .unwrap();
            let found = device.download_single(&norm, 1).unwrap();
            assert_close(
                &format!("{name}: norm {index}"),
                &found,
                &fixture.floats("steps.grad_norm")[index..][..1],
                1e-4,
            );
            device.upload_single(&[learning_rate], &mut rate).unwrap();
            for (parameter, state) in states.iter_mut().enumerate() {
                let update = AdamStep {
                    beta1: 0.9,
                    beta2: 0.95,
                    epsilon: 1e-8,
                    weight_decay: if model.parameters.specs[parameter].decay {
                        0.1
                    } else {
                        0.0
                    },
                    max_norm: 1.0,
                };
                let len = sizes[parameter];
                issue(
                    device,
                    AdamW {
                        weight: model.parameters.values[parameter].vector_mut(len),
                        gradient: gradients.values[parameter].vector_mut(len),
                        state,
                        norm: norm.vector(2),
                        rate: rate.vector(1),
                        step: update,
                    },
                )
                .unwrap();
            }
        }
        let fused = model.parameters.download(device).unwrap();
        for tensor in model.config.tensors() {
            let expected = fixture.floats(&format!("step3.{}", tensor.name));
            let found = hf_tensor(&model.config, &fused, &tensor);
            assert_close(
                &format!("{name}: {} after three steps", tensor.name),
                found,
                &expected,
                1e-4,
            );
        }
    }
}

fn greedy_continuation_equals_transformers<D: TrainingDevice>(device: &D) {
    for fixture in FIXTURES.map(Fixture::open) {
        let (model, prompt) = (fixture.model(device), fixture.integers("generate.prompt"));
        let expected = fixture.integers("generate.output");
        let mut cache = KvCache::new(device, &model.config, prompt.len() + expected.len()).unwrap();
        let mut workspace = Workspace::for_inference(device, &model.config, 4, 1, 1).unwrap();
        let (mut found, mut next) = (Vec::new(), prompt);
        while found.len() < expected.len() {
            let logits = model
                .prefill(device, &next, &mut cache, &mut workspace)
                .unwrap();
            let best = (0..logits.len())
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            found.push(best);
            next = vec![best];
        }
        assert_eq!(found, expected, "{}", fixture.name);
    }
}
