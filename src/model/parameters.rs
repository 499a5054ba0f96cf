//! The weights: a few fused buffers on the device, many named tensors in a checkpoint.
//!
//! Fused order: embedding; per layer `input_norm, qkv, attention_out, post_attention_norm, router,
//! w13, w2`; final norm. Each tensor of a checkpoint is one contiguous range of a fused parameter,
//! so that neither direction reorders anything.

use super::ModelConfig;
use crate::ops::{Device, MemoryClass, Planner, allocating};
use anyhow::{Context, Result, bail, ensure};

/// Fused parameters per layer.
const PER_LAYER: usize = 7;

/// One fused parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// The engine's name, e.g. `layers.0.qkv`.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: not to norms.
    pub decay: bool,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements; never so in a valid configuration.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One tensor of a Hugging Face checkpoint and where it lies in the fused parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in `model.safetensors`.
    pub name: String,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Index of the fused parameter.
    pub parameter: usize,
    /// First element inside the fused parameter.
    pub offset: usize,
    /// Whether weight decay applies: not to norms.
    pub decay: bool,
}

impl TensorSpec {
    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

impl ModelConfig {
    /// The fused parameters, in order.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let (hidden, inner, experts) = (
            self.hidden_size,
            self.intermediate_size,
            self.num_local_experts,
        );
        let attention = self.attention_shape();
        let spec = |name: String, shape: &[usize]| ParameterSpec {
            name,
            shape: shape.to_vec(),
            decay: shape.len() > 1,
        };
        let mut specs = vec![spec("embedding".into(), &[self.vocab_size, hidden])];
        for layer in 0..self.num_hidden_layers {
            let name = |part: &str| format!("layers.{layer}.{part}");
            specs.extend([
                spec(name("input_norm"), &[hidden]),
                spec(name("qkv"), &[attention.qkv_size(), hidden]),
                spec(name("attention_out"), &[hidden, attention.out_size()]),
                spec(name("post_attention_norm"), &[hidden]),
                spec(name("router"), &[experts, hidden]),
                spec(name("w13"), &[experts, 2 * inner, hidden]),
                spec(name("w2"), &[experts, hidden, inner]),
            ]);
        }
        specs.push(spec("final_norm".into(), &[hidden]));
        specs
    }

    /// Every tensor of the checkpoint under the hub's name. Together they cover each fused
    /// parameter exactly once.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut tensors = Vec::new();
        let mut push = |name: String, shape: &[usize], parameter: usize, offset: usize| {
            tensors.push(TensorSpec {
                name,
                shape: shape.to_vec(),
                parameter,
                offset,
                decay: shape.len() > 1,
            });
        };
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let attention = self.attention_shape();
        let (q, kv) = (attention.out_size(), attention.kv_size());
        push(
            "model.embed_tokens.weight".into(),
            &[self.vocab_size, hidden],
            0,
            0,
        );
        for layer in 0..self.num_hidden_layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let first = 1 + layer * PER_LAYER;
            push(name("input_layernorm"), &[hidden], first, 0);
            push(name("self_attn.q_proj"), &[q, hidden], first + 1, 0);
            push(
                name("self_attn.k_proj"),
                &[kv, hidden],
                first + 1,
                q * hidden,
            );
            push(
                name("self_attn.v_proj"),
                &[kv, hidden],
                first + 1,
                (q + kv) * hidden,
            );
            push(name("self_attn.o_proj"), &[hidden, q], first + 2, 0);
            push(name("post_attention_layernorm"), &[hidden], first + 3, 0);
            push(
                name("block_sparse_moe.gate"),
                &[self.num_local_experts, hidden],
                first + 4,
                0,
            );
            let matrix = inner * hidden;
            for expert in 0..self.num_local_experts {
                let part =
                    |weight: &str| name(&format!("block_sparse_moe.experts.{expert}.{weight}"));
                push(part("w1"), &[inner, hidden], first + 5, 2 * expert * matrix);
                push(
                    part("w3"),
                    &[inner, hidden],
                    first + 5,
                    (2 * expert + 1) * matrix,
                );
                push(part("w2"), &[hidden, inner], first + 6, expert * matrix);
            }
        }
        push(
            "model.norm.weight".into(),
            &[hidden],
            1 + self.num_hidden_layers * PER_LAYER,
            0,
        );
        tensors
    }
}

/// Builds the fused parameters from a checkpoint's tensors, asking `read` for each in turn.
///
/// # Errors
/// What `read` returns, or that it gave a tensor of the wrong length.
pub fn fused_from_hf(
    config: &ModelConfig,
    read: &mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>>,
) -> Result<Vec<Vec<f32>>> {
    let mut fused: Vec<Vec<f32>> = config
        .parameters()
        .iter()
        .map(|spec| vec![0.0; spec.len()])
        .collect();
    for tensor in config.tensors() {
        let values = read(&tensor)?;
        ensure!(
            values.len() == tensor.len(),
            "tensor {} has {} values, expected {} for its shape {:?}",
            tensor.name,
            values.len(),
            tensor.len(),
            tensor.shape
        );
        fused[tensor.parameter][tensor.offset..tensor.offset + values.len()]
            .copy_from_slice(&values);
    }
    Ok(fused)
}

/// The values of one checkpoint tensor inside the fused parameters. `fused` are the parameters of
/// `config`, and `tensor` is one of its tensors.
pub fn hf_tensor<'a>(
    config: &ModelConfig,
    fused: &'a [Vec<f32>],
    tensor: &TensorSpec,
) -> &'a [f32] {
    debug_assert_eq!(fused.len(), 2 + config.num_hidden_layers * PER_LAYER);
    &fused[tensor.parameter][tensor.offset..tensor.offset + tensor.len()]
}

/// One value per parameter of the model, on the device: weights, or their gradients.
pub struct Parameters<D: Device> {
    /// What each buffer is, in the order of `values`.
    pub specs: Vec<ParameterSpec>,
    /// The buffers.
    pub values: Vec<D::Float>,
}

impl<D: Device> Parameters<D> {
    /// Zeroed buffers, for gradients.
    ///
    /// # Errors
    /// If the device is out of memory.
    pub fn zeros(device: &D, config: &ModelConfig) -> Result<Self> {
        let specs = config.parameters();
        let values = specs
            .iter()
            .map(|spec| {
                device
                    .zeros_float(spec.len())
                    .with_context(|| format!("parameter {}", spec.name))
            })
            .collect::<Result<_>>()?;
        Ok(Self { specs, values })
    }
}

impl<D: Planner> Parameters<D> {
    /// Puts `fused`, one vector per fused parameter, on the device.
    ///
    /// # Errors
    /// If number or lengths of the vectors do not fit the configuration, or the device is out of
    /// memory.
    pub fn upload(device: &D, config: &ModelConfig, fused: &[Vec<f32>]) -> Result<Self> {
        let mut parameters =
            allocating(device, MemoryClass::Weights, || Self::zeros(device, config))?;
        ensure!(
            fused.len() == parameters.specs.len(),
            "found {} fused parameters, expected {}",
            fused.len(),
            parameters.specs.len()
        );
        for ((spec, buffer), values) in parameters
            .specs
            .iter()
            .zip(&mut parameters.values)
            .zip(fused)
        {
            ensure!(
                values.len() == spec.len(),
                "parameter {} has {} values, expected {} for its shape {:?}",
                spec.name,
                values.len(),
                spec.len(),
                spec.shape
            );
            device.upload_float(values, buffer)?;
        }
        Ok(parameters)
    }

    /// As [`Parameters::upload`], with memory that the device may keep.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn adopt(device: &D, config: &ModelConfig, fused: Vec<D::Host>) -> Result<Self> {
        let specs = config.parameters();
        let found: Vec<usize> = fused.iter().map(|values| values.len()).collect();
        let expected: Vec<usize> = specs.iter().map(ParameterSpec::len).collect();
        ensure!(
            found == expected,
            "the parameters have {found:?} values, expected {expected:?} for this configuration"
        );
        let values = allocating(device, MemoryClass::Weights, || {
            specs
                .iter()
                .zip(fused)
                .map(|(spec, values)| {
                    device
                        .adopt_float(values)
                        .with_context(|| format!("parameter {}", spec.name))
                })
                .collect::<Result<_>>()
        })?;
        Ok(Self { specs, values })
    }
}

impl<D: Device> Parameters<D> {
    /// Copies all values to the host, one vector per fused parameter.
    ///
    /// # Errors
    /// If the device fails.
    pub fn download(&self, device: &D) -> Result<Vec<Vec<f32>>> {
        self.specs
            .iter()
            .zip(&self.values)
            .map(|(spec, buffer)| device.download_float(buffer, spec.len()))
            .collect()
    }

    /// Sets all values to zero: gradients before a step.
    ///
    /// # Errors
    /// If the device fails.
    pub fn clear(&mut self, device: &D) -> Result<()> {
        for (spec, buffer) in self.specs.iter().zip(&mut self.values) {
            device.clear_float(buffer, spec.len())?;
        }
        Ok(())
    }

    /// The embedding table `[V, C]`, which is also the head.
    pub(super) fn embedding(&self) -> &D::Float {
        &self.values[0]
    }

    pub(super) fn embedding_mut(&mut self) -> &mut D::Float {
        &mut self.values[0]
    }

    /// The last norm's weight `[C]`.
    pub(super) fn final_norm(&self) -> &D::Float {
        &self.values[self.values.len() - 1]
    }

    pub(super) fn final_norm_mut(&mut self) -> &mut D::Float {
        let last = self.values.len() - 1;
        &mut self.values[last]
    }

    /// The parameters of one layer.
    pub(super) fn layer(&self, layer: usize) -> Result<LayerParameters<&D::Float>> {
        match self
            .values
            .get(1 + layer * PER_LAYER..1 + (layer + 1) * PER_LAYER)
        {
            Some(
                [
                    input_norm,
                    qkv,
                    attention_out,
                    post_attention_norm,
                    router,
                    w13,
                    w2,
                ],
            ) => Ok(LayerParameters {
                input_norm,
                qkv,
                attention_out,
                post_attention_norm,
                router,
                w13,
                w2,
            }),
            _ => bail!("there are no parameters of layer {layer}"),
        }
    }

    /// The parameters of one layer, to add gradients to.
    pub(super) fn layer_mut(&mut self, layer: usize) -> Result<LayerParameters<&mut D::Float>> {
        match self
            .values
            .get_mut(1 + layer * PER_LAYER..1 + (layer + 1) * PER_LAYER)
        {
            Some(
                [
                    input_norm,
                    qkv,
                    attention_out,
                    post_attention_norm,
                    router,
                    w13,
                    w2,
                ],
            ) => Ok(LayerParameters {
                input_norm,
                qkv,
                attention_out,
                post_attention_norm,
                router,
                w13,
                w2,
            }),
            _ => bail!("there are no gradients of layer {layer}"),
        }
    }
}

/// The fused parameters of one layer, by name.
pub(super) struct LayerParameters<T> {
    /// `[C]`
    pub input_norm: T,
    /// `[(H + 2G) D, C]`
    pub qkv: T,
    /// `[C, H D]`
    pub attention_out: T,
    /// `[C]`
    pub post_attention_norm: T,
    /// `[E, C]`
    pub router: T,
    /// `[E, 2F, C]`, gate rows then up rows
    pub w13: T,
    /// `[E, C, F]`
    pub w2: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_tensors_cover_each_fused_parameter_once() {
        let mut config = ModelConfig::default_47m();
        (
            config.vocab_size,
            config.num_hidden_layers,
            config.num_key_value_heads,
        ) = (11, 2, 2);
        (
            config.hidden_size,
            config.intermediate_size,
            config.head_dim,
        ) = (12, 5, 4);
        let mut covered: Vec<Vec<u8>> = config
            .parameters()
            .iter()
            .map(|spec| vec![0; spec.len()])
            .collect();
        for tensor in config.tensors() {
            assert_eq!(
                tensor.decay,
                config.parameters()[tensor.parameter].decay,
                "{}",
                tensor.name
            );
            for count in &mut covered[tensor.parameter][tensor.offset..tensor.offset + tensor.len()]
            {
                *count += 1;
            }
        }
        assert!(covered.iter().flatten().all(|&count| count == 1));
        let total: usize = config.parameters().iter().map(ParameterSpec::len).sum();
        assert_eq!(total, config.parameter_count());
    }

    #[test]
    fn tensors_survive_fusing() {
        let mut config = ModelConfig::default_47m();
        (config.vocab_size, config.num_hidden_layers) = (7, 1);
        let mut next = 0.0;
        let mut originals = Vec::new();
        let fused = fused_from_hf(&config, &mut |tensor| {
            next += 1.0;
            originals.push((tensor.clone(), next));
            Ok(vec![next; tensor.len()])
        })
        .unwrap();
        for (tensor, value) in originals {
            assert!(
                hf_tensor(&config, &fused, &tensor)
                    .iter()
                    .all(|&v| v == value),
                "{}",
                tensor.name
            );
        }
        let error = fused_from_hf(&config, &mut |_| Ok(vec![0.0; 3]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("model.embed_tokens.weight has 3 values"),
            "{error}"
        );
    }
}
