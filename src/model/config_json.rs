//! `config.json` as Transformers 4 and 5 write it: whatever the engine cannot represent is refused
//! by name.

use super::ModelConfig;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What Transformers takes for Mixtral where neither `rope_theta` nor `rope_parameters` is given.
const MIXTRAL_ROPE_THETA: f64 = 1e6;

impl ModelConfig {
    /// Reads the text of a `config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// If the text is not JSON, a size is missing, or a field asks for something that the engine
    /// does not compute. The error names the file, the field, the value found and the value
    /// expected.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        Self::read(text)
            .with_context(|| format!("cannot use the model configuration {}", path.display()))
    }

    fn read(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the text is not valid JSON")?;
        let Value::Object(object) = value else {
            bail!("the text is {}, expected a JSON object", kind(&value));
        };
        let fields = Fields(&object);
        fields.refuse_other_architectures()?;
        fields.refuse_other_arithmetic()?;
        let config = Self {
            vocab_size: fields.size("vocab_size")?,
            hidden_size: fields.size("hidden_size")?,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers: fields.size("num_hidden_layers")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            num_key_value_heads: fields.key_value_heads()?,
            head_dim: fields.head_dim()?,
            num_local_experts: fields.size("num_local_experts")?,
            num_experts_per_tok: fields.size("num_experts_per_tok")?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rope_theta: fields.rope_theta()? as f32,
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5) as f32,
            router_aux_loss_coef: fields.number("router_aux_loss_coef")?.unwrap_or(0.001) as f32,
            initializer_range: fields.number("initializer_range")?.unwrap_or(0.02) as f32,
            tie_word_embeddings: true,
            bos_token_id: fields.token("bos_token_id")?,
            eos_token_id: fields.token("eos_token_id")?,
        };
        fields.refuse_sliding_window(config.max_position_embeddings)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` of this model. Both forms of the rotary base are written: Transformers 5
    /// reads `rope_parameters`, other readers know only `rope_theta`.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "architectures": ["MixtralForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "dtype": "float32",
            "eos_token_id": self.eos_token_id,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": decimal(self.initializer_range),
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "mixtral",
            "num_attention_heads": self.num_attention_heads,
            "num_experts_per_tok": self.num_experts_per_tok,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "num_local_experts": self.num_local_experts,
            "output_router_logits": false,
            "pad_token_id": null,
            "rms_norm_eps": decimal(self.rms_norm_eps),
            "rope_parameters": {"rope_theta": decimal(self.rope_theta), "rope_type": "default"},
            "rope_theta": decimal(self.rope_theta),
            "router_aux_loss_coef": decimal(self.router_aux_loss_coef),
            "router_jitter_noise": 0.0,
            "sliding_window": null,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab_size,
        })
    }
}

/// The shortest decimal that rounds to `value`, as a double: 1e-5 and not 9.999999747378752e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// What a JSON value is, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Typed access to the fields; an absent field and `null` are the same, as in Transformers.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>> {
        self.get(name)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|number| usize::try_from(number).ok())
                    .ok_or_else(|| {
                        anyhow!("{name} is {value}, expected a whole number of at least 1")
                    })
            })
            .transpose()
    }

    fn size(&self, name: &str) -> Result<usize> {
        self.optional_size(name)?
            .ok_or_else(|| anyhow!("{name} is missing, expected a whole number of at least 1"))
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        self.get(name)
            .map(|value| {
                value
                    .as_f64()
                    .ok_or_else(|| anyhow!("{name} is {value}, expected a number"))
            })
            .transpose()
    }

    fn token(&self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        // Lists of end tokens exist; one with a single entry means the same as the entry.
        let single = match value {
            Value::Array(list) if list.len() == 1 => &list[0],
            other => other,
        };
        let id = single.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some)
            .ok_or_else(|| anyhow!("{name} is {value}, expected one token number or null"))
    }

    fn key_value_heads(&self) -> Result<usize> {
        match self.0.get("num_key_value_heads") {
            // An explicit null means one per query head; a missing field would be Transformers' 8,
            // hardly ever meant.
            Some(Value::Null) => self.size("num_attention_heads"),
            _ => self.size("num_key_value_heads"),
        }
    }

    fn head_dim(&self) -> Result<usize> {
        if let Some(size) = self.optional_size("head_dim")? {
            return Ok(size);
        }
        let (hidden, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        ensure!(
            heads > 0 && hidden.is_multiple_of(heads),
            "head_dim is missing and hidden_size {hidden} is no multiple of num_attention_heads \
             {heads}: add head_dim"
        );
        Ok(hidden / heads)
    }

    fn refuse_other_architectures(&self) -> Result<()> {
        match self.get("model_type") {
            Some(Value::String(name)) if name == "mixtral" => {}
            Some(found) => bail!(
                "model_type is {found}, expected \"mixtral\": only Mixtral models can be opened"
            ),
            None => bail!(
                "model_type is missing, expected \"mixtral\": only Mixtral models can be opened"
            ),
        }
        if let Some(found) = self.get("architectures") {
            let fits = found
                .as_array()
                .is_some_and(|list| list.iter().any(|name| name == "MixtralForCausalLM"));
            ensure!(
                fits,
                "architectures is {found}, expected [\"MixtralForCausalLM\"]"
            );
        }
        Ok(())
    }

    /// Refuses every field that would change what the forward pass computes.
    fn refuse_other_arithmetic(&self) -> Result<()> {
        match self.get("hidden_act") {
            None => {}
            Some(Value::String(name)) if name == "silu" || name == "swish" => {}
            Some(found) => bail!("hidden_act is {found}, expected \"silu\""),
        }
        match self.get("tie_word_embeddings") {
            Some(Value::Bool(true)) => {}
            Some(found) => bail!(
                "tie_word_embeddings is {found}, expected true: a separate head is not supported"
            ),
            None => bail!(
                "tie_word_embeddings is missing, which Transformers reads as false; expected true: \
                 a separate head is not supported"
            ),
        }
        for name in ["attention_bias", "mlp_bias", "bias"] {
            match self.get(name) {
                None | Some(Value::Bool(false)) => {}
                Some(found) => {
                    bail!("{name} is {found}, expected false or nothing: projections have no bias")
                }
            }
        }
        if self.get("quantization_config").is_some() {
            bail!(
                "quantization_config is set, expected nothing: only f32, f16 and bf16 weights can \
                 be opened"
            );
        }
        if let Some(factor) = self.number("partial_rotary_factor")? {
            ensure!(
                factor == 1.0,
                "partial_rotary_factor is {factor}, expected 1: every element of a head is rotated"
            );
        }
        Ok(())
    }

    fn refuse_sliding_window(&self, max_positions: usize) -> Result<()> {
        let Some(found) = self.get("sliding_window") else {
            return Ok(());
        };
        let wide = found
            .as_u64()
            .is_some_and(|window| window >= max_positions as u64);
        ensure!(
            wide,
            "sliding_window is {found}, expected null (or at least max_position_embeddings, \
             {max_positions}): every position attends to all before it"
        );
        Ok(())
    }

    /// The rotary base, from Transformers 5's `rope_parameters`, Transformers 4's `rope_theta` and
    /// `rope_scaling`, or both.
    fn rope_theta(&self) -> Result<f64> {
        let flat = self.number("rope_theta")?;
        let mut nested = None;
        for name in ["rope_parameters", "rope_scaling"] {
            let Some(value) = self.get(name) else {
                continue;
            };
            let Value::Object(object) = value else {
                bail!("{name} is {value}, expected an object or null");
            };
            let theta = Fields(object)
                .plain_rope()
                .with_context(|| format!("{name} is {value}"))?;
            nested = nested.or(theta);
        }
        match (flat, nested) {
            (Some(flat), Some(nested)) => {
                ensure!(
                    flat == nested,
                    "rope_theta is {flat}, but rope_parameters says {nested}; expected the same \
                     number in both"
                );
                Ok(flat)
            }
            (flat, nested) => Ok(flat.or(nested).unwrap_or(MIXTRAL_ROPE_THETA)),
        }
    }

    /// Inside `rope_parameters` or `rope_scaling`: the base if it is given, an error if it is not
    /// the plain form.
    fn plain_rope(&self) -> Result<Option<f64>> {
        for name in ["rope_type", "type"] {
            match self.get(name) {
                None => {}
                Some(Value::String(form)) if form == "default" => {}
                Some(found) => bail!(
                    "{name} is {found}, expected \"default\": scaled rotary embeddings are not \
                     supported"
                ),
            }
        }
        if let Some(factor) = self.number("partial_rotary_factor")? {
            ensure!(
                factor == 1.0,
                "partial_rotary_factor is {factor}, expected 1: every element of a head is rotated"
            );
        }
        self.number("rope_theta")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<ModelConfig> {
        ModelConfig::from_json(&value.to_string(), Path::new("folder/config.json"))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = ModelConfig::default_47m();
        let written = config.to_json();
        assert_eq!(written["rms_norm_eps"], json!(1e-5));
        assert_eq!(written["rope_theta"], json!(10000.0));
        assert_eq!(written["rope_parameters"]["rope_theta"], json!(10000.0));
        assert_eq!(parse(&written).unwrap(), config);
    }

    #[test]
    fn both_generations_of_transformers_are_read() {
        let mut old = ModelConfig::default_47m().to_json();
        let object = old.as_object_mut().unwrap();
        object.remove("rope_parameters");
        object.remove("head_dim");
        object.insert("rope_scaling".into(), Value::Null);
        object.insert("rope_theta".into(), json!(5e5));
        assert_eq!(parse(&old).unwrap().rope_theta, 5e5);
        assert_eq!(parse(&old).unwrap().head_dim, 64);

        let mut new = ModelConfig::default_47m().to_json();
        let object = new.as_object_mut().unwrap();
        object.remove("rope_theta");
        object.insert("eos_token_id".into(), json!([50256]));
        object.insert("sliding_window".into(), json!(256));
        object.insert("num_key_value_heads".into(), Value::Null);
        let config = parse(&new).unwrap();
        assert_eq!(
            (
                config.rope_theta,
                config.eos_token_id,
                config.num_key_value_heads
            ),
            (1e4, Some(50256), 6)
        );

        new.as_object_mut().unwrap().remove("rope_parameters");
        assert_eq!(
            parse(&new).unwrap().rope_theta,
            1e6,
            "Transformers' own default for Mixtral"
        );
    }

    #[test]
    fn what_cannot_be_represented_is_refused_by_name() {
        let cases = [
            (
                "model_type",
                json!("llama"),
                "model_type is \"llama\", expected \"mixtral\"",
            ),
            (
                "architectures",
                json!(["LlamaForCausalLM"]),
                "architectures is",
            ),
            (
                "hidden_act",
                json!("gelu"),
                "hidden_act is \"gelu\", expected \"silu\"",
            ),
            (
                "sliding_window",
                json!(128),
                "sliding_window is 128, expected null",
            ),
            (
                "tie_word_embeddings",
                json!(false),
                "tie_word_embeddings is false, expected true",
            ),
            (
                "tie_word_embeddings",
                Value::Null,
                "tie_word_embeddings is missing",
            ),
            (
                "attention_bias",
                json!(true),
                "attention_bias is true, expected false",
            ),
            (
                "quantization_config",
                json!({"bits": 4}),
                "quantization_config is set",
            ),
            (
                "partial_rotary_factor",
                json!(0.5),
                "partial_rotary_factor is 0.5, expected 1",
            ),
            (
                "rope_parameters",
                json!({"rope_type": "yarn", "rope_theta": 1e4}),
                "rope_type is \"yarn\", expected \"default\"",
            ),
            (
                "rope_scaling",
                json!({"type": "linear", "factor": 2.0}),
                "type is \"linear\", expected \"default\"",
            ),
            (
                "rope_theta",
                json!(2e4),
                "rope_theta is 20000, but rope_parameters says 10000",
            ),
            (
                "vocab_size",
                json!(-5),
                "vocab_size is -5, expected a whole number",
            ),
            ("hidden_size", Value::Null, "hidden_size is missing"),
            (
                "rms_norm_eps",
                json!("small"),
                "rms_norm_eps is \"small\", expected a number",
            ),
            (
                "eos_token_id",
                json!([1, 2]),
                "eos_token_id is [1,2], expected one token number",
            ),
        ];
        for (field, value, message) in cases {
            let mut json = ModelConfig::default_47m().to_json();
            json.as_object_mut().unwrap().insert(field.into(), value);
            let error = format!("{:#}", parse(&json).unwrap_err());
            assert!(error.contains(message), "{error:?} lacks {message:?}");
            assert!(
                error.contains("folder/config.json"),
                "{error:?} names no file"
            );
        }
        for text in ["", "[1]", "{"] {
            assert!(ModelConfig::from_json(text, Path::new("c.json")).is_err());
        }
    }
}
