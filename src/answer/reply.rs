//! What goes into the assistant and what comes out of it.

use super::{OfficeContact, Register, ServiceRef};
use crate::knowledge::Intent;
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// What the guard does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardMode {
    /// Nothing: the model's text as it comes, placeholders and all.
    Off,
    /// Says what is wrong with an answer and shows it all the same. An answer with a value nobody
    /// knows is replaced even so.
    Mark,
    /// Replaces what is wrong by the knowledge base's own answer.
    Replace,
}

impl GuardMode {
    /// All modes.
    pub const ALL: [GuardMode; 3] = [GuardMode::Off, GuardMode::Mark, GuardMode::Replace];
}

impl fmt::Display for GuardMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            GuardMode::Off => "off",
            GuardMode::Mark => "mark",
            GuardMode::Replace => "replace",
        })
    }
}

impl FromStr for GuardMode {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<GuardMode> {
        match GuardMode::ALL.into_iter().find(|m| m.to_string() == name) {
            Some(mode) => Ok(mode),
            None => bail!("there is no guard \"{name}\": expected off, mark or replace"),
        }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person who asks.
    Citizen,
    /// This program.
    Assistant,
}

/// One contribution to a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub text: String,
}

impl Turn {
    /// What a citizen said.
    pub fn citizen(text: impl Into<String>) -> Turn {
        Turn {
            role: Role::Citizen,
            text: text.into(),
        }
    }

    /// What the assistant said.
    pub fn assistant(text: impl Into<String>) -> Turn {
        Turn {
            role: Role::Assistant,
            text: text.into(),
        }
    }
}

/// What the guard found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The model's answer holds what the knowledge base says (or the guard is off and nobody
    /// looked).
    Passed,
    /// Something is wrong with the model's answer; it is shown all the same.
    Marked,
    /// Something was wrong with it; what is shown is the knowledge base's own answer.
    Replaced,
    /// The request is none of the offices' business; what is shown says so.
    Refused,
    /// There is no model, or nothing that it could choose between; what is shown is the knowledge
    /// base's own answer.
    Knowledge,
    /// It is not sure which service is meant; what is shown asks which.
    Asked,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Verdict; 6] = [
        Verdict::Passed,
        Verdict::Marked,
        Verdict::Replaced,
        Verdict::Refused,
        Verdict::Knowledge,
        Verdict::Asked,
    ];
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Verdict::Passed => "passed",
            Verdict::Marked => "marked",
            Verdict::Replaced => "replaced",
            Verdict::Refused => "refused",
            Verdict::Knowledge => "knowledge",
            Verdict::Asked => "asked",
        })
    }
}

/// One answer with everything that is to be said about it.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// The whole final answer, placeholders filled: what the citizen should see.
    pub text: String,
    /// What `push` and `finish` released; where it differs from `text`, the client must show `text`
    /// instead.
    pub released: String,
    /// What the model said, as it said it; incomplete where the guard stopped it.
    pub model_text: String,
    /// What the guard found.
    pub verdict: Verdict,
    /// What was wrong with the model's answer, for machines: `figure:30 Euro`,
    /// `wrong_service:ewo_reisepass`, `no_sentence_end`.
    pub reasons: Vec<String>,
    /// The office that is responsible, with how to reach it.
    pub office: Option<OfficeContact>,
    /// The service that the answer is about.
    pub service: Option<ServiceRef>,
    /// The sides of the service that the answer tells.
    pub intents: Vec<Intent>,
    /// Legal sources of the facts in the answer.
    pub sources: Vec<String>,
    /// The day at which these facts were checked, `YYYY-MM-DD`.
    pub checked_on: Option<String>,
    /// How the citizen is addressed.
    pub register: Register,
    /// The services that may be meant, the likeliest first, where the verdict is
    /// [`Verdict::Asked`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<ServiceOption>,
}

/// A service that the citizen can choose, by saying its label or its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceOption {
    /// Its id in the knowledge base.
    pub service: String,
    /// What a button for it says.
    pub label: String,
}

impl Reply {
    /// Whether the knowledge base supports the text. With [`GuardMode::Off`] nobody looked.
    pub fn is_supported(&self) -> bool {
        self.verdict != Verdict::Marked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in GuardMode::ALL {
            assert_eq!(mode.to_string().parse::<GuardMode>().unwrap(), mode);
        }
        let error = "on".parse::<GuardMode>().unwrap_err().to_string();
        assert!(error.contains("replace"), "{error}");
    }
}
