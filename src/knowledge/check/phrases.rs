//! The phrases of conversations.

use super::Checker;
use super::language::{Address, address};
use crate::knowledge::municipality::{Piece, pieces};
use crate::knowledge::{Text, fold};
use std::collections::BTreeMap;

impl Checker<'_> {
    // Each phrase keeps to its form of address and holds what is to be filled in.
    pub(super) fn phrases(&mut self) {
        let phrases = &self.knowledge.phrases;
        let file = &phrases.file;
        for (key, list, slots) in phrases.lists() {
            for (register, texts) in [
                ("sie", &list.sie),
                ("du", &list.du),
                ("neutral", &list.neutral),
            ] {
                let mut seen: BTreeMap<String, &Text> = BTreeMap::new();
                for text in texts {
                    let wrong = match address(text) {
                        None => None,
                        Some(Address::Du(word)) => (register != "du").then_some(word),
                        Some(Address::Sie(word) | Address::MaybeSie(word)) => {
                            (register != "sie").then_some(word)
                        }
                    };
                    if let Some(word) = wrong {
                        self.error(
                            file,
                            text,
                            format!("\"{word}\" does not fit into the list {register} of [{key}]"),
                        );
                    }
                    if !slots.is_empty()
                        && slots.iter().filter(|slot| text.contains(**slot)).count() != 1
                    {
                        self.error(
                            file,
                            text,
                            format!(
                                "a phrase of [{key}] holds exactly one of {}",
                                slots.join(", ")
                            ),
                        );
                    }
                    for piece in pieces(text).unwrap_or_default() {
                        if let Piece::Placeholder(name) = piece
                            && !slots.contains(&format!("{{{name}}}").as_str())
                            && name != "titel"
                            && self.knowledge.municipality.value(name, None).is_none()
                        {
                            self.error(
                                file,
                                text,
                                format!("unknown placeholder {{{name}}} in [{key}]"),
                            );
                        }
                    }
                    if let Some(first) = seen.insert(fold(text), text) {
                        let line = file.line(first);
                        self.error(
                            file,
                            text,
                            format!("stands in [{key}] already, on line {line}"),
                        );
                    }
                    self.spelling(file, text);
                }
            }
        }
    }
}
