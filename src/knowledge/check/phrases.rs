//! The phrases of conversations.

use super::Checker;
use crate::german::{Address, Register, address, fold};
use crate::knowledge::Text;
use crate::knowledge::municipality::{Piece, pieces};
use std::collections::BTreeMap;

impl Checker<'_> {
    // Each phrase keeps to its form of address and holds what is to be filled in.
    pub(super) fn phrases(&mut self) {
        let phrases = &self.knowledge.phrases;
        let file = &phrases.file;
        for (key, list, slots) in phrases.lists() {
            for register in [Register::Sie, Register::Du, Register::Neutral] {
                let (name, texts) = (register.name(), list.of(register));
                let mut seen: BTreeMap<String, &Text> = BTreeMap::new();
                for text in texts {
                    if let Some(Address { word, .. }) =
                        address(text).filter(|found| found.register != register)
                    {
                        self.error(
                            file,
                            text,
                            format!("\"{word}\" does not fit into the list {name} of [{key}]"),
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
