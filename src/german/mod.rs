//! German: everything that is true of the language, whatever a citizen asks.
//!
//! Word lists and small grammar only; what the assistant says stands in `wording` and `knowledge/`.

mod dictionary;
mod figures;
mod fold;
pub mod grammar;
mod months;
pub mod numbers;
pub mod questions;
mod register;
mod sentences;
pub mod synonyms;

pub use dictionary::{Dictionary, Spelling, spelled_words};
pub use figures::{Figure, Statement, figures, statements};
pub use fold::{fold, push_spelled_out, spell_out_umlauts, spelled_out_umlauts};
pub use months::{is_month, month_name};
pub use register::{Address, Register, address};
pub use sentences::{doubled_words, ends_sentence, sentences, words};
