//! Parses the command line, runs the chosen command, turns its result into an exit code.

fn main() -> std::process::ExitCode {
    muni_engine::cli::run()
}
