//! Tests of `gradients`.
