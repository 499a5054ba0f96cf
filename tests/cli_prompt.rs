//! Tests of `cli_prompt`.
