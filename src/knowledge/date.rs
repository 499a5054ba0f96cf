//! Calendar dates, as far as facts and values need them.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Date {
    year: i64,
    month: u32,
    day: u32,
}

impl Date {
    /// The current day (UTC).
    pub(crate) fn today() -> Date {
        let seconds = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        Date::from_days((seconds / 86_400) as i64)
    }

    /// Whole months from `earlier` to this date; negative if `earlier` is later.
    pub(crate) fn months_since(self, earlier: Date) -> i64 {
        let months =
            (self.year - earlier.year) * 12 + i64::from(self.month) - i64::from(earlier.month);
        months - i64::from(self.day < earlier.day)
    }

    /// The day of this month; `None` where the month does not have it.
    pub(crate) fn new(year: i64, month: u32, day: u32) -> Option<Date> {
        let date = Date { year, month, day };
        let is_real = (1..=12).contains(&month) && (1..=length(year, month)).contains(&day);
        is_real.then_some(date)
    }

    /// The year.
    pub(crate) fn year(self) -> i64 {
        self.year
    }

    /// Days since 1970-01-01.
    pub(crate) fn days(self) -> i64 {
        // Years that begin on 1 March, in eras of 400 of them, as in `from_days`.
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month = i64::from((self.month + 9) % 12);
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    /// So many days later, or earlier if negative.
    pub(crate) fn plus_days(self, days: i64) -> Date {
        Date::from_days(self.days() + days)
    }

    /// The day of the same number so many months later, or the last of that month.
    pub(crate) fn plus_months(self, months: u32) -> Date {
        let months = self.year * 12 + i64::from(self.month) - 1 + i64::from(months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) as u32 + 1);
        Date {
            year,
            month,
            day: self.day.min(length(year, month)),
        }
    }

    /// The weekday's name.
    pub(crate) fn weekday(self) -> &'static str {
        const NAMES: [&str; 7] = [
            "Montag",
            "Dienstag",
            "Mittwoch",
            "Donnerstag",
            "Freitag",
            "Samstag",
            "Sonntag",
        ];
        NAMES[self.weekday_number()]
    }

    /// 0 for Monday. 1970-01-01 was a Thursday.
    fn weekday_number(self) -> usize {
        (self.days() + 3).rem_euclid(7) as usize
    }

    /// This day, or the next that is no Saturday, no Sunday and no holiday of all Germany.
    pub(crate) fn next_working_day(self) -> Date {
        let mut day = self;
        while day.weekday_number() >= 5 || day.is_holiday() {
            day = day.plus_days(1);
        }
        day
    }

    /// Whether all of Germany has a holiday. Those of single Länder are not known here.
    fn is_holiday(self) -> bool {
        let fixed = [(1, 1), (5, 1), (10, 3), (12, 25), (12, 26)];
        // Good Friday, Easter Monday, Ascension Day, Whit Monday.
        let movable = [-2, 1, 39, 50];
        let after_easter = self.days() - easter(self.year).days();
        fixed.contains(&(self.month, self.day)) || movable.contains(&after_easter)
    }

    /// `3. März 2027`.
    pub(crate) fn in_words(self) -> String {
        let month = crate::german::month_name(&self.month.to_string()).unwrap_or_default();
        format!("{}. {month} {}", self.day, self.year)
    }

    // Days since 1970-01-01 to a date, by counting in 400-year eras that begin on 1 March (so that
    // the leap day comes last).
    fn from_days(days: i64) -> Date {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        } as u32;
        Date {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day,
        }
    }
}

/// Days of a month.
fn length(year: i64, month: u32) -> u32 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Easter Sunday of the Gregorian calendar (the anonymous algorithm of Nature, 1876).
fn easter(year: i64) -> Date {
    let (a, b, c) = (year % 19, year / 100, year % 100);
    let (d, e) = (b / 4, b % 4);
    let f = (b + 8) / 25;
    let g = (b - f + 1) / 3;
    let h = (19 * a + b - d - g + 15) % 30;
    let (i, k) = (c / 4, c % 4);
    let l = (32 + 2 * e + 2 * i - h - k) % 7;
    let m = (a + 11 * h + 22 * l) / 451;
    let (month, day) = ((h + l - 7 * m + 114) / 31, (h + l - 7 * m + 114) % 31 + 1);
    Date {
        year,
        month: month as u32,
        day: day as u32,
    }
}

impl FromStr for Date {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Date> {
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else {
            bail!("\"{text}\" is not a date: expected YYYY-MM-DD")
        };
        if (year.len(), month.len(), day.len()) != (4, 2, 2) {
            bail!("\"{text}\" is not a date: expected YYYY-MM-DD");
        }
        let number = |part: &str| {
            part.parse::<u32>()
                .with_context(|| format!("\"{text}\" is not a date: expected YYYY-MM-DD"))
        };
        let (year, month, day) = (number(year)?, number(month)?, number(day)?);
        if !(1..=12).contains(&month) {
            bail!("\"{text}\" is not a date: there is no month {month}");
        }
        Date::new(i64::from(year), month, day)
            .with_context(|| format!("\"{text}\" is not a date: month {month} has no day {day}"))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:04}-{:02}-{:02}",
            self.year, self.month, self.day
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_since_the_epoch_become_dates() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_651, "2026-07-17"),
        ] {
            assert_eq!(Date::from_days(days).to_string(), expected);
        }
    }

    #[test]
    fn only_real_dates_are_read() {
        assert_eq!(
            "2024-02-29".parse::<Date>().unwrap().to_string(),
            "2024-02-29"
        );
        for wrong in [
            "2025-02-29",
            "2025-13-01",
            "2025-00-10",
            "2025-1-1",
            "01.02.2025",
            "2025-04-31",
            "",
        ] {
            assert!(wrong.parse::<Date>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn days_are_counted_forwards_and_back() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        for days in (-200_000..200_000).step_by(37) {
            assert_eq!(Date::from_days(days).days(), days);
        }
        assert_eq!(date("2027-12-31").plus_days(1), date("2028-01-01"));
        assert_eq!(date("2027-01-31").plus_months(1), date("2027-02-28"));
        assert_eq!(date("2026-12-01").plus_months(13), date("2028-01-01"));
        assert_eq!(date("2026-12-01").weekday(), "Dienstag");
        assert_eq!(date("2027-03-03").in_words(), "3. März 2027");
        assert_eq!(Date::new(2027, 2, 29), None);
    }

    #[test]
    fn holidays_of_all_germany_are_known() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        for (year, day) in [
            (2024, "2024-03-31"),
            (2026, "2026-04-05"),
            (2027, "2027-03-28"),
        ] {
            assert_eq!(easter(year), date(day));
        }
        for (day, next) in [
            ("2027-03-26", "2027-03-30"),
            ("2026-05-14", "2026-05-15"),
            ("2026-05-25", "2026-05-26"),
            ("2026-12-25", "2026-12-28"),
            ("2026-10-03", "2026-10-05"),
            ("2026-12-01", "2026-12-01"),
        ] {
            assert_eq!(date(day).next_working_day(), date(next), "{day}");
        }
    }

    #[test]
    fn months_are_whole() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(date("2026-07-01").months_since(date("2025-01-01")), 18);
        assert_eq!(date("2026-06-30").months_since(date("2025-01-01")), 17);
        assert_eq!(date("2025-01-01").months_since(date("2025-02-01")), -1);
    }
}
