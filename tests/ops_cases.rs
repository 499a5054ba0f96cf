//! Tests of `ops_cases`.
