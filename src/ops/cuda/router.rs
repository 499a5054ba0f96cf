//! Router: `kernels/router.cu`.

use anyhow::{Result, ensure};

use super::kernels::{self, router::*};
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use super::segments::read_groups;
use super::{CudaDevice, blocks, int};
use crate::ops::checks::{RoutingIndices, expect_moe_shape, expect_nonzero, expect_routing};
use crate::ops::{Balance, MoeShape, Routing};

fn check_shape(op: &str, shape: &MoeShape, count: usize) -> Result<()> {
    expect_moe_shape(op, shape, count)?;
    ensure!(
        shape.experts <= MAX_EXPERTS,
        "{op}: {} experts, the kernels have room for {MAX_EXPERTS}",
        shape.experts
    );
    // The kernels number slots by `int`s, and read weights and their gradients by `int`s.
    int(op, "the number of slots", count * shape.top_k)?;
    int(op, "the size of the weight", shape.experts * shape.hidden)?;
    Ok(())
}

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    routing: &mut Routing<CudaDevice<E>>,
    balance: &mut Balance<CudaDevice<E>>,
    groups: &IndexBuffer,
    group_count: usize,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "router_forward";
    let &MoeShape {
        hidden,
        experts,
        top_k,
        ..
    } = shape;
    check_shape(op, shape, count)?;
    let x = x.read(op, "x", &[count, hidden])?;
    let weight = weight.read(op, "weight", &[experts, hidden])?;
    let groups = read_groups(op, groups, group_count, count)?;
    let slots = [count, top_k];
    // All lengths are checked before the first buffer is given to a kernel, which makes its content unknown.
    for (name, found, needed) in [
        ("routing.experts", routing.experts.len(), &slots[..]),
        ("routing.offsets", routing.offsets.len(), &[experts + 1]),
        ("routing.slot_source", routing.slot_source.len(), &slots),
        ("routing.source_slot", routing.source_slot.len(), &slots),
    ] {
        let needed: usize = needed.iter().product();
        crate::ops::checks::expect_len(op, name, found, needed)?;
    }
    let probs = routing
        .probs
        .write(op, "routing.probs", &[count, experts])?;
    let weights = routing.weights.write(op, "routing.weights", &slots)?;
    let sums = [group_count, experts];
    let counts = balance.counts.write(op, "balance.counts", &sums)?;
    let prob_sums = balance.prob_sums.write(op, "balance.prob_sums", &sums)?;
    let chosen = routing.experts.write(op, "routing.experts", &slots)?;
    let offsets = routing
        .offsets
        .write(op, "routing.offsets", &[experts + 1])?;
    let slot_source = routing
        .slot_source
        .write(op, "routing.slot_source", &slots)?;
    let source_slot = routing
        .source_slot
        .write(op, "routing.source_slot", &slots)?;

    let tiles = blocks(op, count, TOKENS)?;
    let tile_arg = int(op, "tiles", tiles as usize)?;
    let (count_arg, experts_arg) = (int(op, "count", count)?, int(op, "experts", experts)?);
    let top_k_arg = int(op, "top_k", top_k)?;
    let mut scratch = device.scratch();
    let tile_counts = scratch.take::<u32>(op, experts * tiles as usize)?;
    let driver = device.driver();
    let (x_bytes, probs_bytes, slot_bytes) =
        (2 * count * hidden, 4 * count * experts, 4 * count * top_k);
    let (weight_bytes, tile_bytes) = (2 * experts * hidden, 4 * experts * tiles as usize);
    let sums_bytes = 16 * group_count * experts;
    driver.operation(
        op,
        x_bytes + weight_bytes + probs_bytes + 4 * slot_bytes + sums_bytes,
    );
    driver.moves(
        x_bytes + weight_bytes,
        probs_bytes + 2 * slot_bytes + tile_bytes,
    );
    // SAFETY: the buffers are as long as the kernels' contracts say, `tile_counts` [experts, tiles].
    unsafe {
        kernels::router_fwd::<E>(
            device.driver(),
            [tiles, 1, 1],
            (experts * TOKENS * size_of::<f32>()) as u32,
            probs,
            chosen,
            weights,
            tile_counts,
            x,
            weight,
            count_arg,
            int(op, "hidden", hidden)?,
            experts_arg,
            top_k_arg,
        )?;
        driver.moves(
            probs_bytes + slot_bytes + tile_bytes + sums_bytes / 2,
            tile_bytes + sums_bytes / 2,
        );
        kernels::router_offsets(
            device.driver(),
            [1 + blocks(op, group_count, 1)?, 1, 1],
            0,
            offsets,
            tile_counts,
            counts,
            prob_sums,
            probs.read(),
            chosen.read(),
            groups,
            count_arg,
            tile_arg,
            experts_arg,
            top_k_arg,
        )?;
        driver.moves(slot_bytes + tile_bytes, 2 * slot_bytes);
        kernels::router_slots(
            device.driver(),
            [blocks(op, tiles as usize, WARPS)?, 1, 1],
            0,
            slot_source,
            source_slot,
            tile_counts.read(),
            chosen.read(),
            count_arg,
            tile_arg,
            experts_arg,
            top_k_arg,
        )
    }
}

/// The routing's buffers are long enough, and consistent where the host knows their content.
///
/// # Errors
/// Names the buffer or the value that is wrong.
pub(super) fn check_routing<E: Element>(
    op: &str,
    routing: &Routing<CudaDevice<E>>,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    expect_moe_shape(op, shape, count)?;
    let slots = [count, shape.top_k];
    routing.weights.read(op, "routing.weights", &slots)?;
    routing.experts.read(op, "routing.experts", &slots)?;
    routing
        .offsets
        .read(op, "routing.offsets", &[shape.experts + 1])?;
    routing
        .slot_source
        .read(op, "routing.slot_source", &slots)?;
    routing
        .source_slot
        .read(op, "routing.source_slot", &slots)?;
    if let (Some(experts), Some(offsets), Some(slot_source), Some(source_slot)) = (
        routing.experts.known(),
        routing.offsets.known(),
        routing.slot_source.known(),
        routing.source_slot.known(),
    ) {
        let indices = RoutingIndices {
            experts,
            offsets,
            slot_source,
            source_slot,
        };
        expect_routing(op, indices, shape, count)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_weights: &DeviceBuffer<f32>,
    x: &DeviceBuffer<E>,
    weight: &DeviceBuffer<E>,
    routing: &Routing<CudaDevice<E>>,
    balance: &Balance<CudaDevice<E>>,
    groups: &IndexBuffer,
    group_count: usize,
    layers: usize,
    balance_scale: f32,
    grad_x: &mut DeviceBuffer<E>,
    grad_weight: &mut DeviceBuffer<E>,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "router_backward";
    let &MoeShape {
        hidden,
        experts,
        top_k,
        ..
    } = shape;
    check_shape(op, shape, count)?;
    check_routing(op, routing, shape, count)?;
    expect_nonzero(op, "the number of layers", layers)?;
    let grad_weights = grad_weights.read(op, "grad_weights", &[count, top_k])?;
    let x = x.read(op, "x", &[count, hidden])?;
    let weight = weight.read(op, "weight", &[experts, hidden])?;
    let probs = routing.probs.read(op, "routing.probs", &[count, experts])?;
    let chosen = routing
        .experts
        .read(op, "routing.experts", &[count, top_k])?;
    let groups = read_groups(op, groups, group_count, count)?;
    let sums = [group_count, experts];
    let counts = balance.counts.read(op, "balance.counts", &sums)?;
    balance.prob_sums.read(op, "balance.prob_sums", &sums)?;
    let grad_x = grad_x.write(op, "grad_x", &[count, hidden])?;
    let grad_weight = grad_weight.write(op, "grad_weight", &[experts, hidden])?;

    let parts = blocks(op, count, BACK_TOKENS)?;
    let size = experts * hidden;
    let mut scratch = device.scratch();
    let sums = scratch.take::<f32>(op, parts as usize * size)?;
    let shared = experts.next_multiple_of(EXPERTS_AT_ONCE) * BACK_TOKENS * size_of::<f32>();
    let driver = device.driver();
    let sums_bytes = 4 * parts as usize * size;
    let read = 4 * count * hidden + 2 * size + 4 * count * experts + 8 * count * top_k;
    driver.operation(op, read + 2 * count * hidden + 4 * size);
    driver.moves(read, 2 * count * hidden + sums_bytes);
    // SAFETY: the buffers are as long as the kernels' contracts say, `sums` [parts, experts, hidden]; the kernel bounds what it reads
    // from the routing.
    unsafe {
        kernels::router_bwd::<E>(
            device.driver(),
            [parts, 1, 1],
            shared as u32,
            grad_x,
            sums,
            grad_weights,
            x,
            weight,
            probs,
            chosen,
            counts,
            groups,
            device.scale_state().read(),
            int(op, "group_count", group_count)?,
            int(op, "layers", layers)?,
            balance_scale,
            int(op, "count", count)?,
            int(op, "hidden", hidden)?,
            int(op, "experts", experts)?,
            int(op, "top_k", top_k)?,
        )?;
        driver.moves(sums_bytes + 2 * size, 2 * size);
        kernels::router_bwd_sum::<E>(
            device.driver(),
            [blocks(op, size, THREADS)?, 1, 1],
            0,
            grad_weight,
            sums.read(),
            int(op, "parts", parts as usize)?,
            int(op, "the size of the weight", size)?,
        )
    }
}
