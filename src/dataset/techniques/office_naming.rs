//! Which office is responsible for a service: question and answer follow from the service's place in the knowledge base.

use crate::dataset::catalog::AnswerForm;
use crate::dataset::german::upper_first;
use crate::dataset::techniques::expansion::fill;
use crate::knowledge::{Intent, Office, Service, fold};

/// The intent's key in the data set's records.
pub const INTENT: &str = "zustaendigkeit";

const QUESTIONS: [&str; 6] = [
    "Welches Amt ist für {akk} zuständig?",
    "Wer ist für {akk} zuständig?",
    "Welche Behörde ist für {akk} verantwortlich?",
    "An welches Amt wende ich mich bei Fragen {zu}?",
    "Wer hilft bei Fragen {zu} weiter?",
    "Welches Amt kümmert sich um {akk}?",
];

/// The questions for a service.
pub fn questions(service: &Service) -> Vec<String> {
    QUESTIONS
        .iter()
        .map(|pattern| fill(pattern, service))
        .collect()
}

/// Whether the service's fact `wo` names the office, and only it. Some matters go to a court or to another place, depending on
/// the Land: then `wo` names no office, or the place is a placeholder (`{..stelle}`), and nothing is said about who is
/// responsible.
pub fn is_settled(office: &Office, service: &Service) -> bool {
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

/// The answer for a service.
pub fn answer(office: &Office, service: &Service, form: AnswerForm) -> String {
    let (article, name) = (&office.about.article, &office.about.name);
    match form {
        AnswerForm::Full => format!(
            "Für {} ist {article} {name} zuständig. Die Anschrift lautet: {{adresse}}. Telefonisch ist {article} {name} unter \
             {{telefon}} erreichbar.",
            service.topic_accusative()
        ),
        AnswerForm::Short => upper_first(&format!("zuständig ist {article} {name}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::catalog::small_knowledge;

    #[test]
    fn question_and_answer_name_service_and_office() {
        let knowledge = small_knowledge();
        let office = knowledge.office("standesamt").unwrap();
        let service = &office.services[0];
        assert_eq!(
            questions(service)[0],
            "Welches Amt ist für die Geburtsurkunde zuständig?"
        );
        assert!(
            answer(office, service, AnswerForm::Full)
                .starts_with("Für die Geburtsurkunde ist das Standesamt zuständig.")
        );
        assert_eq!(
            answer(office, service, AnswerForm::Short),
            "Zuständig ist das Standesamt."
        );
        assert!(
            knowledge
                .municipality
                .fill(
                    &answer(office, service, AnswerForm::Full),
                    Some(office.id())
                )
                .is_ok()
        );
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
