//! How a text is continued, and why it ends.

use super::constraint::TokenAutomaton;
use super::sampling::SamplingSettings;
use std::sync::Arc;

/// How to continue a text.
#[derive(Clone, Debug, Default)]
pub struct GenerateSettings {
    /// How each token is chosen.
    pub sampling: SamplingSettings,
    /// Most new tokens; `None`: until the context is full.
    pub max_new_tokens: Option<usize>,
    /// The token that ends a text, e.g. `<|endoftext|>`; `None`: none does.
    pub end_token: Option<u32>,
    /// The texts that are allowed; `None`: all. Where they leave no choice, the model is not
    /// asked.
    pub allowed: Option<Arc<TokenAutomaton>>,
    /// Strings that end a text, not shown themselves; only for `Generator::generate_text`.
    pub stop_strings: Vec<String>,
    /// Drop white space at both ends of the text; only for `Generator::generate_text`.
    pub trim: bool,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    MaxNewTokens,
    /// Prompt and text fill the model's context.
    ContextFull,
    /// The caller had enough.
    Cancelled,
}
