//! The model's sizes, as Hugging Face's `config.json` of `MixtralForCausalLM` names them. Reading
//! and writing that file is in `config_json`.

use crate::ops::{AttentionShape, MoeShape};
use anyhow::{Result, bail, ensure};

/// Largest parameter count that is accepted: far above what fits, and low enough that no size
/// computation overflows.
const MAX_PARAMETERS: u128 = 1 << 40;

/// Sizes and constants of one model. Field names are those of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Number of tokens `V`.
    pub vocab_size: usize,
    /// Columns `C` of the residual stream.
    pub hidden_size: usize,
    /// Columns `F` of an expert's inner layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads `H`.
    pub num_attention_heads: usize,
    /// Key/value heads `G`; divides `H`.
    pub num_key_value_heads: usize,
    /// Elements per head `D`, even.
    pub head_dim: usize,
    /// Experts `E` per layer.
    pub num_local_experts: usize,
    /// Experts chosen per token `K`.
    pub num_experts_per_tok: usize,
    /// Longest example.
    pub max_position_embeddings: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f32,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Weight of the load-balancing loss.
    pub router_aux_loss_coef: f32,
    /// Standard deviation of fresh weights.
    pub initializer_range: f32,
    /// Whether the head is the embedding table; only `true` is supported.
    pub tie_word_embeddings: bool,
    /// Token that begins a text, if any.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text, if any.
    pub eos_token_id: Option<u32>,
}

impl ModelConfig {
    /// The default model: 46,748,928 parameters, GPT-2's vocabulary, 256 positions.
    pub fn default_47m() -> Self {
        Self {
            vocab_size: 50257,
            hidden_size: 384,
            intermediate_size: 448,
            num_hidden_layers: 6,
            num_attention_heads: 6,
            num_key_value_heads: 3,
            head_dim: 64,
            num_local_experts: 8,
            num_experts_per_tok: 2,
            max_position_embeddings: 256,
            rope_theta: 10000.0,
            rms_norm_eps: 1e-5,
            router_aux_loss_coef: 0.02,
            initializer_range: 0.02,
            tie_word_embeddings: true,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
        }
    }

    /// Shape of the attention block.
    pub(crate) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
        }
    }

    /// Shape of the mixture-of-experts block.
    pub(crate) fn moe_shape(&self) -> MoeShape {
        MoeShape {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            experts: self.num_local_experts,
            top_k: self.num_experts_per_tok,
        }
    }

    /// Number of parameters; the tied head counts once. Only meaningful for a valid configuration.
    pub fn parameter_count(&self) -> usize {
        usize::try_from(self.wide_parameter_count()).unwrap_or(usize::MAX)
    }

    /// Checks that the engine can represent these sizes.
    ///
    /// # Errors
    /// Names the field, its value and what is expected.
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("num_local_experts", self.num_local_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            // u32::MAX marks a position without loss, so it must not be a token; sizes that large
            // fit nowhere anyway.
            ensure!(value >= 1, "{name} is 0, expected at least 1");
            ensure!(
                value < u32::MAX as usize,
                "{name} is {value}, expected less than {}",
                u32::MAX
            );
        }
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        ensure!(
            heads.is_multiple_of(kv_heads),
            "num_attention_heads is {heads}, expected a multiple of num_key_value_heads, which is \
             {kv_heads}"
        );
        ensure!(
            self.head_dim.is_multiple_of(2),
            "head_dim is {}, expected an even number",
            self.head_dim
        );
        let (experts, top_k) = (self.num_local_experts, self.num_experts_per_tok);
        ensure!(
            top_k <= experts,
            "num_experts_per_tok is {top_k}, expected at most num_local_experts, which is {experts}"
        );
        for (name, value, zero_allowed) in [
            ("rope_theta", self.rope_theta, false),
            ("rms_norm_eps", self.rms_norm_eps, false),
            ("router_aux_loss_coef", self.router_aux_loss_coef, true),
            ("initializer_range", self.initializer_range, true),
        ] {
            let fits = value.is_finite() && (value > 0.0 || (zero_allowed && value == 0.0));
            let least = if zero_allowed {
                "at least 0"
            } else {
                "greater than 0"
            };
            ensure!(fits, "{name} is {value}, expected a finite number {least}");
        }
        if !self.tie_word_embeddings {
            bail!(
                "tie_word_embeddings is false, expected true: the head is always the embedding \
                 table"
            );
        }
        let count = self.wide_parameter_count();
        ensure!(
            count <= MAX_PARAMETERS,
            "the sizes give {count} parameters, expected at most {MAX_PARAMETERS}"
        );
        Ok(())
    }

    /// The parameter count in a type that no combination of valid sizes overflows.
    fn wide_parameter_count(&self) -> u128 {
        let wide = |value: usize| value as u128;
        let hidden = wide(self.hidden_size);
        let heads = wide(self.num_attention_heads).saturating_mul(2)
            + wide(self.num_key_value_heads).saturating_mul(2);
        let attention = heads
            .saturating_mul(wide(self.head_dim))
            .saturating_mul(hidden);
        let expert = hidden
            .saturating_mul(wide(self.intermediate_size))
            .saturating_mul(3);
        let experts = wide(self.num_local_experts).saturating_mul(expert.saturating_add(hidden));
        let layer = attention
            .saturating_add(experts)
            .saturating_add(hidden.saturating_mul(2));
        let layers = wide(self.num_hidden_layers).saturating_mul(layer);
        wide(self.vocab_size)
            .saturating_mul(hidden)
            .saturating_add(layers)
            .saturating_add(hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_has_47_million_parameters() {
        let config = ModelConfig::default_47m();
        config.validate().unwrap();
        assert_eq!(config.parameter_count(), 46_748_928);
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        type Change = fn(&mut ModelConfig);
        let cases: [(&str, Change); 9] = [
            ("hidden_size is 0", |c| c.hidden_size = 0),
            ("num_attention_heads is 6", |c| c.num_key_value_heads = 4),
            ("head_dim is 63", |c| c.head_dim = 63),
            ("num_experts_per_tok is 9", |c| c.num_experts_per_tok = 9),
            ("rope_theta is NaN", |c| c.rope_theta = f32::NAN),
            ("rms_norm_eps is 0", |c| c.rms_norm_eps = 0.0),
            ("router_aux_loss_coef is -1", |c| {
                c.router_aux_loss_coef = -1.0
            }),
            ("tie_word_embeddings is false", |c| {
                c.tie_word_embeddings = false
            }),
            ("parameters, expected at most", |c| {
                c.hidden_size = 4_000_000_000
            }),
        ];
        for (message, change) in cases {
            let mut config = ModelConfig::default_47m();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} lacks {message:?}");
        }
    }
}
