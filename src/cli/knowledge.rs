//! `muni-engine knowledge`.

/// Arguments of `muni-engine knowledge`.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
