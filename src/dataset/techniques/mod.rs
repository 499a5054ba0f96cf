//! The techniques that turn a subject of the knowledge base into a dialogue: one module each. A recipe starts from a question
//! and its answer and lets techniques change them; a new technique is a module, a bit, and a place in the recipes.

pub mod conversation;
pub mod expansion;
pub mod incomplete;
pub mod multi_turn;
pub mod office_naming;

use super::catalog::{AnswerForm, Catalog, Matter, Subject};
use super::draw::Draw;
use serde::Serialize;

/// A technique; its number is its bit in a stored example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Technique {
    /// Question phrasings times answer forms.
    Expansion = 0,
    /// Greetings and politeness around question and answer.
    Conversation = 1,
    /// The answer takes up whether the question says Sie or du.
    Register = 2,
    /// Fragments and sloppy spelling.
    Incomplete = 3,
    /// A second question that refers back to the first.
    MultiTurn = 4,
    /// Which office is responsible.
    OfficeNaming = 5,
    /// Requests that belong elsewhere.
    OutOfRemit = 6,
}

impl Technique {
    /// All techniques, in the order of their bits.
    pub const ALL: [Technique; 7] = [
        Technique::Expansion,
        Technique::Conversation,
        Technique::Register,
        Technique::Incomplete,
        Technique::MultiTurn,
        Technique::OfficeNaming,
        Technique::OutOfRemit,
    ];

    /// Name in the data set's records.
    pub fn name(self) -> &'static str {
        match self {
            Technique::Expansion => "expansion",
            Technique::Conversation => "conversation",
            Technique::Register => "register",
            Technique::Incomplete => "incomplete",
            Technique::MultiTurn => "multi_turn",
            Technique::OfficeNaming => "office_naming",
            Technique::OutOfRemit => "out_of_remit",
        }
    }
}

/// A set of techniques, as the bits of a stored example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TechniqueSet(pub u32);

impl TechniqueSet {
    /// Adds a technique.
    pub fn insert(&mut self, technique: Technique) {
        self.0 |= 1 << technique as u32;
    }

    /// Whether the technique was used.
    pub fn contains(self, technique: Technique) -> bool {
        self.0 & (1 << technique as u32) != 0
    }

    /// Names of the techniques in the set.
    pub fn names(self) -> Vec<&'static str> {
        Technique::ALL
            .into_iter()
            .filter(|technique| self.contains(*technique))
            .map(Technique::name)
            .collect()
    }
}

/// How a dialogue addresses the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// Nobody is addressed.
    Neutral,
    /// Formal.
    Sie,
    /// Informal.
    Du,
}

impl Register {
    /// Name in the data set's records.
    pub fn name(self) -> &'static str {
        match self {
            Register::Neutral => "neutral",
            Register::Sie => "sie",
            Register::Du => "du",
        }
    }
}

/// A dialogue in the making.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Pairs of question and answer.
    pub pairs: Vec<(String, String)>,
    /// How it addresses the other side.
    pub register: Register,
    /// What was done to it.
    pub techniques: TechniqueSet,
}

/// How an example is put together. The form of the answer follows from what the question looks like: plain and polite
/// questions get the full answer, those that ask for brevity or are scraps themselves the short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// The question as it stands, full answer.
    Plain,
    /// A question that asks for brevity, short answer.
    Brief,
    /// Greeting and politeness around question and full answer.
    Polite,
    /// A scrap of a question, short answer.
    Scrap,
    /// Full answer, then a follow-up with its short answer.
    Dialogue,
}

/// The recipes of twenty examples of one subject, spread so that every stretch of them holds about the same mix.
pub const RECIPES: [Recipe; 20] = {
    use Recipe::{Brief, Dialogue, Plain, Polite, Scrap};
    [
        Plain, Polite, Plain, Scrap, Plain, Dialogue, Plain, Polite, Plain, Scrap, Plain, Brief,
        Plain, Polite, Plain, Scrap, Plain, Dialogue, Plain, Polite,
    ]
};

/// Follows a recipe. `None` if it does not suit the subject or this draw.
/// `held_out` keeps an example to the phrasing itself: no words that training examples could share.
pub fn cook(
    recipe: Recipe,
    catalog: &Catalog,
    subject: &Subject,
    question: &str,
    held_out: bool,
    draw: &mut Draw,
) -> Option<Draft> {
    let mut draft = match recipe {
        Recipe::Plain | Recipe::Polite | Recipe::Dialogue => {
            expansion::plain(subject, question, AnswerForm::Full)
        }
        Recipe::Brief => expansion::brief(subject, question, draw)?,
        Recipe::Scrap => incomplete::scrap(subject, question, held_out, draw),
    };
    match subject.matter {
        Matter::Fact(..) => {}
        Matter::Responsibility(..) => draft.techniques.insert(Technique::OfficeNaming),
        Matter::Foreign(_) => draft.techniques.insert(Technique::OutOfRemit),
    }
    match recipe {
        Recipe::Polite => conversation::dress(
            &mut draft,
            matches!(subject.matter, Matter::Foreign(_)),
            draw,
        )?,
        Recipe::Dialogue => multi_turn::follow_up(&mut draft, catalog, subject, draw)?,
        Recipe::Plain | Recipe::Brief | Recipe::Scrap => {}
    }
    Some(draft)
}
