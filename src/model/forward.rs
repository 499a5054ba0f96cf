//! The forward pass: pre-norm blocks of attention and experts on a residual stream.

use super::parameters::LayerParameters;
use super::workspace::{Inputs, LayerActivations, clear_balance};
use super::{Batch, KvCache, Model, ModelConfig, Workspace};
use crate::ops::{
    AttentionDecode, AttentionForward, AttentionPrefill, Balance, Buffer, Device, EmbeddingForward,
    ExpertsForward, HeadLogits, HeadLosses, LinearForward, Offsets, Operations, RmsNormForward,
    RopeForward, RouterForward, issue,
};
use anyhow::{Result, ensure};

/// Where a pass finds its keys and values.
pub(super) enum KvSource<'a, D: Device> {
    /// In the batch itself, which is cut into so many segments.
    Segments(usize),
    /// In one sequence's cache, which holds `past` positions before the pass.
    Prefill {
        cache: &'a mut KvCache<D>,
        past: usize,
    },
    /// In a cache per row: each row is the next token of its own sequence.
    Decode(&'a mut [&'a mut KvCache<D>]),
}

/// Sizes of the pass under way.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub config: &'a ModelConfig,
    pub tokens: usize,
    pub groups: usize,
}

impl<D: Operations> Model<D> {
    /// Cross-entropy of each position `[T]`, natural logarithm; 0 where the target carries no loss.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, or the device fails.
    pub fn losses(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let count = self.forward_batch(device, batch, workspace)?;
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        issue(
            device,
            HeadLosses {
                x: workspace.normed.matrix(count, hidden),
                table: self.parameters.embedding().matrix(vocab, hidden),
                targets: workspace.inputs.targets.vector(count),
                losses: workspace.losses.vector_mut(count),
            },
        )?;
        device.download_single(&workspace.losses, count)
    }

    /// All logits `[T, V]`: for tests and small inputs, since the whole matrix is made.
    ///
    /// # Errors
    /// If the batch is malformed or larger than the workspace, or the device fails.
    pub fn logits(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let count = self.forward_batch(device, batch, workspace)?;
        let mut logits = device.zeros_single(count * self.config.vocab_size)?;
        self.head(device, &workspace.normed, 0, count, &mut logits)?;
        device.download_single(&logits, count * self.config.vocab_size)
    }

    /// Logits `[rows, V]` of `rows` rows of the last norm's output, from `first_row` on.
    fn head(
        &self,
        device: &D,
        normed: &D::Float,
        first_row: usize,
        rows: usize,
        logits: &mut D::Single,
    ) -> Result<()> {
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        issue(
            device,
            HeadLogits {
                x: normed.matrix(first_row + rows, hidden),
                table: self.parameters.embedding().matrix(vocab, hidden),
                logits: logits.matrix_mut(rows, vocab),
                first_row,
            },
        )
    }

    /// A forward pass that nothing will be differentiated from; returns the number of tokens.
    pub(super) fn forward_batch(
        &self,
        device: &D,
        batch: &Batch,
        workspace: &mut Workspace<D>,
    ) -> Result<usize> {
        self.check_workspace(workspace)?;
        workspace.upload(device, batch)?;
        let pass = Pass {
            config: &self.config,
            tokens: batch.tokens.len(),
            groups: batch.groups.len() - 1,
        };
        let source = &mut KvSource::Segments(batch.segments.len() - 1);
        self.forward(device, workspace, None, pass, source)?;
        Ok(pass.tokens)
    }

    /// Appends `tokens` to the cached sequence and returns the logits `[V]` that follow the last of
    /// them. More tokens than the workspace holds are taken in several passes. After an error the
    /// cache is as long as before.
    ///
    /// # Errors
    /// If there are no tokens, the cache is too small, a token is outside the vocabulary, or the
    /// device fails.
    pub fn prefill(
        &self,
        device: &D,
        tokens: &[u32],
        cache: &mut KvCache<D>,
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        self.check_workspace(workspace)?;
        cache.check(config, tokens.len())?;
        super::check::check_tokens(config, tokens)?;
        let mut past = cache.len();
        let mut last = 0;
        for piece in tokens.chunks(workspace.max_tokens) {
            let count = piece.len();
            let positions: Vec<u32> = (past as u32..(past + count) as u32).collect();
            let source = &mut KvSource::Prefill { cache, past };
            self.forward_tokens(device, piece, &positions, workspace, source)?;
            past += count;
            last = count - 1;
        }
        self.head(
            device,
            &workspace.normed,
            last,
            1,
            &mut workspace.last_logits,
        )?;
        let logits = device.download_single(&workspace.last_logits, config.vocab_size)?;
        cache.set_len(past);
        Ok(logits)
    }

    /// Appends one token to each of several cached sequences in one pass and returns the logits
    /// `[sequences, V]` that follow. Each sequence's are those of [`Model::prefill`] with its token
    /// alone, to the bit where the device's products do not depend on the number of rows (the
    /// CPU's, up to 64 rows). After an error the caches are as long as before.
    ///
    /// # Errors
    /// If there are no sequences, not one token each, more than the workspace holds, caches of
    /// unequal capacity or a full one, a token is outside the vocabulary, or the device fails.
    pub fn decode_batch(
        &self,
        device: &D,
        tokens: &[u32],
        caches: &mut [&mut KvCache<D>],
        workspace: &mut Workspace<D>,
    ) -> Result<Vec<f32>> {
        let count = tokens.len();
        self.check_workspace(workspace)?;
        self.check_caches(tokens, caches, workspace)?;
        let positions: Vec<u32> = caches.iter().map(|cache| cache.len() as u32).collect();
        // The caches are borrowed for the pass only.
        let mut borrowed: Vec<&mut KvCache<D>> =
            caches.iter_mut().map(|cache| &mut **cache).collect();
        let source = &mut KvSource::Decode(&mut borrowed);
        self.forward_tokens(device, tokens, &positions, workspace, source)?;
        self.head(
            device,
            &workspace.normed,
            0,
            count,
            &mut workspace.last_logits,
        )?;
        let len = count * self.config.vocab_size;
        let logits = device.download_single(&workspace.last_logits, len)?;
        for cache in caches {
            cache.set_len(cache.len() + 1);
        }
        Ok(logits)
    }

    fn check_caches(
        &self,
        tokens: &[u32],
        caches: &[&mut KvCache<D>],
        workspace: &Workspace<D>,
    ) -> Result<()> {
        let (count, most) = (caches.len(), workspace.max_logit_rows);
        ensure!(
            count == tokens.len() && (1..=most).contains(&count),
            "{} tokens for {count} sequences, expected one each of at most {most} sequences",
            tokens.len()
        );
        for cache in caches {
            cache.check(&self.config, 1)?;
            ensure!(
                cache.capacity() == caches[0].capacity(),
                "the sequences' caches hold {} and {} tokens, expected equal ones",
                caches[0].capacity(),
                cache.capacity()
            );
        }
        super::check::check_tokens(&self.config, tokens)
    }

    /// A forward pass over tokens that continue cached sequences.
    fn forward_tokens(
        &self,
        device: &D,
        tokens: &[u32],
        positions: &[u32],
        workspace: &mut Workspace<D>,
        source: &mut KvSource<'_, D>,
    ) -> Result<()> {
        let count = tokens.len();
        device.upload_index(tokens, &mut workspace.inputs.tokens)?;
        device.upload_index(positions, &mut workspace.inputs.positions)?;
        device.upload_index(&[0, count as u32], &mut workspace.inputs.groups)?;
        let pass = Pass {
            config: &self.config,
            tokens: count,
            groups: 1,
        };
        self.forward(device, workspace, None, pass, source)
    }

    /// Runs all layers and the last norm over what lies in `workspace.inputs`. The router's sums go
    /// to the training balance of that number, or to scratch.
    pub(super) fn forward(
        &self,
        device: &D,
        workspace: &mut Workspace<D>,
        training_balance: Option<usize>,
        pass: Pass<'_>,
        source: &mut KvSource<'_, D>,
    ) -> Result<()> {
        let Workspace {
            inputs,
            residuals,
            layers,
            normed,
            normed_inv_rms,
            scratch_balance,
            training,
            ..
        } = workspace;
        let Pass {
            config,
            tokens,
            groups,
        } = pass;
        let balance = match (training, training_balance) {
            (Some(training), Some(index)) => &mut training.balances[index],
            _ => {
                clear_balance(device, scratch_balance, groups * config.num_local_experts)?;
                scratch_balance
            }
        };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        issue(
            device,
            EmbeddingForward {
                table: self.parameters.embedding().matrix(vocab, hidden),
                tokens: inputs.tokens.vector(tokens),
                out: residuals[0].matrix_mut(tokens, hidden),
            },
        )?;
        // For inference there is one residual buffer and one set of activations, which every layer
        // overwrites.
        let (residual_count, kept) = (residuals.len(), layers.len());
        for index in 0..config.num_hidden_layers {
            let mut layer = Layer {
                device,
                pass,
                index,
                weights: self.parameters.layer(index)?,
                inputs,
                activations: &mut layers[index % kept],
            };
            layer.attention(&residuals[index % residual_count], source)?;
            layer.experts(balance, &mut residuals[(index + 1) % residual_count])?;
        }
        let last = &residuals[config.num_hidden_layers % residual_count];
        issue(
            device,
            RmsNormForward {
                x: last.matrix(tokens, hidden),
                weight: self.parameters.final_norm().vector(hidden),
                epsilon: config.rms_norm_eps,
                out: normed.matrix_mut(tokens, hidden),
                inv_rms: normed_inv_rms.vector_mut(tokens),
            },
        )
    }

    /// Refuses a workspace made for other sizes, whose buffers would be too short or, worse, long
    /// enough.
    pub(super) fn check_workspace(&self, workspace: &Workspace<D>) -> Result<()> {
        ensure!(
            workspace.config == self.config,
            "the workspace was made for {:?}, the model is {:?}",
            workspace.config,
            self.config
        );
        Ok(())
    }
}

/// One layer of a pass.
struct Layer<'a, D: Device> {
    device: &'a D,
    pass: Pass<'a>,
    index: usize,
    weights: LayerParameters<&'a D::Float>,
    inputs: &'a Inputs<D>,
    activations: &'a mut LayerActivations<D>,
}

impl<D: Operations> Layer<'_, D> {
    /// `middle = residual + Wo attention(rope(Wqkv rmsnorm(residual)))`
    fn attention(&mut self, residual: &D::Float, source: &mut KvSource<'_, D>) -> Result<()> {
        let (device, weights) = (self.device, &self.weights);
        let Pass { config, tokens, .. } = self.pass;
        let (shape, hidden) = (config.attention_shape(), config.hidden_size);
        let (qkv_size, out_size) = (shape.qkv_size(), shape.out_size());
        let LayerActivations {
            attention_input,
            attention_inv_rms,
            qkv,
            ..
        } = &mut *self.activations;
        issue(
            device,
            RmsNormForward {
                x: residual.matrix(tokens, hidden),
                weight: weights.input_norm.vector(hidden),
                epsilon: config.rms_norm_eps,
                out: attention_input.matrix_mut(tokens, hidden),
                inv_rms: attention_inv_rms.vector_mut(tokens),
            },
        )?;
        issue(
            device,
            LinearForward {
                x: attention_input.matrix(tokens, hidden),
                weight: weights.qkv.matrix(qkv_size, hidden),
                residual: None,
                y: qkv.matrix_mut(tokens, qkv_size),
            },
        )?;
        issue(
            device,
            RopeForward {
                qkv: qkv.matrix_mut(tokens, qkv_size),
                positions: self.inputs.positions.vector(tokens),
                theta: config.rope_theta,
                shape,
            },
        )?;
        self.attend(source)?;
        let LayerActivations {
            attention, middle, ..
        } = &mut *self.activations;
        issue(
            device,
            LinearForward {
                x: attention.matrix(tokens, out_size),
                weight: self.weights.attention_out.matrix(hidden, out_size),
                residual: Some(residual.matrix(tokens, hidden)),
                y: middle.matrix_mut(tokens, hidden),
            },
        )
    }

    /// `attention =` what the rows of `qkv` find in the keys and values of their source.
    fn attend(&mut self, source: &mut KvSource<'_, D>) -> Result<()> {
        let (device, index) = (self.device, self.index);
        let Pass { config, tokens, .. } = self.pass;
        let shape = config.attention_shape();
        let LayerActivations {
            qkv,
            attention,
            log_sum,
            ..
        } = &mut *self.activations;
        let qkv = qkv.matrix(tokens, shape.qkv_size());
        let out = attention.matrix_mut(tokens, shape.out_size());
        match source {
            KvSource::Segments(parts) => issue(
                device,
                AttentionForward {
                    qkv,
                    segments: Offsets::new(&self.inputs.segments, *parts),
                    out,
                    log_sum: log_sum.matrix_mut(tokens, shape.heads),
                    shape,
                },
            ),
            KvSource::Prefill { cache, past } => issue(
                device,
                AttentionPrefill {
                    qkv,
                    sequence: cache.sequence(index, *past)?,
                    out,
                    shape,
                },
            ),
            KvSource::Decode(caches) => {
                let sequences = caches.iter_mut().map(|cache| {
                    let past = cache.len();
                    cache.sequence(index, past)
                });
                issue(
                    device,
                    AttentionDecode {
                        qkv,
                        sequences: sequences.collect::<Result<_>>()?,
                        out,
                        shape,
                    },
                )
            }
        }
    }

    /// `next = middle + experts(rmsnorm(middle))`
    fn experts(&mut self, balance: &mut Balance<D::Single>, next: &mut D::Float) -> Result<()> {
        let (device, weights) = (self.device, &self.weights);
        let Pass {
            config,
            tokens,
            groups,
        } = self.pass;
        let shape = config.moe_shape();
        let (hidden, experts) = (shape.hidden, shape.experts);
        let (inner, slots) = (shape.intermediate, tokens * shape.top_k);
        let LayerActivations {
            middle,
            moe_input,
            moe_inv_rms,
            routing,
            gate_up,
            ..
        } = &mut *self.activations;
        issue(
            device,
            RmsNormForward {
                x: middle.matrix(tokens, hidden),
                weight: weights.post_attention_norm.vector(hidden),
                epsilon: config.rms_norm_eps,
                out: moe_input.matrix_mut(tokens, hidden),
                inv_rms: moe_inv_rms.vector_mut(tokens),
            },
        )?;
        issue(
            device,
            RouterForward {
                x: moe_input.matrix(tokens, hidden),
                weight: weights.router.matrix(experts, hidden),
                routing,
                balance,
                groups: Offsets::new(&self.inputs.groups, groups),
                shape,
            },
        )?;
        issue(
            device,
            ExpertsForward {
                x: moe_input.matrix(tokens, hidden),
                routing,
                w13: weights.w13.matrix(experts * 2 * inner, hidden),
                w2: weights.w2.matrix(experts * hidden, inner),
                residual: middle.matrix(tokens, hidden),
                gate_up: gate_up.matrix_mut(slots, 2 * inner),
                out: next.matrix_mut(tokens, hidden),
                shape,
            },
        )
    }
}
