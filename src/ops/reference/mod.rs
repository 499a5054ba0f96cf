//! Slow, obvious operations for tests.
