//! Operands: a buffer and the sizes under which an operation sees it. Buffers may be longer than
//! their view, because they are made for the largest batch; an operation reads and writes the first
//! elements only.

use std::ops::{Deref, DerefMut};

use anyhow::{Result, ensure};

use super::checks::element_count;

/// A device's buffer, as far as checks need it.
pub trait Buffer: Sized {
    /// Elements.
    fn len(&self) -> usize;

    /// Whether there is no element.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `rows * cols` elements, row by row, for reading.
    fn matrix(&self, rows: usize, cols: usize) -> Matrix<'_, Self> {
        Matrix {
            buffer: self,
            rows,
            cols,
        }
    }

    /// The first `rows * cols` elements, row by row, for writing.
    fn matrix_mut(&mut self, rows: usize, cols: usize) -> MatrixMut<'_, Self> {
        MatrixMut {
            buffer: self,
            rows,
            cols,
        }
    }

    /// The first `len` elements, for reading.
    fn vector(&self, len: usize) -> Vector<'_, Self> {
        Vector { buffer: self, len }
    }

    /// The first `len` elements, for writing.
    fn vector_mut(&mut self, len: usize) -> VectorMut<'_, Self> {
        VectorMut { buffer: self, len }
    }
}

/// A buffer of tokens, positions or offsets.
pub trait IndexBuffer: Buffer {
    /// Whether a batch may end with padding: empty last segments, and tokens behind the last group.
    const PADDED: bool;

    /// The values, where the host knows them. What a kernel wrote is not known.
    fn known(&self) -> Option<&[u32]>;
}

/// `[rows, cols]`, row-major and dense.
pub struct Matrix<'a, B> {
    /// Its elements and perhaps more.
    pub buffer: &'a B,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// `[rows, cols]`, row-major and dense, for writing.
pub struct MatrixMut<'a, B> {
    /// Its elements and perhaps more.
    pub buffer: &'a mut B,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// `[len]`
pub struct Vector<'a, B> {
    /// Its elements and perhaps more.
    pub buffer: &'a B,
    /// Elements.
    pub len: usize,
}

/// `[len]`, for writing.
pub struct VectorMut<'a, B> {
    /// Its elements and perhaps more.
    pub buffer: &'a mut B,
    /// Elements.
    pub len: usize,
}

impl<B> Clone for Matrix<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B> Copy for Matrix<'_, B> {}

impl<B> Clone for Vector<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B> Copy for Vector<'_, B> {}

/// A view's shape, for checks.
pub(crate) trait View {
    /// One size per dimension.
    type Dims: AsRef<[usize]>;
    /// Sizes, the slowest first.
    fn dims(&self) -> Self::Dims;
    /// Elements of the buffer.
    fn available(&self) -> usize;

    /// Checks that the buffer holds the view and that the view has this shape.
    ///
    /// # Errors
    /// Names the operation, the operand, and the sizes found and expected.
    fn expect(&self, op: &str, name: &str, dims: &[usize]) -> Result<()> {
        let found = self.dims();
        let found = found.as_ref();
        ensure!(
            found == dims,
            "{op}: {name} is {found:?}, expected {dims:?}"
        );
        self.fits(op, name)
    }

    /// Checks that the buffer holds the view.
    ///
    /// # Errors
    /// Names the operation, the operand, and both sizes.
    fn fits(&self, op: &str, name: &str) -> Result<()> {
        let dims = self.dims();
        let dims = dims.as_ref();
        let (found, needed) = (self.available(), element_count(op, name, dims)?);
        ensure!(
            found >= needed,
            "{op}: {name} holds {found} elements, {needed} are needed for {dims:?}"
        );
        Ok(())
    }
}

macro_rules! view {
    ($($type:ident: [$($size:ident),*] as $dims:ty;)*) => {$(
        impl<B: Buffer> View for $type<'_, B> {
            type Dims = $dims;
            fn dims(&self) -> $dims {
                [$(self.$size),*]
            }
            fn available(&self) -> usize {
                self.buffer.len()
            }
        }
    )*};
}
view! {
    Matrix: [rows, cols] as [usize; 2];
    MatrixMut: [rows, cols] as [usize; 2];
    Vector: [len] as [usize; 1];
    VectorMut: [len] as [usize; 1];
}

/// A batch's tokens cut into `parts` runs by `parts + 1` offsets.
pub struct Offsets<'a, I> {
    /// The offsets and perhaps more.
    pub buffer: &'a I,
    /// Runs.
    pub parts: usize,
}

impl<I> Clone for Offsets<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for Offsets<'_, I> {}

impl<'a, I> Offsets<'a, I> {
    /// The first `parts + 1` values of a buffer.
    pub fn new(buffer: &'a I, parts: usize) -> Self {
        Self { buffer, parts }
    }
}

// The elements of a view of host memory. The check of its operation has found that the buffer holds
// them.
macro_rules! host_view {
    ($($type:ident: |$view:ident| $len:expr;)*) => {$(
        impl<'a, T: 'a, B: Deref<Target = [T]>> $type<'a, B> {
            /// Its elements, where they lie on the host.
            pub fn slice(self) -> &'a [T] {
                let $view = self;
                &$view.buffer[..$len]
            }
        }
    )*};
}
host_view! {
    Matrix: |view| view.rows * view.cols;
    Vector: |view| view.len;
    Offsets: |view| view.parts + 1;
}

// As `host_view!`, for writing.
macro_rules! host_view_mut {
    ($($type:ident: |$view:ident| $len:expr;)*) => {$(
        impl<'a, T: 'a, B: DerefMut<Target = [T]>> $type<'a, B> {
            /// Its elements, where they lie on the host.
            pub fn slice_mut(self) -> &'a mut [T] {
                let $view = self;
                &mut $view.buffer[..$len]
            }
        }
    )*};
}
host_view_mut! {
    MatrixMut: |view| view.rows * view.cols;
    VectorMut: |view| view.len;
}
