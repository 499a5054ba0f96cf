//! The generator as a whole, on the small knowledge base.

use super::*;
use crate::knowledge::small_knowledge;
use std::collections::BTreeSet;

fn make(examples: usize, seed: u64) -> Result<Dataset> {
    let settings = Settings {
        examples,
        ..Settings::of_stage(Stage::Basis, seed)
    };
    generate(
        &small_knowledge(),
        &Tokenizer::gpt2()?,
        &settings,
        &AtomicBool::new(false),
        &|_| {},
    )
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let made: Vec<Vec<Example>> = [1, 3]
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| make(150, 7)).unwrap().examples
        })
        .into();
    assert_eq!(made[0], made[1]);
    assert_ne!(made[0], make(150, 8).unwrap().examples);
}

#[test]
fn examples_are_distinct_and_split_by_phrasing() {
    let dataset = make(200, 3).unwrap();
    assert_eq!(dataset.examples.len(), 200);
    let folded: BTreeSet<String> = dataset
        .examples
        .iter()
        .map(|example| fold(&example.text))
        .collect();
    assert_eq!(folded.len(), 200);
    let questions = |wanted: &[Split]| -> Vec<String> {
        let of_split = dataset
            .examples
            .iter()
            .filter(|example| wanted.contains(&example.split));
        of_split.map(|example| fold(example.question())).collect()
    };
    let (train, val) = (
        questions(&[Split::Train]),
        questions(&[Split::Validation, Split::ValidationOod]),
    );
    assert_eq!(
        (val.len(), questions(&[Split::ValidationOod]).len()),
        (10, 1)
    );
    let knowledge = small_knowledge();
    let catalog = Catalog::new(&knowledge, 3);
    for phrasing in catalog
        .subjects
        .iter()
        .flat_map(|subject| &subject.held_out)
    {
        let phrasing = fold(&phrasing.text);
        assert!(
            train.iter().all(|question| !question.contains(&phrasing)),
            "{phrasing}"
        );
    }
    let trained: Vec<&str> = train.iter().map(String::as_str).collect();
    let validated: Vec<&str> = val.iter().map(String::as_str).collect();
    let alike = near_duplicates::alike_to_any(&validated, &trained);
    assert!(alike.iter().all(|&alike| !alike), "{val:?}");
}

#[test]
fn answers_are_marked_in_the_tokens() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let spell = |tokens: &[u16]| -> Vec<u8> {
        tokens
            .iter()
            .flat_map(|&token| tokenizer.token_bytes(u32::from(token)).unwrap().to_vec())
            .collect()
    };
    let mut dialogues = 0;
    for example in make(200, 5).unwrap().examples {
        let separator = crate::tokenizer::END_OF_TEXT as u16;
        let (first, last) = (example.tokens[0], example.tokens[example.tokens.len() - 1]);
        assert_eq!((first, last), (separator, separator));
        assert_eq!(
            spell(&example.tokens[1..example.tokens.len() - 1]),
            example.text.as_bytes()
        );
        assert_eq!(example.answers.len() * 2, example.turns().len());
        for (number, &(start, end)) in example.answers.iter().enumerate() {
            let is_last = number + 1 == example.answers.len();
            assert_eq!(is_last, end as usize == example.tokens.len());
            let inner = if is_last { end - 1 } else { end };
            let answer = example.turns().nth(number * 2 + 1).unwrap();
            let spelled = spell(&example.tokens[start as usize..inner as usize]);
            assert_eq!(String::from_utf8_lossy(&spelled).trim_start(), answer);
            if example.layout() == "frage_antwort" {
                assert_eq!(spelled[0], b' ', "the model has to write the space");
            }
        }
        dialogues += usize::from(example.answers.len() > 1);
    }
    assert!(dialogues > 5, "{dialogues}");
}

#[test]
fn too_little_knowledge_is_said_with_the_number_it_gives() {
    let mut knowledge = small_knowledge();
    knowledge
        .offices
        .iter_mut()
        .for_each(|office| office.services.clear());
    let mut settings = Settings::of_stage(Stage::Ultra, 1);
    settings.techniques = TechniqueSet::default();
    let made = generate(
        &knowledge,
        &Tokenizer::gpt2().unwrap(),
        &settings,
        &AtomicBool::new(false),
        &|_| {},
    );
    let message = made.err().unwrap().to_string();
    assert!(
        message.contains("needs 20000 distinct examples") && message.contains("gives only about "),
        "{message}"
    );
    assert!(make(1, 1).is_err());
}

#[test]
fn it_can_be_stopped() {
    let settings = Settings::of_stage(Stage::Basis, 1);
    let stopped = generate(
        &small_knowledge(),
        &Tokenizer::gpt2().unwrap(),
        &settings,
        &AtomicBool::new(true),
        &|_| {},
    );
    assert!(stopped.err().unwrap().to_string().contains("interrupted"));
}

#[test]
fn statistics_count_everything_once() {
    let dataset = make(100, 2).unwrap();
    let statistics = statistics::Statistics::of(&dataset);
    for counts in [
        &statistics.by_office,
        &statistics.by_service,
        &statistics.by_intent,
        &statistics.by_format,
        &statistics.by_register,
    ] {
        assert_eq!(counts.values().sum::<usize>(), 100);
    }
    assert_eq!(
        statistics.by_split["train"] + statistics.by_split["val"] + statistics.by_split["val_ood"],
        100
    );
    let length = statistics.token_length;
    assert!(
        0 < length.min
            && length.min <= length.median
            && length.median <= length.p95
            && length.p95 <= length.max
    );
    assert!(length.max <= LONGEST_EXAMPLE);
    assert!(statistics.table().contains("standesamt"));
}

#[test]
fn every_facts_first_question_is_trained_as_the_product_asks_it() {
    let knowledge = small_knowledge();
    let dataset = make(200, 4).unwrap();
    let texts: BTreeSet<&str> = dataset
        .examples
        .iter()
        .map(|example| &*example.text)
        .collect();
    for fact in knowledge
        .offices
        .iter()
        .flat_map(|office| &office.services)
        .flat_map(|service| service.facts.values())
    {
        let expected = format!("Frage: {}\nAntwort: {}", fact.questions[0], fact.text);
        assert!(texts.contains(expected.as_str()), "{expected}");
    }
}

#[test]
fn a_thousand_examples_of_little_knowledge_are_varied_and_its_card_says_so() {
    let dataset = make(1000, 2).unwrap();
    let variety = variety::Variety::of(&dataset);
    assert!(variety.distinct_first_questions > 0.6, "{variety:?}");
    assert!(variety.answer_wordings_per_intent >= 15.0, "{variety:?}");
    // Thirteen facts: each of their own sentences is common here.
    assert!(variety.commonest_opening.1 < 0.1, "{variety:?}");
    assert_eq!(variety.validation_questions_like_training, 0);
    let settings = Settings {
        examples: 1000,
        ..Settings::of_stage(Stage::Basis, 2)
    };
    let counts = statistics::Statistics::of(&dataset);
    assert!(counts.by_format.len() >= 50, "{:?}", counts.by_format);
    for technique in Technique::ALL {
        assert!(
            counts.by_technique.contains_key(technique.name()),
            "{technique:?}"
        );
    }
    let summary = card::Summary::new(&settings, counts, variety, None);
    let card = summary.card();
    assert!(
        card.contains("| standesamt |") && card.contains("val_ood"),
        "{card}"
    );
    let page = report::page(&dataset, &summary).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"));
    assert!(
        !page.contains("http://") && !page.contains("src="),
        "nothing from outside"
    );
}

#[test]
fn each_technique_can_be_switched_off() {
    for technique in Technique::ALL {
        if !technique.can_be_left_out() {
            continue;
        }
        let mut settings = Settings {
            examples: 150,
            ..Settings::of_stage(Stage::Basis, 2)
        };
        settings.techniques.0 &= !(1 << technique as u32);
        let made = generate(
            &small_knowledge(),
            &Tokenizer::gpt2().unwrap(),
            &settings,
            &AtomicBool::new(false),
            &|_| {},
        )
        .unwrap();
        let counts = statistics::Statistics::of(&made);
        for other in Technique::ALL {
            let count = counts.by_technique.get(other.name()).copied().unwrap_or(0);
            assert_eq!(
                count == 0,
                other == technique,
                "{other:?} without {technique:?}"
            );
        }
    }
}
