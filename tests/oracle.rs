//! Tests of `oracle`.
