//! Figures of one service that contradict each other.

use super::Checker;
use crate::german::statements;
use crate::knowledge::{Service, SourceFile, Text};
use std::collections::BTreeMap;

impl Checker<'_> {
    // The same words before a figure of the same unit, and another figure: "beträgt die Gebühr für
    // den Pass 70 Euro" here and 60 Euro there.
    pub(super) fn contradictions(&mut self, file: &SourceFile, service: &Service) {
        let mut said: BTreeMap<(String, &str), (String, &Text)> = BTreeMap::new();
        for fact in service.facts.values() {
            for text in [&fact.text, &fact.short] {
                for statement in statements(text) {
                    let (number, unit) = statement.figure;
                    match said.get(&(statement.words.clone(), unit)) {
                        Some((other, at)) if *other != number => {
                            let line = file.line(at);
                            self.error(
                                file,
                                text,
                                format!(
                                    "\"{} {number} {unit}\", but line {line} says {other} {unit}: \
                                    a contradiction",
                                    statement.words
                                ),
                            );
                        }
                        Some(_) => {}
                        None => {
                            said.insert((statement.words, unit), (number, text));
                        }
                    }
                }
            }
        }
    }
}
