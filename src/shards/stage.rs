//! The sizes in which a data set is made, and which training's presets are chosen by.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// A named size of a data set, as a manifest has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// 75 examples.
    Basis,
    /// 500 examples.
    Large,
    /// 2,000 examples.
    Super,
    /// 20,000 examples.
    Ultra,
    /// 500,000 examples.
    Massive,
}

impl Stage {
    /// All stages, the smallest first.
    pub(crate) const ALL: [Stage; 5] = [
        Stage::Basis,
        Stage::Large,
        Stage::Super,
        Stage::Ultra,
        Stage::Massive,
    ];

    /// Its name on the command line and in a manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Basis => "basis",
            Stage::Large => "large",
            Stage::Super => "super",
            Stage::Ultra => "ultra",
            Stage::Massive => "massive",
        }
    }

    /// How many examples it has.
    pub(crate) fn examples(self) -> usize {
        match self {
            Stage::Basis => 75,
            Stage::Large => 500,
            Stage::Super => 2_000,
            Stage::Ultra => 20_000,
            Stage::Massive => 500_000,
        }
    }
}

impl FromStr for Stage {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Stage> {
        match Stage::ALL.into_iter().find(|stage| stage.name() == name) {
            Some(stage) => Ok(stage),
            None => bail!(
                "there is no stage \"{name}\": expected basis, large, super, ultra or massive"
            ),
        }
    }
}
