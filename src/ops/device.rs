//! What a device is: memory and transfer. Arithmetic is [`super::Run`], one implementation per
//! operation.

use anyhow::Result;

use super::adam_state::AdamState;
use super::view::{Buffer, IndexBuffer};

/// A place where arithmetic happens. Operations are issued in order and may run asynchronously;
/// only `download_*` waits.
pub trait Device: Sync {
    /// Weights, activations and their gradients, in the device's storage precision.
    type Float: Buffer + Send + Sync;
    /// Always `f32`: statistics, router, losses, optimizer state.
    type Single: Buffer + Send + Sync;
    /// Always `u32`: tokens, positions, offsets.
    type Index: IndexBuffer + Send + Sync;
    /// Memory on the host from which weights come; see [`Device::adopt_float`].
    type Host: std::ops::DerefMut<Target = [f32]>;

    /// Bytes of an element of [`Device::Float`].
    const STORAGE_BYTES: usize;

    /// Name for people, e.g. `cpu (AVX2, 2 threads)`.
    fn name(&self) -> String;

    /// An operation that passed its check comes next; it cannot move fewer bytes than these.
    fn begin(&self, _operation: &'static str, _bytes: usize) {}

    /// Training batches are padded to a multiple of this, in a workspace of so many tokens, so that
    /// few different shapes come up and recorded operations serve again. Where it is not 1, the
    /// last segments may be empty, and groups may end before the last token: the tokens behind them
    /// belong to no logical batch.
    fn token_multiple(&self, _capacity: usize) -> usize {
        1
    }

    /// A zeroed buffer of `len` elements.
    fn zeros_float(&self, len: usize) -> Result<Self::Float>;
    /// A zeroed buffer of `len` elements.
    fn zeros_single(&self, len: usize) -> Result<Self::Single>;
    /// A zeroed buffer of `len` elements.
    fn zeros_index(&self, len: usize) -> Result<Self::Index>;
    /// Rounds `values` into the first elements of `buffer`.
    fn upload_float(&self, values: &[f32], buffer: &mut Self::Float) -> Result<()>;
    /// Zeros on the host, for values that [`Device::adopt_float`] will take over.
    ///
    /// # Errors
    /// If there is no memory.
    fn host_buffer(&self, len: usize) -> Result<Self::Host>;
    /// A buffer with these values. A device that computes on the host takes the memory itself: a
    /// model of 187 MB is then not copied.
    ///
    /// # Errors
    /// If there is no memory.
    fn adopt_float(&self, values: Self::Host) -> Result<Self::Float>;
    /// Copies `values` into the first elements of `buffer`.
    fn upload_single(&self, values: &[f32], buffer: &mut Self::Single) -> Result<()>;
    /// Copies `values` into the first elements of `buffer`.
    fn upload_index(&self, values: &[u32], buffer: &mut Self::Index) -> Result<()>;
    /// The first `len` elements.
    fn download_float(&self, buffer: &Self::Float, len: usize) -> Result<Vec<f32>>;
    /// The first `len` elements.
    fn download_single(&self, buffer: &Self::Single, len: usize) -> Result<Vec<f32>>;
    /// The first `len` elements.
    fn download_index(&self, buffer: &Self::Index, len: usize) -> Result<Vec<u32>>;
    /// Sets the first `len` elements to zero.
    fn clear_float(&self, buffer: &mut Self::Float, len: usize) -> Result<()>;
    /// Sets the first `len` elements to zero.
    fn clear_single(&self, buffer: &mut Self::Single, len: usize) -> Result<()>;
    /// `to[at..at + len] = from[..len]`.
    fn copy_single(
        &self,
        from: &Self::Single,
        len: usize,
        to: &mut Self::Single,
        at: usize,
    ) -> Result<()>;
    /// Copies what the operations to come work on: each piece into the first elements of its
    /// buffer. A device that runs ahead has taken the values when this returns, and copies them
    /// while earlier operations still run.
    fn upload_inputs(
        &self,
        indices: &mut [(&[u32], &mut Self::Index)],
        singles: &mut [(&[f32], &mut Self::Single)],
    ) -> Result<()> {
        for (values, buffer) in indices {
            self.upload_index(values, buffer)?;
        }
        for (values, buffer) in singles {
            self.upload_single(values, buffer)?;
        }
        Ok(())
    }

    /// Fresh optimizer state of a weight of these values: moments zero, master (if any) exactly the
    /// values, before the device rounds them.
    fn adam_state(&self, values: &[f32]) -> Result<AdamState<Self::Single>>;
}
