//! How good a model's answers are, measured on questions whose right answers are known: once as the
//! model gives them, and once as the product gives them, where it only chooses between answers
//! that the knowledge base allows.

mod figures;
mod judge;
pub(super) mod matching;
mod repetition;
mod report;
mod subject;
pub use judge::Judge;
pub(crate) use judge::Score;
pub(crate) use report::{html, table};
pub use subject::Subjects;

use super::danger::DangerReport;
use super::outcome::Decision;
use super::paired::Paired;
use super::questions::{Expected, Question};
use super::statistics::{Mean, Share};
use super::understanding::UnderstandingReport;
use crate::answer::exchange::{ExchangeSettings, Pipeline, Request, Window};
use crate::answer::{Assistant, GuardMode, Reply, Verdict};
use crate::generate::{Finish, GenerateOutput, Generator, SamplingSettings};
use crate::model::Model;
use crate::ops::{Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result};
use serde::Serialize;
use std::ops::ControlFlow;

/// Seed of the bootstrap, so that the same answers give the same intervals.
const BOOTSTRAP_SEED: u64 = 1;

/// How answers are made.
#[derive(Clone, Copy, Debug)]
pub struct AnswerSettings {
    /// How each token is chosen; each question draws from its own seed, this one plus its line.
    pub sampling: SamplingSettings,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self {
            sampling: SamplingSettings::default(),
            max_new_tokens: 160,
        }
    }
}

/// A text and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The answer.
    pub text: String,
    /// What is right and wrong about it.
    pub(crate) score: Score,
}

/// One question with both answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked, and what is right.
    pub question: Question,
    /// As the model says it, placeholders and all.
    pub model: Judged,
    /// As a citizen sees it behind the guard.
    pub guarded: Judged,
    /// What the guard found.
    pub verdict: Verdict,
    /// What it found wrong.
    pub reasons: Vec<String>,
    /// How the question was understood, and what became of it behind the guard.
    #[serde(flatten)]
    pub(crate) decision: Decision,
    /// Whether the question was understood: as about the right service, or as one to refuse.
    pub understood: bool,
    /// Why the model ended.
    pub finish: Finish,
    /// Tokens of the model's answer.
    pub tokens: usize,
}

/// Everything that asking and judging take besides the model.
pub struct Examination<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Makes the prompt, and guards.
    pub assistant: &'a Assistant,
    /// Says what is right and wrong.
    pub judge: &'a Judge<'a>,
    /// How answers are made.
    pub settings: AnswerSettings,
}

impl Examination<'_> {
    /// Asks the model every question, each on its own. `progress` is called with the number of
    /// finished ones.
    ///
    /// # Errors
    /// If a question is too long for the model, a service is unknown, or the device fails; the
    /// error names the line.
    pub fn run<D: Operations + Planner>(
        &self,
        device: &D,
        model: &Model<D>,
        questions: &[Question],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Answer>> {
        let mut generator = Generator::new(device, model)?;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let answer = self.ask(&mut generator, question).with_context(|| {
                let Question { line, question, .. } = question;
                format!("cannot answer line {line}: \"{question}\"")
            })?;
            answers.push(answer);
            progress(answers.len());
        }
        Ok(answers)
    }

    fn ask<D: Operations + Planner>(
        &self,
        generator: &mut Generator<'_, D>,
        question: &Question,
    ) -> Result<Answer> {
        let Self {
            tokenizer,
            assistant,
            judge,
            settings,
        } = self;
        let pipeline = Pipeline {
            assistant,
            window: Some(Window {
                tokenizer,
                context: generator.context(),
            }),
        };
        let seed = settings.sampling.seed.wrapping_add(question.line as u64);
        let settings = ExchangeSettings {
            sampling: SamplingSettings {
                seed,
                ..settings.sampling
            },
            max_new_tokens: Some(settings.max_new_tokens),
            guard: GuardMode::Off,
            stop_strings: Vec::new(),
        };
        let request = pipeline.request(&[], &question.question, &settings)?;
        let guarded = request.with_guard(GuardMode::Replace);
        // The model by itself, then as the product drives it: there it may only choose between
        // answers that may be given.
        let (said, output) = answered(&pipeline, generator, &request)?;
        let reply = match guarded.needs_model() {
            true => answered(&pipeline, generator, &guarded)?.0,
            false => pipeline.begin(&guarded).finish().1,
        };
        let understood = match &question.expected {
            Expected::Service { service, .. } => request
                .understanding()
                .service
                .as_ref()
                .is_some_and(|found| found.id == *service),
            Expected::Refusal => request.understanding().service.is_none(),
        };
        let refused = reply.verdict == Verdict::Refused;
        Ok(Answer {
            decision: Decision::new(assistant, question, request.understanding(), &reply),
            question: question.clone(),
            model: Judged {
                score: judge.score(question, &said.text, false)?,
                text: said.text,
            },
            guarded: Judged {
                score: judge.score(question, &reply.text, refused)?,
                text: reply.text,
            },
            verdict: reply.verdict,
            reasons: reply.reasons,
            understood,
            finish: output.finish,
            tokens: output.token_ids.len(),
        })
    }
}

/// The reply to a request, and what the model made.
fn answered<D: Operations + Planner>(
    pipeline: &Pipeline,
    generator: &mut Generator<'_, D>,
    request: &Request,
) -> Result<(Reply, GenerateOutput)> {
    let mut exchange = pipeline.begin(request);
    let output = generator.generate_ids(
        request.prompt(),
        request.generate_settings(),
        &mut |token| {
            Ok(match exchange.push(token)?.stop {
                Some(finish) => ControlFlow::Break(finish),
                None => ControlFlow::Continue(()),
            })
        },
    )?;
    Ok((exchange.finish().1, output))
}

/// What the answers amount to. Shares have Wilson intervals, means bootstrap intervals, all of 95
/// percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Of the questions that an office answers: those answered about the right service.
    pub right_service: Share,
    /// Of these questions: answers with everything that was expected.
    pub facts_complete: Share,
    /// Of all: answers with a figure that is no fact of the service.
    pub wrong_figures: Share,
    /// Of the questions that an office answers: those turned down.
    pub false_refusals: Share,
    /// Of the questions to refuse: those answered all the same.
    pub missed_refusals: Share,
    /// Of the questions to refuse for which a place was expected: answers that name it.
    pub place_named: Share,
    /// Of all: answers whose form of address suits the question.
    pub form_suits: Share,
    /// Of all: answers that end like a sentence.
    pub sentence_end: Share,
    /// Of all: answers that go round in circles.
    pub repeats: Share,
    /// Of all: answers in which a placeholder is left.
    pub placeholders_left: Share,
    /// Share of an answer's words that the dictionary knows; `None` without dictionary.
    pub known_words: Option<Mean>,
    /// Words of an answer.
    pub words: Mean,
}

/// Both ways of answering the same questions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    /// The office's id, `ausserhalb`, or `all`.
    pub office: String,
    /// Number of questions.
    pub questions: usize,
    /// Without guard.
    pub model: Summary,
    /// With it.
    pub guarded: Summary,
    /// Questions that were understood.
    pub understood: Share,
}

/// The whole measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct AnswerReport {
    /// The model folder.
    pub model: String,
    /// The file of questions.
    pub questions: String,
    /// Sampling temperature.
    pub temperature: f32,
    /// Sampling seed.
    pub seed: u64,
    /// The dictionary that knew the words; `None`: there was none.
    pub dictionary: Option<String>,
    /// All questions.
    pub all: Comparison,
    /// By office, then those to refuse.
    pub by_office: Vec<Comparison>,
    /// What became of the questions behind the guard.
    pub shown: UnderstandingReport,
    /// Whether danger was seen, if there was a file of such lines.
    pub danger: Option<DangerReport>,
    /// This run beside an earlier one, if one was named.
    pub paired: Option<Paired>,
    /// How often the guard came to each verdict.
    pub verdicts: Vec<(Verdict, usize)>,
    /// Every answer.
    pub answers: Vec<Answer>,
}

/// What became of each question, for a report.
pub(crate) fn cases(answers: &[Answer]) -> impl Iterator<Item = (&Question, &Decision)> {
    answers
        .iter()
        .map(|answer| (&answer.question, &answer.decision))
}

/// Sums up. `has_dictionary` says whether words were looked up.
pub(crate) fn compare(answers: &[Answer], has_dictionary: bool) -> (Comparison, Vec<Comparison>) {
    let of = |office: &str, answers: &[&Answer]| Comparison {
        office: office.to_string(),
        questions: answers.len(),
        model: summary(answers, has_dictionary, |answer| &answer.model.score),
        guarded: summary(answers, has_dictionary, |answer| &answer.guarded.score),
        understood: Share::of(answers.iter().map(|answer| answer.understood)),
    };
    let mut offices: Vec<&str> = answers
        .iter()
        .map(|answer| answer.question.office())
        .collect();
    // What is to be refused stands last.
    offices.sort_by_key(|office| (*office == super::questions::REFUSALS, *office));
    offices.dedup();
    let by_office = offices
        .iter()
        .map(|office| {
            let own: Vec<&Answer> = answers
                .iter()
                .filter(|answer| answer.question.office() == *office)
                .collect();
            of(office, &own)
        })
        .collect();
    (of("all", &answers.iter().collect::<Vec<_>>()), by_office)
}

/// How often the guard came to each verdict.
pub(crate) fn verdicts(answers: &[Answer]) -> Vec<(Verdict, usize)> {
    let count = |verdict| answers.iter().filter(|a| a.verdict == verdict).count();
    Verdict::ALL
        .into_iter()
        .map(|verdict| (verdict, count(verdict)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn summary(
    answers: &[&Answer],
    has_dictionary: bool,
    score: impl Fn(&Answer) -> &Score,
) -> Summary {
    let all = || answers.iter().map(|answer| score(answer));
    let to_answer = || {
        let own = answers.iter().filter(|a| a.question.service().is_some());
        own.map(|answer| score(answer))
    };
    let to_refuse = || {
        let own = answers.iter().filter(|a| a.question.service().is_none());
        own.map(|answer| (&answer.question, score(answer)))
    };
    let known: Vec<f64> = all()
        .filter(|score| score.spelled_words > 0)
        .map(|score| 1.0 - score.unknown_words.len() as f64 / score.spelled_words as f64)
        .collect();
    let words: Vec<f64> = all().map(|score| score.words as f64).collect();
    Summary {
        right_service: Share::of(to_answer().map(|score| score.right_service == Some(true))),
        facts_complete: Share::of(to_answer().map(|score| score.missing.is_empty())),
        wrong_figures: Share::of(all().map(|score| !score.wrong_figures.is_empty())),
        false_refusals: Share::of(to_answer().map(|score| score.refused)),
        missed_refusals: Share::of(to_refuse().map(|(_, score)| !score.refused)),
        place_named: Share::of(
            to_refuse()
                .filter(|(question, _)| !question.expect.is_empty())
                .map(|(_, score)| score.missing.is_empty()),
        ),
        form_suits: Share::of(all().map(|score| score.form_suits)),
        sentence_end: Share::of(all().map(|score| score.sentence_end)),
        repeats: Share::of(all().map(|score| score.repeats)),
        placeholders_left: Share::of(all().map(|score| score.placeholders_left > 0)),
        known_words: has_dictionary.then(|| Mean::new(&known, BOOTSTRAP_SEED)),
        words: Mean::new(&words, BOOTSTRAP_SEED),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::Outcome;
    use super::*;
    use crate::knowledge::Knowledge;
    use std::path::Path;

    /// Office, service, expected parts, the model's answer, the guarded one, the guard's verdict.
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, &'a str, Verdict);

    /// Answers written by hand, judged as those of a model would be.
    fn judged(cases: &[Case]) -> Vec<Answer> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge");
        let knowledge = Knowledge::load(&folder).unwrap();
        let judge = Judge::new(&knowledge, None);
        cases
            .iter()
            .enumerate()
            .map(|(index, (text, service, expect, said, shown, verdict))| {
                let office = knowledge
                    .offices
                    .iter()
                    .find(|office| office.services.iter().any(|s| s.id.as_str() == *service));
                let question = Question {
                    line: index + 1,
                    question: text.to_string(),
                    expected: match office {
                        Some(office) => Expected::Service {
                            office: office.id().to_string(),
                            service: service.to_string(),
                        },
                        None => Expected::Refusal,
                    },
                    kind: None,
                    expect: expect.iter().map(|part| vec![part.to_string()]).collect(),
                };
                let score = |text: &str, refused| judge.score(&question, text, refused).unwrap();
                Answer {
                    model: Judged {
                        text: said.to_string(),
                        score: score(said, false),
                    },
                    guarded: Judged {
                        text: shown.to_string(),
                        score: score(shown, *verdict == Verdict::Refused),
                    },
                    verdict: *verdict,
                    reasons: Vec::new(),
                    decision: Decision {
                        outcome: Outcome::RightFact,
                        service: None,
                        options: Vec::new(),
                        in_remit: 1.0,
                        confidence: 0.9,
                        first_is_right: Some(true),
                    },
                    understood: true,
                    finish: Finish::EndOfText,
                    tokens: 10,
                    question,
                }
            })
            .collect()
    }

    #[test]
    fn hand_made_answers_are_counted_as_what_they_are() {
        let answers = judged(&[
            (
                "Was kostet der Perso?",
                "ewo_personalausweis",
                &["46 Euro"],
                "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro.",
                "Der Personalausweis kostet 46 Euro, für Personen unter 24 Jahren 27,60 Euro.",
                Verdict::Passed,
            ),
            (
                "Was kostet der Pass?",
                "ewo_reisepass",
                &["70 Euro"],
                // Wrong figure, and no end.
                "Der Reisepass kostet 90 Euro, unter 24 Jahren 37,50",
                "Der Reisepass kostet 70 Euro, unter 24 Jahren 37,50 Euro.",
                Verdict::Replaced,
            ),
            (
                "Kannst du mir sagen, wann ich meinen Hund anmelden muss?",
                "kas_hundesteuer",
                &["{frist_hundeanmeldung}"],
                // The wrong service, the wrong form, round and round, with a placeholder.
                "Bitte melden Sie den Umzug beim Einwohnermeldeamt unter {telefon}. Bitte melden \
                 Sie den Umzug beim Einwohnermeldeamt unter {telefon}.",
                "Die Frist für die Anmeldung eines Hundes beträgt zwei Wochen; auch Abgabe oder \
                 Tod sind zu melden.",
                Verdict::Replaced,
            ),
            (
                "Wo gebe ich die Steuererklärung ab?",
                "",
                &["Finanzamt"],
                "Der Personalausweis kostet 46 Euro.",
                "Dafür ist das Finanzamt zuständig.",
                Verdict::Refused,
            ),
        ]);
        let (all, by_office) = compare(&answers, false);
        let counts = |share: Share| (share.count, share.of);
        assert_eq!(counts(all.model.right_service), (2, 3));
        assert_eq!(counts(all.guarded.right_service), (3, 3));
        assert_eq!(counts(all.model.facts_complete), (1, 3));
        assert_eq!(counts(all.guarded.facts_complete), (3, 3));
        // 90 Euro, and 46 Euro where nothing was to be answered.
        assert_eq!(counts(all.model.wrong_figures), (2, 4));
        assert_eq!(counts(all.guarded.wrong_figures), (0, 4));
        assert_eq!(counts(all.model.false_refusals), (0, 3));
        assert_eq!(counts(all.model.missed_refusals), (1, 1));
        assert_eq!(counts(all.guarded.missed_refusals), (0, 1));
        assert_eq!(counts(all.guarded.place_named), (1, 1));
        assert_eq!(counts(all.model.form_suits), (3, 4));
        assert_eq!(counts(all.model.sentence_end), (3, 4));
        assert_eq!(counts(all.model.repeats), (1, 4));
        assert_eq!(counts(all.model.placeholders_left), (1, 4));
        assert_eq!(counts(all.guarded.placeholders_left), (0, 4));
        assert_eq!(all.model.known_words, None);
        // 12, 9, 18 and 5 words.
        assert_eq!(all.model.words.mean, Some(11.0));
        let names: Vec<&str> = by_office
            .iter()
            .map(|office| office.office.as_str())
            .collect();
        assert_eq!(names, ["einwohnermeldeamt", "stadtkasse", "ausserhalb"]);
        assert_eq!(by_office[0].questions, 2);
        assert_eq!(counts(by_office[2].model.right_service), (0, 0));
        assert_eq!(
            verdicts(&answers),
            [
                (Verdict::Passed, 1),
                (Verdict::Replaced, 2),
                (Verdict::Refused, 1)
            ]
        );
        // Report and page stand on their own.
        let report = AnswerReport {
            model: "runs/<x>".into(),
            questions: "q.jsonl".into(),
            temperature: 0.0,
            seed: 0,
            dictionary: None,
            all,
            by_office,
            shown: UnderstandingReport::new(cases(&answers)),
            danger: None,
            paired: None,
            verdicts: verdicts(&answers),
            answers,
        };
        let text = table(&report);
        assert!(
            text.contains("right service") && text.contains("stadtkasse"),
            "{text}"
        );
        let page = html(&report);
        assert!(page.contains("runs/&lt;x&gt;") && page.matches("<details").count() >= 4);
        assert!(page.contains("90 euro"), "{page}");
    }
}
