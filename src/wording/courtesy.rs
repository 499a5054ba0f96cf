//! Courtesy around an answer: greetings, offers of help, wishes.

use crate::german::{Register, fold};
use crate::knowledge::{PhraseList, Phrases, Service};

/// Beginnings of words of grave matters, whose answers wish no nice day. Folded.
const GRAVE: [&str; 19] = [
    "sterbe",
    "todesfall",
    "tod ",
    "verstorb",
    "bestatt",
    "friedhof",
    "grab",
    "totgeb",
    "gewalt",
    "kindeswohl",
    "inobhut",
    "stalking",
    "schulden",
    "obdach",
    "wohnungslos",
    "pflege",
    "unterhalt",
    "vollstreck",
    "pfaendung",
];

/// Parts of phrases that are out of place beside a grave matter.
const CHEERFUL: [&str; 7] = [
    "Schön", "schön", "Klar", "Problem", "Gut,", "Gern.", "leicht",
];

/// Whether a service is about a grave matter.
pub(crate) fn is_grave(service: &Service) -> bool {
    let mut words = format!(" {} {} ", fold(&service.id), fold(&service.title));
    for alias in &service.aliases {
        words.push_str(&fold(alias));
        words.push(' ');
    }
    GRAVE
        .iter()
        .any(|beginning| words.contains(&format!(" {beginning}")))
}

/// Whether a phrase is out of place beside a grave matter.
pub(crate) fn is_cheerful(phrase: &str) -> bool {
    CHEERFUL.iter().any(|part| phrase.contains(part))
}

/// Whether a phrase gives an address or a number that the text has given already.
pub(crate) fn repeats_contact(phrase: &str, text: &str) -> bool {
    ["{adresse}", "{telefon}", "{email}"]
        .iter()
        .any(|value| phrase.contains(value) && text.contains(value))
}

/// The lists whose phrases may stand before or behind an answer.
pub(crate) fn around_answers(phrases: &Phrases) -> [&PhraseList; 4] {
    [
        &phrases.greeting_back,
        &phrases.answer_opening,
        &phrases.answer_closing,
        &phrases.answer_wish,
    ]
}

/// The phrases that suit a register. Who is addressed with neither may be addressed with Sie.
pub(crate) fn suiting(list: &PhraseList, register: Register) -> impl Iterator<Item = &str> {
    let addressed = match register {
        Register::Du => &list.du,
        Register::Sie | Register::Neutral => &list.sie,
    };
    addressed
        .iter()
        .chain(&list.neutral)
        .map(|phrase| phrase.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::small_knowledge;

    #[test]
    fn nobody_who_is_not_called_du_hears_it() {
        let knowledge = small_knowledge();
        for list in around_answers(&knowledge.phrases) {
            for register in [Register::Neutral, Register::Sie, Register::Du] {
                for phrase in suiting(list, register) {
                    let found = Register::of(phrase);
                    assert!(register.suits(found), "{register:?}: {phrase}");
                }
            }
        }
    }
}
