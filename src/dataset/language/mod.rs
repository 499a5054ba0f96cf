//! German, as far as the generator needs it: words and small grammar (`words`), questions turned into subordinate clauses
//! and other shapes (`questions`), words of the same meaning (`synonyms`).

pub mod questions;
pub mod synonyms;
pub mod words;
