//! The catalogue on the small knowledge base: what is held out, in which turns, in which wordings.

use super::*;
use crate::knowledge::small_knowledge;

#[test]
fn a_held_out_phrasing_is_trained_nowhere_and_its_subject_still_is() {
    let knowledge = small_knowledge();
    let mut held_out_somewhere = HashSet::new();
    for seed in 0..20 {
        let catalog = Catalog::new(&knowledge, seed);
        let trained: HashSet<String> = catalog
            .subjects
            .iter()
            .flat_map(|subject| &subject.train)
            .map(|phrasing| fold(&phrasing.text))
            .collect();
        for (index, office) in catalog.turns.iter().enumerate() {
            let held_out: Vec<&Phrasing> = office
                .iter()
                .flat_map(|&subject| &catalog.subjects[subject].held_out)
                .collect();
            assert!(!held_out.is_empty(), "office {index} holds nothing out");
            for phrasing in held_out {
                assert!(!trained.contains(&fold(&phrasing.text)));
                held_out_somewhere.insert(phrasing.text.clone());
            }
        }
        for subject in &catalog.subjects {
            if let SubjectKind::Fact(_, _, _, fact) = subject.kind {
                assert_eq!(subject.train[0].text, fact.questions[0].as_str());
            }
            assert!(!subject.train.is_empty());
        }
    }
    assert!(
        held_out_somewhere.len() > 6,
        "the seed decides what is held out"
    );
}

#[test]
fn services_take_turns() {
    let knowledge = small_knowledge();
    let catalog = Catalog::new(&knowledge, 1);
    let standesamt = catalog
        .offices
        .iter()
        .position(|id| id == "standesamt")
        .unwrap();
    let services: HashSet<&str> = catalog.turns[standesamt]
        .iter()
        .take(2)
        .map(|&subject| catalog.subjects[subject].service_id())
        .collect();
    assert_eq!(services.len(), 2);
}

#[test]
fn a_family_is_held_out_where_there_are_enough_services() {
    let mut knowledge = small_knowledge();
    let office = &mut knowledge.offices[0];
    let service = office.services[0].clone();
    office.services = vec![service; 16];
    for (number, service) in office.services.iter_mut().enumerate() {
        service.id = crate::knowledge::Text::from(format!("s{number}"));
        for fact in service.facts.values_mut() {
            for question in &mut fact.questions {
                *question =
                    crate::knowledge::Text::from(question.replace('?', &format!(" {number}?")));
            }
        }
    }
    let catalog = Catalog::new(&knowledge, 1);
    let families = catalog
        .subjects
        .iter()
        .filter(|subject| subject.held_out.len() > 1)
        .count();
    assert_eq!(families, 2);
}

#[test]
fn wordings_are_full_short_or_anything() {
    let knowledge = small_knowledge();
    let catalog = Catalog::new(&knowledge, 1);
    let documents = catalog
        .subjects
        .iter()
        .find(|subject| subject.intent() == "unterlagen")
        .unwrap();
    let expected = "Benötigt werden: Personalausweis oder Reisepass und Wohnungsgeberbestätigung.";
    assert!(documents.variants().contains(&expected.to_string()));
    let mut wordings = BTreeSet::new();
    for index in 0..200 {
        let mut rng = KeyedRng::new(1, Purpose::Example, index, 0);
        assert_eq!(
            documents.answer(Detail::Full, Register::Sie, None, &mut rng),
            documents.full()
        );
        let short = documents.answer(Detail::Short, Register::Neutral, None, &mut rng);
        assert_ne!(short, documents.full());
        wordings.insert(documents.answer(Detail::Any, Register::Sie, None, &mut rng));
    }
    assert!(wordings.len() >= 5 && wordings.iter().any(|text| text.starts_with("Sie brauchen")));
}
