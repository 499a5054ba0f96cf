//! Where tests of kernels run: on the simulator, or on the card that `MUNI_TEST_DEVICE` names
//! (`cuda:0`), for those who develop on one. `muni-engine doctor --check-kernels` runs the same
//! checks without the tests.

use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::driver::cudarc_driver::CudarcDriver;
use muni_engine::ops::cuda::driver::simulator::SimDriver;
use std::sync::Arc;

/// The card's number, where tests are to run on one.
pub fn card() -> Option<usize> {
    let name = std::env::var("MUNI_TEST_DEVICE").ok()?;
    let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    match (name.as_str(), number) {
        ("sim", _) => None,
        (_, Some(number)) => Some(number),
        _ => panic!("MUNI_TEST_DEVICE is {name}, expected sim or cuda:N"),
    }
}

/// The simulator, verifying or not, or the card.
pub fn driver(verify: bool) -> Arc<dyn Driver> {
    match card() {
        Some(number) => Arc::new(CudarcDriver::new(number).unwrap()),
        None => Arc::new(SimDriver::new(verify).unwrap()),
    }
}

/// The simulator with every launch checked, or the card; or the build of the kernels that
/// `MUNI_SIM_LIBRARY` names, with AddressSanitizer, where it may be enough to run each launch once.
pub fn watched_driver(sanitized_too: bool) -> Arc<dyn Driver> {
    match std::env::var_os("MUNI_SIM_LIBRARY") {
        Some(path) => Arc::new(SimDriver::load(path.as_ref(), sanitized_too).unwrap()),
        None => driver(true),
    }
}
