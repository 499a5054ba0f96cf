//! The server's log: one JSON object per line on standard error, without addresses and without a
//! word of what was asked or answered. Conversations go to a file of their own, and only where the
//! operator asks for that.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Writes `fields` as an event. A log that cannot be written must not stop the server.
pub(super) fn event(level: &str, name: &str, fields: Value) {
    let mut line = Map::new();
    line.insert("time".into(), json!(timestamp(SystemTime::now())));
    line.insert("level".into(), json!(level));
    line.insert("event".into(), json!(name));
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    let line = format!("{}\n", Value::Object(line));
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// The file that conversations are kept in.
pub(super) struct ConversationLog(Mutex<File>);

impl ConversationLog {
    /// Opens the file for appending; a new one is readable by its owner only.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(path)
            .with_context(|| format!("cannot write conversations to {}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Appends one exchange as a JSON object on a line.
    pub(crate) fn write(&self, mut exchange: Map<String, Value>) {
        exchange.insert("time".into(), json!(timestamp(SystemTime::now())));
        let line = format!("{}\n", Value::Object(exchange));
        let mut file = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Err(error) = file.write_all(line.as_bytes()) {
            event(
                "error",
                "conversation_not_logged",
                json!({"reason": error.to_string()}),
            );
        }
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `2026-11-27T20:46:18.123Z`
fn timestamp(time: SystemTime) -> String {
    let seconds = unix_seconds(time);
    let milliseconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.subsec_millis());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian): years are counted from
/// March, so that the leap day is the last of its year, in cycles of 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    const CYCLE: u64 = 146_097;
    // 0000-03-01 is 719,468 days before 1970-01-01.
    let days = days + 719_468;
    let (cycle, day) = (days / CYCLE, days % CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / (CYCLE - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..=9 => (400 * cycle + year, month + 3),
        _ => (400 * cycle + year + 1, month - 9),
    };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.007Z"),
            (1_795_812_378, "2026-11-27T20:46:18.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(7);
            assert_eq!(timestamp(time), expected);
        }
    }
}
