//! What a training step costs at the least: FLOPs and bytes of each operation, the time that a card
//! cannot go below, and a prediction from stated efficiencies. A measured profile is held against
//! it.

pub(crate) mod cards;
mod cost_device;
pub(crate) mod operations;

use anyhow::Result;
use serde::Serialize;

use self::cards::Card;
use self::operations::{Operation, StepShape, operations};
use crate::model::ModelConfig;
use crate::ops::Kind;

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Kind; 5] = [
        Kind::Head,
        Kind::Experts,
        Kind::Projection,
        Kind::Attention,
        Kind::Memory,
    ];

    /// Share of the tensor cores' rate that this kind of work is expected to reach, with the reason
    /// in docs/roofline.md.
    pub(crate) fn efficiency(self) -> f64 {
        match self {
            Kind::Head => 0.70,
            Kind::Experts => 0.55,
            Kind::Projection => 0.50,
            Kind::Attention => 0.30,
            Kind::Memory => 1.0,
        }
    }
}

/// Share of the memory's rate that kernels are expected to reach.
pub(crate) const BANDWIDTH_EFFICIENCY: f64 = 0.80;
/// Seconds between the end of a kernel and the start of the next one that waits for it, within a
/// CUDA graph.
pub(crate) const SECONDS_PER_LAUNCH: f64 = 1.5e-6;

/// An operation's times on a card.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Seconds of a step that it cannot go below: the longer of arithmetic and traffic at the
    /// card's full rates.
    pub floor_s: f64,
    /// Seconds of a step with the stated efficiencies and gaps between launches.
    pub predicted_s: f64,
    /// Whether the floor is one of arithmetic.
    pub bound_by_arithmetic: bool,
}

/// A step on a card.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Prediction {
    /// The card's key.
    pub card: &'static str,
    /// Tokens of the step.
    pub tokens: usize,
    /// Its operations.
    pub rows: Vec<Row>,
    /// FLOPs of model arithmetic per trained token: without what is computed a second time.
    pub flops_per_token: f64,
    /// Sum of the floors.
    pub floor_s: f64,
    /// Sum of the predictions.
    pub predicted_s: f64,
    /// Tokens per second as predicted.
    pub tokens_per_second: f64,
    /// Model arithmetic as predicted over the card's peak.
    pub utilisation: f64,
}

impl Prediction {
    /// A step of that shape on a card. `launches` tells how often an operation's kernels are
    /// launched in the step.
    ///
    /// # Errors
    /// If the sizes are none that a model can have.
    pub(crate) fn new(
        card: &'static Card,
        config: &ModelConfig,
        shape: &StepShape,
        launches: &dyn Fn(&Operation) -> u64,
    ) -> Result<Self> {
        let (peak, bandwidth) = (card.flops_per_second(), card.bytes_per_second);
        let rows: Vec<Row> = operations(config, shape)?
            .into_iter()
            .map(|operation| {
                let (arithmetic, traffic) = (operation.flops / peak, operation.bytes / bandwidth);
                let reached = operation.kind.efficiency() * card.mma_sync_share;
                let predicted = (arithmetic / reached).max(traffic / BANDWIDTH_EFFICIENCY)
                    + launches(&operation) as f64 * SECONDS_PER_LAUNCH;
                Row {
                    floor_s: arithmetic.max(traffic),
                    predicted_s: predicted,
                    bound_by_arithmetic: arithmetic >= traffic,
                    operation,
                }
            })
            .collect();
        let floor_s = rows.iter().map(|row| row.floor_s).sum();
        let predicted_s: f64 = rows.iter().map(|row| row.predicted_s).sum();
        let tokens = shape.tokens();
        let flops_per_token = operations::model_flops_per_token(config, shape.mean_keys());
        Ok(Self {
            card: card.key,
            tokens,
            flops_per_token,
            floor_s,
            predicted_s,
            tokens_per_second: tokens as f64 / predicted_s,
            utilisation: flops_per_token * tokens as f64 / predicted_s / peak,
            rows,
        })
    }

    /// Hours for so many examples of so many tokens on average.
    pub(crate) fn hours(&self, examples: f64, tokens_per_example: f64) -> f64 {
        examples * tokens_per_example / self.tokens_per_second / 3600.0
    }
}
