//! The one integration-test binary: a module per subject, so that the library is linked once.

mod architecture;
mod cli_dataset;
mod cli_doctor;
mod cli_prompt;
mod cli_train;
mod cuda;
mod formats;
mod gpu_report;
mod gradients;
mod ops_cases;
mod oracle;
mod shards;
mod tokenizer;
