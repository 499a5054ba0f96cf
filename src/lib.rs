//! muni-engine turns a German city's knowledge base into training dialogues, trains a small
//! Mixture-of-Experts language model on them, and answers citizens with it.
//!
//! Three stages meet through files only:
//!
//! | stage | from | to | modules |
//! |---|---|---|---|
//! | data | `knowledge/` | `shards/` | [`knowledge`], [`dataset`], [`tokenizer`], [`shards`] |
//! | training | `shards/` | `runs/NAME/best_model/` | [`train`], [`model`], [`ops`], [`hf`] |
//! | answers | `best_model/`, `knowledge/` | text | [`generate`], [`answer`], [`eval`], `serve` |
//!
//! Answering takes the last stage alone. [`open()`](open::open()) gives an assistant; without a
//! model folder it answers from the knowledge base, here the bundled one:
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! let city = muni_engine::open(None)?;
//! let reply = city.ask("Was kostet ein neuer Personalausweis?")?;
//! assert!(reply.text.contains("46 Euro"));
//! assert!(reply.is_supported());
//! assert_eq!(reply.service.map(|service| service.id).as_deref(), Some("ewo_personalausweis"));
//! assert!(reply.sources[0].contains("PAuswGebV"));
//! # Ok(())
//! # }
//! ```
//!
//! With a trained model: `muni_engine::open(Some(Path::new("runs/first/best_model")))?`.
//! [`OpenOptions`] names another knowledge folder, the number of threads and how answers are drawn.
//! `docs/architecture.md` is the map of the modules.

pub mod answer;
pub mod cli;
pub mod dataset;
pub mod eval;
pub(crate) mod files;
pub mod generate;
pub mod german;
pub mod hf;
pub(crate) mod html;
pub mod knowledge;
pub mod model;
pub(crate) mod open;
pub mod ops;
pub(crate) mod roofline;
pub(crate) mod serve;
pub mod shards;
pub mod tokenizer;
pub mod train;
pub(crate) mod wording;

pub use open::{OpenAssistant, OpenOptions, open};
