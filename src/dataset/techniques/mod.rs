//! The techniques that turn a subject of the knowledge base into a dialogue: one module each. A
//! template starts from a question and its answer and lets techniques change them; a new technique
//! is a module, a bit, and a place in the templates.

mod administrative;
mod conversation;
mod expansion;
mod incomplete;
mod multi_turn;
mod paraphrase;
mod register;
mod rewording;
mod temporal;

use super::catalog::{Catalog, Detail, Subject, SubjectKind};
use super::rng::KeyedRng;
use crate::german::Register;
use crate::knowledge::Phrases;
use anyhow::{Result, bail};
use std::str::FromStr;

/// A technique; its number is its bit in a stored example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Technique {
    /// Question phrasings times answer forms, patterns, several questions in one.
    Expansion = 0,
    /// Synonyms and other shapes of the same question.
    Paraphrase = 1,
    /// Greetings and politeness around question and answer.
    Conversation = 2,
    /// The answer takes up whether the question says Sie or du.
    Register = 3,
    /// When the citizen asks, and of which month the answer is.
    Temporal = 4,
    /// Official language and legal sources.
    Administrative = 5,
    /// Fragments, slips of the keyboard, careless spelling, a touch of dialect.
    Incomplete = 6,
    /// Further questions that refer back to the first.
    MultiTurn = 7,
    /// Which office is responsible.
    OfficeNaming = 8,
    /// Requests that belong elsewhere.
    OutOfRemit = 9,
}

impl Technique {
    /// All techniques, in the order of their bits.
    pub(crate) const ALL: [Technique; 10] = [
        Technique::Expansion,
        Technique::Paraphrase,
        Technique::Conversation,
        Technique::Register,
        Technique::Temporal,
        Technique::Administrative,
        Technique::Incomplete,
        Technique::MultiTurn,
        Technique::OfficeNaming,
        Technique::OutOfRemit,
    ];

    /// Whether a data set can be made without it. Which office is responsible and what belongs
    /// elsewhere are questions of their own, not ways to put one.
    pub(crate) fn can_be_left_out(self) -> bool {
        !matches!(self, Technique::OfficeNaming | Technique::OutOfRemit)
    }

    /// Name in the data set's records.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Technique::Expansion => "expansion",
            Technique::Paraphrase => "paraphrase",
            Technique::Conversation => "conversation",
            Technique::Register => "register",
            Technique::Temporal => "temporal",
            Technique::Administrative => "administrative",
            Technique::Incomplete => "incomplete",
            Technique::MultiTurn => "multi_turn",
            Technique::OfficeNaming => "office_naming",
            Technique::OutOfRemit => "out_of_remit",
        }
    }
}

impl FromStr for Technique {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Technique> {
        match Technique::ALL
            .into_iter()
            .find(|technique| technique.name() == name)
        {
            Some(technique) => Ok(technique),
            None => bail!(
                "there is no technique \"{name}\": expected one of {}",
                Technique::ALL.map(Technique::name).join(", ")
            ),
        }
    }
}

/// A set of techniques, as the bits of a stored example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TechniqueSet(pub u32);

impl TechniqueSet {
    /// The set of these techniques.
    pub(crate) fn of(techniques: &[Technique]) -> TechniqueSet {
        let mut set = TechniqueSet::default();
        techniques
            .iter()
            .for_each(|&technique| set.insert(technique));
        set
    }

    /// Adds a technique.
    pub(crate) fn insert(&mut self, technique: Technique) {
        self.0 |= 1 << technique as u32;
    }

    /// Whether the technique is in the set.
    pub(crate) fn contains(self, technique: Technique) -> bool {
        self.0 & (1 << technique as u32) != 0
    }

    /// Names of the techniques in the set.
    pub(crate) fn names(self) -> Vec<&'static str> {
        Technique::ALL
            .into_iter()
            .filter(|technique| self.contains(*technique))
            .map(Technique::name)
            .collect()
    }
}

/// A dialogue in the making.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    /// Pairs of question and answer.
    pub pairs: Vec<(String, String)>,
    /// How it addresses the other side.
    pub register: Register,
    /// Techniques used so far.
    pub techniques: TechniqueSet,
}

impl Draft {
    fn new(question: String, answer: String, techniques: &[Technique]) -> Draft {
        Draft {
            pairs: vec![(question, answer)],
            register: Register::Neutral,
            techniques: TechniqueSet::of(techniques),
        }
    }

    fn with_register(mut self, register: Register) -> Draft {
        self.register = register;
        if register != Register::Neutral {
            self.techniques.insert(Technique::Register);
        }
        self
    }
}

/// How an example is put together. The form of the answer follows from what the question looks
/// like: plain questions get the full answer as it stands in the knowledge base, those that ask for
/// brevity or are scraps themselves a short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Template {
    /// The question as it stands, full answer.
    Plain,
    /// A question that asks for brevity, short answer.
    Brief,
    /// The question in other words.
    Paraphrase,
    /// The question as a subordinate clause.
    Indirect,
    /// Greeting and politeness around question and answer.
    Polite,
    /// A service's alias, then a question that refers to it.
    Topic,
    /// Two questions at once.
    Combined,
    /// The state of things today, or a plan.
    Temporal,
    /// Official language, legal source.
    Administrative,
    /// A scrap of a question, short answer.
    Scrap,
    /// Full answer, then follow-ups with short answers.
    Dialogue,
}

impl Template {
    /// The technique without which the template is not followed.
    fn needs(self) -> Option<Technique> {
        match self {
            Template::Plain => None,
            Template::Brief | Template::Topic | Template::Combined => Some(Technique::Expansion),
            Template::Paraphrase | Template::Indirect => Some(Technique::Paraphrase),
            Template::Polite => Some(Technique::Conversation),
            Template::Temporal => Some(Technique::Temporal),
            Template::Administrative => Some(Technique::Administrative),
            Template::Scrap => Some(Technique::Incomplete),
            Template::Dialogue => Some(Technique::MultiTurn),
        }
    }
}

/// The templates of examples of one subject, spread so that every stretch of them holds about the
/// same mix.
pub(crate) const TEMPLATES: [Template; 30] = {
    use Template::*;
    [
        Plain,
        Indirect,
        Dialogue,
        Polite,
        Scrap,
        Topic,
        Paraphrase,
        Plain,
        Combined,
        Indirect,
        Polite,
        Scrap,
        Brief,
        Topic,
        Plain,
        Dialogue,
        Administrative,
        Polite,
        Indirect,
        Scrap,
        Temporal,
        Plain,
        Paraphrase,
        Topic,
        Dialogue,
        Administrative,
        Polite,
        Temporal,
        Combined,
        Indirect,
    ]
};

/// The templates of validation examples: each asks a held-out phrasing, as it stands or with
/// something around it.
pub(crate) const VALIDATION_TEMPLATES: [Template; 8] = {
    use Template::*;
    [
        Plain, Indirect, Plain, Polite, Plain, Scrap, Plain, Dialogue,
    ]
};

/// What a template works on.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    /// The whole catalogue.
    pub catalog: &'a Catalog<'a>,
    /// The phrases of conversations.
    pub phrases: &'a Phrases,
    /// What is asked about.
    pub subject: &'a Subject<'a>,
    /// The question to start from.
    pub question: &'a str,
    /// Whether the question is about one side of the fact only, as the hand-written ones but the
    /// first may be: then no wording is taken that leaves out what it asks for.
    pub narrow: bool,
    /// Whether the question was made from a pattern.
    pub from_pattern: bool,
    /// Whether the question is held out: then no words are put in its place that training examples
    /// could share.
    pub held_out: bool,
    /// The techniques that are switched on.
    pub enabled: TechniqueSet,
}

impl<'a> Task<'a> {
    /// One wording of the answer to this question.
    fn answer(&self, detail: Detail, register: Register, rng: &mut KeyedRng) -> String {
        let asked = self.narrow.then_some(self.question);
        self.subject.answer(detail, register, asked, rng)
    }

    /// An answer with what is said around it in this form of address. `greeted`: the question began
    /// with a greeting.
    fn reply(&self, body: String, register: Register, greeted: bool, rng: &mut KeyedRng) -> String {
        if !self.enabled.contains(Technique::Conversation) {
            return body;
        }
        conversation::around_answer(self, body, register, greeted, rng)
    }
}

/// Follows a template. `None` if it does not suit the subject or this draw, or its technique is
/// switched off.
pub(crate) fn render(template: Template, task: &Task, rng: &mut KeyedRng) -> Option<Draft> {
    if template
        .needs()
        .is_some_and(|technique| !task.enabled.contains(technique))
    {
        return None;
    }
    // Patterns belong to the technique, too; those that ask for the office are another's.
    let expanded = task.from_pattern && matches!(task.subject.kind, SubjectKind::Fact(..));
    if expanded && !task.enabled.contains(Technique::Expansion) {
        return None;
    }
    // A question with an address of its own (an insult, say) takes no phrases around it.
    let spoken = Register::of_question(task.question);
    if spoken.is_some() && !matches!(template, Template::Plain | Template::Scrap) {
        return None;
    }
    let mut draft = match template {
        Template::Plain => expansion::plain(task),
        Template::Brief => expansion::brief(task, rng)?,
        Template::Topic => expansion::topic(task, rng)?,
        Template::Combined => expansion::combined(task, rng)?,
        Template::Paraphrase => paraphrase::reworded(task, rng)?,
        Template::Indirect => paraphrase::indirect(task, rng)?,
        Template::Polite => conversation::polite(task, rng)?,
        Template::Temporal => temporal::dated(task, rng)?,
        Template::Administrative => administrative::official(task, rng)?,
        Template::Scrap => incomplete::scrap(task, rng)?,
        Template::Dialogue => multi_turn::dialogue(task, rng)?,
    };
    draft.register = spoken.unwrap_or(draft.register);
    match task.subject.kind {
        SubjectKind::Fact(..) => {}
        SubjectKind::Responsibility(..) => draft.techniques.insert(Technique::OfficeNaming),
        SubjectKind::Foreign(_) => draft.techniques.insert(Technique::OutOfRemit),
    }
    Some(draft)
}

#[cfg(test)]
pub(super) mod testing {
    //! What the tests of the techniques share.

    use super::*;
    use crate::dataset::rng::Purpose;
    use crate::knowledge::Knowledge;
    use crate::knowledge::small_knowledge;

    pub(crate) fn all() -> TechniqueSet {
        TechniqueSet::of(&Technique::ALL)
    }

    pub(crate) fn asking<'a>(
        catalog: &'a Catalog<'a>,
        knowledge: &'a Knowledge,
        subject: &'a Subject<'a>,
        question: &'a str,
        enabled: TechniqueSet,
    ) -> Task<'a> {
        Task {
            catalog,
            phrases: &knowledge.phrases,
            subject,
            question,
            narrow: false,
            from_pattern: false,
            held_out: false,
            enabled,
        }
    }

    /// Follows `template` for every subject of the small knowledge base with its first question,
    /// `times` times each.
    pub(crate) fn drafts(
        template: Template,
        enabled: TechniqueSet,
        times: u64,
        mut look: impl FnMut(&Task, Draft),
    ) -> usize {
        let knowledge: Knowledge = small_knowledge();
        let catalog = Catalog::new(&knowledge, 1);
        let mut made = 0;
        for (number, subject) in catalog.subjects.iter().enumerate() {
            for phrasing in subject.train.iter().take(3) {
                let task = asking(&catalog, &knowledge, subject, &phrasing.text, enabled);
                for attempt in 0..times {
                    let mut rng = KeyedRng::new(9, Purpose::Example, number as u64, attempt);
                    if let Some(draft) = render(template, &task, &mut rng) {
                        look(&task, draft);
                        made += 1;
                    }
                }
            }
        }
        made
    }

    #[test]
    fn a_technique_that_is_switched_off_is_not_used() {
        for template in TEMPLATES {
            let Some(off) = template.needs() else {
                continue;
            };
            let mut enabled = all();
            enabled.0 &= !(1 << off as u32);
            assert_eq!(drafts(template, enabled, 3, |_, _| {}), 0, "{template:?}");
            assert!(drafts(template, all(), 20, |_, _| {}) > 0, "{template:?}");
        }
    }

    #[test]
    fn names_lead_back_to_techniques() {
        for technique in Technique::ALL {
            assert_eq!(technique.name().parse::<Technique>().unwrap(), technique);
        }
        assert!(
            "magic"
                .parse::<Technique>()
                .unwrap_err()
                .to_string()
                .contains("multi_turn")
        );
    }
}
