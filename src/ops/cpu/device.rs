//! [`Device`] for the CPU: checks what each operation is given, then calls its module.

use super::gemm::{Factors, Matrix, Start, gemm};
use super::kernel::{Level, bf16};
use super::memory::{self, Buffer};
use super::{CpuDevice, attention, head, moe, norm, optimizer, small};
use crate::ops::checks::{
    RoutingIndices, element_count, expect_adam_step, expect_attention_shape, expect_len,
    expect_moe_shape, expect_nonzero, expect_offsets, expect_room, expect_routing,
    expect_targets_in_range, expect_tokens_in_range, prefix, prefix_mut,
};
use crate::ops::{
    AdamState, AdamStep, AttentionShape, Balance, CachedText, Device, MoeShape, Routing,
};
use anyhow::{Result, bail, ensure};
use rayon::prelude::*;

/// Positions from which a caller's mistake is likelier than a text: 2^20 positions of angles take 256 MB at a head size of 64.
const MAX_POSITION: u32 = 1 << 20;

/// Elements that fit into a core's second cache: a smaller buffer is cleared where it will be read.
const IN_CACHE: usize = 1 << 18;

fn upload<T: Copy>(values: &[T], buffer: &mut [T]) -> Result<()> {
    prefix_mut("upload", "buffer", buffer, &[values.len()])?.copy_from_slice(values);
    Ok(())
}

fn download<T: Copy>(buffer: &[T], len: usize) -> Result<Vec<T>> {
    Ok(prefix("download", "buffer", buffer, &[len])?.to_vec())
}

fn clear(buffer: &mut [f32], len: usize) -> Result<()> {
    let buffer = prefix_mut("clear", "buffer", buffer, &[len])?;
    if len < IN_CACHE {
        buffer.fill(0.0);
    } else {
        buffer.par_chunks_mut(1 << 16).for_each(memory::clear);
    }
    Ok(())
}

/// The routing made for `count` tokens, checked: after it every index is in range.
fn check_routing(
    op: &str,
    routing: &Routing<CpuDevice>,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let indices = RoutingIndices {
        experts: &routing.experts,
        offsets: &routing.offsets,
        slot_source: &routing.slot_source,
        source_slot: &routing.source_slot,
    };
    expect_routing(op, indices, shape, count)?;
    expect_len(
        op,
        "routing.weights",
        routing.weights.len(),
        count * shape.top_k,
    )?;
    expect_len(
        op,
        "routing.probs",
        routing.probs.len(),
        count * shape.experts,
    )
}

impl Device for CpuDevice {
    type Float = Buffer<f32>;
    type Single = Buffer<f32>;
    type Index = Buffer<u32>;
    type Host = Buffer<f32>;
    type Graph = ();

    fn name(&self) -> String {
        let level = match Level::detect() {
            Level::Avx512 => "AVX-512",
            Level::Avx2 => "AVX2",
            Level::Portable => "portable",
        };
        let factors = match self.factors {
            Factors::Single => "",
            Factors::Bf16 if bf16::has_instructions(Level::detect()) => ", bf16 products",
            Factors::Bf16 => ", emulated bf16 products",
        };
        let threads = rayon::current_num_threads();
        format!(
            "cpu ({level}{factors}, {threads} thread{})",
            if threads == 1 { "" } else { "s" }
        )
    }

    fn zeros_float(&self, len: usize) -> Result<Buffer<f32>> {
        Buffer::zeroed(len)
    }

    fn zeros_single(&self, len: usize) -> Result<Buffer<f32>> {
        Buffer::zeroed(len)
    }

    fn zeros_index(&self, len: usize) -> Result<Buffer<u32>> {
        Buffer::zeroed(len)
    }

    fn upload_float(&self, values: &[f32], buffer: &mut Buffer<f32>) -> Result<()> {
        upload(values, buffer)
    }

    fn host_buffer(&self, len: usize) -> Result<Buffer<f32>> {
        Buffer::zeroed(len)
    }

    fn adopt_float(&self, values: Buffer<f32>) -> Result<Buffer<f32>> {
        Ok(values)
    }

    fn upload_single(&self, values: &[f32], buffer: &mut Buffer<f32>) -> Result<()> {
        upload(values, buffer)
    }

    fn upload_index(&self, values: &[u32], buffer: &mut Buffer<u32>) -> Result<()> {
        upload(values, buffer)
    }

    fn download_float(&self, buffer: &Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }

    fn download_single(&self, buffer: &Buffer<f32>, len: usize) -> Result<Vec<f32>> {
        download(buffer, len)
    }

    fn download_index(&self, buffer: &Buffer<u32>, len: usize) -> Result<Vec<u32>> {
        download(buffer, len)
    }

    fn clear_float(&self, buffer: &mut Buffer<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }

    fn clear_single(&self, buffer: &mut Buffer<f32>, len: usize) -> Result<()> {
        clear(buffer, len)
    }

    fn copy_single(
        &self,
        from: &Buffer<f32>,
        len: usize,
        to: &mut Buffer<f32>,
        at: usize,
    ) -> Result<()> {
        let op = "copy_single";
        let from = prefix(op, "from", from, &[len])?;
        prefix_mut(op, "to", to, &[at.saturating_add(len)])?[at..].copy_from_slice(from);
        Ok(())
    }

    fn embedding_forward(
        &self,
        table: &Buffer<f32>,
        tokens: &Buffer<u32>,
        out: &mut Buffer<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        let op = "embedding_forward";
        expect_nonzero(op, "the hidden size", hidden)?;
        let table = prefix(op, "table", table, &[vocab, hidden])?;
        let tokens = prefix(op, "tokens", tokens, &[count])?;
        expect_tokens_in_range(op, "tokens", tokens, vocab)?;
        let out = prefix_mut(op, "out", out, &[count, hidden])?;
        for (row, &token) in out.chunks_exact_mut(hidden).zip(tokens) {
            row.copy_from_slice(&table[token as usize * hidden..][..hidden]);
        }
        Ok(())
    }

    fn embedding_backward(
        &self,
        grad_out: &Buffer<f32>,
        tokens: &Buffer<u32>,
        grad_table: &mut Buffer<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        let op = "embedding_backward";
        expect_nonzero(op, "the hidden size", hidden)?;
        let grad_out = prefix(op, "grad_out", grad_out, &[count, hidden])?;
        let tokens = prefix(op, "tokens", tokens, &[count])?;
        expect_tokens_in_range(op, "tokens", tokens, vocab)?;
        let grad_table = prefix_mut(op, "grad_table", grad_table, &[vocab, hidden])?;
        for (row, &token) in grad_out.chunks_exact(hidden).zip(tokens) {
            super::simd::add_scaled(
                &mut grad_table[token as usize * hidden..][..hidden],
                1.0,
                row,
            );
        }
        Ok(())
    }

    fn rmsnorm_forward(
        &self,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        epsilon: f32,
        out: &mut Buffer<f32>,
        inv_rms: &mut Buffer<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        let op = "rmsnorm_forward";
        expect_nonzero(op, "the number of columns", cols)?;
        let x = prefix(op, "x", x, &[rows, cols])?;
        let weight = prefix(op, "weight", weight, &[cols])?;
        let out = prefix_mut(op, "out", out, &[rows, cols])?;
        let inv_rms = prefix_mut(op, "inv_rms", inv_rms, &[rows])?;
        norm::forward(x, weight, epsilon, out, inv_rms, cols);
        Ok(())
    }

    fn rmsnorm_backward(
        &self,
        grad_out: &Buffer<f32>,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        inv_rms: &Buffer<f32>,
        grad_x: &mut Buffer<f32>,
        grad_weight: &mut Buffer<f32>,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        let op = "rmsnorm_backward";
        expect_nonzero(op, "the number of columns", cols)?;
        let grad_out = prefix(op, "grad_out", grad_out, &[rows, cols])?;
        let x = prefix(op, "x", x, &[rows, cols])?;
        let weight = prefix(op, "weight", weight, &[cols])?;
        let inv_rms = prefix(op, "inv_rms", inv_rms, &[rows])?;
        let grad_x = prefix_mut(op, "grad_x", grad_x, &[rows, cols])?;
        let grad_weight = prefix_mut(op, "grad_weight", grad_weight, &[cols])?;
        norm::backward(
            &self.scratch,
            grad_out,
            x,
            weight,
            inv_rms,
            grad_x,
            grad_weight,
            cols,
        );
        Ok(())
    }

    fn linear_forward(
        &self,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        residual: Option<&Buffer<f32>>,
        y: &mut Buffer<f32>,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        let op = "linear_forward";
        let x = prefix(op, "x", x, &[rows, inputs])?;
        let weight = prefix(op, "weight", weight, &[outputs, inputs])?;
        let y = prefix_mut(op, "y", y, &[rows, outputs])?;
        let residual = residual
            .map(|r| prefix(op, "residual", r, &[rows, outputs]))
            .transpose()?;
        if small::fits(rows) && inputs > 0 {
            small::linear(x, weight, residual, y, rows, inputs, outputs);
            return Ok(());
        }
        let start = residual.map_or(Start::Zero, |r| Start::From(r, outputs));
        gemm(
            self.factors,
            rows,
            outputs,
            inputs,
            Matrix::rows(x, inputs),
            Matrix::transposed(weight, inputs),
            start,
            y,
            outputs,
        );
        Ok(())
    }

    fn linear_backward_input(
        &self,
        grad_y: &Buffer<f32>,
        weight: &Buffer<f32>,
        grad_x: &mut Buffer<f32>,
        accumulate: bool,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        let op = "linear_backward_input";
        let grad_y = prefix(op, "grad_y", grad_y, &[rows, outputs])?;
        let weight = prefix(op, "weight", weight, &[outputs, inputs])?;
        let grad_x = prefix_mut(op, "grad_x", grad_x, &[rows, inputs])?;
        let start = if accumulate {
            Start::Accumulate
        } else {
            Start::Zero
        };
        gemm(
            self.factors,
            rows,
            inputs,
            outputs,
            Matrix::rows(grad_y, outputs),
            Matrix::rows(weight, inputs),
            start,
            grad_x,
            inputs,
        );
        Ok(())
    }

    fn linear_backward_weight(
        &self,
        grad_y: &Buffer<f32>,
        x: &Buffer<f32>,
        grad_weight: &mut Buffer<f32>,
        rows: usize,
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        let op = "linear_backward_weight";
        let grad_y = prefix(op, "grad_y", grad_y, &[rows, outputs])?;
        let x = prefix(op, "x", x, &[rows, inputs])?;
        let grad_weight = prefix_mut(op, "grad_weight", grad_weight, &[outputs, inputs])?;
        let left = Matrix::transposed(grad_y, outputs);
        gemm(
            self.factors,
            outputs,
            inputs,
            rows,
            left,
            Matrix::rows(x, inputs),
            Start::Accumulate,
            grad_weight,
            inputs,
        );
        Ok(())
    }

    fn rope_forward(
        &self,
        qkv: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()> {
        self.rotate("rope_forward", qkv, positions, theta, shape, count, false)
    }

    fn rope_backward(
        &self,
        grad_qkv: &mut Buffer<f32>,
        positions: &Buffer<u32>,
        theta: f32,
        shape: &AttentionShape,
        count: usize,
    ) -> Result<()> {
        self.rotate(
            "rope_backward",
            grad_qkv,
            positions,
            theta,
            shape,
            count,
            true,
        )
    }

    fn attention_forward(
        &self,
        qkv: &Buffer<f32>,
        segments: &Buffer<u32>,
        out: &mut Buffer<f32>,
        log_sum: &mut Buffer<f32>,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()> {
        let op = "attention_forward";
        expect_attention_shape(op, shape)?;
        let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
        let segments = expect_offsets(op, "segments", segments, segment_count, count)?;
        let out = prefix_mut(op, "out", out, &[count, shape.out_size()])?;
        let log_sum = prefix_mut(op, "log_sum", log_sum, &[count, shape.heads])?;
        attention::forward(&self.scratch, qkv, segments, out, log_sum, shape);
        Ok(())
    }

    fn attention_backward(
        &self,
        grad_out: &Buffer<f32>,
        qkv: &Buffer<f32>,
        out: &Buffer<f32>,
        log_sum: &Buffer<f32>,
        segments: &Buffer<u32>,
        grad_qkv: &mut Buffer<f32>,
        shape: &AttentionShape,
        segment_count: usize,
        count: usize,
    ) -> Result<()> {
        let op = "attention_backward";
        expect_attention_shape(op, shape)?;
        let grad_out = prefix(op, "grad_out", grad_out, &[count, shape.out_size()])?;
        let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
        let out = prefix(op, "out", out, &[count, shape.out_size()])?;
        let log_sum = prefix(op, "log_sum", log_sum, &[count, shape.heads])?;
        let segments = expect_offsets(op, "segments", segments, segment_count, count)?;
        let grad_qkv = prefix_mut(op, "grad_qkv", grad_qkv, &[count, shape.qkv_size()])?;
        attention::backward(
            &self.scratch,
            grad_out,
            qkv,
            out,
            log_sum,
            segments,
            grad_qkv,
            shape,
        );
        Ok(())
    }

    fn attention_cached(
        &self,
        qkv: &Buffer<f32>,
        keys: &mut Buffer<f32>,
        values: &mut Buffer<f32>,
        out: &mut Buffer<f32>,
        shape: &AttentionShape,
        past: usize,
        count: usize,
        capacity: usize,
    ) -> Result<()> {
        let op = "attention_cached";
        expect_attention_shape(op, shape)?;
        expect_room(op, past, count, capacity)?;
        let qkv = prefix(op, "qkv", qkv, &[count, shape.qkv_size()])?;
        let keys = prefix_mut(op, "keys", keys, &[capacity, shape.kv_size()])?;
        let values = prefix_mut(op, "values", values, &[capacity, shape.kv_size()])?;
        let out = prefix_mut(op, "out", out, &[count, shape.out_size()])?;
        attention::cached(&self.scratch, qkv, keys, values, out, shape, past);
        Ok(())
    }

    fn attention_cached_texts(
        &self,
        qkv: &Buffer<f32>,
        texts: &mut [CachedText<'_, Self>],
        out: &mut Buffer<f32>,
        shape: &AttentionShape,
        capacity: usize,
    ) -> Result<()> {
        let op = "attention_cached_texts";
        expect_attention_shape(op, shape)?;
        let qkv = prefix(op, "qkv", qkv, &[texts.len(), shape.qkv_size()])?;
        let out = prefix_mut(op, "out", out, &[texts.len(), shape.out_size()])?;
        for text in texts.iter() {
            expect_room(op, text.past, 1, capacity)?;
            prefix(op, "keys", text.keys, &[capacity, shape.kv_size()])?;
            prefix(op, "values", text.values, &[capacity, shape.kv_size()])?;
        }
        attention::cached_texts(&self.scratch, qkv, texts, out, shape);
        Ok(())
    }

    fn router_forward(
        &self,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        routing: &mut Routing<Self>,
        balance: &mut Balance<Self>,
        groups: &Buffer<u32>,
        group_count: usize,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        let op = "router_forward";
        expect_moe_shape(op, shape, count)?;
        let slots = count * shape.top_k;
        let x = prefix(op, "x", x, &[count, shape.hidden])?;
        let weight = prefix(op, "weight", weight, &[shape.experts, shape.hidden])?;
        let groups = expect_offsets(op, "groups", groups, group_count, count)?;
        expect_len(
            op,
            "routing.probs",
            routing.probs.len(),
            count * shape.experts,
        )?;
        expect_len(op, "routing.experts", routing.experts.len(), slots)?;
        expect_len(op, "routing.weights", routing.weights.len(), slots)?;
        expect_len(
            op,
            "routing.offsets",
            routing.offsets.len(),
            shape.experts + 1,
        )?;
        expect_len(op, "routing.slot_source", routing.slot_source.len(), slots)?;
        expect_len(op, "routing.source_slot", routing.source_slot.len(), slots)?;
        let sums = element_count(op, "balance", &[group_count, shape.experts])?;
        expect_len(op, "balance.counts", balance.counts.len(), sums)?;
        expect_len(op, "balance.prob_sums", balance.prob_sums.len(), sums)?;
        moe::router_forward(x, weight, routing, balance, groups, shape, count);
        Ok(())
    }

    fn router_backward(
        &self,
        grad_weights: &Buffer<f32>,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        routing: &Routing<Self>,
        balance: &Balance<Self>,
        groups: &Buffer<u32>,
        group_count: usize,
        layers: usize,
        balance_scale: f32,
        grad_x: &mut Buffer<f32>,
        grad_weight: &mut Buffer<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        let op = "router_backward";
        check_routing(op, routing, shape, count)?;
        expect_nonzero(op, "the number of layers", layers)?;
        let grad_weights = prefix(op, "grad_weights", grad_weights, &[count, shape.top_k])?;
        let x = prefix(op, "x", x, &[count, shape.hidden])?;
        let weight = prefix(op, "weight", weight, &[shape.experts, shape.hidden])?;
        let groups = expect_offsets(op, "groups", groups, group_count, count)?;
        let sums = element_count(op, "balance", &[group_count, shape.experts])?;
        expect_len(op, "balance.counts", balance.counts.len(), sums)?;
        expect_len(op, "balance.prob_sums", balance.prob_sums.len(), sums)?;
        let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, shape.hidden])?;
        let grad_weight = prefix_mut(
            op,
            "grad_weight",
            grad_weight,
            &[shape.experts, shape.hidden],
        )?;
        moe::router_backward(
            &self.scratch,
            grad_weights,
            x,
            weight,
            routing,
            balance,
            groups,
            layers,
            balance_scale,
            grad_x,
            grad_weight,
            shape,
            count,
        );
        Ok(())
    }

    fn experts_forward(
        &self,
        x: &Buffer<f32>,
        routing: &Routing<Self>,
        w13: &Buffer<f32>,
        w2: &Buffer<f32>,
        residual: &Buffer<f32>,
        gate_up: &mut Buffer<f32>,
        out: &mut Buffer<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        let op = "experts_forward";
        check_routing(op, routing, shape, count)?;
        let (e, f, c) = (shape.experts, shape.intermediate, shape.hidden);
        let x = prefix(op, "x", x, &[count, c])?;
        let w13 = prefix(op, "w13", w13, &[e, 2, f, c])?;
        let w2 = prefix(op, "w2", w2, &[e, c, f])?;
        let residual = prefix(op, "residual", residual, &[count, c])?;
        let gate_up = prefix_mut(op, "gate_up", gate_up, &[count, shape.top_k, 2, f])?;
        let out = prefix_mut(op, "out", out, &[count, c])?;
        moe::experts_forward(
            &self.scratch,
            self.factors,
            x,
            routing,
            w13,
            w2,
            residual,
            gate_up,
            out,
            shape,
            count,
        );
        Ok(())
    }

    fn experts_backward(
        &self,
        grad_out: &Buffer<f32>,
        x: &Buffer<f32>,
        routing: &Routing<Self>,
        w13: &Buffer<f32>,
        w2: &Buffer<f32>,
        gate_up: &Buffer<f32>,
        grad_x: &mut Buffer<f32>,
        grad_w13: &mut Buffer<f32>,
        grad_w2: &mut Buffer<f32>,
        grad_weights: &mut Buffer<f32>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<()> {
        let op = "experts_backward";
        check_routing(op, routing, shape, count)?;
        let (e, f, c) = (shape.experts, shape.intermediate, shape.hidden);
        let grad_out = prefix(op, "grad_out", grad_out, &[count, c])?;
        let x = prefix(op, "x", x, &[count, c])?;
        let w13 = prefix(op, "w13", w13, &[e, 2, f, c])?;
        let w2 = prefix(op, "w2", w2, &[e, c, f])?;
        let gate_up = prefix(op, "gate_up", gate_up, &[count, shape.top_k, 2, f])?;
        let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, c])?;
        let grad_w13 = prefix_mut(op, "grad_w13", grad_w13, &[e, 2, f, c])?;
        let grad_w2 = prefix_mut(op, "grad_w2", grad_w2, &[e, c, f])?;
        let grad_weights = prefix_mut(op, "grad_weights", grad_weights, &[count, shape.top_k])?;
        moe::experts_backward(
            &self.scratch,
            self.factors,
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
        );
        Ok(())
    }

    fn head_loss(
        &self,
        x: &Buffer<f32>,
        table: &Buffer<f32>,
        targets: &Buffer<u32>,
        scale: &Buffer<f32>,
        loss: &mut Buffer<f32>,
        grad_x: &mut Buffer<f32>,
        grad_table: &mut Buffer<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        let op = "head_loss";
        expect_nonzero(op, "the hidden size", hidden)?;
        let x = prefix(op, "x", x, &[count, hidden])?;
        let table = prefix(op, "table", table, &[vocab, hidden])?;
        let targets = prefix(op, "targets", targets, &[count])?;
        expect_targets_in_range(op, "targets", targets, vocab)?;
        let scale = prefix(op, "scale", scale, &[1])?[0];
        let loss = prefix_mut(op, "loss", loss, &[1])?;
        let grad_x = prefix_mut(op, "grad_x", grad_x, &[count, hidden])?;
        let grad_table = prefix_mut(op, "grad_table", grad_table, &[vocab, hidden])?;
        loss[0] += head::loss(
            &self.scratch,
            self.factors,
            x,
            table,
            targets,
            scale,
            grad_x,
            grad_table,
            vocab,
            hidden,
        ) as f32;
        Ok(())
    }

    fn head_losses(
        &self,
        x: &Buffer<f32>,
        table: &Buffer<f32>,
        targets: &Buffer<u32>,
        losses: &mut Buffer<f32>,
        count: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        let op = "head_losses";
        expect_nonzero(op, "the hidden size", hidden)?;
        let x = prefix(op, "x", x, &[count, hidden])?;
        let table = prefix(op, "table", table, &[vocab, hidden])?;
        let targets = prefix(op, "targets", targets, &[count])?;
        expect_targets_in_range(op, "targets", targets, vocab)?;
        let losses = prefix_mut(op, "losses", losses, &[count])?;
        head::losses(
            &self.scratch,
            self.factors,
            x,
            table,
            targets,
            losses,
            vocab,
            hidden,
        );
        Ok(())
    }

    fn head_logits(
        &self,
        x: &Buffer<f32>,
        table: &Buffer<f32>,
        logits: &mut Buffer<f32>,
        first_row: usize,
        rows: usize,
        vocab: usize,
        hidden: usize,
    ) -> Result<()> {
        let op = "head_logits";
        expect_nonzero(op, "the hidden size", hidden)?;
        let x =
            &prefix(op, "x", x, &[first_row.saturating_add(rows), hidden])?[first_row * hidden..];
        let table = prefix(op, "table", table, &[vocab, hidden])?;
        let logits = prefix_mut(op, "logits", logits, &[rows, vocab])?;
        if small::fits(rows) {
            small::linear(x, table, None, logits, rows, hidden, vocab);
            return Ok(());
        }
        let right = Matrix::transposed(table, hidden);
        gemm(
            Factors::Single,
            rows,
            vocab,
            hidden,
            Matrix::rows(x, hidden),
            right,
            Start::Zero,
            logits,
            vocab,
        );
        Ok(())
    }

    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Self>> {
        Ok(AdamState {
            master: None,
            first: Buffer::zeroed(values.len())?,
            second: Buffer::zeroed(values.len())?,
        })
    }

    fn global_norm(
        &self,
        gradients: &[(&Buffer<f32>, usize)],
        norm: &mut Buffer<f32>,
    ) -> Result<()> {
        let op = "global_norm";
        let mut total = 0.0f64;
        for (gradient, len) in gradients {
            total += optimizer::sum_of_squares(prefix(op, "gradient", gradient, &[*len])?);
        }
        let norm = prefix_mut(op, "norm", norm, &[2])?;
        norm[0] = total.sqrt() as f32;
        if norm[0].is_finite() {
            norm[1] += 1.0;
        }
        Ok(())
    }

    fn adamw(
        &self,
        weight: &mut Buffer<f32>,
        gradient: &mut Buffer<f32>,
        state: &mut AdamState<Self>,
        norm: &Buffer<f32>,
        rate: &Buffer<f32>,
        step: &AdamStep,
        len: usize,
    ) -> Result<()> {
        let op = "adamw";
        expect_adam_step(op, step)?;
        ensure!(
            state.master.is_none(),
            "{op}: this device keeps no master copy, its weights are f32"
        );
        let weight = prefix_mut(op, "weight", weight, &[len])?;
        let gradient = prefix_mut(op, "gradient", gradient, &[len])?;
        let first = prefix_mut(op, "first moment", &mut state.first, &[len])?;
        let second = prefix_mut(op, "second moment", &mut state.second, &[len])?;
        let norm = prefix(op, "norm", norm, &[2])?;
        let rate = prefix(op, "rate", rate, &[1])?[0];
        if norm[0].is_finite() {
            let update = optimizer::Update {
                clip: (step.max_norm / (norm[0] + 1e-6)).min(1.0),
                rate,
                number: norm[1],
            };
            optimizer::adamw(weight, gradient, first, second, update, step);
            return Ok(());
        }
        clear(gradient, len)
    }
}

impl CpuDevice {
    #[allow(clippy::too_many_arguments)]
    fn rotate(
        &self,
        op: &str,
        qkv: &mut [f32],
        positions: &[u32],
        theta: f32,
        shape: &AttentionShape,
        count: usize,
        inverse: bool,
    ) -> Result<()> {
        expect_attention_shape(op, shape)?;
        ensure!(
            theta.is_finite() && theta > 0.0,
            "{op}: theta is {theta}, it must be finite and positive"
        );
        let qkv = prefix_mut(op, "qkv", qkv, &[count, shape.qkv_size()])?;
        let positions = prefix(op, "positions", positions, &[count])?;
        if let Some(position) = positions.iter().find(|&&p| p >= MAX_POSITION) {
            bail!(
                "{op}: position {position} is beyond the {MAX_POSITION} that this device keeps angles for"
            );
        }
        self.rope.rotate(qkv, positions, theta, shape, inverse);
        Ok(())
    }
}
