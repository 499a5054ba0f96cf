//! The library's front door: a model folder and a knowledge base, opened and ready to answer.

use crate::answer::exchange::ExchangeSettings;
use crate::answer::session::Conversation;
use crate::answer::{Assistant, Reply, Turn};
use crate::hf::{find_folder, load_folder_into};
use crate::knowledge::Knowledge;
use crate::model::{Model, ModelConfig, Parameters};
use crate::ops::cpu::CpuDevice;
use crate::ops::{Operations, Planner};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The knowledge folder that is looked for where none is named.
pub(crate) const KNOWLEDGE_FOLDER: &str = "knowledge";

/// Opens a folder with a trained model (`config.json`, `model.safetensors`, `tokenizer.json`), or
/// no model: then the knowledge base answers alone. [`OpenOptions`] has more to choose.
///
/// # Errors
/// If a model folder was named and does not exist or holds no usable model, or the knowledge base
/// has mistakes.
pub fn open(model: Option<&Path>) -> Result<OpenAssistant> {
    OpenOptions {
        model: model.map(Path::to_path_buf),
        ..OpenOptions::default()
    }
    .open()
}

/// What to open, and where it computes.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Folder with a trained model; `None`: the knowledge base answers alone.
    pub model: Option<PathBuf>,
    /// Knowledge folder; `None`: `knowledge/` where it exists, else the bundled one, of the
    /// invented city "Musterstadt".
    pub knowledge: Option<PathBuf>,
    /// CPU threads of a pool of its own; `None`: rayon's global pool. The answers do not depend on
    /// it.
    pub threads: Option<usize>,
    /// How answers are made.
    pub settings: ExchangeSettings,
}

impl OpenOptions {
    /// Opens what the options name.
    ///
    /// # Errors
    /// As [`open`], and if the threads cannot be started.
    pub fn open(self) -> Result<OpenAssistant> {
        let device = CpuDevice::new();
        let pool = match self.threads {
            Some(threads) => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .with_context(|| format!("cannot start {threads} threads"))?,
            ),
            None => None,
        };
        let model = match (&self.model, &pool) {
            (None, _) => None,
            (Some(dir), None) => Some(open_model(&device, dir)?),
            (Some(dir), Some(pool)) => Some(pool.install(|| open_model(&device, dir))?),
        };
        Ok(OpenAssistant {
            assistant: open_knowledge(self.knowledge.as_deref())?,
            model,
            device,
            pool,
            settings: self.settings,
        })
    }
}

/// An assistant that answers on the CPU, with a model or from the knowledge base alone.
pub struct OpenAssistant {
    assistant: Assistant,
    model: Option<OpenModel<CpuDevice>>,
    device: CpuDevice,
    pool: Option<rayon::ThreadPool>,
    /// How answers are made.
    pub settings: ExchangeSettings,
}

impl OpenAssistant {
    /// Answers one question.
    ///
    /// # Errors
    /// If the question is empty or too long for the model, or the model's logits are not finite.
    pub fn ask(&self, question: &str) -> Result<Reply> {
        self.ask_after(&[], question)
    }

    /// Answers the next question of a conversation.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_after(&self, history: &[Turn], question: &str) -> Result<Reply> {
        let answer = || {
            let mut conversation = self.conversation()?.with_history(history.to_vec());
            let answer = conversation.ask(question, &mut |_| Ok(ControlFlow::Continue(())))?;
            Ok(answer.reply)
        };
        match &self.pool {
            Some(pool) => pool.install(answer),
            None => answer(),
        }
    }

    /// A conversation that shows its answers while they are made. It computes on the caller's
    /// thread pool.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn conversation(&self) -> Result<Conversation<'_, CpuDevice>> {
        let settings = self.settings.clone();
        match &self.model {
            Some(OpenModel { model, tokenizer }) => {
                Conversation::new(&self.assistant, &self.device, model, tokenizer, settings)
            }
            None => Ok(Conversation::without_model(&self.assistant, settings)),
        }
    }

    /// Whether a model answers.
    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// Offices, services and contacts.
    pub fn assistant(&self) -> &Assistant {
        &self.assistant
    }
}

/// A model ready to compute, with its tokenizer.
pub(crate) struct OpenModel<D: Operations + Planner> {
    /// The model, on its device.
    pub model: Model<D>,
    /// The folder's own tokenizer, or GPT-2's where it brings none.
    pub tokenizer: Tokenizer,
}

/// Loads the model and the tokenizer of a folder onto a device.
///
/// # Errors
/// If the folder does not exist, a file is missing or malformed, tokenizer and model have different
/// vocabularies, or the device has no memory.
pub(crate) fn open_model<D: Operations + Planner>(device: &D, dir: &Path) -> Result<OpenModel<D>> {
    // The tokenizer takes about as long as the weights, so a question is answered sooner if they do
    // not wait for each other.
    let (loaded, tokenizer) = std::thread::scope(|scope| {
        let tokenizer = scope.spawn(|| open_tokenizer(dir));
        let loaded = load_folder_into(dir, &|len| device.host_buffer(len));
        let tokenizer = tokenizer
            .join()
            .unwrap_or_else(|_| bail!("reading the tokenizer failed unexpectedly"));
        (loaded, tokenizer)
    });
    let (loaded, (tokenizer, own)) = (loaded?, tokenizer?);
    check_vocabulary(dir, &loaded.config, &tokenizer, own)?;
    let parameters = Parameters::adopt(device, &loaded.config, loaded.fused)?;
    let model = Model::new(loaded.config, parameters)?;
    Ok(OpenModel { model, tokenizer })
}

/// The folder's own tokenizer, or GPT-2's where it brings none; and whether it is the folder's.
fn open_tokenizer(dir: &Path) -> Result<(Tokenizer, bool)> {
    let dir = find_folder(dir)?;
    let own = ["tokenizer.json", "vocab.json"]
        .iter()
        .any(|name| dir.join(name).exists());
    let tokenizer = match own {
        true => Tokenizer::from_folder(&dir)?,
        false => Tokenizer::gpt2()?,
    };
    Ok((tokenizer, own))
}

fn check_vocabulary(
    dir: &Path,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    own: bool,
) -> Result<()> {
    ensure!(
        tokenizer.vocab_size() == config.vocab_size,
        "{}: the model has {} tokens, {} has {}: put the model's own tokenizer.json into the \
         folder",
        dir.display(),
        config.vocab_size,
        if own {
            "its tokenizer"
        } else {
            "GPT-2's tokenizer (the folder holds none)"
        },
        tokenizer.vocab_size()
    );
    Ok(())
}

/// `best_model` of the run in `runs` that changed last; `None` where no run has one.
pub(crate) fn newest_model(runs: &Path) -> Option<PathBuf> {
    let mut found = Vec::new();
    for run in fs::read_dir(runs).into_iter().flatten().flatten() {
        let model = run.path().join("best_model");
        let Ok(changed) = run.metadata().and_then(|metadata| metadata.modified()) else {
            continue;
        };
        if find_folder(&model).is_ok() {
            found.push((changed, model));
        }
    }
    // Of equal times the last by name, so that the choice does not depend on the order of the
    // listing.
    found.into_iter().max().map(|(_, model)| model)
}

/// Reads a knowledge folder and builds the assistant. `None`: [`KNOWLEDGE_FOLDER`] where it exists,
/// else the bundled one.
///
/// # Errors
/// If a file is missing or has mistakes.
pub(crate) fn open_knowledge(folder: Option<&Path>) -> Result<Assistant> {
    let here = Path::new(KNOWLEDGE_FOLDER);
    let knowledge = match folder {
        Some(folder) => Knowledge::load(folder)?,
        None if here.is_dir() => Knowledge::load(here)?,
        None => Knowledge::bundled()?,
    };
    Assistant::new(knowledge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Verdict;

    #[test]
    fn the_newest_run_is_taken() {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(newest_model(runs.path()), None);
        for name in ["a", "b", "c"] {
            fs::create_dir_all(runs.path().join(name)).unwrap();
        }
        for (name, seconds) in [("a", 2000), ("b", 1000)] {
            let run = runs.path().join(name);
            fs::create_dir(run.join("best_model")).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::open(&run).unwrap().set_modified(time).unwrap();
        }
        // c is newer, but has no model.
        assert_eq!(
            newest_model(runs.path()),
            Some(runs.path().join("a/best_model"))
        );
    }

    #[test]
    fn without_a_model_the_knowledge_base_answers() {
        for threads in [None, Some(1), Some(2)] {
            let options = OpenOptions {
                threads,
                ..OpenOptions::default()
            };
            let city = options.open().unwrap();
            assert!(!city.has_model());
            let reply = city.ask("Was kostet ein neuer Personalausweis?").unwrap();
            assert_eq!(reply.verdict, Verdict::Knowledge);
            assert!(reply.is_supported() && reply.reasons.is_empty());
            assert!(reply.text.contains("46 Euro") && reply.released == reply.text);
            assert_eq!(reply.service.unwrap().id, "ewo_personalausweis");
            let before = [
                Turn::citizen("Was kostet ein neuer Personalausweis?"),
                Turn::assistant(reply.text),
            ];
            let next = city
                .ask_after(&before, "Und wo beantrage ich das?")
                .unwrap();
            assert_eq!(next.service.unwrap().id, "ewo_personalausweis");
            assert!(city.ask(" ").is_err());
        }
    }

    #[test]
    fn a_named_model_that_is_missing_is_an_error() {
        let Err(error) = open(Some(Path::new("nowhere/best_model"))) else {
            panic!("opened a model that does not exist");
        };
        assert!(error.to_string().contains("train a model first"), "{error}");
    }
}
