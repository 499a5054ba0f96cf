//! Small sums that citizens ask for and no model may guess: the day on which a deadline ends, and
//! late payment charges. The rule is named with the result.

use crate::german::{fold, month_number, numbers::folded_number};
use crate::knowledge::{Date, Fact, Intent, Service};

/// A length of time as deadlines state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Days(u32),
    Months(u32),
}

/// What can be worked out for a question about these sides of a service: a sentence, if the
/// question holds what is needed. `fill` puts the city's values into a text.
pub(super) fn worked_out(
    service: &Service,
    intents: &[Intent],
    question: &str,
    today: Date,
    fill: impl Fn(&str) -> String,
) -> Option<String> {
    let fact = |intent: Intent| {
        let asked = intents.contains(&intent);
        service.facts.get(&intent).filter(|_| asked)
    };
    let deadline = fact(Intent::Deadline).and_then(|fact| {
        let period = deadline(&fill(&fact.text))?;
        let [start] = dates(question, today)[..] else {
            return None;
        };
        Some(ends_on(start, period))
    });
    deadline.or_else(|| late_payment(fact(Intent::Fee)?, question))
}

/// The sentence about the end of a deadline that runs from `start`.
fn ends_on(start: Date, period: Period) -> String {
    let end = match period {
        // The day of the event does not count (§ 187 Abs. 1 BGB).
        Period::Days(days) => start.plus_days(days.into()),
        // The day of the same number, or the month's last (§ 188 Abs. 2 and 3 BGB).
        Period::Months(months) => start.plus_months(months),
    };
    let last = end.next_working_day();
    let begins = format!("Läuft die Frist ab dem {}", start.in_words());
    match last == end {
        true => format!(
            "{begins}, endet sie am {}, dem {} (§§ 187, 188 BGB).",
            end.weekday(),
            end.in_words()
        ),
        false => format!(
            "{begins}, endet sie am {}, dem {}, weil der {} auf ein Wochenende oder einen Feiertag \
             fällt (§§ 187, 188, 193 BGB).",
            last.weekday(),
            last.in_words(),
            end.in_words()
        ),
    }
}

/// The period of a deadline that a text states: `innerhalb von zwei Wochen nach ...`, `beträgt
/// einen Monat nach ...`. `None` where it states none, or several.
fn deadline(text: &str) -> Option<Period> {
    let folded = fold(text);
    let words: Vec<&str> = folded.split(' ').collect();
    let mut found = words.windows(4).filter_map(|window| {
        let leads = match window[0] {
            "innerhalb" | "von" | "betraegt" | "binnen" => true,
            _ => return None,
        };
        let count: u32 = match window[1] {
            "einen" | "einem" | "einer" | "eine" | "eines" => 1,
            word => folded_number(word).unwrap_or(word).parse().ok()?,
        };
        let period = match window[2] {
            "tag" | "tage" | "tagen" | "tages" => Period::Days(count),
            "woche" | "wochen" => Period::Days(7 * count),
            "monat" | "monate" | "monaten" | "monats" => Period::Months(count),
            _ => return None,
        };
        (leads && window[3] == "nach").then_some(period)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The days that a text names: `3. März 2027`, `03.03.2027`, `3.3.`, `heute`, `gestern`. Without a
/// year, the one nearest to today.
fn dates(text: &str, today: Date) -> Vec<Date> {
    let tokens: Vec<&str> = text
        .split_whitespace()
        .map(|token| token.trim_matches(|c: char| !c.is_alphanumeric() && c != '.'))
        .collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match fold(token).as_str() {
            "heute" => found.push(today),
            "gestern" => found.push(today.plus_days(-1)),
            "vorgestern" => found.push(today.plus_days(-2)),
            _ => {}
        }
        let number = |text: &str| text.parse::<u32>().ok();
        let year = |text: &str| match (text.len(), number(text)) {
            (4, Some(year)) => Some(i64::from(year)),
            (2, Some(year)) => Some(2000 + i64::from(year)),
            _ => None,
        };
        let parts: Vec<&str> = token.trim_end_matches('.').split('.').collect();
        let day_and_month = match parts[..] {
            [day, month, of] => year(of).map(|of| (number(day), number(month), Some(of))),
            [day, month] if token.ends_with('.') => Some((number(day), number(month), None)),
            [day] => tokens.get(at + 1).and_then(|month| {
                let month = month_number(&fold(month))?;
                let of = tokens
                    .get(at + 2)
                    .filter(|of| of.trim_end_matches('.').len() == 4);
                Some((
                    number(day),
                    Some(month),
                    of.and_then(|of| year(of.trim_end_matches('.'))),
                ))
            }),
            _ => None,
        };
        if let Some((Some(day), Some(month), of)) = day_and_month {
            found.extend(match of {
                Some(of) => Date::new(of, month, day),
                None => nearest(month, day, today),
            });
        }
    }
    found
}

/// The day of this month that is nearest to today.
fn nearest(month: u32, day: u32, today: Date) -> Option<Date> {
    let years = (-1..=1).filter_map(|years| Date::new(today.year() + years, month, day));
    years.min_by_key(|date| (date.days() - today.days()).abs())
}

/// Late payment charges of a sum and of months that have begun, where the fact rests on § 240 AO.
fn late_payment(fact: &Fact, question: &str) -> Option<String> {
    let is_charge = fact
        .sources
        .iter()
        .any(|source| source.starts_with("§ 240"));
    if !is_charge || !fact.text.contains("50 Euro") {
        return None;
    }
    let tokens: Vec<&str> = question
        .split_whitespace()
        .map(|token| token.trim_matches(|c: char| !c.is_alphanumeric() && c != '€'))
        .collect();
    let mut pairs = tokens.windows(2);
    let (sum, written) = pairs.find_map(|pair| {
        let is_euro = matches!(fold(pair[1]).as_str(), "euro" | "eur") || pair[1] == "€";
        is_euro.then(|| Some((euros(pair[0])?, pair[0])))?
    })?;
    let mut pairs = tokens.windows(2);
    let months: u64 = pairs.find_map(|pair| {
        let unit = fold(pair[1]);
        let is_months = unit.starts_with("monat");
        let word = fold(pair[0]);
        let count = match word.as_str() {
            "einen" | "einem" | "ein" => "1",
            other => folded_number(other).unwrap_or(other),
        };
        is_months.then(|| count.parse().ok())?
    })?;
    let rounded = sum / 50 * 50;
    // One percent of a multiple of 50 is a whole number of halves.
    let cents = rounded * months;
    let amount = match cents % 100 {
        0 => format!("{} Euro", cents / 100),
        rest => format!("{},{rest:02} Euro", cents / 100),
    };
    let time = match months {
        1 => "einen angefangenen Monat".to_string(),
        _ => format!("{months} angefangene Monate"),
    };
    Some(format!(
        "Für {written} Euro und {time} sind das {amount}: 1 Prozent von {rounded} Euro je Monat, \
         denn die Summe wird auf volle 50 Euro abgerundet (§ 240 Abs. 1 AO)."
    ))
}

/// Whole euros of a sum as people write it: `1.250,50`, `430`.
fn euros(written: &str) -> Option<u64> {
    let whole = written.split(',').next()?;
    let digits: String = whole.chars().filter(|c| *c != '.').collect();
    let is_sum = !digits.is_empty() && digits.len() <= 9;
    is_sum.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Assistant;
    use crate::knowledge::Knowledge;

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn days_are_read_as_people_write_them() {
        let today = date("2026-12-01");
        for (text, expected) in [
            ("am 3. März 2027 eingezogen", "2027-03-03"),
            ("Einzug war am 03.03.2027.", "2027-03-03"),
            ("am 28.11. umgezogen", "2026-11-28"),
            ("seit dem 2. januar hier", "2027-01-02"),
            ("gestern eingezogen", "2026-11-30"),
            ("Bescheid vom 5.10.26 bekommen", "2026-10-05"),
        ] {
            assert_eq!(dates(text, today), [date(expected)], "{text}");
        }
        for none in [
            "am 31.02.2027",
            "3,5 Zimmer",
            "Version 2.5",
            "in 14 Tagen",
            "Haus 3",
        ] {
            assert_eq!(dates(none, today), [], "{none}");
        }
    }

    #[test]
    fn only_a_deadline_that_runs_from_an_event_is_one() {
        for (text, expected) in [
            (
                "Sie muss innerhalb von zwei Wochen nach dem Einzug erfolgen.",
                Some(Period::Days(14)),
            ),
            (
                "Die Frist beträgt einen Monat nach der Bekanntgabe.",
                Some(Period::Months(1)),
            ),
            (
                "innerhalb eines Monats nach der Geburt",
                Some(Period::Months(1)),
            ),
            ("Möglich ist sie frühestens nach drei Monaten.", None),
            (
                "Mindestens einen Monat vor Beginn ist sie anzuzeigen.",
                None,
            ),
        ] {
            assert_eq!(deadline(text), expected, "{text}");
        }
    }

    #[test]
    fn a_deadline_ends_on_a_working_day() {
        // Examples of § 188 and § 193 BGB, from a calendar.
        for (start, period, end) in [
            (
                "2026-11-02",
                Period::Days(14),
                "Montag, dem 16. November 2026 (§§ 187, 188 BGB)",
            ),
            (
                "2027-01-31",
                Period::Months(1),
                "Montag, dem 1. März 2027, weil der 28. Februar",
            ),
            (
                "2026-12-11",
                Period::Days(14),
                "Montag, dem 28. Dezember 2026, weil der 25. Dezember",
            ),
            (
                "2027-03-12",
                Period::Days(14),
                "Dienstag, dem 30. März 2027, weil der 26. März 2027",
            ),
        ] {
            let said = ends_on(date(start), period);
            assert!(said.contains(end), "{said}");
        }
    }

    #[test]
    fn sums_stand_in_the_answer_with_their_rule() {
        let assistant = Assistant::new(Knowledge::bundled().unwrap()).unwrap();
        for (question, expected) in [
            (
                "Bis wann muss ich mich ummelden, ich bin am 2. November 2026 umgezogen?",
                Some("endet sie am Montag, dem 16. November 2026"),
            ),
            (
                "Wie hoch ist der Säumniszuschlag für 430 Euro nach drei Monaten?",
                Some("sind das 12 Euro: 1 Prozent von 400 Euro"),
            ),
            ("Bis wann muss ich mich ummelden?", None),
            ("Wie hoch ist der Säumniszuschlag?", None),
        ] {
            let understanding = assistant.understand(&[], question);
            let computed = understanding.computed.clone().unwrap_or_default();
            assert_eq!(
                expected.is_some(),
                !computed.is_empty(),
                "{question}: {computed}"
            );
            assert!(
                computed.contains(expected.unwrap_or_default()),
                "{computed}"
            );
            let guard = assistant.guard(understanding, crate::answer::GuardMode::Replace);
            let (released, reply) = guard.finish_without_model();
            assert_eq!(released, reply.text);
            assert!(reply.text.ends_with(&computed), "{}", reply.text);
        }
    }
}
