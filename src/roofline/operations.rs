//! FLOPs and bytes of a training step, as the CUDA device computes it: a row for each family of
//! kernels, since that is what a profile can tell apart. The costs are the operations' own
//! ([`crate::ops::Operation::kernels`]), added up over one step of the model's code. Caches can
//! save some of the bytes.

use anyhow::Result;
use serde::Serialize;

use super::cost_device::CostDevice;
use crate::model::{Batch, Model, ModelConfig, Parameters, StepScales, Workspace};
use crate::ops::{AdamState, AdamStep, AdamW, Buffer, Device, GlobalNorm, Kind, Load, issue};

/// Bytes of a weight or an activation.
const STORAGE_BYTES: f64 = 2.0;

/// How much a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepShape {
    /// Tokens of each micro-batch.
    pub micro_tokens: usize,
    /// Micro-batches.
    pub micro_batches: usize,
    /// Tokens of an example, on average.
    pub example_tokens: f64,
    /// Tokens that carry loss, as a share.
    pub counted: f64,
}

impl StepShape {
    /// Tokens of the step.
    pub(crate) fn tokens(&self) -> usize {
        self.micro_tokens * self.micro_batches
    }

    /// Keys that a query sees on average.
    pub(crate) fn mean_keys(&self) -> f64 {
        (self.example_tokens + 1.0) / 2.0
    }
}

/// An operation of a step.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Operation {
    /// Name for people.
    pub name: &'static str,
    /// Families of its kernels: their names without precision, tile and head size.
    pub kernels: &'static [&'static str],
    /// What it may reach of a card's rates.
    pub(crate) kind: Kind,
    /// FLOPs of the step.
    pub flops: f64,
    /// Bytes of the step.
    pub bytes: f64,
}

/// The family of a kernel: `linear_fwd` of `linear_small_fwd_f16`, `attention_dq` of
/// `attention_dq_d64_bf16`.
pub(crate) fn family(kernel: &str) -> String {
    let name = kernel
        .strip_suffix("_f16")
        .or(kernel.strip_suffix("_bf16"))
        .unwrap_or(kernel);
    name.split('_')
        .filter(|part| *part != "small" && *part != "any" && !is_head_size(part))
        .collect::<Vec<_>>()
        .join("_")
}

fn is_head_size(part: &str) -> bool {
    part.strip_prefix('d')
        .is_some_and(|size| !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit()))
}

/// FLOPs of model arithmetic per trained token: two for each weight that a token meets, forward,
/// and four backward; and those of its scores and values with so many keys.
pub(crate) fn model_flops_per_token(config: &ModelConfig, mean_keys: f64) -> f64 {
    let attention = config.attention_shape();
    let hidden = config.hidden_size as f64;
    let projections = hidden * (attention.qkv_size() + attention.out_size()) as f64;
    let router = hidden * config.num_local_experts as f64;
    let experts = (3 * config.num_experts_per_tok * config.intermediate_size) as f64 * hidden;
    let scores = 2.0 * mean_keys * attention.out_size() as f64;
    let layer = projections + router + experts + scores;
    6.0 * (config.num_hidden_layers as f64 * layer + config.vocab_size as f64 * hidden)
}

/// The operations of a step, in the order in which they are first needed.
///
/// # Errors
/// If the sizes are none that a model can have.
pub(crate) fn operations(config: &ModelConfig, shape: &StepShape) -> Result<Vec<Operation>> {
    let device = CostDevice::new(Load {
        mean_keys: shape.mean_keys(),
        counted: shape.counted,
        storage: STORAGE_BYTES,
    });
    let mut parameters = Parameters::zeros(&device, config)?;
    let mut gradients = Parameters::zeros(&device, config)?;
    micro_batch(&device, config, shape.micro_tokens, &mut gradients)?;
    let micro_batch = device.take();
    update(&device, config, &mut parameters, &mut gradients)?;

    let mut all: Vec<Operation> = Vec::new();
    let costs = micro_batch
        .iter()
        .map(|cost| (cost, shape.micro_batches as f64));
    for (cost, times) in costs.chain(device.take().iter().map(|cost| (cost, 1.0))) {
        let (flops, bytes) = (times * cost.flops, times * cost.bytes);
        match all.iter_mut().find(|operation| operation.name == cost.name) {
            Some(operation) => {
                operation.flops += flops;
                operation.bytes += bytes;
            }
            None => all.push(Operation {
                name: cost.name,
                kernels: cost.families,
                kind: cost.kind,
                flops,
                bytes,
            }),
        }
    }
    Ok(all)
}

/// Forward and backward pass of a micro-batch.
fn micro_batch(
    device: &CostDevice,
    config: &ModelConfig,
    tokens: usize,
    gradients: &mut Parameters<CostDevice>,
) -> Result<()> {
    let model = Model::new(config.clone(), Parameters::zeros(device, config)?)?;
    // How long the examples are is part of the load; here they only have to fit the model.
    let longest = config.max_position_embeddings;
    let mut workspace = Workspace::new(device, config, tokens, tokens.div_ceil(longest), 1)?;
    let mut batch = Batch::new();
    for first in (0..tokens).step_by(longest) {
        let example = vec![0; longest.min(tokens - first)];
        batch.push_segment(&example, &example)?;
    }
    let scales = StepScales {
        token: 1.0,
        balance: 1.0,
    };
    model.forward_backward(device, &batch, &mut workspace, gradients, scales)
}

/// The optimizer's part of a step.
fn update(
    device: &CostDevice,
    config: &ModelConfig,
    parameters: &mut Parameters<CostDevice>,
    gradients: &mut Parameters<CostDevice>,
) -> Result<()> {
    let (mut norm, rate) = (device.zeros_single(2)?, device.zeros_single(1)?);
    let lengths: Vec<usize> = config.parameters().iter().map(|spec| spec.len()).collect();
    let buffers = gradients.values.iter().zip(&lengths);
    issue(
        device,
        GlobalNorm {
            gradients: buffers.map(|(buffer, &len)| buffer.vector(len)).collect(),
            norm: norm.vector_mut(2),
        },
    )?;
    let weights = parameters.values.iter_mut().zip(&lengths);
    for ((weight, &len), gradient) in weights.zip(&mut gradients.values) {
        let mut state = AdamState {
            master: Some(device.zeros_single(len)?),
            first: device.zeros_single(len)?,
            second: device.zeros_single(len)?,
        };
        issue(
            device,
            AdamW {
                weight: weight.vector_mut(len),
                gradient: gradient.vector_mut(len),
                state: &mut state,
                norm: norm.vector(2),
                rate: rate.vector(1),
                step: STEP,
            },
        )?;
    }
    Ok(())
}

/// The cost does not depend on these numbers.
const STEP: AdamStep = AdamStep {
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    max_norm: 1.0,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(tokens: usize) -> StepShape {
        StepShape {
            micro_tokens: tokens,
            micro_batches: 1,
            example_tokens: 256.0,
            counted: 1.0,
        }
    }

    fn flops(operations: &[Operation], part: &str) -> f64 {
        operations
            .iter()
            .filter(|operation| operation.name.contains(part))
            .map(|operation| operation.flops)
            .sum()
    }

    #[test]
    fn a_token_at_47m_costs_173_megaflop() {
        let config = ModelConfig::default_47m();
        let found = model_flops_per_token(&config, 128.5) / 1e6;
        assert!((found - 172.54).abs() < 0.01, "{found}");
    }

    #[test]
    fn products_count_two_flops_for_each_weight_and_token_in_each_direction() {
        // By the weights' shapes, not by the formulas above: forward, gradient of the input,
        // gradient of the weight.
        let config = ModelConfig::default_47m();
        let tokens = 512;
        let all = operations(&config, &shape(tokens)).unwrap();
        let weights = |part: &str| -> f64 {
            config
                .parameters()
                .iter()
                .filter(|spec| spec.name.ends_with(part))
                .map(|spec| spec.len() as f64)
                .sum()
        };
        let per_weight = 3.0 * 2.0 * tokens as f64;
        assert_eq!(flops(&all, "head, "), per_weight * weights("embedding"));
        let projections = weights("qkv") + weights("attention_out");
        assert_eq!(flops(&all, "projections"), per_weight * projections);
        // A token meets 2 of 8 experts.
        let experts = (weights("w13") + weights("w2")) * 2.0 / 8.0;
        assert_eq!(flops(&all, "experts, "), per_weight * experts);
        assert_eq!(flops(&all, "router"), per_weight * weights("router"));
    }

    #[test]
    fn attention_counts_pairs_of_query_and_key() {
        let config = ModelConfig::default_47m();
        let all = operations(&config, &shape(512)).unwrap();
        // Two examples of 256; each pair (query, key up to it), each head, 64 products of two
        // FLOPs, scores and values; six layers.
        let mut pairs = 0.0;
        for query in 0..256 {
            pairs += f64::from(query + 1);
        }
        let product = 2.0 * pairs * 6.0 * 64.0 * 2.0 * 6.0;
        let forward: f64 = all
            .iter()
            .filter(|operation| operation.kernels == ["attention_fwd"])
            .map(|operation| operation.flops)
            .sum();
        assert_eq!(forward, 2.0 * product);
        assert_eq!(flops(&all, "attention, gradient"), 7.0 * product);
    }

    #[test]
    fn the_whole_is_the_models_arithmetic_and_what_is_made_twice() {
        let config = ModelConfig::default_47m();
        for tokens in [256, 4096] {
            let shape = shape(tokens);
            let total: f64 = operations(&config, &shape)
                .unwrap()
                .iter()
                .map(|o| o.flops)
                .sum();
            // Backward, scores are made twice more and gradients of the probabilities once.
            let again = 3.0 * 2.0 * 128.5 * 384.0 * 6.0 * tokens as f64;
            let model = model_flops_per_token(&config, shape.mean_keys()) * tokens as f64;
            assert!((total / (model + again) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn the_optimizer_moves_32_bytes_per_parameter_once_a_step() {
        let config = ModelConfig::default_47m();
        let bytes = |micro_batches| -> f64 {
            let shape = StepShape {
                micro_batches,
                ..shape(256)
            };
            operations(&config, &shape)
                .unwrap()
                .iter()
                .filter(|o| ["global norm", "AdamW"].contains(&o.name))
                .map(|o| o.bytes)
                .sum()
        };
        assert_eq!(bytes(1), 32.0 * 46_748_928.0);
        assert_eq!(bytes(1), bytes(4));
    }

    #[test]
    fn kernels_have_families() {
        for (kernel, expected) in [
            ("linear_small_fwd_f16", "linear_fwd"),
            ("attention_dq_d64_bf16", "attention_dq"),
            ("attention_fwd_any_f16", "attention_fwd"),
            ("router_offsets", "router_offsets"),
            ("experts_down_fwd_f16", "experts_down_fwd"),
        ] {
            assert_eq!(family(kernel), expected);
        }
    }
}
