//! A progress bar on stderr; nothing is drawn where that is no terminal.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar for `total` things of the kind `what`.
pub(super) fn bar(total: usize, what: &str) -> Result<ProgressBar> {
    let template = format!("{{bar:40}} {{pos}}/{{len}} {what} ({{eta}} left)");
    Ok(ProgressBar::new(total as u64).with_style(ProgressStyle::with_template(&template)?))
}
