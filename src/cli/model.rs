//! The arguments of every command with a trained model: which one, and where it computes.

use super::device::DeviceArguments;
use crate::open::{OpenModel, newest_model, open_model};
use crate::ops::{Operations, Planner};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Where the runs are whose newest model is taken.
const RUNS: &str = "runs";

/// Which model, and where it computes.
#[derive(clap::Args)]
pub(super) struct ModelArguments {
    /// Model folder (config.json, model.safetensors, tokenizer.json) [default: the newest
    /// runs/*/best_model].
    #[arg(long, value_name = "DIR")]
    model_path: Option<PathBuf>,
    #[command(flatten)]
    pub(super) device: DeviceArguments,
}

impl ModelArguments {
    /// The folder that was named, or the newest one; `None` where none was named and there is none.
    fn find(&self) -> Option<PathBuf> {
        let named = self.model_path.clone();
        named.or_else(|| newest_model(Path::new(RUNS)))
    }

    /// The folder that was named, or the newest one.
    ///
    /// # Errors
    /// If none was named and there is none; says what to do.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        match self.find() {
            Some(dir) => Ok(dir),
            None => bail!(
                "there is no {RUNS}/*/best_model here: give --model-path DIR, or train a model \
                 first \
                 (muni-engine train --shards shards/)"
            ),
        }
    }

    /// Loads model and tokenizer onto a device.
    ///
    /// # Errors
    /// As [`Self::folder`], and if the folder holds no usable model.
    pub(super) fn open<D: Operations + Planner>(&self, device: &D) -> Result<OpenModel<D>> {
        open_model(device, &self.folder()?)
    }

    /// The same; `None` where no folder was named and there is none, so that the knowledge base
    /// answers alone.
    ///
    /// # Errors
    /// If a folder was named or found and holds no usable model.
    pub(super) fn open_if_any<D: Operations + Planner>(
        &self,
        device: &D,
    ) -> Result<Option<OpenModel<D>>> {
        self.find().map(|dir| open_model(device, &dir)).transpose()
    }
}

/// Says on standard error that there is no model, and how to get one.
pub(super) fn say_no_model() {
    eprintln!(
        "there is no {RUNS}/*/best_model here, so the knowledge base answers alone: train a model \
         (muni-engine train --shards shards/) or give --model-path DIR"
    );
}
