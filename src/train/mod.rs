//! Training: the loop, its schedule and optimizer, and everything that keeps a run from being lost.
//!
//! - `settings` what a run is trained with; `schedule` learning rate and which batches make a
//!   step;
//! - `trainer` the loop; [`step`] one optimizer step, `graphs` what is recorded of it;
//!   `optimizer` AdamW; [`source`] batches from shards;
//! - `checkpoint`, [`run_folder`] what lies on the disk, and how it gets there whole;
//! - [`memory`] what a run needs of a device's memory;
//! - `metrics`, `progress` what a run shows; `interrupt` how it is stopped.

pub(crate) mod checkpoint;
pub(crate) mod graphs;
pub(crate) mod interrupt;
pub mod memory;
pub(crate) mod metrics;
pub(crate) mod optimizer;
pub(crate) mod progress;
pub mod run_folder;
pub(crate) mod schedule;
pub(crate) mod settings;
pub mod source;
pub mod step;
pub(crate) mod trainer;

pub use settings::{LossOn, RunOptions, Stage, TrainSettings};
pub use trainer::{Outcome, Setup, Trainer};
pub(crate) use trainer::{Resume, SampleFn};
