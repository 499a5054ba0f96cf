//! What a product reads and writes.

use crate::ops::cpu::shared::SharedMut;

/// Depth up to which a transposed left operand whose columns do not compete for L1's sets is read
/// in place.
const IN_PLACE_DEPTH: usize = 128;

/// A matrix to read: element `(r, c)` is at `data[r * row + c * col]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) col: usize,
}

impl<'a> Strided<'a> {
    /// Row-major with `row` elements between rows.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transpose of a row-major matrix with `row` elements between rows.
    pub(crate) fn transposed(data: &'a [f32], row: usize) -> Self {
        Self {
            data,
            row: 1,
            col: row,
        }
    }

    /// The transpose of this matrix, where it stands.
    pub(super) fn flipped(self) -> Self {
        Self {
            row: self.col,
            col: self.row,
            ..self
        }
    }

    /// Whether the tile loop can read it as it stands: rows are contiguous, or there are few
    /// columns and they are an odd number of cache lines apart, so that they fall into all sets of
    /// L1 and those of one group of rows stay there.
    pub(super) fn in_place(&self, depth: usize) -> bool {
        let spread = self.col.is_multiple_of(16) && (self.col / 16) % 2 == 1;
        self.col == 1 || self.row == 1 && depth <= IN_PLACE_DEPTH && spread
    }

    pub(super) fn covers(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// What the product is added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: `C = A B`.
    Zero,
    /// The old value: `C += A B`.
    Accumulate,
    /// Another matrix with the same rows: `C = R + A B`; the second number is the distance between
    /// its rows.
    From(&'a [f32], usize),
}

/// Where a product goes: `c = start + a b`.
pub(crate) struct Target<'a> {
    /// What the product is added to.
    pub start: Start<'a>,
    /// The result.
    pub c: &'a mut [f32],
    /// Elements from one row of `c` to the next.
    pub row: usize,
}

/// Memory that will be read right after a product: the tile loop asks for it into L2 a little at a
/// time, or the next product would begin by waiting for it. A hint that may name any address.
#[derive(Clone, Copy)]
pub(crate) struct Fetch {
    pub(super) from: *const f32,
    pub(super) len: usize,
}

impl Fetch {
    /// Nothing besides the product's own panels.
    pub(crate) const NOTHING: Self = Self {
        from: std::ptr::null(),
        len: 0,
    };

    /// `len` elements from an address on.
    pub(crate) fn new(from: *const f32, len: usize) -> Self {
        Self { from, len }
    }
}

/// Raw parts of the output, shared by threads that write disjoint tiles.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub c: *mut f32,
    pub c_row: usize,
    pub init: *const f32,
    pub init_row: usize,
}

impl Out {
    pub(crate) fn new(m: usize, n: usize, target: Target) -> Self {
        let Target {
            start,
            c,
            row: c_row,
        } = target;
        assert!(
            c_row >= n && (m - 1) * c_row + n <= c.len(),
            "gemm: the output is shorter than {m} x {n} needs"
        );
        let pointer = c.as_mut_ptr();
        let (init, init_row) = match start {
            Start::Zero => (std::ptr::null(), 0),
            Start::Accumulate => (pointer.cast_const(), c_row),
            Start::From(r, row) => {
                assert!(
                    (m - 1) * row + n <= r.len(),
                    "gemm: the residual is shorter than {m} x {n} needs"
                );
                (r.as_ptr(), row)
            }
        };
        Self {
            c: pointer,
            c_row,
            init,
            init_row,
        }
    }

    /// The same output, for the second block of the depth on.
    pub(crate) fn accumulating(self) -> Self {
        Self {
            init: self.c.cast_const(),
            init_row: self.c_row,
            ..self
        }
    }
}

// SAFETY: each task writes its own columns and rows of C only; see `split`.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// Part of a matrix that tasks share, each of them its own rows and columns, which no `&mut` slice
/// can express.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a> {
    /// The matrix.
    pub all: SharedMut<'a>,
    /// The part's first element.
    pub at: usize,
    /// Elements from one row to the next.
    pub row: usize,
}

impl Shared<'_> {
    pub(super) fn out(self, m: usize, n: usize, add: bool) -> Out {
        let c = self.all.part(self.at, (m - 1) * self.row + n);
        Out {
            c,
            c_row: self.row,
            init: if add {
                c.cast_const()
            } else {
                std::ptr::null()
            },
            init_row: self.row,
        }
    }
}
