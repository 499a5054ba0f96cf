//! Which office is responsible for a service: question and answer follow from the service's place
//! in the knowledge base.

use super::patterns::fill;
use crate::german::fold;
use crate::german::grammar::{accusative, upper_first};
use crate::knowledge::{Intent, Office, Service};

/// The intent's key in the data set's records.
pub(crate) const INTENT: &str = "zustaendigkeit";

const QUESTIONS: [&str; 11] = [
    "Welches Amt ist für {akk} zuständig?",
    "Wer ist für {akk} zuständig?",
    "Welche Behörde ist für {akk} verantwortlich?",
    "An welches Amt wende ich mich bei Fragen {zu}?",
    "Wer hilft bei Fragen {zu} weiter?",
    "Welches Amt kümmert sich um {akk}?",
    "Bei welchem Amt bin ich wegen {gen} richtig?",
    "Wen rufe ich an, wenn ich Fragen {zu} habe?",
    "Welche Stelle im Rathaus ist für {akk} zuständig?",
    "Wer ist mein Ansprechpartner für {akk}?",
    "Gehört {nom} zu den Aufgaben der Stadt?",
];

/// The questions for a service.
pub(crate) fn questions(service: &Service) -> Vec<String> {
    QUESTIONS
        .iter()
        .filter_map(|pattern| fill(pattern, service))
        .collect()
}

/// Whether the service's fact `wo` names the office, and only it. Some matters go to a court or to
/// another place, depending on the Land: then `wo` names no office, or the place is a placeholder
/// (`{..stelle}`), and nothing is said about who is responsible.
pub(crate) fn is_settled(office: &Office, service: &Service) -> bool {
    let Some(fact) = service.facts.get(&Intent::Where) else {
        return false;
    };
    let text = format!("{} {}", fact.text, fact.short);
    if text.contains("stelle}") {
        return false;
    }
    let text = fold(&text);
    let words: Vec<&str> = text.split(' ').collect();
    std::iter::once(&office.about.name)
        .chain(&office.about.also)
        .any(|name| {
            let name = fold(name);
            let parts: Vec<&str> = name.split(' ').collect();
            // A word may carry an ending: "des Standesamts", "bei der Allgemeinen Verwaltung".
            words.windows(parts.len()).any(|window| {
                window
                    .iter()
                    .zip(&parts)
                    .all(|(word, part)| word.starts_with(part))
            })
        })
}

/// The answers for a service: the first is the full one, the second the short one, the others lie
/// between.
pub(crate) fn answers(office: &Office, service: &Service) -> Vec<String> {
    let (article, name) = (&office.about.article, &office.about.name);
    let topic = service.topic_accusative();
    vec![
        format!(
            "Für {topic} ist {article} {name} zuständig. Die Anschrift lautet: {{adresse}}. \
            Telefonisch ist {article} {name} unter \
             {{telefon}} erreichbar."
        ),
        upper_first(&format!("zuständig ist {article} {name}.")),
        format!("Für {topic} ist {article} {name} zuständig, Telefon {{telefon}}."),
        upper_first(&format!(
            "{article} {name} ist für {topic} zuständig. Zu finden ist es hier: {{adresse}}."
        ))
        .replace("Zu finden ist es", pronoun(article)),
        format!(
            "Zuständig für {topic} ist {article} {name}. Fragen dazu nimmt auch {{email}} entgegen."
        ),
        format!("Um {topic} kümmert sich {article} {name}. Die Anschrift lautet: {{adresse}}."),
    ]
}

/// The answer that sends the citizen to the office: with Sie and with du.
pub(crate) fn sending(office: &Office) -> [String; 2] {
    let article = accusative(&office.about.article);
    let name = &office.about.name;
    [
        format!("Bitte wenden Sie sich an {article} {name}, Telefon {{telefon}}."),
        format!("Wende dich bitte an {article} {name}, Telefon {{telefon}}."),
    ]
}

fn pronoun(article: &str) -> &'static str {
    match article {
        "der" => "Zu finden ist er",
        "die" => "Zu finden ist sie",
        _ => "Zu finden ist es",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knowledge::small_knowledge;

    #[test]
    fn question_and_answer_name_service_and_office() {
        let knowledge = small_knowledge();
        let office = knowledge.office("standesamt").unwrap();
        let service = &office.services[0];
        assert_eq!(
            questions(service)[0],
            "Welches Amt ist für die Geburtsurkunde zuständig?"
        );
        let answers = answers(office, service);
        assert!(answers[0].starts_with("Für die Geburtsurkunde ist das Standesamt zuständig."));
        assert_eq!(answers[1], "Zuständig ist das Standesamt.");
        for answer in answers.iter().chain(&sending(office)) {
            assert!(answer.contains("Standesamt"), "{answer}");
            assert!(
                knowledge
                    .municipality
                    .fill(answer, Some(office.id()))
                    .is_ok(),
                "{answer}"
            );
        }
        assert!(sending(office)[0].starts_with("Bitte wenden Sie sich an das Standesamt"));
    }

    #[test]
    fn an_office_that_wo_does_not_name_is_not_claimed() {
        let knowledge = small_knowledge();
        let (standesamt, meldeamt) = (
            knowledge.office("standesamt").unwrap(),
            knowledge.office("einwohnermeldeamt").unwrap(),
        );
        assert!(is_settled(standesamt, &standesamt.services[0]));
        assert!(!is_settled(meldeamt, &standesamt.services[0]));
    }
}
