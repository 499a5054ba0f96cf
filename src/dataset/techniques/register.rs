//! Formal and informal: whether a dialogue says Sie, du or neither. The phrases around a question
//! decide, its answer follows; a question that addresses somebody by itself keeps its form.

use super::{Task, Technique};
use crate::dataset::rng::KeyedRng;
use crate::german::Register;
use crate::knowledge::PhraseList;

impl Register {
    /// One of the three with these shares in percent; the rest is neutral.
    pub(super) fn draw(rng: &mut KeyedRng, sie: usize, du: usize) -> Register {
        let at = rng.below(100);
        if at < sie {
            Register::Sie
        } else if at < sie + du {
            Register::Du
        } else {
            Register::Neutral
        }
    }

    /// One of the list's phrases in this register.
    pub(super) fn phrase<'p>(self, list: &'p PhraseList, rng: &mut KeyedRng) -> Option<&'p str> {
        rng.choose(list.of(self)).map(|phrase| phrase.as_str())
    }
}

impl Task<'_> {
    /// The form of address, with these shares in percent, where the technique is switched on.
    pub(super) fn register(&self, rng: &mut KeyedRng, sie: usize, du: usize) -> Register {
        if self.enabled.contains(Technique::Register) {
            Register::draw(rng, sie, du)
        } else {
            Register::Neutral
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, asking, drafts};
    use super::super::{Draft, TEMPLATES, render};
    use super::*;
    use crate::dataset::catalog::{Catalog, SubjectKind};
    use crate::dataset::rng::Purpose;
    use crate::german::address;
    use crate::knowledge::Knowledge;

    /// Whether some text of the draft addresses somebody otherwise than its register says.
    fn is_mixed(draft: &Draft) -> bool {
        draft
            .pairs
            .iter()
            .flat_map(|(question, answer)| [question, answer])
            .any(|text| address(text).is_some_and(|found| found.register != draft.register))
    }

    #[test]
    fn no_template_mixes_the_forms_of_address() {
        for template in TEMPLATES {
            drafts(template, all(), 30, |_, draft| {
                assert!(!is_mixed(&draft), "{template:?}: {draft:#?}");
            });
        }
    }

    // One mixed example among half a million stops the whole set, so every phrasing of the
    // repository meets every template; requests from outside the remit, which may address somebody,
    // meet them more often.
    #[test]
    fn nothing_in_the_repositorys_knowledge_mixes_the_forms_of_address() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/knowledge");
        let knowledge = Knowledge::load(std::path::Path::new(folder)).unwrap();
        let catalog = Catalog::new(&knowledge, 1);
        let mut made = 0;
        for (number, subject) in catalog.subjects.iter().enumerate() {
            let times = match subject.kind {
                SubjectKind::Foreign(_) => 8,
                _ => 1,
            };
            for phrasing in subject.train.iter().chain(&subject.held_out) {
                let task = asking(&catalog, &knowledge, subject, &phrasing.text, all());
                for attempt in 0..times * TEMPLATES.len() {
                    let template = TEMPLATES[attempt % TEMPLATES.len()];
                    let (index, attempt) = (number as u64, attempt as u64);
                    let mut rng = KeyedRng::new(3, Purpose::Example, index, attempt);
                    if let Some(draft) = render(template, &task, &mut rng) {
                        assert!(!is_mixed(&draft), "{template:?}: {draft:#?}");
                        made += 1;
                    }
                }
            }
        }
        assert!(made > 50_000, "{made}");
    }

    #[test]
    fn switched_off_nobody_is_addressed() {
        let mut enabled = all();
        enabled.0 &= !(1 << Technique::Register as u32);
        for template in TEMPLATES {
            drafts(template, enabled, 10, |task, draft| {
                if Register::of_question(task.question).is_none() {
                    assert_eq!(
                        draft.register,
                        Register::Neutral,
                        "{template:?}: {draft:#?}"
                    );
                    assert!(!draft.techniques.contains(Technique::Register));
                }
            });
        }
    }
}
