//! The command line: one file per subcommand turns arguments into checked settings and calls the
//! library. Results go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2
//! wrong usage.

mod assistant;
mod chat;
mod check_kernels;
mod dataset;
mod demo;
mod device;
mod doctor;
mod eval;
mod knowledge;
mod measure;
mod model;
mod output;
mod plan;
mod progress;
mod prompt;
mod routing;
mod serve;
mod train;
mod values;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Dialogues from a city's knowledge base, a small Mixture-of-Experts model trained on them,
/// answers for citizens.
#[derive(Parser)]
#[command(name = "muni-engine", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a training set from the knowledge base.
    Dataset(dataset::Arguments),
    /// Check the knowledge base.
    Knowledge(knowledge::Arguments),
    /// Train the model on a shard folder.
    Train(Box<train::Arguments>),
    /// Answer one prompt.
    Prompt(prompt::Arguments),
    /// Talk to a model: line by line in the terminal, or one question per line of piped input.
    Chat(chat::Arguments),
    /// A tour through the offices: questions, the model's answers, what the guard says, the
    /// knowledge base's answers.
    Demo(demo::Arguments),
    /// Measure a model.
    Eval(eval::Arguments),
    /// Which expert serves which office and which kind of token.
    Routing(routing::Arguments),
    /// Answer over HTTP: OpenAI's API, a page for citizens, a widget for the city's own pages.
    Serve(Box<serve::Arguments>),
    /// Show what this machine and this build can do, what training takes of a card, and whether the
    /// kernels compute what they should.
    Doctor(doctor::Arguments),
    /// Time training steps on random tokens.
    #[command(hide = true)]
    Measure(measure::Arguments),
}

/// Parses the process's arguments and runs the command; an error is printed with its causes.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Dataset(arguments) => dataset::run(arguments),
        Command::Knowledge(arguments) => knowledge::run(arguments),
        Command::Train(arguments) => train::run(*arguments),
        Command::Prompt(arguments) => prompt::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Routing(arguments) => routing::run(arguments),
        Command::Serve(arguments) => serve::run(*arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Measure(arguments) => measure::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
