//! Question phrasings times answer forms: the hand-written questions, patterns filled with a service's topic or its aliases,
//! questions that ask for a short answer, and two questions at once.

use super::{Draft, Register, Task, Technique, multi_turn};
use crate::dataset::catalog::{Matter, Subject, Wish};
use crate::dataset::draw::Draw;
use crate::dataset::language::words::{lower_first, upper_first, with_dative};
use crate::knowledge::{Fact, Intent, Service, fold};

/// A question made from a pattern, and the words of which the answer must hold at least one for the question to fit it.
/// The words are folded; an empty list fits every answer.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// The question; may hold `{akk}`, `{bei}`, `{zu}` and `{nom}`, the topic as a subject in the singular.
    pub text: &'static str,
    /// Words of the answer.
    pub needs: &'static [&'static str],
}

const fn p(text: &'static str, needs: &'static [&'static str]) -> Pattern {
    Pattern { text, needs }
}

/// Whether a pattern's question is answered by this fact.
pub(super) fn fits(pattern: &Pattern, fact: &Fact) -> bool {
    if pattern.needs.is_empty() {
        return true;
    }
    let answer = fold(&format!("{} {}", fact.text, fact.short));
    pattern.needs.iter().any(|word| answer.contains(word))
}

/// Patterns that name the service's topic.
fn about(intent: Intent) -> &'static [Pattern] {
    const COST: &[&str] = &["kost", "gebuehr", "entgelt"];
    const TIME: &[&str] = super::multi_turn::TIME;
    const BRING: &[&str] = &[
        "benoetigt",
        "mitzubringen",
        "vorzulegen",
        "noetig",
        "erforderlich",
        "gebraucht",
        "unterlagen",
        "nachweis",
    ];
    const WAIT: &[&str] = &["dauert", "bearbeit", "wartezeit"];
    match intent {
        Intent::What => {
            const {
                &[
                    p("Worum geht es {bei}?", &[]),
                    p("Was sollte ich über {akk} wissen?", &[]),
                    p("Was muss man über {akk} wissen?", &[]),
                    p("Was ist {bei} wichtig?", &[]),
                ]
            }
        }
        Intent::Who => const { &[p("Wen betrifft {nom}?", &[])] },
        Intent::Where => {
            const {
                &[
                    p("Welche Stelle hilft {bei} weiter?", &[]),
                    p("Wo bekomme ich Auskunft über {akk}?", &[]),
                    p("An welche Stelle wende ich mich wegen {gen}?", &[]),
                    p("Wohin muss ich für {akk}?", &[]),
                    p("Wo bin ich mit Fragen {zu} richtig?", &[]),
                ]
            }
        }
        Intent::Deadline => {
            const {
                &[
                    p("Welche Frist gilt {bei}?", TIME),
                    p("Welche Fristen muss ich {bei} beachten?", TIME),
                    p("Gibt es {bei} eine Frist?", TIME),
                    p("Worauf muss ich {bei} zeitlich achten?", &[]),
                ]
            }
        }
        Intent::Fee => {
            const {
                &[
                    p("Welche Gebühr fällt für {akk} an?", COST),
                    p("Mit welchen Kosten ist {bei} zu rechnen?", COST),
                    p("Was kostet {nom}?", COST),
                    p("Wie viel muss ich für {akk} bezahlen?", COST),
                    p(
                        "Ist {nom} kostenlos?",
                        &[
                            "kostenlos",
                            "gebuehrenfrei",
                            "kostenfrei",
                            "kostet",
                            "betraegt die gebuehr",
                        ],
                    ),
                    p("Welche Kosten entstehen {bei}?", COST),
                ]
            }
        }
        Intent::Documents => {
            const {
                &[
                    p("Welche Unterlagen brauche ich für {akk}?", BRING),
                    p("Welche Nachweise werden {bei} verlangt?", BRING),
                    p("Was brauche ich alles für {akk}?", BRING),
                    p("Welche Papiere sind {bei} nötig?", BRING),
                    p("Was muss ich {bei} vorlegen?", BRING),
                ]
            }
        }
        Intent::Online => {
            const {
                &[
                    p("Gibt es für {akk} einen Online-Dienst?", &[]),
                    p("Was geht {bei} online?", &[]),
                    p("Ist {nom} online möglich?", &[]),
                ]
            }
        }
        Intent::Duration => {
            const {
                &[
                    p("Mit welcher Bearbeitungszeit ist {bei} zu rechnen?", WAIT),
                    p("Wie lange muss ich {bei} warten?", WAIT),
                    p("Wie lange dauert {nom}?", &["dauert"]),
                    p("Wie sieht es {bei} mit der Dauer aus?", &[]),
                ]
            }
        }
        Intent::Exceptions => {
            const {
                &[
                    p("Welche Ausnahmen gibt es {bei}?", &[]),
                    p("Welche Besonderheiten gelten {bei}?", &[]),
                    p("Gibt es {bei} Sonderfälle?", &[]),
                    p("Was gilt {bei} in besonderen Fällen?", &[]),
                ]
            }
        }
        Intent::Consequences => {
            const {
                &[
                    p(
                        "Welche Folgen haben Versäumnisse {bei}?",
                        &[
                            "bussgeld",
                            "versaeum",
                            "verspaet",
                            "ordnungswidrig",
                            "saeumnis",
                            "mahn",
                        ],
                    ),
                    p("Welche Folgen sind {bei} möglich?", &[]),
                    p(
                        "Womit muss ich {bei} im schlimmsten Fall rechnen?",
                        &[
                            "bussgeld",
                            "ordnungswidrig",
                            "straf",
                            "zwangs",
                            "verlust",
                            "verfall",
                        ],
                    ),
                ]
            }
        }
    }
}

/// Questions about a service made from patterns.
pub fn questions(service: &Service, intent: Intent, fact: &Fact) -> Vec<String> {
    about(intent)
        .iter()
        .filter(|pattern| fits(pattern, fact))
        .filter_map(|pattern| fill(pattern.text, service))
        .collect()
}

/// Fills a pattern: `{akk}` and `{nom}` are the topic, `{bei}`, `{zu}`, `{von}` the topic after that preposition, `{gen}` its
/// genitive. `None` for a subject in the plural, whose verb would have to change, and a genitive that cannot be read off.
pub fn fill(pattern: &str, service: &Service) -> Option<String> {
    let is_plural = service.topic.starts_with("die ") && service.topic_dative.starts_with("den ");
    if pattern.contains("{nom}") && is_plural {
        return None;
    }
    let mut filled = pattern.to_string();
    if pattern.contains("{gen}") {
        // Feminine: the genitive is the dative.
        if is_plural || !service.topic_dative.starts_with("der ") {
            return None;
        }
        filled = filled.replace("{gen}", &service.topic_dative);
    }
    let filled = filled
        .replace("{akk}", service.topic_accusative())
        .replace("{nom}", &service.topic)
        .replace("{bei}", &with_dative("bei", &service.topic_dative))
        .replace("{zu}", &with_dative("zu", &service.topic_dative))
        .replace("{von}", &with_dative("von", &service.topic_dative));
    Some(upper_first(&filled))
}

/// The question as it stands with the full answer as it stands. Without the technique these are what is left of it: the
/// hand-written questions, each with its answer.
pub fn plain(task: &Task) -> Draft {
    let mut draft = Draft::new(
        task.question.to_string(),
        task.subject.full().to_string(),
        &[],
    );
    if task.enabled.contains(Technique::Expansion) {
        draft.techniques.insert(Technique::Expansion);
    }
    draft
}

/// The question in a frame that asks for brevity; `None` for subjects that have one answer only.
pub fn brief(task: &Task, draw: &mut Draw) -> Option<Draft> {
    if matches!(task.subject.matter, Matter::Foreign(_)) {
        return None;
    }
    let register = task.register(draw, 22, 16);
    let question = register
        .phrase(&task.phrases.brief, draw)?
        .replace("{frage}", task.question);
    let answer = task.body(Wish::Brief, register, draw);
    // The question is about something that only the full answer says.
    if answer.len() > 160 && answer == task.subject.full() {
        return None;
    }
    Some(Draft::new(question, answer, &[Technique::Expansion]).with_register(register))
}

/// An alias of the service, then a question that names nothing: `Stichwort „Perso“: Was kostet das?`
pub fn topic(task: &Task, draw: &mut Draw) -> Option<Draft> {
    let service = task.subject.service()?;
    if task.held_out {
        return None;
    }
    let alias = draw.choose(&service.aliases)?;
    let register = task.register(draw, 18, 14);
    let lead = register
        .phrase(&task.phrases.topic, draw)?
        .replace("{stichwort}", alias);
    let asked = match task.subject.matter {
        Matter::Fact(..) => multi_turn::follow_up(task.subject, false, draw)?,
        Matter::Responsibility(..) => draw
            .choose(&[
                "Welches Amt ist dafür zuständig?",
                "Wer ist dafür zuständig?",
                "An wen wende ich mich?",
                "Welches Amt macht das?",
            ])?
            .to_string(),
        Matter::Foreign(_) => return None,
    };
    let mut question = format!("{} {asked}", upper_first(&lead));
    let mut techniques = vec![Technique::Expansion];
    let (mut greeted, mut closed) = (false, false);
    if task.enabled.contains(Technique::Conversation) {
        greeted = draw.percent(25);
        let before = question.len();
        question = super::conversation::greet(task, question, register, greeted, draw)?;
        let bare = question.len();
        question = super::conversation::thank(task, question, register, 18, draw);
        closed = question.len() > bare;
        if before < question.len() {
            techniques.push(Technique::Conversation);
        }
    }
    // A neutral lead-in with a thank-you to nobody stays neutral.
    let wish = if draw.percent(55) {
        Wish::Full
    } else {
        Wish::Any
    };
    let body = task.subject.body(wish, register, None, draw);
    let answer = task.reply(body, register, greeted && !closed, draw);
    Some(Draft::new(question, answer, &techniques).with_register(register))
}

/// Two questions about one service at once, answered one after the other.
pub fn combined(task: &Task, draw: &mut Draw) -> Option<Draft> {
    let service = task.subject.service()?;
    let others: Vec<&Subject> = task
        .catalog
        .facts_of(service)
        .filter(|other| {
            other.intent() != task.subject.intent() && other.intent() != Intent::What.key()
        })
        .collect();
    let other = draw.choose(&others)?;
    let second = multi_turn::follow_up(other, false, draw)?;
    let joined = match draw.below(3) {
        0 => format!("{} Und {}", task.question, lower_first(&second)?),
        1 => format!("{} Außerdem: {second}", task.question),
        _ => format!("{} {second}", task.question),
    };
    let register = task.register(draw, 25, 18);
    let mut question = joined.clone();
    let mut techniques = vec![Technique::Expansion];
    if task.enabled.contains(Technique::Conversation) {
        let greeted = draw.percent(40);
        question = super::conversation::greet(task, question, register, greeted, draw)?;
        question = super::conversation::thank(task, question, register, 20, draw);
        if question != joined {
            techniques.push(Technique::Conversation);
        }
    }
    let register = if question == joined {
        Register::Neutral
    } else {
        register
    };
    let first = task.body(
        if draw.percent(60) {
            Wish::Full
        } else {
            Wish::Short
        },
        register,
        draw,
    );
    let body = format!(
        "{first} {}",
        other.body(Wish::Short, Register::Neutral, None, draw)
    );
    Some(Draft::new(question, body, &techniques).with_register(register))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, drafts};
    use super::*;
    use crate::dataset::catalog::small_knowledge;
    use crate::dataset::techniques::Recipe;
    use std::collections::BTreeSet;

    #[test]
    fn patterns_are_filled_in_the_right_case() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("einwohnermeldeamt").unwrap().services[0];
        for (intent, fact) in &service.facts {
            for question in questions(service, *intent, fact) {
                assert!(
                    question.ends_with('?')
                        && question.contains("Ummeldung")
                        && !question.contains(['{', '}']),
                    "{question}"
                );
            }
        }
        assert_eq!(fill("{zu}", service).as_deref(), Some("Zur Ummeldung"));
        assert_eq!(
            fill("wegen {gen}", service).as_deref(),
            Some("Wegen der Ummeldung")
        );
    }

    #[test]
    fn a_pattern_fits_only_answers_that_hold_one_of_its_words() {
        let knowledge = small_knowledge();
        let service = &knowledge.office("einwohnermeldeamt").unwrap().services[0];
        let fact = &service.facts[&Intent::Deadline];
        assert!(fits(&p("Bis wann?", &["innerhalb"]), fact));
        assert!(!fits(&p("Was kostet das?", &["kost"]), fact));
    }

    #[test]
    fn a_brief_question_gets_a_short_answer() {
        let made = drafts(Recipe::Brief, all(), 10, |task, draft| {
            assert!(draft.pairs[0].1.len() <= task.subject.full().len() + 60);
            assert!(!matches!(task.subject.matter, Matter::Foreign(_)));
        });
        assert!(made > 50);
    }

    #[test]
    fn a_topic_question_names_an_alias() {
        let mut questions = BTreeSet::new();
        drafts(Recipe::Topic, all(), 40, |task, draft| {
            let question = &draft.pairs[0].0;
            let service = task.subject.service().unwrap();
            assert!(
                service
                    .aliases
                    .iter()
                    .any(|alias| fold(question).contains(&fold(alias))),
                "{question}"
            );
            questions.insert(question.clone());
        });
        assert!(questions.len() > 300, "{}", questions.len());
    }

    #[test]
    fn a_combined_answer_holds_both_facts() {
        let made = drafts(Recipe::Combined, all(), 20, |task, draft| {
            let (question, answer) = &draft.pairs[0];
            assert!(question.matches('?').count() >= 2, "{question}");
            let service = task.subject.service().unwrap();
            let named = task
                .catalog
                .facts_of(service)
                .filter(|other| {
                    other
                        .bodies()
                        .iter()
                        .any(|body| answer.contains(body.as_str()))
                })
                .count();
            assert!(named >= 1, "{answer}");
        });
        assert!(made > 50);
    }
}
