//! Where tests of kernels run: on the simulator, or on the card that `MUNI_TEST_DEVICE` names (`cuda:0`; `gpu/report.py` sets it).

use muni_engine::ops::cuda::cudarc_driver::CudarcDriver;
use muni_engine::ops::cuda::driver::Driver;
use muni_engine::ops::cuda::sim_driver::SimDriver;
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
