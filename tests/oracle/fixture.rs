//! The files in `tests/fixtures/`, and how found values are compared with them.

use muni_engine::model::{
    Batch, Model, ModelConfig, Parameters, StepScales, StepTotals, Workspace, fused_from_hf,
};
use muni_engine::ops::TrainingDevice;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

pub(super) const FIXTURES: [&str; 3] = ["gqa", "odd", "mha"];

/// One folder of `tests/fixtures/`.
pub(super) struct Fixture {
    pub(super) name: &'static str,
    pub(super) config: ModelConfig,
    pub(super) fused: Vec<Vec<f32>>,
    pub(super) oracle: Vec<u8>,
}

impl Fixture {
    pub(super) fn open(name: &'static str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        let path: PathBuf = folder.join("config.json");
        let config =
            ModelConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
        let weights = SafeTensors::deserialize(&weights).unwrap();
        assert_eq!(
            weights.len(),
            config.tensors().len(),
            "{name}: the checkpoint has tensors that the model lacks"
        );
        let fused = fused_from_hf(&config, &mut |tensor| {
            let view = weights.tensor(&tensor.name)?;
            assert_eq!(view.shape(), tensor.shape, "{name}: {}", tensor.name);
            Ok(floats(view.data()))
        })
        .unwrap();
        let oracle = std::fs::read(folder.join("oracle.safetensors")).unwrap();
        Self {
            name,
            config,
            fused,
            oracle,
        }
    }

    pub(super) fn data(&self, tensor: &str) -> Vec<u8> {
        let oracle = SafeTensors::deserialize(&self.oracle).unwrap();
        oracle
            .tensor(tensor)
            .unwrap_or_else(|error| panic!("{}: {tensor}: {error}", self.name))
            .data()
            .to_vec()
    }

    pub(super) fn floats(&self, tensor: &str) -> Vec<f32> {
        floats(&self.data(tensor))
    }

    /// Integers as they are; -1, a target without loss, becomes `IGNORE_TARGET`.
    pub(super) fn integers(&self, tensor: &str) -> Vec<u32> {
        self.data(tensor)
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    /// The batch whose tensors' names begin with `prefix`, as one logical batch.
    pub(super) fn batch(&self, prefix: &str) -> Batch {
        let tokens = self.integers(&format!("{prefix}input_ids"));
        Batch {
            groups: vec![0, tokens.len() as u32],
            tokens,
            targets: self.integers(&format!("{prefix}targets")),
            positions: self.integers(&format!("{prefix}positions")),
            segments: self.integers(&format!("{prefix}segments")),
        }
    }

    pub(super) fn model<D: TrainingDevice>(&self, device: &D) -> Model<D> {
        model_of(device, &self.config, &self.fused)
    }
}

pub(super) fn model_of<D: TrainingDevice>(
    device: &D,
    config: &ModelConfig,
    fused: &[Vec<f32>],
) -> Model<D> {
    Model::new(
        config.clone(),
        Parameters::upload(device, config, fused).unwrap(),
    )
    .unwrap()
}

pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// Holds both `|a - b|_2 / |b|_2` and `max |a - b| / max |b|` to the bound.
pub(super) fn assert_close(what: &str, found: &[f32], expected: &[f32], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let pairs = || {
        found
            .iter()
            .zip(expected)
            .map(|(&a, &b)| (f64::from(a), f64::from(b)))
    };
    let root = |sum: f64| sum.sqrt();
    let errors = (
        root(pairs().map(|(a, b)| (a - b).powi(2)).sum()),
        pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max),
    );
    let sizes = (
        root(pairs().map(|(_, b)| b * b).sum()),
        pairs().map(|(_, b)| b.abs()).fold(0.0, f64::max),
    );
    // Written so that NaN fails; where all of `expected` is zero, only zero passes.
    let fits = errors.0 <= bound * sizes.0 && errors.1 <= bound * sizes.1;
    assert!(
        fits,
        "{what}: errors {errors:?} of {sizes:?}, bound {bound}"
    );
}

/// A workspace for training on `batch`, with more room than it needs.
pub(super) fn workspace<D: TrainingDevice>(
    device: &D,
    config: &ModelConfig,
    batch: &Batch,
) -> Workspace<D> {
    Workspace::new(
        device,
        config,
        batch.tokens.len() + 3,
        batch.segments.len(),
        batch.groups.len(),
    )
    .unwrap()
}

pub(super) fn scales(config: &ModelConfig, counted: usize, logical_batches: usize) -> StepScales {
    StepScales {
        token: 1.0 / counted as f32,
        balance: config.router_aux_loss_coef / logical_batches as f32,
    }
}

/// Gradients and sums of the micro-batches, as one step.
pub(super) fn step<D: TrainingDevice>(
    device: &D,
    model: &Model<D>,
    batches: &[&Batch],
) -> (Parameters<D>, StepTotals) {
    let counted = batches.iter().map(|batch| batch.counted_targets()).sum();
    let logical_batches = batches.iter().map(|batch| batch.groups.len() - 1).sum();
    let largest = batches
        .iter()
        .max_by_key(|batch| batch.tokens.len())
        .unwrap();
    let mut workspace = Workspace::new(device, &model.config, largest.tokens.len(), 99, 9).unwrap();
    let mut gradients = Parameters::zeros(device, &model.config).unwrap();
    for batch in batches {
        let scales = scales(&model.config, counted, logical_batches);
        model
            .forward_backward(device, batch, &mut workspace, &mut gradients, scales)
            .unwrap();
    }
    let totals = workspace.totals(device).unwrap();
    let empty = workspace.totals(device).unwrap();
    assert_eq!(
        (empty.token_loss_sum, empty.router_loss_sum),
        (0.0, 0.0),
        "totals start anew"
    );
    (gradients, totals)
}
