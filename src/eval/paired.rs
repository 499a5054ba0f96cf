//! Two runs over the same questions: is one better, or is it chance?

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::outcome::{Decision, Outcome};
use super::questions::Question;
use super::statistics::mcnemar;

/// What an earlier run printed with `--json`, as far as it is compared.
#[derive(Deserialize)]
struct Printed {
    answers: Vec<PrintedAnswer>,
}

#[derive(Deserialize)]
struct PrintedAnswer {
    question: PrintedQuestion,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct PrintedQuestion {
    question: String,
}

/// What became of each question in an earlier run.
pub(crate) struct Earlier {
    path: PathBuf,
    outcomes: HashMap<String, Outcome>,
}

/// On how many questions only one of the runs has a property.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    /// Questions on which only this run has it.
    pub only_now: usize,
    /// Questions on which only the earlier one has it.
    pub only_before: usize,
    /// Probability of so uneven a split if the runs were equally good (McNemar's exact test).
    pub p: f64,
}

/// This run beside an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Paired {
    /// Questions that both runs have.
    pub questions: usize,
    /// Helpful answers.
    pub helpful: Difference,
    /// Right facts.
    pub right_fact: Difference,
    /// Answers of a wrong service, or of any where none has to answer.
    pub wrong: Difference,
}

impl Earlier {
    /// Reads what an earlier run printed with `--json`.
    ///
    /// # Errors
    /// If the file cannot be read or is no such report.
    pub(crate) fn read(path: &Path) -> Result<Earlier> {
        let file = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
        let printed: Printed = serde_json::from_str(&text).with_context(|| {
            format!("{file}: expected what this command prints with --json: write it there first")
        })?;
        let answers = printed.answers.into_iter();
        Ok(Earlier {
            path: path.to_path_buf(),
            outcomes: answers
                .map(|answer| (answer.question.question, answer.outcome))
                .collect(),
        })
    }

    /// This run beside it.
    ///
    /// # Errors
    /// If the two share no question.
    pub(crate) fn beside<'a>(
        &self,
        cases: impl IntoIterator<Item = (&'a Question, &'a Decision)>,
    ) -> Result<Paired> {
        let before = |question: &Question| self.outcomes.get(&question.question).copied();
        let both: Vec<(Outcome, Outcome)> = cases
            .into_iter()
            .filter_map(|(question, now)| Some((now.outcome, before(question)?)))
            .collect();
        ensure!(
            !both.is_empty(),
            "{} shares no question with this run: compare runs over the same questions",
            self.path.display()
        );
        let difference = |has: &dyn Fn(Outcome) -> bool| {
            let only = |a: Outcome, b: Outcome| has(a) && !has(b);
            let only_now = both.iter().filter(|&&(now, before)| only(now, before));
            let only_before = both.iter().filter(|&&(now, before)| only(before, now));
            let (only_now, only_before) = (only_now.count(), only_before.count());
            Difference {
                only_now,
                only_before,
                p: mcnemar(only_now, only_before),
            }
        };
        Ok(Paired {
            questions: both.len(),
            helpful: difference(&Outcome::is_helpful),
            right_fact: difference(&|outcome| outcome == Outcome::RightFact),
            wrong: difference(&|outcome| {
                matches!(outcome, Outcome::WrongService | Outcome::AnsweredOutside)
            }),
        })
    }
}

impl Paired {
    /// The comparison for people.
    pub(crate) fn table(&self) -> String {
        let line = |name: &str, difference: &Difference| {
            format!(
                "{name:<20} only now {:>4}, only before {:>4}, p = {:.4}\n",
                difference.only_now, difference.only_before, difference.p
            )
        };
        format!(
            "beside the earlier run, {} questions:\n{}{}{}",
            self.questions,
            line("helpful", &self.helpful),
            line("right fact", &self.right_fact),
            line("wrong service", &self.wrong)
        )
    }
}
