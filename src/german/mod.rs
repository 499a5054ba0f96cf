//! German: everything that is true of the language, whatever a citizen asks.
//!
//! Word lists and small grammar only; what the assistant says stands in `wording` and `knowledge/`.

mod dictionary;
mod figures;
mod fold;
pub(crate) mod grammar;
mod months;
pub(crate) mod numbers;
pub(crate) mod questions;
mod register;
mod sentences;
pub(crate) mod synonyms;

pub(crate) use dictionary::{Dictionary, spelled_words};
pub(crate) use figures::{Figure, figures, statements};
pub use fold::fold;
pub(crate) use fold::{push_spelled_out, spell_out_umlauts, spelled_out_umlauts};
pub(crate) use months::{month_name, month_number};
pub use register::Register;
pub(crate) use register::{Address, address};
pub(crate) use sentences::{doubled_words, ends_sentence, sentences, words};
