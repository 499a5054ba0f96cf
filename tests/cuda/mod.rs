//! The CUDA engine's own machinery: what the simulator finds, what single instructions do, what
//! ptxas says, how kernels are read. The operations themselves are in the case table (`ops_cases`).

pub(crate) mod conformance;
mod constants;
mod counting;
pub(crate) mod device;
mod faults;
mod library;
mod memory;
mod parser;
mod ptxas;
mod recording;
mod sanitizer;
mod settings;
mod signatures;
mod training;
