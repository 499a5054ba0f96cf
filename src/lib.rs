//! muni-engine: turns a German city's knowledge base into training dialogues, trains a small Mixture-of-Experts
//! language model on them, and answers citizens with it. `docs/architecture.md` is the map.

pub mod answer;
pub mod cli;
pub mod dataset;
pub mod eval;
pub mod files;
pub mod generate;
pub mod german;
pub mod hf;
pub mod html;
pub mod knowledge;
pub mod model;
pub mod ops;
pub mod roofline;
pub mod serve;
pub mod shards;
pub mod tokenizer;
pub mod train;
pub mod wording;
