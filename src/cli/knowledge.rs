//! `muni-engine knowledge`: looks after the knowledge base.

use crate::german::Dictionary;
use crate::knowledge::{Date, ImportedOffice, Knowledge, Severity, check_with, import_xzufi};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;

/// Arguments of `muni-engine knowledge`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Find mistakes in the knowledge base; exit code 1 if there are errors.
    Check(CheckArguments),
    /// Read published service descriptions into a knowledge file.
    Import(ImportArguments),
}

#[derive(clap::Args)]
struct ImportArguments {
    /// XZuFi file with service descriptions (Leistungen).
    #[arg(long, value_name = "FILE")]
    xzufi: PathBuf,
    /// Id of the office that the services belong to; the file must be called after it.
    #[arg(long, value_name = "ID")]
    office: String,
    /// Name of the office [default: that of the knowledge folder, or else the id].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Article of the office's name: der, die or das.
    #[arg(long, value_name = "ARTICLE")]
    article: Option<String>,
    /// Folder with the knowledge base, to look up the office.
    #[arg(long, value_name = "DIR", default_value = "knowledge")]
    knowledge: PathBuf,
    /// File to write [default: standard output]. A file that is there is not replaced.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
struct CheckArguments {
    /// Folder with one TOML file per office and kommune.toml.
    #[arg(long, value_name = "DIR", default_value = "knowledge")]
    knowledge: PathBuf,
    /// The day as of which facts count as stale, YYYY-MM-DD [default: today].
    #[arg(long, value_name = "DATE")]
    today: Option<Date>,
    /// Check the spelling with a hunspell dictionary found on this machine.
    #[arg(long)]
    spelling: bool,
    /// The dictionary for --spelling: de_DE.aff, or its folder.
    #[arg(long, value_name = "PATH", requires = "spelling")]
    dictionary: Option<PathBuf>,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.action {
        Action::Check(arguments) => run_check(&arguments),
        Action::Import(arguments) => run_import(&arguments),
    }
}

fn run_import(arguments: &ImportArguments) -> Result<()> {
    let file = arguments.xzufi.display().to_string();
    let xml =
        std::fs::read_to_string(&arguments.xzufi).with_context(|| format!("cannot read {file}"))?;
    let known = if arguments.knowledge.is_dir() {
        Some(Knowledge::load(&arguments.knowledge)?)
    } else {
        None
    };
    let known = known
        .as_ref()
        .and_then(|knowledge| knowledge.office(&arguments.office));
    let from_folder = |text: fn(&crate::knowledge::OfficeAbout) -> &str| {
        known.map(|office| text(&office.about).to_string())
    };
    let office = ImportedOffice {
        id: arguments.office.clone(),
        name: arguments
            .name
            .clone()
            .or_else(|| from_folder(|about| &about.name))
            .unwrap_or_else(|| arguments.office.clone()),
        article: arguments
            .article
            .clone()
            .or_else(|| from_folder(|about| &about.article))
            .unwrap_or_else(|| "das".to_string()),
    };
    let import = import_xzufi(&xml, &file, &office, Date::today())?;
    match &arguments.out {
        None => print!("{}", import.toml),
        Some(out) => {
            ensure!(
                !out.exists(),
                "{} is already there: give another --out",
                out.display()
            );
            std::fs::write(out, &import.toml)
                .with_context(|| format!("cannot write {}", out.display()))?;
            println!(
                "written: {} with {} services",
                out.display(),
                import.services
            );
        }
    }
    for note in &import.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}

fn run_check(arguments: &CheckArguments) -> Result<()> {
    let knowledge = Knowledge::load(&arguments.knowledge)?;
    let dictionary = if arguments.spelling {
        let found = Dictionary::find(arguments.dictionary.as_deref(), &arguments.knowledge)?;
        ensure!(
            found.is_some(),
            "no German hunspell dictionary found: install one (Debian: hunspell-de-de), or name \
            it with --dictionary"
        );
        found
    } else {
        None
    };
    let today = arguments.today.unwrap_or_else(Date::today);
    let findings = check_with(&knowledge, today, dictionary.as_ref());
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
