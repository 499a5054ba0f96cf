//! Experts: `kernels/experts.cu`. How many slots each expert has is known on the device only; grids
//! are sized by bounds.

use anyhow::Result;

use super::kernels::{self, experts::THREADS, tile};
use super::memory::{DeviceBuffer, Element, IndexBuffer, Ptr, PtrMut};
use super::tile::Tile;
use super::{CudaDevice, blocks, int};
use crate::ops::{Checked, ExpertsBackward, ExpertsForward, MoeShape, Operation, Routing, Run};

type Forward<'a, E> = ExpertsForward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;
type Backward<'a, E> = ExpertsBackward<'a, DeviceBuffer<E>, DeviceBuffer<f32>, IndexBuffer>;

/// Where the router's decisions lie.
struct Slots {
    weights: Ptr<f32>,
    offsets: Ptr<u32>,
    slot_source: Ptr<u32>,
    source_slot: Ptr<u32>,
}

impl Slots {
    fn of(routing: &Routing<DeviceBuffer<f32>, IndexBuffer>) -> Self {
        Self {
            weights: routing.weights.ptr(),
            offsets: routing.offsets.ptr(),
            slot_source: routing.slot_source.ptr(),
            source_slot: routing.source_slot.ptr(),
        }
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

    /// Most tiles that ragged experts can have with `cols` columns: each has at most one tile row
    /// that is not full.
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
    // SAFETY: `out` and `residual` are [count, hidden], `slot_rows` [slots, hidden], as the callers
    // checked.
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

impl<E: Element> Run<Forward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Forward<'_, E>>) -> Result<()> {
        let op = Forward::<E>::NAME;
        let ExpertsForward {
            x,
            routing,
            w13,
            w2,
            residual,
            gate_up,
            out,
            shape,
        } = operation.into_inner();
        let MoeShape {
            hidden,
            intermediate,
            ..
        } = shape;
        let slots = Slots::of(routing);
        let driver = self.driver();
        let sizes = Sizes::new(op, &shape, x.rows, driver.multiprocessors())?;
        let mut scratch = self.scratch();
        let act = scratch.take::<E>(op, sizes.slots() * intermediate)?;
        let slot_out = scratch.take::<E>(op, sizes.slots() * hidden)?;

        let bytes = Bytes::new(&sizes);
        driver.moves(bytes.slot_rows + bytes.w13 + bytes.slots, 3 * bytes.inner);
        let tile = sizes.ragged(2 * intermediate);
        let up = match tile {
            Tile::Large => kernels::experts_up_fwd::<E>,
            Tile::Small => kernels::experts_up_small_fwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernel's contract says; offsets and slots are the
        // router's, or checked.
        unsafe {
            up(
                driver,
                sizes.ragged_grid(op, tile, 2 * intermediate)?,
                tile.shared_bytes(),
                gate_up.ptr(),
                act,
                x.ptr(),
                w13.ptr(),
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
                w2.ptr(),
                slots.weights,
                slots.offsets,
                slots.slot_source,
                sizes.experts,
                sizes.hidden,
                sizes.intermediate,
            )?;
        }
        combine(
            self,
            op,
            out.ptr(),
            slot_out.read(),
            residual.ptr(),
            &slots,
            &sizes,
        )
    }
}

impl<E: Element> Run<Backward<'_, E>> for CudaDevice<E> {
    fn run(&self, operation: Checked<Backward<'_, E>>) -> Result<()> {
        let op = Backward::<E>::NAME;
        let ExpertsBackward {
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
        } = operation.into_inner();
        let MoeShape {
            hidden,
            intermediate,
            ..
        } = shape;
        let slots = Slots::of(routing);
        let driver = self.driver();
        let sizes = Sizes::new(op, &shape, x.rows, driver.multiprocessors())?;

        let act_tile = sizes.ragged(intermediate);
        let parts = intermediate.div_ceil(act_tile.warp_cols());
        let mut scratch = self.scratch();
        let grad_gate_up = scratch.take::<E>(op, sizes.slots() * 2 * intermediate)?;
        let weighted_act = scratch.take::<E>(op, sizes.slots() * intermediate)?;
        let slot_grad = scratch.take::<E>(op, sizes.slots() * hidden)?;
        let weight_parts = scratch.take::<f32>(op, sizes.slots() * parts)?;

        let bytes = Bytes::new(&sizes);
        driver.moves(
            bytes.slot_rows + 2 * bytes.inner + bytes.w2 + 2 * bytes.slots,
            3 * bytes.inner + parts * bytes.slots,
        );
        let act = match act_tile {
            Tile::Large => kernels::experts_act_bwd::<E>,
            Tile::Small => kernels::experts_act_small_bwd::<E>,
        };
        // SAFETY: all buffers are as long as the kernels' contracts say; offsets and slots are the
        // router's, or checked.
        unsafe {
            act(
                driver,
                sizes.ragged_grid(op, act_tile, intermediate)?,
                act_tile.shared_bytes(),
                grad_gate_up,
                weighted_act,
                weight_parts,
                grad_out.ptr(),
                gate_up.ptr(),
                w2.ptr(),
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
                grad_weights.ptr(),
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
                w13.ptr(),
                slots.offsets,
                sizes.experts,
                sizes.hidden,
                sizes.intermediate,
            )?;
        }
        combine(
            self,
            op,
            grad_x.ptr(),
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
                grad_w13.ptr(),
                grad_gate_up.read(),
                x.ptr(),
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
                grad_w2.ptr(),
                grad_out.ptr(),
                weighted_act.read(),
                slots.offsets,
                slots.slot_source,
                sizes.top_k,
                sizes.hidden,
                sizes.intermediate,
            )
        }
    }
}
