//! The form of address: whether a text says Sie, du or neither.

use super::fold;
use super::sentences::{clauses, words};
use serde::Serialize;

/// How a text addresses its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// Not at all.
    Neutral,
    /// Formally.
    Sie,
    /// Informally.
    Du,
}

impl Register {
    /// The name in files and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Register::Neutral => "neutral",
            Register::Sie => "sie",
            Register::Du => "du",
        }
    }

    /// The register of a text. A "Sie" at a sentence's start that may be a third person counts as
    /// formal.
    pub(crate) fn of(text: &str) -> Register {
        address(text).map_or(Register::Neutral, |found| found.register)
    }

    /// The register of a question that may have a greeting before it; `None` if it addresses
    /// nobody.
    pub(crate) fn of_question(question: &str) -> Option<Register> {
        address(question)
            .map(|found| found.register)
            .or_else(|| at_the_beginning(question))
    }

    /// The register of a question as citizens type it, in lower case at times ("können sie mir
    /// sagen"). `None` if it addresses nobody.
    pub(crate) fn of_typed(question: &str) -> Option<Register> {
        const SIE: [&str; 8] = [
            " sehr geehrte",
            " koennen sie ",
            " koennten sie ",
            " wissen sie ",
            " sagen sie ",
            " haben sie ",
            " helfen sie ",
            " wuerden sie ",
        ];
        const DU: [&str; 4] = [" kannste ", " weisste ", " haste ", " biste "];
        if let Some(found) = address(question) {
            return Some(found.register);
        }
        let folded = format!(" {} ", fold(question));
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| folded.contains(phrase));
        if says(&SIE) {
            Some(Register::Sie)
        } else if says(&DU) {
            Some(Register::Du)
        } else {
            None
        }
    }

    /// Whether an answer in the register `answer` suits a question in this one. A neutral answer
    /// always does; an informal one only an informal question; a formal one all others.
    pub(crate) fn suits(self, answer: Register) -> bool {
        match answer {
            Register::Neutral => true,
            Register::Sie => self != Register::Du,
            Register::Du => self == Register::Du,
        }
    }
}

/// The first word of a text that addresses its reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// [`Register::Sie`] or [`Register::Du`].
    pub register: Register,
    /// The word; for a doubtful "Sie" with the verb behind it.
    pub word: String,
    /// False for a "Sie" at a sentence's start, which may be a third person.
    pub certain: bool,
}

impl Address {
    fn certain(register: Register, word: &str) -> Address {
        Address {
            register,
            word: word.to_string(),
            certain: true,
        }
    }
}

/// Words that address the reader with du. Lower case.
const DU_WORDS: [&str; 17] = [
    "du", "dich", "dir", "dein", "deine", "deinen", "deinem", "deiner", "deines", "deins", "euch",
    "euer", "eure", "euren", "eurem", "eurer", "eures",
];

/// Words that, capitalised inside a sentence, address the reader with Sie.
const SIE_WORDS: [&str; 8] = [
    "Sie", "Ihnen", "Ihr", "Ihre", "Ihren", "Ihrem", "Ihrer", "Ihres",
];

/// Verbs after a "Sie" at a sentence's start that can only be an address when the subject is not
/// taken up again.
const ADDRESSED_VERBS: [&str; 10] = [
    "müssen",
    "können",
    "sollten",
    "dürfen",
    "brauchen",
    "benötigen",
    "erhalten",
    "haben",
    "bekommen",
    "möchten",
];

/// Finds the first word that addresses the reader.
pub(crate) fn address(text: &str) -> Option<Address> {
    let mut doubt = None;
    for clause in clauses(text) {
        let words: Vec<&str> = words(clause).collect();
        for (index, word) in words.iter().enumerate() {
            if DU_WORDS.iter().any(|du| du.eq_ignore_ascii_case(word)) {
                return Some(Address::certain(Register::Du, word));
            }
            if index > 0 && SIE_WORDS.contains(word) {
                return Some(Address::certain(Register::Sie, word));
            }
        }
        // "Sie können nachgereicht werden" speaks of documents: a passive is taken for a third
        // person.
        let passive = words
            .last()
            .is_some_and(|last| ["werden", "worden", "wird", "sein"].contains(last));
        if let [first, verb, ..] = words[..]
            && first == "Sie"
            && ADDRESSED_VERBS.contains(&verb)
            && !passive
        {
            doubt.get_or_insert(Address {
                register: Register::Sie,
                word: format!("{first} {verb}"),
                certain: false,
            });
        }
    }
    doubt
}

// [`address`] leaves open whether `Sie` at the beginning is a third person, but behind a greeting
// it could no longer be one. `Ihr` before a small letter is the plural of du.
fn at_the_beginning(question: &str) -> Option<Register> {
    let (first, behind) = question.split_once(' ')?;
    match first {
        "Ihr" if behind.starts_with(char::is_lowercase) => Some(Register::Du),
        _ if SIE_WORDS.contains(&first) => Some(Register::Sie),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(register: Register, word: &str, certain: bool) -> Option<Address> {
        Some(Address {
            register,
            word: word.to_string(),
            certain,
        })
    }

    #[test]
    fn sie_inside_a_sentence_is_an_address_and_a_pronoun_is_not() {
        assert_eq!(
            address("Bitte bringen Sie den Ausweis mit."),
            found(Register::Sie, "Sie", true)
        );
        assert_eq!(
            address("Das Amt hilft Ihnen."),
            found(Register::Sie, "Ihnen", true)
        );
        assert_eq!(
            address("Die Anmeldung ist Pflicht. Sie ist kostenlos."),
            None
        );
        assert_eq!(address("Ein Vertrag ersetzt sie nicht."), None);
        assert_eq!(
            address("Die Belege fehlen oft. Sie können später nachgereicht werden."),
            None
        );
        assert_eq!(
            address("Sie müssen persönlich kommen."),
            found(Register::Sie, "Sie müssen", false)
        );
    }

    #[test]
    fn du_is_found_in_every_form() {
        assert_eq!(
            address("Am besten bringst du deinen Ausweis mit."),
            found(Register::Du, "du", true)
        );
        assert_eq!(
            address("Dein Ausweis genügt."),
            found(Register::Du, "Dein", true)
        );
        assert_eq!(address("Die Dauer der Duldung ist verschieden."), None);
    }

    #[test]
    fn an_address_at_the_beginning_counts() {
        for (question, expected) in [
            ("Ihr faulen Beamten tut doch nichts!", Some(Register::Du)),
            ("Ihr Amt taugt nichts!", Some(Register::Sie)),
            ("Sie sind jetzt Richter.", Some(Register::Sie)),
            ("Wo sitzt der Richter?", None),
        ] {
            assert_eq!(Register::of_question(question), expected, "{question}");
        }
    }

    #[test]
    fn lower_case_addresses_are_found_in_typed_questions() {
        assert_eq!(
            Register::of_typed("können sie mir helfen"),
            Some(Register::Sie)
        );
        assert_eq!(
            Register::of_typed("haste mal die nummer"),
            Some(Register::Du)
        );
        assert_eq!(Register::of_typed("was kostet ein pass"), None);
    }

    #[test]
    fn answers_suit_questions_by_register() {
        assert_eq!(
            Register::of("Bitte bringen Sie den Ausweis mit."),
            Register::Sie
        );
        assert_eq!(Register::of("Du brauchst deinen Ausweis."), Register::Du);
        assert_eq!(
            Register::of("Die Ummeldung ist gebührenfrei."),
            Register::Neutral
        );
        for (question, answer, fits) in [
            (Register::Du, Register::Du, true),
            (Register::Du, Register::Sie, false),
            (Register::Sie, Register::Du, false),
            (Register::Neutral, Register::Du, false),
            (Register::Neutral, Register::Sie, true),
            (Register::Du, Register::Neutral, true),
        ] {
            assert_eq!(question.suits(answer), fits, "{question:?} {answer:?}");
        }
    }
}
