//! Fast operations on the CPU.
