//! Whether questions are understood: what the knowledge base alone answers, asks back or turns
//! down, beside what is right. No model is needed, because a model words answers and does not
//! choose them.

use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

use super::answers::matching::{contains, fill_known};
use super::questions::{Expected, Question};
use super::statistics::Share;
use crate::answer::exchange::{ExchangeSettings, Pipeline};
use crate::answer::{Assistant, Reply, Verdict};

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Everything that was expected stands in the answer of the right service.
    RightFact,
    /// The right service, and something that was expected is missing.
    OtherFact,
    /// The citizen is asked, and the right service is among the options.
    RightOption,
    /// The citizen is asked, and the right service is not among the options.
    WrongOptions,
    /// Another service answers.
    WrongService,
    /// The request is turned down although an office handles it.
    FalselyDeclined,
    /// A request that is no office's business is turned down.
    Declined,
    /// The citizen is asked about a request that is no office's business.
    AskedOutside,
    /// A service answers a request that is no office's business.
    AnsweredOutside,
}

/// A question with what became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Understood {
    /// What was asked, and what is right.
    pub question: Question,
    /// What became of it.
    pub outcome: Outcome,
    /// The service that answered.
    pub service: Option<String>,
    /// The services that were offered.
    pub options: Vec<String>,
    /// The text that was shown.
    pub text: String,
}

/// Shares with their 95% intervals (Wilson).
#[derive(Clone, Debug, Serialize)]
pub(crate) struct UnderstandingReport {
    /// Of the questions that an office answers: right answers and right options together.
    pub helpful: Share,
    /// Of these questions, and of those that are no office's business: each outcome.
    pub outcomes: BTreeMap<Outcome, Share>,
    /// Of the questions whose right service answered: those with everything that was expected.
    pub right_fact_of_right_service: Share,
    /// Helpful answers by office.
    pub offices: BTreeMap<String, Share>,
    /// Helpful answers by kind of question, where the file names kinds.
    pub kinds: BTreeMap<String, Share>,
}

/// Asks every question on its own.
///
/// # Errors
/// If a question is empty.
pub(crate) fn understand(assistant: &Assistant, questions: &[Question]) -> Result<Vec<Understood>> {
    let pipeline = Pipeline {
        assistant,
        window: None,
    };
    let settings = ExchangeSettings::default();
    let one = |question: &Question| {
        let request = pipeline.request(&[], &question.question, &settings)?;
        let (_, reply) = pipeline.begin(&request).finish();
        Ok(Understood {
            outcome: outcome(assistant, question, &reply),
            question: question.clone(),
            service: reply.service.map(|service| service.id),
            options: reply
                .options
                .into_iter()
                .map(|option| option.service)
                .collect(),
            text: reply.text,
        })
    };
    questions.iter().map(one).collect()
}

fn outcome(assistant: &Assistant, question: &Question, reply: &Reply) -> Outcome {
    let asked = reply.verdict == Verdict::Asked;
    let declined = reply.service.is_none();
    match &question.expected {
        Expected::Refusal if asked => Outcome::AskedOutside,
        Expected::Refusal if declined => Outcome::Declined,
        Expected::Refusal => Outcome::AnsweredOutside,
        Expected::Service { service, .. } if asked => {
            match reply
                .options
                .iter()
                .any(|option| option.service == *service)
            {
                true => Outcome::RightOption,
                false => Outcome::WrongOptions,
            }
        }
        Expected::Service { .. } if declined => Outcome::FalselyDeclined,
        Expected::Service { service, .. } => {
            let is_right = reply
                .service
                .as_ref()
                .is_some_and(|found| found.id == *service);
            let city = &assistant.knowledge().municipality;
            let holds = |alternatives: &Vec<String>| {
                alternatives.iter().any(|wanted| {
                    let wanted = fill_known(city, Some(question.office()), wanted);
                    contains(&reply.text, &wanted)
                })
            };
            match is_right {
                false => Outcome::WrongService,
                true if question.expect.iter().all(holds) => Outcome::RightFact,
                true => Outcome::OtherFact,
            }
        }
    }
}

impl Outcome {
    const INSIDE: [Outcome; 6] = [
        Outcome::RightFact,
        Outcome::OtherFact,
        Outcome::RightOption,
        Outcome::WrongOptions,
        Outcome::WrongService,
        Outcome::FalselyDeclined,
    ];
    const OUTSIDE: [Outcome; 3] = [
        Outcome::Declined,
        Outcome::AskedOutside,
        Outcome::AnsweredOutside,
    ];

    /// Whether the citizen gets what was asked for, perhaps after a choice.
    fn is_helpful(self) -> bool {
        matches!(
            self,
            Outcome::RightFact | Outcome::OtherFact | Outcome::RightOption
        )
    }

    fn name(self) -> &'static str {
        match self {
            Outcome::RightFact => "right fact",
            Outcome::OtherFact => "right service, other fact",
            Outcome::RightOption => "asked, right option",
            Outcome::WrongOptions => "asked, wrong options",
            Outcome::WrongService => "wrong service",
            Outcome::FalselyDeclined => "turned down although an office handles it",
            Outcome::Declined => "outside: turned down",
            Outcome::AskedOutside => "outside: asked",
            Outcome::AnsweredOutside => "outside: answered",
        }
    }
}

/// Helpful answers by what `name` gives.
fn helpful_by(
    answers: &[&Understood],
    name: impl Fn(&Question) -> Option<&str>,
) -> BTreeMap<String, Share> {
    let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for answer in answers {
        if let Some(name) = name(&answer.question) {
            let group = groups.entry(name.to_string()).or_default();
            group.push(answer.outcome.is_helpful());
        }
    }
    let groups = groups.into_iter();
    groups
        .map(|(name, helpful)| (name, Share::of(helpful)))
        .collect()
}

impl UnderstandingReport {
    /// Counts outcomes.
    pub(crate) fn new(answers: &[Understood]) -> UnderstandingReport {
        let is_inside = |answer: &&Understood| answer.question.service().is_some();
        let inside: Vec<&Understood> = answers.iter().filter(is_inside).collect();
        let outside: Vec<&Understood> = answers.iter().filter(|a| !is_inside(a)).collect();
        let share = |of: &[&Understood], outcome| {
            Share::of(of.iter().map(|answer| answer.outcome == outcome))
        };
        let mut outcomes = BTreeMap::new();
        outcomes.extend(Outcome::INSIDE.map(|outcome| (outcome, share(&inside, outcome))));
        outcomes.extend(Outcome::OUTSIDE.map(|outcome| (outcome, share(&outside, outcome))));
        let right = inside
            .iter()
            .filter(|answer| matches!(answer.outcome, Outcome::RightFact | Outcome::OtherFact));
        UnderstandingReport {
            helpful: Share::of(inside.iter().map(|answer| answer.outcome.is_helpful())),
            outcomes,
            right_fact_of_right_service: Share::of(
                right.map(|answer| answer.outcome == Outcome::RightFact),
            ),
            offices: helpful_by(&inside, |question| Some(question.office())),
            kinds: helpful_by(&inside, |question| question.kind.as_deref()),
        }
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let line = |name: &str, share: &Share| {
            let percent = 100.0 * share.count as f64 / share.of.max(1) as f64;
            format!(
                "{name:<42} {percent:>5.1}%  ({} of {})\n",
                share.count, share.of
            )
        };
        let mut text = line("helpful (right service or right option)", &self.helpful);
        for (outcome, share) in &self.outcomes {
            text.push_str(&line(outcome.name(), share));
        }
        let right = &self.right_fact_of_right_service;
        text.push_str(&line("right fact, of right services", right));
        for (office, share) in &self.offices {
            text.push_str(&line(&format!("helpful: {office}"), share));
        }
        for (kind, share) in &self.kinds {
            text.push_str(&line(&format!("helpful, kind: {kind}"), share));
        }
        text
    }
}
