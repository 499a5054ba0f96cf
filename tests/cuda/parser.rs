//! The build's own reader of kernels, for tests.
#![allow(dead_code)]

#[path = "../../build/constants.rs"]
pub mod constants;
#[path = "../../build/signatures.rs"]
pub mod signatures;
#[path = "../../build/tokens.rs"]
pub mod tokens;
#[path = "../../build/variants.rs"]
pub mod variants;
