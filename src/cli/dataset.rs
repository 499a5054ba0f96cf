//! `muni-engine dataset`.

/// Arguments of `muni-engine dataset`.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the command.
pub fn run(_arguments: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
