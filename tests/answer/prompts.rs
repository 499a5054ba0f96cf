//! Prompts, contacts, and a knowledge base that does not hold together.

use super::{assistant, knowledge};
use muni_engine::answer::{Assistant, Role, Turn};
use muni_engine::tokenizer::Tokenizer;

#[test]
fn prompts_fit_and_lose_whole_turns() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let mut history = Vec::new();
    for number in 0..6 {
        history.push(Turn::citizen(format!("Frage Nummer {number}?")));
        history.push(Turn::assistant(
            "Das Amt ist unter 01234 567-100 erreichbar.",
        ));
    }
    let length = |text: &str| tokenizer.encode(text).unwrap().len() + 1;
    let mut kept = Vec::new();
    for budget in [40, 60, 90, 140, 400] {
        let prompt = assistant()
            .prompt(&tokenizer, &history, "Und was\nkostet das?", budget)
            .unwrap();
        assert!(length(&prompt) <= budget);
        assert!(
            prompt.starts_with("Frage: ")
                && prompt.ends_with("\nFrage: Und was kostet das?\nAntwort:")
                || prompt.matches("Frage:").count() == 1
        );
        assert_eq!(
            prompt.matches("Antwort:").count(),
            prompt.lines().count() / 2
        );
        // The model knows the placeholder, not this city's number.
        assert!(!prompt.contains("567-100"));
        kept.push(prompt.matches("{telefon}").count());
    }
    assert!(kept.is_sorted() && kept[0] == 0 && kept[4] == 6, "{kept:?}");
    for (question, budget) in [("", 50), ("  \n", 50), ("Wo kann ich mich ummelden?", 5)] {
        assert!(
            assistant()
                .prompt(&tokenizer, &[], question, budget)
                .is_err()
        );
    }
    let unanswered = [Turn {
        role: Role::Citizen,
        text: "Wo?".to_string(),
    }];
    let prompt = assistant()
        .prompt(&tokenizer, &unanswered, "Wann?", 50)
        .unwrap();
    assert_eq!(prompt, "Frage: Wann?\nAntwort:");
}

#[test]
fn offices_have_everything_a_citizen_needs() {
    let offices = assistant().offices();
    assert_eq!(offices.len(), 8);
    for office in &offices {
        assert!(!office.address.is_empty() && !office.phone.is_empty() && !office.hours.is_empty());
        assert!(
            office.email.contains('@') && office.services.len() >= 10,
            "{}",
            office.id
        );
    }
    assert_eq!(offices[1].phone, "01234 567-200");
}

#[test]
fn knowledge_without_a_value_is_refused() {
    let mut broken = knowledge().clone();
    broken.municipality.values.remove("termin_url");
    let error = format!("{:#}", Assistant::new(broken).err().unwrap());
    assert!(
        error.contains("{termin_url}") && error.contains("service"),
        "{error}"
    );
}
