//! The variants of one answer: the full and the short text of the knowledge base, and what can be
//! made of their sentences without changing what they say.

use crate::german::grammar::list;
use crate::german::{figures, fold, sentences, words};
use crate::knowledge::Fact;
use std::collections::BTreeSet;

/// How much an answer variant says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// The whole text of the knowledge base.
    Full,
    /// All or nearly all, in another shape.
    Middle,
    /// The main thing.
    Short,
    /// The main thing, announced as such: for those who asked for it.
    Summary,
}

/// One variant of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnswerVariant {
    /// The text.
    pub text: String,
    /// How much it says.
    pub length: Length,
}

/// Words before a short answer.
const SUMMARY: [&str; 4] = [
    "Kurz gesagt:",
    "Das Wichtigste in Kürze:",
    "Kurz und knapp:",
    "In einem Satz:",
];

/// Words that lean on the sentence before: a sentence that holds one is not moved. Folded.
const LEANING: [&str; 56] = [
    "sie",
    "er",
    "es",
    "ihn",
    "ihm",
    "ihr",
    "ihre",
    "ihren",
    "sein",
    "seine",
    "dies",
    "diese",
    "dieser",
    "dieses",
    "diesem",
    "diesen",
    "das",
    "dafuer",
    "dabei",
    "damit",
    "dazu",
    "danach",
    "davon",
    "dann",
    "dort",
    "darin",
    "darueber",
    "dadurch",
    "daran",
    "darauf",
    "daraus",
    "hierfuer",
    "hierzu",
    "hier",
    "daher",
    "deshalb",
    "so",
    "ausserdem",
    "auch",
    "sonst",
    "ansonsten",
    "andernfalls",
    "jedoch",
    "allerdings",
    "dagegen",
    "ebenfalls",
    "ebenso",
    "weitere",
    "weiterer",
    "weiteren",
    "andere",
    "anderen",
    "beide",
    "beides",
    "erst",
    "nur",
];

/// The variants of a fact's answer; the first is the full one, the second the short one.
pub(crate) fn of_fact(fact: &Fact) -> Vec<AnswerVariant> {
    let mut variants: Vec<AnswerVariant> = Vec::new();
    let mut add = |text: String, length| {
        if variants.iter().all(|variant| variant.text != text) {
            variants.push(AnswerVariant { text, length });
        }
    };
    add(fact.text.to_string(), Length::Full);
    add(fact.short.to_string(), Length::Short);
    for summary in SUMMARY {
        add(format!("{summary} {}", fact.short), Length::Summary);
    }
    if !fact.documents.is_empty() {
        let documents: Vec<&str> = fact
            .documents
            .iter()
            .map(|document| document.as_str())
            .collect();
        let documents = list(&documents);
        add(format!("Benötigt werden: {documents}."), Length::Short);
        add(
            format!("Folgende Unterlagen werden benötigt: {documents}."),
            Length::Short,
        );
    }
    let sentences = sentences(&fact.text);
    if let [first, rest @ ..] = &sentences[..]
        && !rest.is_empty()
    {
        let named = |text: &str| {
            fact.must_name
                .iter()
                .any(|name| fold(text).contains(&fold(name)))
        };
        if named(first) && words(first).count() >= 6 {
            add((*first).to_string(), Length::Short);
        }
        if named(&fact.short)
            && rest
                .iter()
                .all(|sentence| stands_alone(sentence) && !repeats(sentence, &fact.short))
        {
            add(format!("{} {}", fact.short, rest.join(" ")), Length::Middle);
        }
        if rest.len() == 2 && rest.iter().all(|sentence| stands_alone(sentence)) {
            add(format!("{first} {} {}", rest[1], rest[0]), Length::Middle);
        }
    }
    variants
}

/// The answer about the documents of a fact that addresses the citizen: with Sie and with du.
pub(crate) fn addressed_documents(fact: &Fact) -> Option<[String; 2]> {
    if fact.documents.is_empty() {
        return None;
    }
    let documents: Vec<&str> = fact
        .documents
        .iter()
        .map(|document| document.as_str())
        .collect();
    let documents = list(&documents);
    Some([
        format!("Sie brauchen Folgendes: {documents}."),
        format!("Du brauchst Folgendes: {documents}."),
    ])
}

fn stands_alone(sentence: &str) -> bool {
    let folded = fold(sentence);
    !folded.split(' ').any(|word| LEANING.contains(&word))
}

// Whether a sentence says again what the other says: a figure, or a third of its longer words.
fn repeats(sentence: &str, other: &str) -> bool {
    let stems = |text: &str| -> BTreeSet<String> {
        fold(text)
            .split(' ')
            .filter(|word| word.len() >= 6)
            .map(|word| word.chars().take(6).collect())
            .collect()
    };
    let (mine, theirs) = (stems(sentence), stems(other));
    let common = mine.intersection(&theirs).count();
    common * 3 > mine.len()
        || figures(sentence)
            .intersection(&figures(other))
            .next()
            .is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::Intent;
    use crate::knowledge::small_knowledge;

    #[test]
    fn every_variant_names_what_a_right_answer_names() {
        let knowledge = small_knowledge();
        for service in knowledge.offices.iter().flat_map(|office| &office.services) {
            for (intent, fact) in &service.facts {
                let variants = of_fact(fact);
                assert_eq!(
                    (variants[0].text.as_str(), variants[0].length),
                    (fact.text.as_str(), Length::Full)
                );
                assert_eq!(
                    (variants[1].text.as_str(), variants[1].length),
                    (fact.short.as_str(), Length::Short)
                );
                assert!(variants.len() >= 6);
                for variant in &variants {
                    let known = figures(&format!(
                        "{} {} {}",
                        fact.text,
                        fact.short,
                        fact.documents
                            .iter()
                            .map(|d| d.as_str())
                            .collect::<Vec<_>>()
                            .join(" ")
                    ));
                    assert!(figures(&variant.text).is_subset(&known), "{}", variant.text);
                    assert!(variant.text.ends_with(['.', '}']));
                }
                assert_eq!(
                    addressed_documents(fact).is_some(),
                    *intent == Intent::Documents
                );
            }
        }
    }

    #[test]
    fn a_sentence_that_leans_on_another_is_not_moved() {
        assert!(!stands_alone("Sie ist auch online möglich."));
        assert!(stands_alone(
            "Vor dem Einzug ist eine Anmeldung nicht möglich."
        ));
        assert!(repeats(
            "Die Gebühr beträgt 46 Euro.",
            "Der Ausweis kostet 46 Euro."
        ));
        assert!(!repeats(
            "Vor dem Einzug ist keine Meldung möglich.",
            "Die Frist beträgt zwei Wochen."
        ));
    }
}
