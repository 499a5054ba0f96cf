//! Whether questions are understood: what the knowledge base alone answers, asks back or turns
//! down, beside what is right. No model is needed, because a model words answers and does not
//! choose them.

use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;

use super::outcome::{Decision, Outcome};
use super::questions::Question;
use super::statistics::{Calibration, Share, auroc};
use crate::answer::Assistant;
use crate::answer::exchange::{ExchangeSettings, Pipeline};

/// A question with what became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Understood {
    /// What was asked, and what is right.
    pub question: Question,
    /// What became of it.
    #[serde(flatten)]
    pub decision: Decision,
    /// The text that was shown.
    pub text: String,
}

/// Shares with their 95% intervals (Wilson).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct UnderstandingReport {
    /// Of the questions that an office answers: right answers and right options together.
    pub helpful: Share,
    /// Of these questions, and of those that are no office's business: each outcome.
    pub outcomes: BTreeMap<Outcome, Share>,
    /// Of the questions whose right service answered: those with everything that was expected.
    pub right_fact_of_right_service: Share,
    /// How well the probability of being an office's business tells those that are from those that
    /// are not: area under the ROC curve. `None` where the file has only one of the two.
    pub remit_auroc: Option<f64>,
    /// Whether services that are right with probability p are right in p of the cases.
    pub calibration: Calibration,
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
            decision: Decision::new(assistant, question, request.understanding(), &reply),
            question: question.clone(),
            text: reply.text,
        })
    };
    questions.iter().map(one).collect()
}

/// A question and what became of it.
type Case<'a> = (&'a Question, &'a Decision);

/// Helpful answers by what `name` gives.
fn helpful_by(cases: &[Case], name: impl Fn(&Question) -> Option<&str>) -> BTreeMap<String, Share> {
    let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for (question, decision) in cases {
        if let Some(name) = name(question) {
            let group = groups.entry(name.to_string()).or_default();
            group.push(decision.outcome.is_helpful());
        }
    }
    let groups = groups.into_iter();
    groups
        .map(|(name, helpful)| (name, Share::of(helpful)))
        .collect()
}

impl UnderstandingReport {
    /// Counts outcomes.
    pub(crate) fn new<'a>(cases: impl IntoIterator<Item = Case<'a>>) -> UnderstandingReport {
        let (inside, outside): (Vec<Case>, Vec<Case>) = cases
            .into_iter()
            .partition(|(question, _)| question.service().is_some());
        let share = |of: &[Case], outcome| {
            Share::of(of.iter().map(|(_, decision)| decision.outcome == outcome))
        };
        let mut outcomes = BTreeMap::new();
        outcomes.extend(Outcome::INSIDE.map(|outcome| (outcome, share(&inside, outcome))));
        outcomes.extend(Outcome::OUTSIDE.map(|outcome| (outcome, share(&outside, outcome))));
        let outcomes_inside = inside.iter().map(|(_, decision)| decision.outcome);
        let right = outcomes_inside
            .clone()
            .filter(|outcome| matches!(outcome, Outcome::RightFact | Outcome::OtherFact));
        let in_remit = |cases: &[Case]| -> Vec<f64> {
            let probabilities = cases.iter().map(|(_, decision)| decision.in_remit);
            probabilities.map(f64::from).collect()
        };
        let all = inside.iter().chain(&outside);
        let first = all.filter_map(|(_, decision)| {
            Some((f64::from(decision.confidence), decision.first_is_right?))
        });
        UnderstandingReport {
            helpful: Share::of(outcomes_inside.map(Outcome::is_helpful)),
            right_fact_of_right_service: Share::of(
                right.map(|outcome| outcome == Outcome::RightFact),
            ),
            remit_auroc: auroc(&in_remit(&inside), &in_remit(&outside)),
            calibration: Calibration::new(&first.collect::<Vec<_>>()),
            offices: helpful_by(&inside, |question| Some(question.office())),
            kinds: helpful_by(&inside, |question| question.kind.as_deref()),
            outcomes,
        }
    }

    /// The report for people.
    pub(crate) fn table(&self) -> String {
        let helpful = "helpful (right service or right option)";
        let mut text = self.helpful.line(helpful);
        for (outcome, share) in &self.outcomes {
            text.push_str(&share.line(outcome.name()));
        }
        let right = &self.right_fact_of_right_service;
        text.push_str(&right.line("right fact, of right services"));
        if let Some(auroc) = self.remit_auroc {
            text.push_str(&format!(
                "{:<42}  {auroc:.3}\n",
                "an office's business or not, AUROC"
            ));
        }
        for (office, share) in &self.offices {
            text.push_str(&share.line(&format!("helpful: {office}")));
        }
        for (kind, share) in &self.kinds {
            text.push_str(&share.line(&format!("helpful, kind: {kind}")));
        }
        text.push_str(&self.calibration.table());
        text
    }
}
