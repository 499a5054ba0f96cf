//! FLOPs and bytes of a training step, operation by operation, as the CUDA device computes it: a row for each family of
//! kernels, since that is what a profile can tell apart.
//!
//! FLOPs are those that the kernels do, so attention's scores count again where the backward pass makes them again. Bytes are
//! the least that the algorithm moves: each operand is read once and each result written once per launch, gradients that are
//! added to are read and written, and what one launch leaves for the next goes through memory. Caches can save some of it.

use serde::Serialize;

use super::Kind;
use crate::model::ModelConfig;

/// Bytes of a weight or an activation.
const HALF: f64 = 2.0;
/// Bytes of a statistic or an index.
const SINGLE: f64 = 4.0;
/// Most tokens of a chunk of the head.
const CHUNK: usize = 2048;

/// How much a step computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
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
    pub fn tokens(&self) -> usize {
        self.micro_tokens * self.micro_batches
    }

    /// Keys that a query sees on average.
    pub fn mean_keys(&self) -> f64 {
        (self.example_tokens + 1.0) / 2.0
    }
}

/// An operation of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// Name for people.
    pub name: &'static str,
    /// Families of its kernels: their names without precision, tile and head size.
    pub kernels: &'static [&'static str],
    /// What it may reach of a card's rates.
    pub kind: Kind,
    /// FLOPs of the step.
    pub flops: f64,
    /// Bytes of the step.
    pub bytes: f64,
}

/// The family of a kernel: `linear_fwd` of `linear_small_fwd_f16`, `attention_dq` of `attention_dq_d64_bf16`.
pub fn family(kernel: &str) -> String {
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

/// FLOPs of model arithmetic per trained token: two for each weight that a token meets, forward, and four backward; and those of
/// its scores and values with so many keys.
pub fn model_flops_per_token(config: &ModelConfig, mean_keys: f64) -> f64 {
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
pub fn operations(config: &ModelConfig, shape: &StepShape) -> Vec<Operation> {
    let micro = shape.micro_batches as f64;
    let layers = config.num_hidden_layers as f64 * micro;
    let attention = config.attention_shape();
    let [tokens, c, v, f, e, k, heads] = [
        shape.micro_tokens,
        config.hidden_size,
        config.vocab_size,
        config.intermediate_size,
        config.num_local_experts,
        config.num_experts_per_tok,
        attention.heads,
    ]
    .map(|n| n as f64);
    let [q, qkv, kv] = [
        attention.out_size(),
        attention.qkv_size(),
        attention.kv_size(),
    ]
    .map(|n| n as f64);
    let slots = tokens * k;
    let parameters = config.parameter_count() as f64;
    // The head, for the tokens that count.
    let counted = tokens * shape.counted;
    let chunks = (counted / CHUNK as f64).ceil();
    let (logits, table) = (counted * v * HALF, v * c * HALF);
    let head_flops = 2.0 * counted * c * v;
    let scores = 2.0 * tokens * shape.mean_keys() * q;
    let row = tokens * c * HALF;

    let mut all = Vec::new();
    let mut add = |name, kernels, kind, times: f64, flops: f64, bytes: f64| {
        all.push(Operation {
            name,
            kernels,
            kind,
            flops: times * flops,
            bytes: times * bytes,
        });
    };
    use Kind::{Attention, Experts, Head, Memory, Projection};
    add(
        "embedding",
        &["embedding_fwd"],
        Memory,
        micro,
        0.0,
        2.0 * row,
    );
    add(
        "norms",
        &["rmsnorm_fwd"],
        Memory,
        2.0 * layers + micro,
        0.0,
        2.0 * row + tokens * SINGLE,
    );
    add(
        "projections (queries, keys, values; attention's output)",
        &["linear_fwd"],
        Projection,
        layers,
        2.0 * tokens * c * (qkv + q),
        HALF * (tokens * (c + qkv) + c * qkv) + HALF * (tokens * (q + 2.0 * c) + c * q),
    );
    add(
        "rotary embedding, both ways",
        &["rope_fwd", "rope_bwd"],
        Memory,
        2.0 * layers,
        0.0,
        2.0 * HALF * tokens * (q + kv),
    );
    add(
        "attention",
        &["attention_fwd"],
        Attention,
        layers,
        2.0 * scores,
        HALF * tokens * (qkv + q) + SINGLE * tokens * heads,
    );
    add(
        "router",
        &["router_fwd", "router_offsets", "router_slots"],
        Memory,
        layers,
        2.0 * tokens * c * e,
        row + HALF * c * e + SINGLE * (tokens * e + 4.0 * slots),
    );
    add(
        "experts, up with SwiGLU",
        &["experts_up_fwd"],
        Experts,
        layers,
        4.0 * slots * c * f,
        row + HALF * (2.0 * e * f * c + 3.0 * slots * f),
    );
    add(
        "experts, down",
        &["experts_down_fwd"],
        Experts,
        layers,
        2.0 * slots * c * f,
        HALF * (slots * f + e * f * c + slots * c),
    );
    add(
        "combining slots, both ways",
        &["experts_combine_fwd"],
        Memory,
        layers,
        0.0,
        2.0 * HALF * slots * c + 3.0 * row,
    );
    add(
        "head, logits",
        &["head_compact", "head_logits_fwd"],
        Head,
        micro,
        head_flops,
        chunks * table + counted * c * HALF + logits,
    );
    add(
        "head, softmax to gradient",
        &["head_grad_bwd", "head_loss_fwd"],
        Memory,
        micro,
        0.0,
        2.0 * logits,
    );
    add(
        "head, gradient of the rows",
        &["head_x_bwd", "head_x_sum_bwd"],
        Head,
        micro,
        head_flops,
        logits + chunks * table + counted * c * HALF,
    );
    add(
        "head, gradient of the table",
        &["head_table_bwd"],
        Head,
        micro,
        head_flops,
        logits + counted * c * HALF + 2.0 * chunks * table,
    );
    add(
        "norms, backward",
        &["rmsnorm_bwd", "rmsnorm_bwd_sum"],
        Memory,
        2.0 * layers + micro,
        0.0,
        4.0 * row + tokens * SINGLE,
    );
    add(
        "experts, gradient of the activation",
        &["experts_act_bwd", "experts_weights_bwd"],
        Experts,
        layers,
        2.0 * slots * c * f,
        row + HALF * (e * f * c + 5.0 * slots * f),
    );
    add(
        "experts, gradient of the input",
        &["experts_x_bwd"],
        Experts,
        layers,
        4.0 * slots * c * f,
        HALF * (2.0 * slots * f + 2.0 * e * f * c + slots * c),
    );
    add(
        "experts, gradient of the up weights",
        &["experts_w13_bwd"],
        Experts,
        layers,
        4.0 * slots * c * f,
        HALF * 2.0 * slots * f + row + 2.0 * HALF * 2.0 * e * f * c,
    );
    add(
        "experts, gradient of the down weights",
        &["experts_w2_bwd"],
        Experts,
        layers,
        2.0 * slots * c * f,
        HALF * slots * f + row + 2.0 * HALF * e * f * c,
    );
    add(
        "router, backward",
        &["router_bwd", "router_bwd_sum"],
        Memory,
        layers,
        4.0 * tokens * c * e,
        3.0 * row + SINGLE * (tokens * e + 2.0 * slots) + 2.0 * HALF * c * e,
    );
    add(
        "projections, gradient of the input",
        &["linear_input_bwd"],
        Projection,
        layers,
        2.0 * tokens * c * (qkv + q),
        HALF * (tokens * (2.0 * c + qkv + q) + c * (qkv + q)),
    );
    add(
        "projections, gradient of the weights",
        &["linear_weight_bwd"],
        Projection,
        layers,
        2.0 * tokens * c * (qkv + q),
        HALF * (tokens * (2.0 * c + qkv + q) + 2.0 * c * (qkv + q)),
    );
    add(
        "attention, gradient of the queries",
        &["attention_dq"],
        Attention,
        layers,
        // Scores again, gradients of the probabilities, of the queries.
        3.0 * scores,
        HALF * tokens * (qkv + 3.0 * q) + 2.0 * SINGLE * tokens * heads,
    );
    add(
        "attention, gradient of keys and values",
        &["attention_dkv"],
        Attention,
        layers,
        // Scores and gradients of the probabilities again, gradients of the values, of the keys.
        4.0 * scores,
        HALF * tokens * (qkv + q + 2.0 * kv) + 2.0 * SINGLE * tokens * heads,
    );
    add(
        "embedding, backward",
        &["embedding_sort", "embedding_bwd"],
        Memory,
        micro,
        0.0,
        3.0 * row + 4.0 * SINGLE * tokens,
    );
    add(
        "global norm",
        &["grad_squares", "grad_norm"],
        Memory,
        1.0,
        0.0,
        HALF * parameters,
    );
    add(
        "AdamW",
        &["adamw"],
        Memory,
        1.0,
        0.0,
        // Weight written, gradient, master and both moments read and written.
        parameters * (3.0 * HALF + 6.0 * SINGLE),
    );
    all
}

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
        // By the weights' shapes, not by the formulas above: forward, gradient of the input, gradient of the weight.
        let config = ModelConfig::default_47m();
        let tokens = 512;
        let all = operations(&config, &shape(tokens));
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
        let all = operations(&config, &shape(512));
        // Two examples of 256; each pair (query, key up to it), each head, 64 products of two FLOPs, scores and values; six layers.
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
            let total: f64 = operations(&config, &shape).iter().map(|o| o.flops).sum();
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
