//! The matrix product that every dense operation is made of: `C = A B`, `C += A B` or `C = R + A
//! B`.
//!
//! `A` (m x k) is read in place where its rows are contiguous and packed otherwise; `B` (k x n) is
//! packed into panels. Blocks: as deep as a panel fits L1 (`PANEL`), `MC` rows so that the block of
//! `A` stays in L2. Each element of `C` is summed in the same order whatever the number of threads:
//! work is split over `C` only.
//!
//! In `bf16` both operands become matrices of pairs first, half as deep, and go the same way.

mod operands;
mod pack;
mod pairs;

pub(crate) use super::kernel::MatmulPrecision;
use super::kernel::{Kernel, Tile, run_strip, run_tile};
use super::memory::HostBuffer;
use operands::Out;
pub(crate) use operands::{Fetch, Shared, Start, Strided, Target};
use pack::{Left, pack_left, pack_left_whole, pack_panels};
use pairs::Room;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};

/// Depth of a block at most: a panel is then 32 KiB with AVX2, the whole L1 data cache of most
/// processors, and 64 KiB with AVX-512, whose processors read L2 as fast as the tile needs. What
/// the rows of `A` need besides passes through; the depth of 384 that most of the model's products
/// have then is one block, so `C` is written once.
const DEPTH: usize = 512;
/// Rows of `A` that are used against one set of panels before the next: 144 x 512 x 4 B = 288 KiB
/// of L2.
const MC: usize = 144;
/// Multiplications below which a product is not worth splitting over threads.
const PARALLEL_WORK: usize = 1 << 20;

thread_local! {
    /// A left operand packed for several tasks; its memory is kept between calls.
    static LEFT: Cell<HostBuffer<f32>> = const { Cell::new(HostBuffer::EMPTY) };
    /// Packed panels of this thread, kept between calls.
    static PANELS: RefCell<(HostBuffer<f32>, HostBuffer<f32>)> = RefCell::default();
}

/// `c[m x n] = start + a[m x k] b[k x n]` on all threads of the current pool.
pub(crate) fn gemm(
    precision: MatmulPrecision,
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: Strided,
    target: Target,
) {
    if m == 0 || n == 0 {
        return;
    }
    let tasks = if m * n * k < PARALLEL_WORK {
        1
    } else {
        2 * rayon::current_num_threads()
    };
    assert!(
        a.covers(m, k) && b.covers(k, n),
        "gemm: an operand is shorter than {m} x {n} x {k} needs"
    );
    let (kernel, out) = (Kernel::new(precision), Out::new(m, n, target));
    match precision {
        MatmulPrecision::Single => gemm_tasks(kernel, tasks, (m, n, k), a, b, out),
        MatmulPrecision::Bf16 => {
            let mut room = Room::take();
            let (a, b) = room.both((m, n, k), a, b);
            gemm_tasks(kernel, tasks, (m, n, kernel.steps(k)), a, b, out);
        }
    }
}

/// `c[m x n] = a[m x k] b[k x n]`, or `c +=` that with `add`, into a part of `c` on the calling
/// thread.
///
/// # Safety
/// While this runs, nobody else reads or writes the `m` x `n` elements of `c`.
pub(crate) unsafe fn gemm_shared(
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: Strided,
    add: bool,
    c: Shared,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        a.covers(m, k) && b.covers(k, n),
        "gemm: an operand is shorter than {m} x {n} x {k} needs"
    );
    let whole = Part {
        rows: (0, m),
        cols: (0, n),
    };
    let (kernel, out) = (Kernel::new(MatmulPrecision::Single), c.out(m, n, add));
    block(kernel, whole, k, Operand::Plain(a), b, out);
}

/// As [`gemm_packed_to`] into a part of `c`.
///
/// # Safety
/// While this runs, nobody else reads or writes the `m` x `n` elements of `c`, `n` being the
/// columns of `b`.
pub(crate) unsafe fn gemm_packed_shared(k: usize, m: usize, a: Strided, b: &Packed, c: Shared) {
    if m == 0 || b.n == 0 {
        return;
    }
    b.check(m, b.n, k, a);
    product_packed((m, b.n, k), a, b, c.out(m, b.n, false), Fetch::NOTHING);
}

/// As [`gemm`] with `tasks` tasks, a depth in steps of the kernel, and operands that are there, as
/// the caller has checked.
fn gemm_tasks(
    kernel: Kernel,
    tasks: usize,
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: Strided,
    out: Out,
) {
    let nr = kernel.nr();
    let panels = n.div_ceil(nr);
    // Columns are split first: only B is packed, so nothing is packed twice. Few columns: rows as
    // well.
    let col_tasks = tasks.min(panels);
    let row_tasks = (tasks / col_tasks).clamp(1, m.div_ceil(MC));
    if col_tasks * row_tasks == 1 {
        let whole = Part {
            rows: (0, m),
            cols: (0, n),
        };
        return block(kernel, whole, k, Operand::Plain(a), b, out);
    }
    // A left operand that must be packed is packed once, not by each task.
    let mut own = HostBuffer::default();
    let a = if a.in_place(k) {
        Operand::Plain(a)
    } else {
        own = LEFT.take();
        pack_left_whole(kernel.mr(), m, k, a, &mut own);
        Operand::Packed {
            panels: &own,
            rows: m,
        }
    };
    (0..col_tasks * row_tasks).into_par_iter().for_each(|task| {
        let (ct, rt) = (task % col_tasks, task / col_tasks);
        let cols = (
            panels * ct / col_tasks * nr,
            (panels * (ct + 1) / col_tasks * nr).min(n),
        );
        let step = m.div_ceil(row_tasks).next_multiple_of(kernel.mr());
        let rows = ((step * rt).min(m), (step * (rt + 1)).min(m));
        block(kernel, Part { rows, cols }, k, a, b, out);
    });
    if !own.is_empty() {
        LEFT.set(own);
    }
}

/// A right-hand matrix packed once and used for many products.
#[derive(Default)]
pub(crate) struct Packed {
    precision: MatmulPrecision,
    panels: HostBuffer<f32>,
    k: usize,
    n: usize,
}

impl Packed {
    /// Nothing yet; for products of this precision.
    pub(crate) fn new(precision: MatmulPrecision) -> Self {
        Self {
            precision,
            ..Self::default()
        }
    }

    /// That a product with the first `n` columns and `k` rows has its operands.
    fn check(&self, m: usize, n: usize, k: usize, a: Strided) {
        assert!(
            k <= self.k && n <= self.n && a.covers(m, k),
            "gemm: the left operand is shorter than {m} x {k} needs, or there are not {k} x {n} of \
             {} x {} packed elements",
            self.k,
            self.n
        );
    }

    /// Packs `b` (k x n), replacing what was packed before.
    pub(crate) fn pack(&mut self, k: usize, n: usize, b: Strided) {
        assert!(
            b.covers(k, n),
            "pack: the matrix is shorter than {k} x {n} needs"
        );
        let kernel = Kernel::new(self.precision);
        (self.k, self.n) = (k, n);
        match self.precision {
            MatmulPrecision::Single => self.pack_steps(kernel, k, b),
            MatmulPrecision::Bf16 => {
                self.pack_steps(kernel, kernel.steps(k), Room::take().right(k, n, b))
            }
        }
    }

    /// As [`Self::pack`] with a depth in steps of the kernel.
    fn pack_steps(&mut self, kernel: Kernel, k: usize, b: Strided) {
        let (n, nr) = (self.n, kernel.nr());
        let width = n.div_ceil(nr) * nr;
        self.panels.reserve(width * k);
        for (k0, depth) in depths(k) {
            pack_panels(
                nr,
                depth,
                (0, n),
                k0,
                b,
                &mut self.panels[k0 * width..][..depth * width],
            );
        }
    }
}

/// `c[m x n] = start + a[m x k] b` on the calling thread, with `fetch` asked for meanwhile. Meant
/// for a block of rows that stays in L2 with `b`.
pub(crate) fn gemm_packed(m: usize, a: Strided, b: &Packed, target: Target, fetch: Fetch) {
    gemm_packed_to(b.k, m, a, b, target, fetch);
}

/// As [`gemm_packed`] with the first `k` rows of `b`.
pub(crate) fn gemm_packed_to(
    k: usize,
    m: usize,
    a: Strided,
    b: &Packed,
    target: Target,
    fetch: Fetch,
) {
    if m == 0 || b.n == 0 {
        return;
    }
    b.check(m, b.n, k, a);
    let out = Out::new(m, b.n, target);
    product_packed((m, b.n, k), a, b, out, fetch);
}

/// As [`gemm_packed`] with the first `n` columns of `b`, from nothing.
pub(crate) fn gemm_packed_columns(
    m: usize,
    n: usize,
    a: Strided,
    b: &Packed,
    c: &mut [f32],
    c_row: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    b.check(m, n, b.k, a);
    let start = Start::Zero;
    let target = Target {
        start,
        c,
        row: c_row,
    };
    let out = Out::new(m, n, target);
    product_packed((m, n, b.k), a, b, out, Fetch::NOTHING);
}

/// `out = a b` with the first `n` columns and `k` rows of `b`; the callers have checked that
/// everything is there.
fn product_packed(
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: &Packed,
    out: Out,
    fetch: Fetch,
) {
    let kernel = Kernel::new(b.precision);
    match b.precision {
        MatmulPrecision::Single => product_of_steps(kernel, (m, n, k), a, b, out, fetch),
        MatmulPrecision::Bf16 => {
            let mut room = Room::take();
            let a = room.left(m, k, a);
            product_of_steps(kernel, (m, n, kernel.steps(k)), a, b, out, fetch);
        }
    }
}

/// As [`product_packed`] with a depth in steps of the kernel.
fn product_of_steps(
    kernel: Kernel,
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: &Packed,
    out: Out,
    fetch: Fetch,
) {
    let width = b.n.next_multiple_of(kernel.nr());
    PANELS.with_borrow_mut(|(_, packed_a)| {
        for m0 in (0..m).step_by(MC) {
            let rows = (m0, (m0 + MC).min(m));
            for (k0, packed_depth) in depths(kernel.steps(b.k)) {
                let depth = packed_depth.min(k.saturating_sub(k0));
                if depth == 0 && k0 > 0 {
                    break;
                }
                let left = pack_left(kernel.mr(), rows, k0, depth, a, packed_a);
                let out = if k0 == 0 { out } else { out.accumulating() };
                let panels = Panels {
                    data: &b.panels[k0 * width..][..packed_depth * width],
                    depth: packed_depth,
                };
                let fetch = if k0 == 0 && m0 == 0 {
                    fetch
                } else {
                    Fetch::NOTHING
                };
                let part = Part { rows, cols: (0, n) };
                tiles(kernel, part, depth, left, panels, out, fetch);
            }
        }
    });
}

/// Blocks (first, depth) of nearly equal depth: 896 is 2 x 448, not 512 + 384.
fn depths(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = k.div_ceil(DEPTH).max(1);
    (0..blocks).map(move |i| (k * i / blocks, k * (i + 1) / blocks - k * i / blocks))
}

/// The left operand of a task.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// As it stands.
    Plain(Strided<'a>),
    /// All of its rows, packed by [`pack_left_whole`].
    Packed { panels: &'a [f32], rows: usize },
}

/// A part of a product.
#[derive(Clone, Copy)]
struct Part {
    /// First and end row.
    rows: (usize, usize),
    /// First and end column; the first is a multiple of the panel width.
    cols: (usize, usize),
}

/// A part of the product.
fn block(kernel: Kernel, part: Part, k: usize, a: Operand, b: Strided, out: Out) {
    let Part { rows, cols } = part;
    if rows.0 >= rows.1 || cols.0 >= cols.1 {
        return;
    }
    let nr = kernel.nr();
    PANELS.with_borrow_mut(|(packed_b, packed_a)| {
        for (k0, depth) in depths(k) {
            let size = (cols.1 - cols.0).next_multiple_of(nr) * depth;
            packed_b.reserve(size);
            pack_panels(nr, depth, cols, k0, b, &mut packed_b[..size]);
            let panels = Panels {
                data: packed_b,
                depth,
            };
            let out = if k0 == 0 { out } else { out.accumulating() };
            for m0 in (rows.0..rows.1).step_by(MC) {
                let m1 = (m0 + MC).min(rows.1);
                let left = match a {
                    Operand::Plain(a) => pack_left(kernel.mr(), (m0, m1), k0, depth, a, packed_a),
                    Operand::Packed { panels, rows } => {
                        let all = rows.next_multiple_of(kernel.mr());
                        Left::packed(&panels[all * k0 + m0 * depth..], kernel.mr(), depth)
                    }
                };
                let part = Part {
                    rows: (m0, m1),
                    cols,
                };
                tiles(kernel, part, depth, left, panels, out, Fetch::NOTHING);
            }
        }
    });
}

/// Packed columns of `B`.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [f32],
    /// Rows that were packed: a product may use fewer.
    depth: usize,
}

fn tiles(
    kernel: Kernel,
    part: Part,
    depth: usize,
    left: Left,
    panels: Panels,
    out: Out,
    fetch: Fetch,
) {
    let Part { rows, cols } = part;
    let (mr, nr) = (kernel.mr(), kernel.nr());
    let height = rows.1 - rows.0;
    let groups = height.div_ceil(mr);
    let steps = groups * (cols.1 - cols.0).div_ceil(nr) * depth;
    for (panel, c0) in (cols.0..cols.1).step_by(nr).enumerate() {
        let width = nr.min(cols.1 - c0);
        let b = panels.data[panel * panels.depth * nr..][..depth * nr].as_ptr();
        // Each tile asks for its share of the next panel, or of what will be read after the
        // product.
        let (ahead, pace) = if fetch.len == 0 {
            (b.wrapping_add(panels.depth * nr), nr.div_ceil(groups))
        } else {
            let pace = fetch.len.div_ceil(steps.max(1));
            (fetch.from.wrapping_add(panel * groups * depth * pace), pace)
        };
        let tile = |group: usize| {
            let r0 = rows.0 + group * mr;
            Tile {
                k: depth,
                a: left.a.wrapping_add(group * left.group),
                a_row: left.a_row,
                a_col: left.a_col,
                b,
                c: out.c.wrapping_add(r0 * out.c_row + c0),
                c_row: out.c_row,
                init: if out.init.is_null() {
                    out.init
                } else {
                    out.init.wrapping_add(r0 * out.init_row + c0)
                },
                init_row: out.init_row,
                ahead: ahead.wrapping_add(group * depth * pace),
                pace,
            }
        };
        // Whole tiles in one go; what is left at the lower and the right edge one by one.
        let whole = if width == nr { height / mr } else { 0 };
        // SAFETY: the entry points checked that C, the start and A cover the whole product; the
        // packed parts were sized by their packing; tasks own disjoint rows and columns of C.
        unsafe {
            run_strip(kernel, &tile(0), whole, left.group);
            for group in whole..groups {
                run_tile(kernel, &tile(group), mr.min(height - group * mr), width);
            }
        }
    }
}

#[cfg(test)]
mod tests;
