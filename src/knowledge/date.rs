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
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => bail!("\"{text}\" is not a date: there is no month {month}"),
        };
        if day == 0 || day > length {
            bail!("\"{text}\" is not a date: month {month} has no day {day}");
        }
        Ok(Date {
            year: i64::from(year),
            month,
            day,
        })
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
    fn months_are_whole() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(date("2026-07-01").months_since(date("2025-01-01")), 18);
        assert_eq!(date("2026-06-30").months_since(date("2025-01-01")), 17);
        assert_eq!(date("2025-01-01").months_since(date("2025-02-01")), -1);
    }
}
