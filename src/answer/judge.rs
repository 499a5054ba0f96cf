//! Whether a sentence that the knowledge base does not have word by word still says what it says.
//!
//! A sentence passes if one fact of the topic covers its words, has every figure of it in the same
//! place, and denies exactly what it denies. What is only courtesy passes too. Everything else is a
//! reason against the answer.

use super::wordings::{Origin, Wordings};
use super::words::placeholder;
use crate::german::numbers::{is_denial, is_one_of_a_unit, is_quantity, is_unit};
use crate::knowledge::{CITY_NAME, CONTACT_VALUES};
use std::collections::BTreeSet;

/// Share of a sentence's words that a fact must hold.
const COVERED: f32 = 0.8;
/// Least number of words that must be found in the fact.
const LEAST: usize = 2;
/// Words before and behind a figure that tell what it is about.
const BEFORE: usize = 4;
const BEHIND: usize = 2;
/// Words that stand beside figures of every kind: they do not tell what one is about. Folded.
const ANYWHERE: [&str; 22] = [
    "kostet",
    "kosten",
    "gebuehr",
    "gebuehren",
    "betraegt",
    "betragen",
    "dauert",
    "dauern",
    "gilt",
    "gelten",
    "frist",
    "faellt",
    "fallen",
    "zusaetzlich",
    "etwa",
    "rund",
    "hoechstens",
    "mindestens",
    "insgesamt",
    "jeweils",
    "liegt",
    "neuer",
];
/// Everyday words: they neither support a sentence nor speak against it. Folded.
const EVERYDAY: [&str; 72] = [
    "der", "die", "das", "den", "dem", "des", "ein", "eine", "einen", "einem", "einer", "eines",
    "und", "oder", "auch", "ist", "sind", "wird", "werden", "kann", "koennen", "muss", "muessen",
    "soll", "darf", "duerfen", "hat", "haben", "fuer", "mit", "von", "vom", "zu", "zum", "zur",
    "im", "in", "an", "am", "auf", "bei", "beim", "aus", "nach", "vor", "ueber", "unter", "um",
    "bis", "dort", "hier", "dabei", "dafuer", "dazu", "damit", "es", "sie", "er", "man", "sich",
    "als", "wie", "wenn", "dass", "diese", "dieser", "dieses", "so", "dann", "noch", "bitte",
    "ihnen",
];

/// Whether any sentence may hold this value of the city.
fn may_stand_anywhere(name: &str) -> bool {
    name == CITY_NAME || CONTACT_VALUES.contains(&name)
}

/// What is said against a sentence, or where it comes from.
pub(super) fn judge(sentence: &[String], wordings: &Wordings) -> Result<Origin, Vec<String>> {
    let is_free = |word: &String| {
        wordings.courtesy.contains(word) && !is_denial(word)
            || placeholder(word).is_some_and(may_stand_anywhere)
    };
    let states_nothing = |word: &String| !is_quantity(word) || placeholder(word).is_some();
    if sentence
        .iter()
        .all(|word| is_free(word) && states_nothing(word))
    {
        return Ok(Origin::Courtesy);
    }
    let shares = wordings
        .facts
        .iter()
        .map(|fact| (covered(sentence, &fact.1), fact));
    // Of equals the first.
    let best = shares.reduce(|best, next| if next.0 > best.0 { next } else { best });
    let Some((share, (origin, places))) = best else {
        return Err(vec!["unsupported".to_string()]);
    };
    let mut reasons = figures(sentence, places, wordings);
    if share < COVERED {
        reasons.push("unsupported".to_string());
    } else if denials(sentence) != denials(nearest(sentence, places)) {
        reasons.push("denial".to_string());
    }
    if reasons.is_empty() {
        Ok(*origin)
    } else {
        Err(reasons)
    }
}

/// The share of a sentence's telling words that a fact holds; 0 if too few are found.
fn covered(sentence: &[String], places: &[Vec<String>]) -> f32 {
    let telling: Vec<&String> = sentence
        .iter()
        .filter(|word| !EVERYDAY.contains(&word.as_str()))
        .collect();
    let found = telling
        .iter()
        .filter(|word| places.iter().flatten().any(|other| same_word(word, other)))
        .count();
    if found < LEAST.min(telling.len()) || telling.is_empty() {
        return 0.0;
    }
    found as f32 / telling.len() as f32
}

/// Whether two words differ in their endings at most.
fn same_word(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let common = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    common >= 5 && a.len().max(b.len()) - common <= 3 && !is_quantity(a) && !is_quantity(b)
}

/// The sentence of a fact that is most like this one: by the words they share, of all that they
/// have.
fn nearest<'p>(sentence: &[String], places: &'p [Vec<String>]) -> &'p [String] {
    let own: BTreeSet<&String> = sentence.iter().collect();
    let mut best: (f32, &[String]) = (0.0, &[]);
    for place in places {
        let other: BTreeSet<&String> = place.iter().collect();
        let share = own.intersection(&other).count() as f32 / own.union(&other).count() as f32;
        if share > best.0 {
            best = (share, place);
        }
    }
    best.1
}

/// The denying words of a sentence, evened out: `keine` and `kein` are one.
fn denials(sentence: &[String]) -> BTreeSet<String> {
    sentence
        .iter()
        .filter(|word| is_denial(word))
        .map(|word| word.chars().take(4).collect())
        .collect()
}

/// What is said against the figures of a sentence.
fn figures(sentence: &[String], places: &[Vec<String>], wordings: &Wordings) -> Vec<String> {
    let mut reasons = Vec::new();
    for (at, word) in sentence.iter().enumerate() {
        let next = sentence.get(at + 1);
        let unit = next.filter(|next| is_unit(next)).map(String::as_str);
        let one = next.is_some_and(|next| is_one_of_a_unit(word, next));
        // Whatever stands before a unit may be meant as a number.
        let counts = unit.is_some() && !EVERYDAY.contains(&word.as_str());
        let contact = placeholder(word).is_some_and(may_stand_anywhere);
        if contact || !(is_quantity(word) || one || counts) {
            continue;
        }
        let figure = Figure { word, unit };
        if figure.fits(sentence, at, places) {
            continue;
        }
        let shown = match unit {
            Some(unit) => format!("{word} {unit}"),
            None => word.clone(),
        };
        let known = wordings.facts.iter().any(|(_, places)| {
            places
                .iter()
                .any(|place| figure.positions(place).next().is_some())
        });
        reasons.push(match known {
            true => format!("figure_context:{shown}"),
            false => format!("figure:{shown}"),
        });
    }
    reasons
}

/// A figure of an answer.
#[derive(Clone, Copy)]
struct Figure<'s> {
    word: &'s str,
    unit: Option<&'s str>,
}

impl Figure<'_> {
    /// Where the figure stands in a sentence.
    fn positions(&self, place: &[String]) -> impl Iterator<Item = usize> {
        let Figure { word, unit } = *self;
        (0..place.len()).filter(move |&at| {
            let next = place.get(at + 1).map(String::as_str);
            place[at] == word && (unit.is_none() || unit == next)
        })
    }

    /// Whether a fact has it near the same words. Where a sentence has no words that tell, the fact
    /// must have no other figure of this unit.
    fn fits(&self, sentence: &[String], at: usize, places: &[Vec<String>]) -> bool {
        let own = near(sentence, at);
        let mut found = places.iter().flat_map(|place| {
            self.positions(place)
                .map(move |position| near(place, position))
        });
        if own.is_empty() {
            return found.next().is_some() && (self.unit.is_none() || self.is_alone(places));
        }
        found.any(|other| {
            own.iter()
                .any(|word| other.iter().any(|near| same_word(word, near)))
        })
    }

    fn is_alone(&self, places: &[Vec<String>]) -> bool {
        let mut pairs = places.iter().flat_map(|place| place.windows(2));
        !pairs.any(|pair| {
            let of_unit = Some(pair[1].as_str()) == self.unit;
            of_unit && pair[0] != self.word && is_quantity(&pair[0])
        })
    }
}

/// The words around a figure that tell what it is about.
fn near(words: &[String], at: usize) -> Vec<&String> {
    let before = &words[at.saturating_sub(BEFORE)..at];
    let behind = &words[(at + 1).min(words.len())..words.len().min(at + 1 + BEHIND)];
    let telling = before.iter().chain(behind);
    telling
        .filter(|word| {
            let word = word.as_str();
            let says_nothing = EVERYDAY.contains(&word) || ANYWHERE.contains(&word);
            !says_nothing && !is_quantity(word) && !is_unit(word)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::wordings::keys;
    use crate::answer::{Assistant, Register};
    use crate::knowledge::{Intent, Knowledge};

    fn wordings() -> Wordings {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        let about = assistant.about("ewo_personalausweis", &[], Register::Neutral);
        let topic = about.unwrap().topics[0].0;
        assistant.wordings(topic, Register::Neutral)
    }

    #[test]
    fn judge_accepts_a_fact_in_other_words_and_nothing_else() {
        let wordings = wordings();
        let judged = |text: &str| judge(&keys(text), &wordings);
        let right = "Ein Personalausweis kostet 46 Euro.";
        assert_eq!(judged(right), Ok(Origin::Fact(Intent::Fee)), "{right}");
        for (wrong, reason) in [
            ("Ein Personalausweis kostet 47 Euro.", "figure:47 euro"),
            ("Ein Personalausweis kostet keine 46 Euro.", "denial"),
            ("Der Mond besteht vollständig aus Käse.", "unsupported"),
        ] {
            let reasons = judged(wrong).unwrap_err();
            assert!(
                reasons.iter().any(|found| found == reason),
                "{wrong}: {reasons:?}"
            );
        }
    }

    #[test]
    fn judge_lets_courtesy_pass_and_contacts_stand_anywhere() {
        let wordings = wordings();
        for text in ["Guten Tag!", "{telefon}", "{stadt}"] {
            assert_eq!(
                judge(&keys(text), &wordings),
                Ok(Origin::Courtesy),
                "{text}"
            );
        }
        assert!(may_stand_anywhere("stadt") && !may_stand_anywhere("gebuehr_wbs"));
        assert!(judge(&keys("Guten Tag 46!"), &wordings).is_err());
    }

    #[test]
    fn figures_belong_to_the_words_around_them() {
        let place = |text: &str| vec![keys(text)];
        let fits = |sentence: &str, fact: &str| {
            let (sentence, places) = (keys(sentence), place(fact));
            let at = sentence.iter().position(|word| is_quantity(word)).unwrap();
            let figure = Figure {
                word: &sentence[at],
                unit: sentence
                    .get(at + 1)
                    .map(String::as_str)
                    .filter(|next| is_unit(next)),
            };
            figure.fits(&sentence, at, &places)
        };
        let fact = "Der Reisepass kostet 70 Euro, die Expressbestellung 32 Euro.";
        assert!(fits("Der Reisepass kostet 70 Euro.", fact));
        assert!(fits("Die Expressbestellung kostet 32 Euro.", fact));
        assert!(!fits("Die Meldebescheinigung kostet 70 Euro.", fact));
        // Nothing says which of the two is meant.
        assert!(!fits("Das kostet 70 Euro.", fact));
        assert!(fits("Das kostet 70 Euro.", "Der Reisepass kostet 70 Euro."));
    }

    #[test]
    fn denials_are_compared_by_their_stem() {
        assert_eq!(
            denials(&keys("Das ist keine Gebühr")),
            denials(&keys("kein Geld"))
        );
        assert_ne!(
            denials(&keys("Das ist nicht so")),
            denials(&keys("Das ist so"))
        );
    }
}
