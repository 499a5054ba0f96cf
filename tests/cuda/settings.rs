//! How the build reads `MUNI_CUDA` and `MUNI_CUDA_ARCHS`, and what a binary without kernels says
//! where a card is asked for.

#[path = "../../build/settings.rs"]
mod build;

use build::{Mode, archs, mode, without_nvcc};
use muni_engine::ops::cuda::driver::cudarc_driver::{CudarcDriver, no_kernels};
use muni_engine::ops::cuda::kernels::{ARCHITECTURES, NO_KERNELS};

#[test]
fn muni_cuda_is_one_of_three_words() {
    assert_eq!(mode(None), Ok(Mode::Auto));
    assert_eq!(mode(Some("auto")), Ok(Mode::Auto));
    assert_eq!(mode(Some("off")), Ok(Mode::Off));
    assert_eq!(mode(Some("require")), Ok(Mode::Require));
    for wrong in ["", "on", "OFF", "1"] {
        let message = mode(Some(wrong)).unwrap_err();
        assert!(message.contains("off, auto or require"), "{message}");
        assert!(message.contains(&format!("{wrong:?}")), "{message}");
    }
}

#[test]
fn without_nvcc_only_require_fails() {
    for quiet in [Mode::Auto, Mode::Off] {
        assert_eq!(without_nvcc(quiet, "no nvcc".into()), Ok("no nvcc".into()));
    }
    let message = without_nvcc(Mode::Require, "no nvcc was found".into()).unwrap_err();
    assert_eq!(message, "MUNI_CUDA=require, but no nvcc was found");
}

#[test]
fn architectures_are_numbers_from_80_on() {
    assert_eq!(archs(None).unwrap(), ["80", "86", "89", "90", "120"]);
    assert_eq!(archs(Some("90, 86,90")).unwrap(), ["86", "90"]);
    for wrong in ["", "75", "sm_86", "86,", "86;90", "9.0"] {
        let message = archs(Some(wrong)).unwrap_err();
        assert!(message.contains("MUNI_CUDA_ARCHS"), "{message}");
        assert!(message.contains("80,86,89,90,120"), "{message}");
    }
}

/// There is no such card anywhere, so this fails with and without kernels, driver and cards, each
/// with its own reason.
#[test]
fn a_card_that_is_not_there_is_refused_with_what_to_do() {
    let message = match CudarcDriver::new(4096) {
        Ok(_) => panic!("cuda:4096 was found"),
        Err(error) => format!("{error:#}"),
    };
    assert!(message.contains("cuda:4096"), "{message}");
    match NO_KERNELS {
        Some(reason) => {
            assert!(message.contains(reason), "{message}");
            assert!(message.contains(&no_kernels(reason)), "{message}");
            assert!(ARCHITECTURES.is_empty());
        }
        None => assert!(!ARCHITECTURES.is_empty()),
    }
    let text = no_kernels("no nvcc was found");
    for needed in [
        "no nvcc was found",
        "pip install nvidia-cuda-nvcc",
        "MUNI_CUDA=require",
        "MUNI_NVCC",
        "--device cpu",
    ] {
        assert!(text.contains(needed), "{text}");
    }
}
