//! A model folder: `config.json`, `generation_config.json`, `model.safetensors` and the tokenizer's
//! files, as Transformers' `save_pretrained` lays them out. What this engine writes, Transformers
//! opens unchanged, and the other way round.

use super::weights::{StoredTensor, Weights, read_text};
use super::write::{Tensor, write_safetensors};
use crate::files;
use crate::model::{ModelConfig, TensorSpec, hf_tensor};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "config.json";
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Experts over all layers; bounds what a damaged configuration can make us allocate.
const MAX_EXPERTS: usize = 1 << 20;

/// A model as it was on disk.
pub struct LoadedModel<W = Vec<f32>> {
    /// Its sizes.
    pub config: ModelConfig,
    /// Its weights, one buffer per entry of `config.parameters()`.
    pub fused: Vec<W>,
}

/// Where the complete copy of a model folder is: see `files::current_folder`.
///
/// # Errors
/// If there is none, or `dir` is no folder.
pub fn find_folder(dir: &Path) -> Result<PathBuf> {
    match files::current_folder(dir) {
        Some(found) if found.is_dir() => Ok(found),
        Some(_) => bail!(
            "{} is a file, expected a model folder (config.json, model.safetensors, ...): \
             give the folder it lies in",
            dir.display()
        ),
        None => bail!(
            "{} does not exist, expected a model folder: check the path, or train a model first",
            dir.display()
        ),
    }
}

/// Makes `dir` hold exactly what `write` puts into the folder it is given, or, on any error, what
/// it held before: see `files::replace_folder`. A `dir` that exists must be empty or hold the
/// file `marker` (e.g. `config.json`), so that a mistyped path never costs anyone's data.
///
/// # Errors
/// As `files::replace_folder`; if `dir` holds something without `marker`.
pub fn replace_folder(
    dir: &Path,
    marker: &str,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let refusal = |dir: &Path| {
        ensure!(
            dir.join(marker).is_file(),
            "{} is not empty and holds no {marker}, so it is not ours to replace: \
             choose another folder or empty it",
            dir.display()
        );
        Ok(())
    };
    files::replace_folder(dir, &refusal, write)
}

/// Saves a model as `dir`, replacing a model folder that is there in one step: a crash or a full
/// disk leaves the old one. `fused` holds one vector per entry of `config.parameters()`. Without a
/// tokenizer its files are left out.
pub fn save_folder(
    dir: &Path,
    config: &ModelConfig,
    fused: &[Vec<f32>],
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    replace_folder(dir, CONFIG_FILE, |partial| {
        write_files(partial, config, fused, tokenizer)
    })
}

/// Writes a model's files into the existing folder `dir`, for callers that add files of their own
/// inside [`replace_folder`]. The same model gives the same bytes.
pub(crate) fn write_files(
    dir: &Path,
    config: &ModelConfig,
    fused: &[Vec<f32>],
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    check_lengths(config, fused)?;
    write_json(&dir.join(CONFIG_FILE), &config.to_json())?;
    write_json(
        &dir.join("generation_config.json"),
        &generation_config(config),
    )?;
    if let Some(tokenizer) = tokenizer {
        tokenizer.save_to_folder(dir)?;
    }
    let tensors = config
        .tensors()
        .into_iter()
        .map(|spec| {
            let values = hf_tensor(config, fused, &spec);
            Ok(Tensor {
                name: spec.name,
                shape: spec.shape,
                values,
            })
        })
        .collect::<Result<_>>()?;
    write_safetensors(&dir.join(super::weights::SINGLE_FILE), tensors)
}

/// Opens a model folder that this engine or Transformers saved: `f32`, `f16` or `bf16`, one file or
/// several. Everything that the engine would compute wrongly is an error that names the file, what
/// was found, what was expected.
pub fn load_folder(dir: &Path) -> Result<LoadedModel> {
    load_folder_into(dir, &|len| Ok(vec![0.0; len]))
}

/// As [`load_folder`], with the weights in buffers of zeros that `allocate` makes for a number of
/// elements: a device's own kind of memory saves a copy of the whole model.
pub(crate) fn load_folder_into<W: DerefMut<Target = [f32]>>(
    dir: &Path,
    allocate: &dyn Fn(usize) -> Result<W>,
) -> Result<LoadedModel<W>> {
    let dir = &find_folder(dir)?;
    let config = load_config(dir)?;
    let weights = Weights::open(dir)?;
    check_counts(dir, &config, &weights)?;
    let specs = config.tensors();
    let places = specs
        .iter()
        .map(|spec| place(dir, &config, &weights, spec))
        .collect::<Result<Vec<_>>>()?;
    check_head(&weights)?;
    check_nothing_left(dir, &config, &weights, &places)?;
    // Allocated only now: every size has been held against what is really in the files.
    let mut fused: Vec<W> = config
        .parameters()
        .iter()
        .map(|parameter| allocate(parameter.len()))
        .collect::<Result<_>>()?;
    check_lengths(&config, &fused)?;
    for (spec, place) in specs.iter().zip(&places) {
        let end = spec.offset + spec.len();
        let out = &mut fused[spec.parameter][spec.offset..end];
        place.tensor.read(place.first, out)?;
    }
    Ok(LoadedModel { config, fused })
}

/// Reads the `config.json` of a model folder.
pub(crate) fn load_config(dir: &Path) -> Result<ModelConfig> {
    let path = dir.join(CONFIG_FILE);
    if !path.exists() {
        bail!(
            "{} is missing, expected the configuration of a Mixtral model: give a folder that \
            holds config.json and model.safetensors",
            path.display()
        );
    }
    ModelConfig::from_json(&read_text(&path, MAX_CONFIG_BYTES)?, &path)
}

fn check_lengths<W: Deref<Target = [f32]>>(config: &ModelConfig, fused: &[W]) -> Result<()> {
    let found: Vec<usize> = fused.iter().map(|values| values.len()).collect();
    let expected: Vec<usize> = config.parameters().iter().map(|spec| spec.len()).collect();
    ensure!(
        found == expected,
        "the weights have {found:?} elements, expected {expected:?} for this configuration"
    );
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = format!("{value:#}\n");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn generation_config(config: &ModelConfig) -> Value {
    let mut fields = Map::new();
    fields.insert("_from_model_config".into(), json!(true));
    let tokens = [
        ("bos_token_id", config.bos_token_id),
        ("eos_token_id", config.eos_token_id),
        // Generating several texts at once needs a filler; the end token is the usual one.
        ("pad_token_id", config.eos_token_id),
    ];
    for (name, token) in tokens {
        if let Some(token) = token {
            fields.insert(name.into(), json!(token));
        }
    }
    Value::Object(fields)
}

/// Bounds the tensor list before it is made.
fn check_counts(dir: &Path, config: &ModelConfig, weights: &Weights) -> Result<()> {
    let (layers, experts) = (config.num_hidden_layers, config.num_local_experts);
    let found = weights.names().count();
    ensure!(
        layers <= found && layers.saturating_mul(experts) <= MAX_EXPERTS,
        "{}: config.json says {layers} layers of {experts} experts, the weights hold {found} \
        tensors: the files are not of one model",
        dir.display()
    );
    Ok(())
}

/// Where a tensor of the model lies: elements `first..` of a stored one.
struct Place<'a> {
    tensor: StoredTensor<'a>,
    first: usize,
}

/// Finds `spec` under its hub name, or inside the tensors that Transformers 5 holds in memory (all
/// experts of a layer in one, gate rows before up rows), which some tools save as they are.
fn place<'a>(
    dir: &Path,
    config: &ModelConfig,
    weights: &'a Weights,
    spec: &TensorSpec,
) -> Result<Place<'a>> {
    let (tensor, shape, first) = match weights.get(&spec.name) {
        Some(tensor) => (tensor, spec.shape.clone(), 0),
        None => fused_experts(config, spec)
            .and_then(|(name, shape, first)| Some((weights.get(&name)?, shape, first)))
            .with_context(|| {
                format!(
                    "{}: tensor {} is missing, expected it with shape {:?}: the folder is not \
                    complete, or not of the model that config.json describes",
                    dir.display(),
                    spec.name,
                    spec.shape
                )
            })?,
    };
    ensure!(
        tensor.shape == shape,
        "{}: tensor {} has shape {:?}, expected {shape:?} from config.json: the files are not of \
        one model",
        tensor.path.display(),
        tensor.name,
        tensor.shape
    );
    Ok(Place { tensor, first })
}

/// Name, shape and first element of `spec` in the layout with fused experts; `None` where that
/// layout has nothing else.
fn fused_experts(config: &ModelConfig, spec: &TensorSpec) -> Option<(String, Vec<usize>, usize)> {
    let (layer, part) = spec.name.split_once(".block_sparse_moe.")?;
    if part == "gate.weight" {
        return Some((format!("{layer}.mlp.gate.weight"), spec.shape.clone(), 0));
    }
    let (experts, hidden, inner) = (
        config.num_local_experts,
        config.hidden_size,
        config.intermediate_size,
    );
    // The fused parameters have the same layout, so the offsets inside them are the offsets inside
    // these.
    let (name, shape) = if part.ends_with(".w2.weight") {
        ("down_proj", vec![experts, hidden, inner])
    } else {
        ("gate_up_proj", vec![experts, 2 * inner, hidden])
    };
    Some((format!("{layer}.mlp.experts.{name}"), shape, spec.offset))
}

/// A head that is stored must be the embedding, which is what the engine computes with.
fn check_head(weights: &Weights) -> Result<()> {
    let Some(head) = weights.get(HEAD) else {
        return Ok(());
    };
    let same = weights.get(EMBEDDING).is_some_and(|embedding| {
        (embedding.dtype, embedding.shape, embedding.bytes) == (head.dtype, head.shape, head.bytes)
    });
    ensure!(
        same,
        "{}: {HEAD} differs from {EMBEDDING}, expected a tied head (no {HEAD}, or the same \
        bytes): this engine cannot compute an untied head",
        head.path.display()
    );
    Ok(())
}

/// A tensor that nothing uses means that the model is another one than we would compute.
fn check_nothing_left(
    dir: &Path,
    config: &ModelConfig,
    weights: &Weights,
    places: &[Place],
) -> Result<()> {
    let used: BTreeSet<&str> = places.iter().map(|place| place.tensor.name).collect();
    let left: Vec<&str> = weights
        .names()
        .filter(|&name| name != HEAD && !used.contains(name))
        .collect();
    if let Some(first) = left.first() {
        bail!(
            "{}: {} tensors are unknown, the first is {first}; expected only those of \
            MixtralForCausalLM with {} layers and {} experts: convert the model, or correct \
            config.json",
            dir.display(),
            left.len(),
            config.num_hidden_layers,
            config.num_local_experts
        );
    }
    Ok(())
}
