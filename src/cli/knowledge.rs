//! `muni-engine knowledge`: looks after the knowledge base.

use crate::knowledge::{Date, Knowledge, Severity, check};
use anyhow::{Result, bail};
use std::path::PathBuf;

/// Arguments of `muni-engine knowledge`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Find mistakes in the knowledge base; exit code 1 if there are errors.
    Check(CheckArguments),
}

#[derive(clap::Args)]
struct CheckArguments {
    /// Folder with one TOML file per office and kommune.toml.
    #[arg(long, value_name = "DIR", default_value = "knowledge")]
    knowledge: PathBuf,
    /// The day as of which facts count as stale, YYYY-MM-DD [default: today].
    #[arg(long, value_name = "DATE")]
    today: Option<Date>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.action {
        Action::Check(arguments) => run_check(&arguments),
    }
}

fn run_check(arguments: &CheckArguments) -> Result<()> {
    let knowledge = Knowledge::load(&arguments.knowledge)?;
    let findings = check(&knowledge, arguments.today.unwrap_or_else(Date::today));
    let errors = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let severity = if finding.severity == Severity::Error {
                "error"
            } else {
                "warning"
            };
            println!(
                "{}:{}: {severity}: {}",
                finding.file.display(),
                finding.line,
                finding.message
            );
        }
        let services: usize = knowledge
            .offices
            .iter()
            .map(|office| office.services.len())
            .sum();
        let facts: usize = knowledge
            .offices
            .iter()
            .flat_map(|office| &office.services)
            .map(|service| service.facts.len())
            .sum();
        let warnings = findings.len() - errors;
        println!(
            "{} offices, {services} services, {facts} facts: {errors} errors, {warnings} warnings",
            knowledge.offices.len()
        );
    }
    if errors > 0 {
        bail!("the knowledge base has {errors} errors");
    }
    Ok(())
}
