//! Training: the loop, its schedule and optimizer, and everything that keeps a run from being lost.
//!
//! - [`settings`] what a run is trained with; [`schedule`] learning rate and which batches make a
//!   step;
//! - [`trainer`] the loop; [`step`] one optimizer step, [`graphs`] what is recorded of it;
//!   [`optimizer`] AdamW; [`source`] batches from shards;
//! - [`checkpoint`], [`run_folder`] what lies on the disk, and how it gets there whole;
//! - [`memory`] what a run needs of a device's memory;
//! - [`metrics`], [`progress`] what a run shows; [`interrupt`] how it is stopped.

pub mod checkpoint;
pub mod graphs;
pub mod interrupt;
pub mod memory;
pub mod metrics;
pub mod optimizer;
pub mod progress;
pub mod run_folder;
pub mod schedule;
pub mod settings;
pub mod source;
pub mod step;
pub mod trainer;

pub use settings::{LossOn, RunOptions, Stage, TrainSettings};
pub use trainer::{Outcome, Resume, SampleFn, Setup, Trainer};
