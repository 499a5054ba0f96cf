//! Router: `kernels/router.cu`.

use anyhow::{Result, ensure};

use super::kernels::{self, router::*};
use super::memory::{DeviceBuffer, Element, IndexBuffer};
use super::{CudaDevice, blocks, int};
use crate::ops::{Checked, MoeShape, Operation, RouterBackward, RouterForward, Run};

type Forward<'a, E> = RouterForward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type Backward<'a, E> = RouterBackward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;

/// The kernels have room for these sizes.
fn check_room(op: &str, shape: &MoeShape, count: usize) -> Result<()> {
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

impl<E: Element> Run<Forward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Forward<'_, E>>) -> Result<()> {
        let op = Forward::<E>::NAME;
        let RouterForward {
            x,
            weight,
            routing,
            balance,
            groups,
            shape,
        } = operation.into_inner();
        let count = x.rows;
        check_room(op, &shape, count)?;
        let MoeShape {
            hidden,
            experts,
            top_k,
            ..
        } = shape;
        let (probs, weights) = (routing.probs.ptr_mut(), routing.weights.ptr_mut());
        let (chosen, offsets) = (routing.experts.overwrite(), routing.offsets.overwrite());
        let slot_source = routing.slot_source.overwrite();
        let source_slot = routing.source_slot.overwrite();
        let (counts, prob_sums) = (balance.counts.ptr_mut(), balance.prob_sums.ptr_mut());

        let tiles = blocks(op, count, TOKENS)?;
        let tile_arg = int(op, "tiles", tiles as usize)?;
        let (count_arg, experts_arg) = (int(op, "count", count)?, int(op, "experts", experts)?);
        let top_k_arg = int(op, "top_k", top_k)?;
        let mut scratch = self.scratch();
        let tile_counts = scratch.take::<u32>(op, experts * tiles as usize)?;
        let driver = self.driver();
        let (x_bytes, probs_bytes, slot_bytes) =
            (2 * count * hidden, 4 * count * experts, 4 * count * top_k);
        let (weight_bytes, tile_bytes) = (2 * experts * hidden, 4 * experts * tiles as usize);
        let sums_bytes = 16 * groups.parts * experts;
        driver.moves(
            x_bytes + weight_bytes,
            probs_bytes + 2 * slot_bytes + tile_bytes,
        );
        // SAFETY: the buffers are as long as the kernels' contracts say, `tile_counts` [experts,
        // tiles].
        unsafe {
            kernels::router_fwd::<E>(
                driver,
                [tiles, 1, 1],
                (experts * TOKENS * size_of::<f32>()) as u32,
                probs,
                chosen,
                weights,
                tile_counts,
                x.ptr(),
                weight.ptr(),
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
                driver,
                [1 + blocks(op, groups.parts, 1)?, 1, 1],
                0,
                offsets,
                tile_counts,
                counts,
                prob_sums,
                probs.read(),
                chosen.read(),
                groups.ptr(),
                count_arg,
                tile_arg,
                experts_arg,
                top_k_arg,
            )?;
            driver.moves(slot_bytes + tile_bytes, 2 * slot_bytes);
            kernels::router_slots(
                driver,
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
}

impl<E: Element> Run<Backward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Backward<'_, E>>) -> Result<()> {
        let op = Backward::<E>::NAME;
        let RouterBackward {
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
        } = operation.into_inner();
        let count = x.rows;
        check_room(op, &shape, count)?;
        let MoeShape {
            hidden,
            experts,
            top_k,
            ..
        } = shape;

        let parts = blocks(op, count, BACK_TOKENS)?;
        let size = experts * hidden;
        let mut scratch = self.scratch();
        let sums = scratch.take::<f32>(op, parts as usize * size)?;
        let shared = experts.next_multiple_of(EXPERTS_AT_ONCE) * BACK_TOKENS * size_of::<f32>();
        let driver = self.driver();
        let sums_bytes = 4 * parts as usize * size;
        let read = 4 * count * hidden + 2 * size + 4 * count * experts + 8 * count * top_k;
        driver.moves(read, 2 * count * hidden + sums_bytes);
        // SAFETY: the buffers are as long as the kernels' contracts say, `sums` [parts, experts,
        // hidden]; the kernel bounds what it reads from the routing.
        unsafe {
            kernels::router_bwd::<E>(
                driver,
                [parts, 1, 1],
                shared as u32,
                grad_x.ptr(),
                sums,
                grad_weights.ptr(),
                x.ptr(),
                weight.ptr(),
                routing.probs.ptr(),
                routing.experts.ptr(),
                balance.counts.ptr(),
                groups.ptr(),
                self.scale_state().read(),
                int(op, "group_count", groups.parts)?,
                int(op, "layers", layers)?,
                balance_scale,
                int(op, "count", count)?,
                int(op, "hidden", hidden)?,
                int(op, "experts", experts)?,
                int(op, "top_k", top_k)?,
            )?;
            driver.moves(sums_bytes + 2 * size, 2 * size);
            kernels::router_bwd_sum::<E>(
                driver,
                [blocks(op, size, THREADS)?, 1, 1],
                0,
                grad_weight.ptr(),
                sums.read(),
                int(op, "parts", parts as usize)?,
                int(op, "the size of the weight", size)?,
            )
        }
    }
}
