//! Experts: `kernels/experts.cu`. How many slots each expert has is known on the device only; grids are sized by bounds.

use anyhow::Result;

use super::kernels::{self, experts::THREADS, tile};
use super::memory::{DeviceBuffer, Element, Ptr, PtrMut};
use super::tile::Tile;
use super::{CudaDevice, blocks, int};
use crate::ops::checks::{RoutingIndices, expect_moe_shape, expect_routing};
use crate::ops::{MoeShape, Routing};

/// Where the router's decisions lie.
struct Slots {
    weights: Ptr<f32>,
    offsets: Ptr<u32>,
    slot_source: Ptr<u32>,
    source_slot: Ptr<u32>,
}

impl Slots {
    fn read<E: Element>(
        op: &str,
        routing: &Routing<CudaDevice<E>>,
        shape: &MoeShape,
        count: usize,
    ) -> Result<Self> {
        expect_moe_shape(op, shape, count)?;
        // What the router's kernels wrote is consistent; what the host uploaded is checked.
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
        let dims = [count, shape.top_k];
        routing.experts.read(op, "routing.experts", &dims)?;
        Ok(Self {
            weights: routing.weights.read(op, "routing.weights", &dims)?,
            offsets: routing
                .offsets
                .read(op, "routing.offsets", &[shape.experts + 1])?,
            slot_source: routing.slot_source.read(op, "routing.slot_source", &dims)?,
            source_slot: routing.source_slot.read(op, "routing.source_slot", &dims)?,
        })
    }
}

/// Sizes as kernels take them, and the geometry of their launches.
struct Sizes {
    count: usize,
    shape: MoeShape,
    multiprocessors: usize,
    top_k: i32,
    experts: i32,
    hidden: i32,
    intermediate: i32,
}

impl Sizes {
    fn new(op: &str, shape: &MoeShape, count: usize, multiprocessors: usize) -> Result<Self> {
        // Slots and twice the intermediate size are `int` in the kernels.
        int(op, "the number of slots", count * shape.top_k)?;
        int(
            op,
            "twice the intermediate size",
            shape.intermediate.saturating_mul(2),
        )?;
        Ok(Self {
            count,
            shape: *shape,
            multiprocessors,
            top_k: int(op, "experts per token", shape.top_k)?,
            experts: int(op, "experts", shape.experts)?,
            hidden: int(op, "the hidden size", shape.hidden)?,
            intermediate: int(op, "the intermediate size", shape.intermediate)?,
        })
    }

    fn slots(&self) -> usize {
        self.count * self.shape.top_k
    }

    fn strides(&self) -> [usize; 2] {
        [self.shape.hidden, self.shape.intermediate]
    }

    /// Most tiles that ragged experts can have with `cols` columns: each has at most one tile row that is not full.
    fn ragged_tiles(&self, tile: Tile, cols: usize) -> usize {
        let rows = self.slots() / tile.side() + self.shape.experts.min(self.slots());
        rows * cols.div_ceil(tile.side())
    }

    /// Tile of a product of all slots with `cols` columns.
    fn ragged(&self, cols: usize) -> Tile {
        // Full tiles only: what experts leave of their last tile is not counted as work.
        let tiles = Tile::Large.count(self.slots(), cols);
        Tile::choose(&self.strides(), tiles, self.multiprocessors)
    }

    /// Grid of such a product: as many blocks as the card holds at once, each walks over tiles.
    fn ragged_grid(&self, op: &str, tile: Tile, cols: usize) -> Result<[u32; 3]> {
        let resident = self.multiprocessors * tile.resident();
        Ok([
            blocks(op, self.ragged_tiles(tile, cols).min(resident), 1)?,
            1,
            1,
        ])
    }

    /// Tile of every expert's own product `[rows, cols]`.
    fn per_expert(&self, rows: usize, cols: usize) -> Tile {
        let tiles = self.shape.experts * Tile::Large.count(rows, cols);
        Tile::choose(&self.strides(), tiles, self.multiprocessors)
    }

    fn per_expert_grid(&self, op: &str, tile: Tile, rows: usize, cols: usize) -> Result<[u32; 3]> {
        let tiles = self.shape.experts.saturating_mul(tile.count(rows, cols));
        Ok([blocks(op, tiles, 1)?, 1, 1])
    }
}

/// Bytes of what experts read and write.
struct Bytes {
    /// `[T, C]`
    tokens: usize,
    /// `[slots, C]`: each token's row once per expert that it goes to.
    slot_rows: usize,
    /// `[slots, F]`
    inner: usize,
    /// A number per slot.
    slots: usize,
    w13: usize,
    w2: usize,
}

impl Bytes {
    fn new(sizes: &Sizes) -> Self {
        let MoeShape {
            hidden,
            intermediate,
            experts,
            ..
        } = sizes.shape;
        let w2 = 2 * experts * hidden * intermediate;
        Self {
            tokens: 2 * sizes.count * hidden,
            slot_rows: 2 * sizes.slots() * hidden,
            inner: 2 * sizes.slots() * intermediate,
            slots: 4 * sizes.slots(),
            w13: 2 * w2,
            w2,
        }
    }
}

/// `out[t] = (residual[t] +) sum of slot_rows over the token's slots`.
fn combine<E: Element>(
    device: &CudaDevice<E>,
    op: &str,
    out: PtrMut<E>,
    slot_rows: Ptr<E>,
    residual: Ptr<E>,
    slots: &Slots,
    sizes: &Sizes,
) -> Result<()> {
    let pieces = sizes
        .count
        .saturating_mul(sizes.shape.hidden.div_ceil(tile::PIECE));
    let bytes = Bytes::new(sizes);
    let added = if residual.is_null() { 0 } else { bytes.tokens };
    device
        .driver()
        .moves(bytes.slot_rows + bytes.slots + added, bytes.tokens);
    // SAFETY: `out` and `residual` are [count, hidden], `slot_rows` [slots, hidden], as the callers checked.
    unsafe {
        kernels::experts_combine_fwd::<E>(
            device.driver(),
            [blocks(op, pieces, THREADS)?, 1, 1],
            0,
            out,
            slot_rows,
            residual,
            slots.source_slot,
            int(op, "tokens", sizes.count)?,
            sizes.top_k,
            sizes.hidden,
        )
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn forward<E: Element>(
    device: &CudaDevice<E>,
    x: &DeviceBuffer<E>,
    routing: &Routing<CudaDevice<E>>,
    w13: &DeviceBuffer<E>,
    w2: &DeviceBuffer<E>,
    residual: &DeviceBuffer<E>,
    gate_up: &mut DeviceBuffer<E>,
    out: &mut DeviceBuffer<E>,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "experts_forward";
    let &MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    } = shape;
    let slots = Slots::read(op, routing, shape, count)?;
    let x = x.read(op, "x", &[count, hidden])?;
    let w13 = w13.read(op, "w13", &[experts, 2, intermediate, hidden])?;
    let w2 = w2.read(op, "w2", &[experts, hidden, intermediate])?;
    let residual = residual.read(op, "residual", &[count, hidden])?;
    let gate_up = gate_up.write(op, "gate_up", &[count, top_k, 2, intermediate])?;
    let out = out.write(op, "out", &[count, hidden])?;
    let driver = device.driver();
    let sizes = Sizes::new(op, shape, count, driver.multiprocessors())?;
    let mut scratch = device.scratch();
    let act = scratch.take::<E>(op, sizes.slots() * intermediate)?;
    let slot_out = scratch.take::<E>(op, sizes.slots() * hidden)?;

    let bytes = Bytes::new(&sizes);
    driver.operation(
        op,
        3 * bytes.tokens + bytes.w13 + bytes.w2 + 2 * bytes.inner + 3 * bytes.slots,
    );
    driver.moves(bytes.slot_rows + bytes.w13 + bytes.slots, 3 * bytes.inner);
    let tile = sizes.ragged(2 * intermediate);
    let up = match tile {
        Tile::Large => kernels::experts_up_fwd::<E>,
        Tile::Small => kernels::experts_up_small_fwd::<E>,
    };
    // SAFETY: all buffers are as long as the kernel's contract says; offsets and slots are the router's, or checked.
    unsafe {
        up(
            driver,
            sizes.ragged_grid(op, tile, 2 * intermediate)?,
            tile.shared_bytes(),
            gate_up,
            act,
            x,
            w13,
            slots.offsets,
            slots.slot_source,
            sizes.experts,
            sizes.top_k,
            sizes.hidden,
            sizes.intermediate,
        )?;
    }
    let tile = sizes.ragged(hidden);
    let down = match tile {
        Tile::Large => kernels::experts_down_fwd::<E>,
        Tile::Small => kernels::experts_down_small_fwd::<E>,
    };
    driver.moves(bytes.inner + bytes.w2 + 2 * bytes.slots, bytes.slot_rows);
    // SAFETY: as above.
    unsafe {
        down(
            driver,
            sizes.ragged_grid(op, tile, hidden)?,
            tile.shared_bytes(),
            slot_out,
            act.read(),
            w2,
            slots.weights,
            slots.offsets,
            slots.slot_source,
            sizes.experts,
            sizes.hidden,
            sizes.intermediate,
        )?;
    }
    combine(device, op, out, slot_out.read(), residual, &slots, &sizes)
}

#[allow(clippy::too_many_arguments)]
pub(super) fn backward<E: Element>(
    device: &CudaDevice<E>,
    grad_out: &DeviceBuffer<E>,
    x: &DeviceBuffer<E>,
    routing: &Routing<CudaDevice<E>>,
    w13: &DeviceBuffer<E>,
    w2: &DeviceBuffer<E>,
    gate_up: &DeviceBuffer<E>,
    grad_x: &mut DeviceBuffer<E>,
    grad_w13: &mut DeviceBuffer<E>,
    grad_w2: &mut DeviceBuffer<E>,
    grad_weights: &mut DeviceBuffer<f32>,
    shape: &MoeShape,
    count: usize,
) -> Result<()> {
    let op = "experts_backward";
    let &MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    } = shape;
    let slots = Slots::read(op, routing, shape, count)?;
    let grad_out = grad_out.read(op, "grad_out", &[count, hidden])?;
    let x = x.read(op, "x", &[count, hidden])?;
    let w13 = w13.read(op, "w13", &[experts, 2, intermediate, hidden])?;
    let w2 = w2.read(op, "w2", &[experts, hidden, intermediate])?;
    let gate_up = gate_up.read(op, "gate_up", &[count, top_k, 2, intermediate])?;
    let grad_x = grad_x.write(op, "grad_x", &[count, hidden])?;
    let grad_w13 = grad_w13.write(op, "grad_w13", &[experts, 2, intermediate, hidden])?;
    let grad_w2 = grad_w2.write(op, "grad_w2", &[experts, hidden, intermediate])?;
    let grad_weights = grad_weights.write(op, "grad_weights", &[count, top_k])?;
    let driver = device.driver();
    let sizes = Sizes::new(op, shape, count, driver.multiprocessors())?;

    let act_tile = sizes.ragged(intermediate);
    let parts = intermediate.div_ceil(act_tile.warp_cols());
    let mut scratch = device.scratch();
    let grad_gate_up = scratch.take::<E>(op, sizes.slots() * 2 * intermediate)?;
    let weighted_act = scratch.take::<E>(op, sizes.slots() * intermediate)?;
    let slot_grad = scratch.take::<E>(op, sizes.slots() * hidden)?;
    let weight_parts = scratch.take::<f32>(op, sizes.slots() * parts)?;

    let bytes = Bytes::new(&sizes);
    driver.operation(
        op,
        3 * bytes.tokens + 2 * bytes.inner + 3 * (bytes.w13 + bytes.w2) + 4 * bytes.slots,
    );
    driver.moves(
        bytes.slot_rows + 2 * bytes.inner + bytes.w2 + 2 * bytes.slots,
        3 * bytes.inner + parts * bytes.slots,
    );
    let act = match act_tile {
        Tile::Large => kernels::experts_act_bwd::<E>,
        Tile::Small => kernels::experts_act_small_bwd::<E>,
    };
    // SAFETY: all buffers are as long as the kernels' contracts say; offsets and slots are the router's, or checked.
    unsafe {
        act(
            driver,
            sizes.ragged_grid(op, act_tile, intermediate)?,
            act_tile.shared_bytes(),
            grad_gate_up,
            weighted_act,
            weight_parts,
            grad_out,
            gate_up,
            w2,
            slots.weights,
            slots.offsets,
            slots.slot_source,
            sizes.experts,
            sizes.top_k,
            sizes.hidden,
            sizes.intermediate,
        )?;
        driver.moves((parts + 1) * bytes.slots, bytes.slots);
        kernels::experts_weights_bwd(
            driver,
            [blocks(op, sizes.slots(), THREADS)?, 1, 1],
            0,
            grad_weights,
            weight_parts.read(),
            slots.source_slot,
            int(op, "slots", sizes.slots())?,
            int(op, "parts", parts)?,
        )?;
    }

    let tile = sizes.ragged(hidden);
    let input = match tile {
        Tile::Large => kernels::experts_x_bwd::<E>,
        Tile::Small => kernels::experts_x_small_bwd::<E>,
    };
    driver.moves(2 * bytes.inner + bytes.w13, bytes.slot_rows);
    // SAFETY: as above.
    unsafe {
        input(
            driver,
            sizes.ragged_grid(op, tile, hidden)?,
            tile.shared_bytes(),
            slot_grad,
            grad_gate_up.read(),
            w13,
            slots.offsets,
            sizes.experts,
            sizes.hidden,
            sizes.intermediate,
        )?;
    }
    combine(
        device,
        op,
        grad_x,
        slot_grad.read(),
        Ptr::null(),
        &slots,
        &sizes,
    )?;

    let tile = sizes.per_expert(2 * intermediate, hidden);
    let weight = match tile {
        Tile::Large => kernels::experts_w13_bwd::<E>,
        Tile::Small => kernels::experts_w13_small_bwd::<E>,
    };
    driver.moves(
        2 * bytes.inner + bytes.slot_rows + bytes.slots + bytes.w13,
        bytes.w13,
    );
    // SAFETY: as above.
    unsafe {
        weight(
            driver,
            sizes.per_expert_grid(op, tile, 2 * intermediate, hidden)?,
            tile.shared_bytes(),
            grad_w13,
            grad_gate_up.read(),
            x,
            slots.offsets,
            slots.slot_source,
            sizes.top_k,
            sizes.hidden,
            sizes.intermediate,
        )?;
    }
    let tile = sizes.per_expert(hidden, intermediate);
    let weight = match tile {
        Tile::Large => kernels::experts_w2_bwd::<E>,
        Tile::Small => kernels::experts_w2_small_bwd::<E>,
    };
    driver.moves(
        bytes.inner + bytes.slot_rows + bytes.slots + bytes.w2,
        bytes.w2,
    );
    // SAFETY: as above.
    unsafe {
        weight(
            driver,
            sizes.per_expert_grid(op, tile, hidden, intermediate)?,
            tile.shared_bytes(),
            grad_w2,
            grad_out,
            weighted_act.read(),
            slots.offsets,
            slots.slot_source,
            sizes.top_k,
            sizes.hidden,
            sizes.intermediate,
        )
    }
}
