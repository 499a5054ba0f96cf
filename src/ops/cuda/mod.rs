//! The device of NVIDIA cards: every operation is a few launches of the kernels in `kernels/`,
//! through a [`driver::Driver`] that is a card or the simulator. Weights, activations and their
//! gradients are stored in 16 bits (`E`: fp16 or bf16), sums and statistics in `f32`.
//!
//! What the host knows, it checks; what only the device knows (the router's choice) is right by
//! construction, and no operation waits to look at it.

pub mod driver;
pub mod instructions;
pub mod memory;

mod attention;
mod embedding;
mod experts;
mod head;
mod linear;
mod optimizer;
mod rmsnorm;
mod rope;
mod router;
mod tile;

/// Made by `build.rs`: the table of all kernels, and a typed launcher for each.
///
/// A launcher has the kernel's parameter list, so a call that does not fit the kernel does not
/// compile. This one does:
///
/// ```no_run
/// use muni_engine::ops::cuda::{driver::Driver, kernels, memory::{Ptr, PtrMut}};
/// fn launch(
///     driver: &dyn Driver,
///     norm: PtrMut<f32>,
///     state: PtrMut<f32>,
///     parts: Ptr<f32>,
/// ) -> anyhow::Result<()> {
///     unsafe { kernels::grad_norm(driver, [1, 1, 1], 0, norm, state, parts, 1) }
/// }
/// ```
///
/// The same with a pointer to write where the kernel has one to read does not:
///
/// ```compile_fail,E0308
/// use muni_engine::ops::cuda::{driver::Driver, kernels, memory::{Ptr, PtrMut}};
/// fn launch(
///     driver: &dyn Driver,
///     norm: PtrMut<f32>,
///     state: PtrMut<f32>,
///     parts: PtrMut<f32>,
/// ) -> anyhow::Result<()> {
///     unsafe { kernels::grad_norm(driver, [1, 1, 1], 0, norm, state, parts, 1) }
/// }
/// ```
pub mod kernels {
    use super::driver::{Driver, Kernel, Module, Parameter, ParameterKind, launch};
    use super::memory::{Element, Ptr, PtrMut};
    include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
}

use anyhow::{Result, anyhow, ensure};
use std::marker::PhantomData;
use std::sync::Arc;

use self::driver::fake::FakeDriver;
use self::driver::{Driver, Recording};
use self::memory::arena::Memory;
use self::memory::{DeviceBuffer, Element, IndexBuffer, Scratch, ScratchPool};
use crate::ops::{AdamState, Device, LossScale, LossScaler, MemoryClass, MemoryUse};
use crate::ops::{Planner, Recorder};

/// Places in the state of the loss scale, all `f32`. What the head and the load-balancing loss
/// write into gradients is multiplied by the scale, so that small ones survive fp16; the global
/// norm and AdamW divide by it. The norm's last kernel moves the scale for the next step, so no
/// step waits for the host.
pub(crate) mod scale_state {
    use super::kernels::loss_scale;

    /// What gradients are multiplied by from now on.
    pub(crate) const SCALE: usize = loss_scale::LOSS_SCALE;
    /// What AdamW multiplies gradients by: the inverse of the scale they were made with, written by
    /// the global norm.
    pub(crate) const INVERSE: usize = loss_scale::INVERSE_SCALE;
    /// Steps without overflow since the scale last changed.
    pub(crate) const GOOD_STEPS: usize = loss_scale::GOOD_STEPS;
    /// Steps without overflow after which the scale doubles; 0: it never changes.
    pub(crate) const GROWTH_INTERVAL: usize = loss_scale::GROWTH_INTERVAL;
    /// Elements of the state.
    pub(crate) const LEN: usize = loss_scale::STATE_LENGTH;
}

/// How gradients are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScaling {
    /// By this number, always.
    Fixed(f32),
    /// From this number on: halved when a gradient overflows, doubled after so many steps without.
    Dynamic {
        /// First scale.
        initial: f32,
        /// Steps without overflow before it doubles.
        growth_interval: u32,
    },
}

impl LossScaling {
    /// What a storage precision needs.
    pub fn of<E: Element>() -> Self {
        match E::NEEDS_LOSS_SCALE {
            true => Self::Dynamic {
                initial: 65_536.0,
                growth_interval: 2_000,
            },
            false => Self::Fixed(1.0),
        }
    }

    fn state(self) -> [f32; scale_state::LEN] {
        let (scale, interval) = match self {
            Self::Fixed(scale) => (scale, 0.0),
            Self::Dynamic {
                initial,
                growth_interval,
            } => (initial, growth_interval as f32),
        };
        let mut state = [0.0; scale_state::LEN];
        state[scale_state::SCALE] = scale;
        state[scale_state::INVERSE] = 1.0 / scale;
        state[scale_state::GROWTH_INTERVAL] = interval;
        state
    }
}

/// A card, or the simulated one.
pub struct CudaDevice<E: Element> {
    memory: Arc<Memory>,
    scratch: ScratchPool,
    scale: DeviceBuffer<f32>,
    scaling: LossScaling,
    element: PhantomData<E>,
}

impl<E: Element> CudaDevice<E> {
    /// A device on a driver.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn new(driver: impl Driver + 'static, scaling: LossScaling) -> Result<Self> {
        Self::on(Arc::new(driver), scaling)
    }

    /// A device on a driver that others hold too.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn on(driver: Arc<dyn Driver>, scaling: LossScaling) -> Result<Self> {
        let memory = Memory::new(&driver);
        Self::with(&driver, memory, scaling)
    }

    /// A device for dry runs: it computes nothing and shows what a card of so many multiprocessors
    /// would need.
    ///
    /// # Errors
    /// Infallible today; returns `Result` like the other constructors.
    pub fn dry(multiprocessors: usize) -> Result<Self> {
        Self::dry_on(Arc::new(FakeDriver::new(multiprocessors)))
    }

    /// As [`Self::dry`], on a driver whose launches the caller counts.
    ///
    /// # Errors
    /// Infallible today; returns `Result` like the other constructors.
    pub(crate) fn dry_on(driver: Arc<FakeDriver>) -> Result<Self> {
        let driver: Arc<dyn Driver> = driver;
        let memory = Memory::dry_run(&driver);
        Self::with(&driver, memory, LossScaling::of::<E>())
    }

    fn with(driver: &Arc<dyn Driver>, memory: Arc<Memory>, scaling: LossScaling) -> Result<Self> {
        // The state of the loss scale is the device's, not a run's: it has an allocation of its
        // own.
        let mut scale = DeviceBuffer::new(driver, scale_state::LEN, true)?;
        scale.upload(&scaling.state())?;
        Ok(Self {
            memory,
            scratch: ScratchPool::default(),
            scale,
            scaling,
            element: PhantomData,
        })
    }

    /// Where launches go.
    pub(crate) fn driver(&self) -> &dyn Driver {
        &**self.memory.driver()
    }

    /// Where buffers come from.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Scratch memory for one operation.
    pub(crate) fn scratch(&self) -> Scratch<'_> {
        self.scratch.scratch(&self.memory)
    }

    /// State of the loss scale on the device, laid out as [`scale_state`] says. Operations change
    /// it under way, in the order of their launches.
    pub(crate) fn scale_state(&self) -> memory::PtrMut<f32> {
        self.scale.shared_ptr_mut()
    }
}

/// Operations that a driver keeps, and the scratch memory that they use.
pub struct CudaGraph {
    // Before the driver, so that it is dropped first.
    recording: Recording,
    /// [`ScratchPool::generation`] when it was recorded.
    scratch: u64,
    driver: Arc<dyn Driver>,
}

/// A kernel's `int`.
///
/// # Errors
/// Names the operation and the value that does not fit.
pub(crate) fn int(op: &str, name: &str, value: usize) -> Result<i32> {
    i32::try_from(value)
        .map_err(|_| anyhow!("{op}: {name} is {value}, the kernels count to {}", i32::MAX))
}

/// Blocks for `count` things, `each` of them per block.
///
/// # Errors
/// Where there are more than a grid may have.
pub(crate) fn blocks(op: &str, count: usize, each: usize) -> Result<u32> {
    Ok(int(op, "the number of blocks", count.div_ceil(each))? as u32)
}

impl<E: Element> Device for CudaDevice<E> {
    type Float = DeviceBuffer<E>;
    type Single = DeviceBuffer<f32>;
    type Index = IndexBuffer;
    type Host = Vec<f32>;

    const STORAGE_BYTES: usize = size_of::<E>();

    fn name(&self) -> String {
        format!("{}, {}", self.driver().name(), E::NAME)
    }

    fn begin(&self, operation: &'static str, bytes: usize) {
        self.driver().operation(operation, bytes);
    }

    fn zeros_float(&self, len: usize) -> Result<DeviceBuffer<E>> {
        DeviceBuffer::within(&self.memory, len, None, true)
    }
    fn zeros_single(&self, len: usize) -> Result<DeviceBuffer<f32>> {
        DeviceBuffer::within(&self.memory, len, None, true)
    }
    fn zeros_index(&self, len: usize) -> Result<IndexBuffer> {
        IndexBuffer::within(&self.memory, len)
    }
    fn upload_float(&self, values: &[f32], buffer: &mut DeviceBuffer<E>) -> Result<()> {
        buffer.upload(&E::narrow(values))
    }
    fn host_buffer(&self, len: usize) -> Result<Vec<f32>> {
        Ok(vec![0.0; len])
    }
    fn adopt_float(&self, values: Vec<f32>) -> Result<DeviceBuffer<E>> {
        let mut buffer = self.zeros_float(values.len())?;
        self.upload_float(&values, &mut buffer)?;
        Ok(buffer)
    }
    fn upload_single(&self, values: &[f32], buffer: &mut DeviceBuffer<f32>) -> Result<()> {
        buffer.upload(values)
    }
    fn upload_index(&self, values: &[u32], buffer: &mut IndexBuffer) -> Result<()> {
        buffer.upload(values)
    }
    fn download_float(&self, buffer: &DeviceBuffer<E>, len: usize) -> Result<Vec<f32>> {
        Ok(E::widen(&buffer.download(len)?))
    }
    fn download_single(&self, buffer: &DeviceBuffer<f32>, len: usize) -> Result<Vec<f32>> {
        buffer.download(len)
    }
    fn download_index(&self, buffer: &IndexBuffer, len: usize) -> Result<Vec<u32>> {
        buffer.download(len)
    }
    fn clear_float(&self, buffer: &mut DeviceBuffer<E>, len: usize) -> Result<()> {
        self.driver().operation("clear", len * size_of::<E>());
        buffer.clear(len)
    }
    fn clear_single(&self, buffer: &mut DeviceBuffer<f32>, len: usize) -> Result<()> {
        self.driver().operation("clear", len * size_of::<f32>());
        buffer.clear(len)
    }

    fn copy_single(
        &self,
        from: &DeviceBuffer<f32>,
        len: usize,
        to: &mut DeviceBuffer<f32>,
        at: usize,
    ) -> Result<()> {
        self.driver().operation("copy", 2 * len * size_of::<f32>());
        to.copy_from(from, len, at)
    }

    fn upload_inputs(
        &self,
        indices: &mut [(&[u32], &mut IndexBuffer)],
        singles: &mut [(&[f32], &mut DeviceBuffer<f32>)],
    ) -> Result<()> {
        let mut pieces: Vec<(&[u8], u64)> = Vec::with_capacity(indices.len() + singles.len());
        for (values, buffer) in indices {
            pieces.push((bytemuck::cast_slice(values), buffer.target(values)?));
        }
        for (values, buffer) in singles {
            pieces.push((bytemuck::cast_slice(values), buffer.target(values.len())?));
        }
        // SAFETY: each buffer is as long as its values, and alive.
        unsafe { self.driver().stage(&pieces) }
    }

    fn token_multiple(&self, capacity: usize) -> usize {
        // Full tiles of attention; and one 64th of the batch, so that padding is a percent at the
        // most.
        capacity.div_ceil(64).next_multiple_of(64)
    }

    fn adam_state(&self, values: &[f32]) -> Result<AdamState<DeviceBuffer<f32>>> {
        optimizer::adam_state(self, values)
    }
}

impl<E: Element> Recorder for CudaDevice<E> {
    type Graph = CudaGraph;

    fn runs_ahead(&self) -> bool {
        true
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<CudaGraph>> {
        if !self.driver().begin_recording()? {
            work()?;
            return Ok(None);
        }
        let done = work();
        // Ended whatever happened, so that the driver is left usable.
        let recording = self.driver().end_recording();
        done?;
        let graph = CudaGraph {
            recording: recording?,
            scratch: self.scratch.generation(),
            driver: self.memory.driver().clone(),
        };
        self.replay(&graph)?;
        Ok(Some(graph))
    }

    fn replay(&self, graph: &CudaGraph) -> Result<bool> {
        ensure!(
            Arc::ptr_eq(&graph.driver, self.memory.driver()),
            "the operations were recorded on another device"
        );
        if graph.scratch != self.scratch.generation() {
            return Ok(false);
        }
        // SAFETY: scratch memory is where it was; that other buffers are is the caller's promise to
        // `record`.
        unsafe { self.driver().replay(&graph.recording) }?;
        Ok(true)
    }

    fn profile(&self, on: bool) {
        self.driver().profile(on);
    }
}

impl<E: Element> Planner for CudaDevice<E> {
    fn set_memory_class(&self, class: MemoryClass) -> MemoryClass {
        self.memory.set_class(class)
    }

    fn memory_use(&self) -> MemoryUse {
        self.memory.most()
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        self.driver().free_memory()
    }

    fn dry_run(&self) -> Result<Option<Self>> {
        Self::dry(self.driver().multiprocessors()).map(Some)
    }

    fn reserve(&self, plan: &MemoryUse, limit: Option<u64>) -> Result<()> {
        self.scratch.clear();
        self.memory.reserve(plan.total(), limit)?;
        let scratch = usize::try_from(plan.of(MemoryClass::Scratch))?;
        self.scratch.reserve(&self.memory, scratch)
    }
}

impl<E: Element> LossScaler for CudaDevice<E> {
    fn loss_scale(&self) -> Result<Option<LossScale>> {
        if let LossScaling::Fixed(_) = self.scaling {
            return Ok(None);
        }
        let state = self.scale.download(scale_state::LEN)?;
        Ok(Some(LossScale {
            scale: state[scale_state::SCALE],
            good_steps: state[scale_state::GOOD_STEPS] as u32,
        }))
    }

    fn set_loss_scale(&self, saved: &LossScale) -> Result<()> {
        if let LossScaling::Fixed(_) = self.scaling {
            return Ok(());
        }
        ensure!(
            saved.scale.is_finite() && saved.scale >= 1.0,
            "the saved loss scale is {}, expected a power of two from 1 on",
            saved.scale
        );
        let mut state = self.scaling.state();
        state[scale_state::SCALE] = saved.scale;
        state[scale_state::INVERSE] = 1.0 / saved.scale;
        state[scale_state::GOOD_STEPS] = saved.good_steps as f32;
        self.scale.upload_shared(&state)
    }
}
