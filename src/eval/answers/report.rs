//! The measurement for people: a table for the terminal, a page with every answer to browse.

use super::{Answer, AnswerReport, Comparison, Judged, Summary};
use crate::eval::html::{page, table as html_table};
use crate::eval::statistics::{Mean, Share};
use crate::html::escape;
use std::fmt::Write;

/// A measure's name and its value without and with the guard.
type Row = (&'static str, [String; 2]);

/// `81.0% (73.2-87.0) 98/121`
fn share(share: &Share) -> String {
    match share.share {
        None => "-".to_string(),
        Some(value) => format!(
            "{:.1}% ({:.1}-{:.1}) {}/{}",
            100.0 * value,
            100.0 * share.low,
            100.0 * share.high,
            share.count,
            share.of
        ),
    }
}

fn percent(share: &Share) -> String {
    share
        .share
        .map_or("-".to_string(), |value| format!("{:.0}", 100.0 * value))
}

fn mean(mean: &Mean, scale: f64, unit: &str) -> String {
    match mean.mean {
        None => "-".to_string(),
        Some(value) => format!(
            "{:.1}{unit} ({:.1}-{:.1})",
            scale * value,
            scale * mean.low,
            scale * mean.high
        ),
    }
}

fn rows(comparison: &Comparison) -> Vec<Row> {
    let both = |name, value: &dyn Fn(&Summary) -> String| {
        (name, [value(&comparison.model), value(&comparison.guarded)])
    };
    vec![
        both("right service", &|s| share(&s.right_service)),
        both("facts complete", &|s| share(&s.facts_complete)),
        both("wrong figures", &|s| share(&s.wrong_figures)),
        both("false refusals", &|s| share(&s.false_refusals)),
        both("missed refusals", &|s| share(&s.missed_refusals)),
        both("right place named", &|s| share(&s.place_named)),
        both("Sie/Du suits", &|s| share(&s.form_suits)),
        both("ends as a sentence", &|s| share(&s.sentence_end)),
        both("goes in circles", &|s| share(&s.repeats)),
        both("placeholder left", &|s| share(&s.placeholders_left)),
        both("words known", &|s| {
            s.known_words
                .as_ref()
                .map_or("no dictionary".to_string(), |known| mean(known, 100.0, "%"))
        }),
        both("words per answer", &|s| mean(&s.words, 1.0, "")),
    ]
}

/// Columns of the table by office.
const OFFICE_HEAD: [&str; 7] = [
    "office",
    "questions",
    "understood",
    "right service",
    "facts complete",
    "wrong figures",
    "wrongly (not) refused",
];

/// One line per office: percent without and with the guard.
fn office_rows(report: &AnswerReport) -> Vec<Vec<String>> {
    report
        .by_office
        .iter()
        .map(|office| {
            let pair = |value: &dyn Fn(&Summary) -> String| {
                format!("{} / {}", value(&office.model), value(&office.guarded))
            };
            vec![
                office.office.clone(),
                office.questions.to_string(),
                percent(&office.understood),
                pair(&|s| percent(&s.right_service)),
                pair(&|s| match s.right_service.of {
                    0 => percent(&s.place_named),
                    _ => percent(&s.facts_complete),
                }),
                pair(&|s| percent(&s.wrong_figures)),
                pair(&|s| match s.right_service.of {
                    0 => percent(&s.missed_refusals),
                    _ => percent(&s.false_refusals),
                }),
            ]
        })
        .collect()
}

fn verdict_line(report: &AnswerReport) -> String {
    let verdicts: Vec<String> = report
        .verdicts
        .iter()
        .map(|(verdict, count)| format!("{verdict} {count}"))
        .collect();
    format!(
        "guard: {}; questions understood: {}",
        verdicts.join(", "),
        share(&report.all.understood)
    )
}

/// The measurement as text for a terminal.
pub(crate) fn table(report: &AnswerReport) -> String {
    let mut text = format!(
        "{} questions, temperature {}, seed {}; 95% confidence intervals in brackets\n\n\
         {:<20}{:<34}with guard\n",
        report.all.questions, report.temperature, report.seed, "", "model alone"
    );
    for (name, [model, guarded]) in rows(&report.all) {
        let _ = writeln!(text, "{name:<20}{model:<34}{guarded}");
    }
    let _ = writeln!(text, "{}\n", verdict_line(report));
    let _ = writeln!(text, "in percent, model alone / with guard");
    let head = OFFICE_HEAD.map(String::from).to_vec();
    for row in std::iter::once(head).chain(office_rows(report)) {
        let mut line = format!("{:<23}", row[0]);
        for cell in &row[1..] {
            let _ = write!(line, "{cell:>15}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "\nwhat citizens were shown");
    text + &shown(report)
}

/// What became of the questions behind the guard, danger, and the comparison.
fn shown(report: &AnswerReport) -> String {
    let mut text = report.shown.table();
    if let Some(danger) = &report.danger {
        text += &danger.table();
    }
    if let Some(paired) = &report.paired {
        text += &paired.table();
    }
    text
}

/// The measurement as a self-contained page.
pub(crate) fn html(report: &AnswerReport) -> String {
    let mut body = format!(
        "<p>Model <code>{}</code>, {} questions of <code>{}</code>, temperature {}, seed {}, \
         dictionary: {}. \
         95% confidence intervals in brackets: Wilson's for shares, bootstrap for means.</p>\n",
        escape(&report.model),
        report.all.questions,
        escape(&report.questions),
        report.temperature,
        report.seed,
        report
            .dictionary
            .as_ref()
            .map_or("none".to_string(), |path| escape(path))
    );
    let rows: Vec<Vec<String>> = rows(&report.all)
        .into_iter()
        .map(|(name, [model, guarded])| vec![name.to_string(), model, guarded])
        .collect();
    body += &html_table(&["", "model alone", "with guard"].map(String::from), &rows);
    let _ = writeln!(body, "<p>{}</p>", escape(&verdict_line(report)));
    body += "<h2>By office</h2>\n<p>In percent, model alone / with guard. In the last line: right \
        place named, missed refusals.</p>\n";
    body += &html_table(&OFFICE_HEAD.map(String::from), &office_rows(report));
    let _ = write!(
        body,
        "<h2>What citizens were shown</h2>\n<pre>{}</pre>\n<h2>Answers</h2>\n",
        escape(&shown(report))
    );
    for office in &report.by_office {
        let _ = writeln!(body, "<h3>{}</h3>", escape(&office.office));
        let own = report.answers.iter();
        for answer in own.filter(|answer| answer.question.office() == office.office) {
            answer_html(&mut body, answer);
        }
    }
    page("Answer quality", &body)
}

fn answer_html(body: &mut String, answer: &Answer) {
    let question = &answer.question;
    let mark = |judged: &Judged| match faults(answer, judged).is_empty() {
        true => "<span class=\"good\">✓</span>",
        false => "<span class=\"bad\">✗</span>",
    };
    let _ = write!(
        body,
        "<details><summary>{} {} {} <span class=\"soft\">({})</span></summary>\n<dl>",
        mark(&answer.model),
        mark(&answer.guarded),
        escape(&question.question),
        escape(question.service().unwrap_or("to refuse"))
    );
    let expected: Vec<String> = question
        .expect
        .iter()
        .map(|parts| parts.join(" | "))
        .collect();
    let _ = write!(
        body,
        "<dt>expected</dt><dd>{}</dd>",
        escape(&expected.join("; "))
    );
    for (name, judged) in [("model", &answer.model), ("guarded", &answer.guarded)] {
        let _ = write!(
            body,
            "<dt>{name}</dt><dd>{}\n<span class=\"bad\">{}</span></dd>",
            escape(&judged.text),
            escape(&faults(answer, judged).join("; "))
        );
    }
    let _ = writeln!(
        body,
        "<dt>guard</dt><dd>{} {}</dd></dl></details>",
        answer.verdict,
        escape(&answer.reasons.join(", "))
    );
}

/// What is wrong with an answer, in words.
fn faults(answer: &Answer, judged: &Judged) -> Vec<String> {
    let score = &judged.score;
    let mut faults = Vec::new();
    let mut add = |wrong: bool, what: String| {
        if wrong {
            faults.push(what);
        }
    };
    let to_refuse = answer.question.service().is_none();
    add(
        score.right_service == Some(false) && !score.refused,
        format!(
            "speaks of {}",
            score.subject.as_deref().unwrap_or("nothing known")
        ),
    );
    add(!to_refuse && score.refused, "refused".to_string());
    add(to_refuse && !score.refused, "not refused".to_string());
    add(
        !score.missing.is_empty(),
        format!("missing: {}", score.missing.join(", ")),
    );
    add(
        !score.wrong_figures.is_empty(),
        format!("wrong figures: {}", score.wrong_figures.join(", ")),
    );
    add(
        !score.form_suits,
        format!("addresses with {:?}", score.form),
    );
    add(!score.sentence_end, "no end".to_string());
    add(score.repeats, "goes in circles".to_string());
    add(
        !score.unknown_words.is_empty(),
        format!("unknown words: {}", score.unknown_words.join(", ")),
    );
    faults
}
