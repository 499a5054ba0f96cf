//! Courtesy around an answer: greetings, offers of help, wishes.

use crate::german::Register;
use crate::knowledge::{PhraseList, Phrases};

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
