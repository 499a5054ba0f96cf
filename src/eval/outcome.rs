//! What became of a question: answered, asked back or turned down, beside what is right.

use serde::{Deserialize, Serialize};

use super::answers::matching::{contains, fill_known};
use super::questions::{Expected, Question};
use crate::answer::{Assistant, Reply, Understanding, Verdict};

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// How a question was understood, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Decision {
    /// What became of it.
    pub outcome: Outcome,
    /// The service that answered.
    pub service: Option<String>,
    /// The services that were offered.
    pub options: Vec<String>,
    /// Probability that an office handles it.
    pub in_remit: f32,
    /// Probability that the likeliest service or request is the right one.
    pub confidence: f32,
    /// Whether the likeliest service is the right one; `None` where a request that belongs
    /// elsewhere was likelier than every service.
    pub first_is_right: Option<bool>,
}

impl Decision {
    /// What `reply` amounts to, which followed from `understanding`.
    pub(crate) fn new(
        assistant: &Assistant,
        question: &Question,
        understanding: &Understanding,
        reply: &Reply,
    ) -> Decision {
        let first = understanding.service.as_ref();
        Decision {
            outcome: outcome(assistant, question, reply),
            service: reply.service.as_ref().map(|service| service.id.clone()),
            options: reply
                .options
                .iter()
                .map(|option| option.service.clone())
                .collect(),
            in_remit: understanding.in_remit,
            confidence: understanding.confidence,
            first_is_right: first.map(|first| question.service() == Some(first.id.as_str())),
        }
    }
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
    /// Those of questions that an office answers.
    pub(super) const INSIDE: [Outcome; 6] = [
        Outcome::RightFact,
        Outcome::OtherFact,
        Outcome::RightOption,
        Outcome::WrongOptions,
        Outcome::WrongService,
        Outcome::FalselyDeclined,
    ];
    /// Those of requests that are no office's business.
    pub(super) const OUTSIDE: [Outcome; 3] = [
        Outcome::Declined,
        Outcome::AskedOutside,
        Outcome::AnsweredOutside,
    ];

    /// Whether the citizen gets what was asked for, perhaps after a choice.
    pub(super) fn is_helpful(self) -> bool {
        matches!(
            self,
            Outcome::RightFact | Outcome::OtherFact | Outcome::RightOption
        )
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
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
