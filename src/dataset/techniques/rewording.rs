//! A question in other words, with nothing said around it.

use crate::dataset::rng::KeyedRng;
use crate::german::questions::{impersonal, split_situation};
use crate::german::synonyms::replacements;

/// One or two synonyms, "man" for "ich", the situation as its own sentence: one of them or several.
/// `None` if none applies.
pub(super) fn in_other_words(question: &str, rng: &mut KeyedRng) -> Option<String> {
    let mut changed = question.to_string();
    if rng.percent(50)
        && let Some(split) = split_situation(&changed)
    {
        changed = split;
    }
    if rng.percent(35)
        && let Some(person) = impersonal(&changed)
    {
        changed = person;
    }
    for _ in 0..2 {
        let places = replacements(&changed);
        if let Some((range, words)) = rng.choose(&places)
            && rng.percent(75)
            && let Some(word) = rng.choose(words)
        {
            changed.replace_range(range.clone(), word);
        }
    }
    (changed != question).then_some(changed)
}
