//! Slow, obvious operations: every formula of [`Device`] as it is written there, sums in `f64`, whole softmax rows, nothing
//! kept that can be computed again. The case table (`ops::cases`) holds the fast devices to it; it is never optimised.

// Loops over named indices are the formulas; iterator chains would hide them.
#![allow(clippy::needless_range_loop)]

mod attention;
mod dense;
mod head;
mod moe;
mod optimizer;

use anyhow::{Context, Result};

use super::checks::{prefix, prefix_mut};
use super::{AdamState, AdamStep, AttentionShape, Balance, CachedText, Device, MoeShape, Routing};

/// The reference device: `f32` storage on the host, one thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceDevice;

/// Sum of products in `f64`.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// `target += value`, rounded once.
fn add(target: &mut f32, value: f64) {
    *target = (f64::from(*target) + value) as f32;
}

fn zeros<T: Clone + Default>(len: usize) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(len)
        .with_context(|| format!("zeros: no memory for {len} elements"))?;
    buffer.resize(len, T::default());
    Ok(buffer)
}

fn upload<T: Copy>(values: &[T], buffer: &mut [T]) -> Result<()> {
    prefix_mut("upload", "buffer", buffer, &[values.len()])?.copy_from_slice(values);
    Ok(())
}

fn download<T: Copy>(buffer: &[T], len: usize) -> Result<Vec<T>> {
    Ok(prefix("download", "buffer", buffer, &[len])?.to_vec())
}

fn clear(buffer: &mut [f32], len: usize) -> Result<()> {
    prefix_mut("clear", "buffer", buffer, &[len])?.fill(0.0);
    Ok(())
}

impl Device for ReferenceDevice {
    type Float = Vec<f32>;
    type Single = Vec<f32>;
    type Index = Vec<u32>;
    type Host = Vec<f32>;
    type Graph = ();

    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn zeros_float(&self, len: usize) -> Result<Vec<f32>> {
        zeros(len)
    }
    fn zeros_single(&self, len: usize) -> Result<Vec<f32>> {
        zeros(len)
    }
    fn zeros_index(&self, len: usize) -> Result<Vec<u32>> {
        zeros(len)
    }
    fn upload_float(&self, values: &[f32], buffer: &mut Vec<f32>) -> Result<()> {
        upload(values, buffer)
    }
    fn host_buffer(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn adopt_float(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
    fn upload_single(&self, values: &[f32], buffer: &mut Vec<f32>) -> Result<()> {
        upload(values, buffer)
    }
    fn upload_index(&self, values: &[u32], buffer: &mut Vec<u32>) -> Result<()> {
        upload(values, buffer)
    }
    fn download_float(&self, buffer: &Vec<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }
    fn download_single(&self, buffer: &Vec<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }
    fn download_index(&self, buffer: &Vec<u32>, len: usize) -> Result<Vec<u32>> {
        download(buffer, len)
    }
    fn clear_float(&self, buffer: &mut Vec<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }
    fn clear_single(&self, buffer: &mut Vec<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }

    fn copy_single(&self, from: &Vec<f32>, len: usize, to: &mut Vec<f32>, at: usize) -> Result<()> {
        let op = "copy_single";
        let from = prefix(op, "from", from, &[len])?;
        prefix_mut(op, "to", to, &[at.saturating_add(len)])?[at..].copy_from_slice(from);
        Ok(())
    }

    fn embedding_forward(
        &self,
        table: &Vec<f32>,
        tokens: &Vec<u32>,
        out: &mut Vec<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        dense::embedding_forward(table, tokens, out, count, vocab, hidden)
    }

    fn embedding_backward(
        &self,
        grad_out: &Vec<f32>,
        tokens: &Vec<u32>,
        grad_table: &mut Vec<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        dense::embedding_backward(grad_out, tokens, grad_table, count, vocab, hidden)
    }

    fn rmsnorm_forward(
        &self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        epsilon: f32,
        out: &mut Vec<f32>,
        inv_rms: &mut Vec<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        dense::rmsnorm_forward(x, weight, epsilon, out, inv_rms, rows, cols)
    }

    fn rmsnorm_backward(
        &self,
        grad_out: &Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        inv_rms: &Vec<f32>,
        grad_x: &mut Vec<f32>,
        grad_weight: &mut Vec<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        dense::rmsnorm_backward(
            grad_out,
            x,
            weight,
            inv_rms,
            grad_x,
            grad_weight,
            rows,
            cols,
        )
    }

    fn linear_forward(
        &self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        residual: Option<&Vec<f32>>,
        y: &mut Vec<f32>,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        dense::linear_forward(
            x,
            weight,
            residual.map(Vec::as_slice),
            y,
            rows,
            inputs,
            outputs,
        )
    }

    fn linear_backward_input(
        &self,
        grad_y: &Vec<f32>,
        weight: &Vec<f32>,
        grad_x: &mut Vec<f32>,
        accumulate: bool,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        dense::linear_backward_input(grad_y, weight, grad_x, accumulate, rows, inputs, outputs)
    }

    fn linear_backward_weight(
        &self,
        grad_y: &Vec<f32>,
        x: &Vec<f32>,
        grad_weight: &mut Vec<f32>,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        dense::linear_backward_weight(grad_y, x, grad_weight, rows, inputs, outputs)
    }

    fn rope_forward(
        &self,
        qkv: &mut Vec<f32>,
        positions: &Vec<u32>,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()> {
        attention::rope("rope_forward", qkv, positions, theta, 1.0, shape, count)
    }

    fn rope_backward(
        &self,
        grad_qkv: &mut Vec<f32>,
        positions: &Vec<u32>,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()> {
        attention::rope(
            "rope_backward",
            grad_qkv,
            positions,
            theta,
            -1.0,
            shape,
            count,
        )
    }

    fn attention_forward(
        &self,
        qkv: &Vec<f32>,
        segments: &Vec<u32>,
        out: &mut Vec<f32>,
        log_sum: &mut Vec<f32>,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()> {
        attention::attention_forward(qkv, segments, out, log_sum, shape, segment_count, count)
    }

    fn attention_backward(
        &self,
        grad_out: &Vec<f32>,
        qkv: &Vec<f32>,
        out: &Vec<f32>,
        log_sum: &Vec<f32>,
        segments: &Vec<u32>,
        grad_qkv: &mut Vec<f32>,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()> {
        attention::attention_backward(
            grad_out,
            qkv,
            out,
            log_sum,
            segments,
            grad_qkv,
            shape,
            segment_count,
            count,
        )
    }

    fn attention_cached(
        &self,
        qkv: &Vec<f32>,
        keys: &mut Vec<f32>,
        values: &mut Vec<f32>,
        out: &mut Vec<f32>,
        shape: &AttentionShape,
        past: usize,
        count: usize,
        capacity: usize,
    ) -> Result<()> {
        attention::attention_cached(qkv, keys, values, out, shape, past, count, capacity)
    }

    fn attention_cached_texts(
        &self,
        qkv: &Vec<f32>,
        texts: &mut [CachedText<'_, Self>],
        out: &mut Vec<f32>,
        shape: &AttentionShape,
        capacity: usize,
    ) -> Result<()> {
        attention::attention_cached_texts(qkv, texts, out, shape, capacity)
    }

    fn router_forward(
        &self,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        routing: &mut Routing<Self>,
        balance: &mut Balance<Self>,
        groups: &Vec<u32>,
        group_count: usize,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        moe::router_forward(
            x,
            weight,
            routing,
            balance,
            groups,
            group_count,
            shape,
            count,
        )
    }

    fn router_backward(
        &self,
        grad_weights: &Vec<f32>,
        x: &Vec<f32>,
        weight: &Vec<f32>,
        routing: &Routing<Self>,
        balance: &Balance<Self>,
        groups: &Vec<u32>,
        group_count: usize,
        layers: usize,
        balance_scale: f32,
        grad_x: &mut Vec<f32>,
        grad_weight: &mut Vec<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        moe::router_backward(
            grad_weights,
            x,
            weight,
            routing,
            balance,
            groups,
            group_count,
            layers,
            balance_scale,
            grad_x,
            grad_weight,
            shape,
            count,
        )
    }

    fn experts_forward(
        &self,
        x: &Vec<f32>,
        routing: &Routing<Self>,
        w13: &Vec<f32>,
        w2: &Vec<f32>,
        residual: &Vec<f32>,
        gate_up: &mut Vec<f32>,
        out: &mut Vec<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        moe::experts_forward(x, routing, w13, w2, residual, gate_up, out, shape, count)
    }

    fn experts_backward(
        &self,
        grad_out: &Vec<f32>,
        x: &Vec<f32>,
        routing: &Routing<Self>,
        w13: &Vec<f32>,
        w2: &Vec<f32>,
        gate_up: &Vec<f32>,
        grad_x: &mut Vec<f32>,
        grad_w13: &mut Vec<f32>,
        grad_w2: &mut Vec<f32>,
        grad_weights: &mut Vec<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        moe::experts_backward(
            grad_out,
            x,
            routing,
            w13,
            w2,
            gate_up,
            grad_x,
            grad_w13,
            grad_w2,
            grad_weights,
            shape,
            count,
        )
    }

    fn head_loss(
        &self,
        x: &Vec<f32>,
        table: &Vec<f32>,
        targets: &Vec<u32>,
        scale: &Vec<f32>,
        loss: &mut Vec<f32>,
        grad_x: &mut Vec<f32>,
        grad_table: &mut Vec<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        head::head_loss(
            x, table, targets, scale, loss, grad_x, grad_table, count, vocab, hidden,
        )
    }

    fn head_losses(
        &self,
        x: &Vec<f32>,
        table: &Vec<f32>,
        targets: &Vec<u32>,
        losses: &mut Vec<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        head::head_losses(x, table, targets, losses, count, vocab, hidden)
    }

    fn head_logits(
        &self,
        x: &Vec<f32>,
        table: &Vec<f32>,
        logits: &mut Vec<f32>,
        first_row: usize,
        rows: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        head::head_logits(x, table, logits, first_row, rows, vocab, hidden)
    }

    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Self>> {
        Ok(optimizer::adam_state(values))
    }

    fn global_norm(&self, gradients: &[(&Vec<f32>, usize)], norm: &mut Vec<f32>) -> Result<()> {
        optimizer::global_norm(gradients, norm)
    }

    fn adamw(
        &self,
        weight: &mut Vec<f32>,
        gradient: &mut Vec<f32>,
        state: &mut AdamState<Self>,
        norm: &Vec<f32>,
        rate: &Vec<f32>,
        step: &AdamStep,
        len: usize,
    ) -> Result<()> {
        optimizer::adamw(weight, gradient, state, norm, rate, step, len)
    }
}
