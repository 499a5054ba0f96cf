//! The one integration-test binary: a module per subject, so that the library is linked once.

mod answer;
mod architecture;
mod cli_chat;
mod cli_dataset;
mod cli_doctor;
mod cli_prompt;
mod cli_train;
mod cuda;
mod dependencies;
mod eval_answers;
mod gpu_report;
mod gradients;
mod hf;
mod ops_cases;
mod oracle;
mod prose;
mod questions;
mod routing;
mod scheduler;
mod serve;
mod shards;
mod tokenizer;
