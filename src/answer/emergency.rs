//! Signs of danger. Who is in danger does not ask like the questions that the search knows, so a
//! classifier of its own stands before it ([`model`]): over words, kinds of words ([`words`]) and
//! rules ([`signs`]). A knowledge base without lines to learn from is left with the rules. It would
//! rather send somebody to 112 for nothing than ask back while a house burns; only a question that
//! the knowledge base has in these very words (`Darf ich die Behördennummer anrufen, wenn es
//! brennt?`) comes before it.

mod model;
mod rules;
mod signs;
mod words;

use crate::knowledge::Knowledge;
use crate::knowledge::dangers::DANGERS;
use model::Model;

/// Whether somebody may be in danger who asks for this request.
pub(super) fn is_danger(request: &str) -> bool {
    DANGERS.contains(&request)
}

/// Sees danger.
pub(super) struct Alarm {
    /// `None` where the knowledge base has no lines to learn from: rules alone decide.
    model: Option<Model>,
}

impl Alarm {
    pub(super) fn new(knowledge: &Knowledge) -> Alarm {
        Alarm {
            model: Model::new(knowledge),
        }
    }

    /// The request of `ausserhalb.toml` that says whom to call, where somebody may be in danger who
    /// asks this. `cores`: the question folded, as it was typed and with its spelling corrected.
    pub(super) fn danger(&self, question: &str, cores: [&str; 2]) -> Option<&'static str> {
        match &self.model {
            Some(model) => model.danger(question),
            None => cores.into_iter().find_map(rules::sign),
        }
    }
}
