//! How well a model predicts a text: the summed cross-entropy over windows that are scored each
//! alone.

use crate::model::{Batch, Model, Workspace};
use crate::ops::{Operations, Planner};
use anyhow::{Result, ensure};

/// Tokens computed at once: windows are independent, so several share one pass.
const BATCH_TOKENS: usize = 2048;

/// A text's score.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// Scored tokens: all of each window but its first.
    pub tokens: usize,
    /// Sum of their losses, natural logarithm.
    pub nll: f64,
}

impl Perplexity {
    /// `exp(nll / tokens)`: among how many equally probable tokens the model hesitates.
    pub(crate) fn value(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }
}

/// Cuts `ids` into consecutive windows of `max_length` (the last may be shorter) and scores ids 2..
/// of each, given only the ids before them in the same window. Errors: windows that are too short
/// or longer than the model's context, tokens outside the vocabulary.
pub fn perplexity<D: Operations + Planner>(
    device: &D,
    model: &Model<D>,
    ids: &[u32],
    max_length: usize,
) -> Result<Perplexity> {
    // The last id of a window is only predicted, so it takes no position.
    let longest = model.config.max_position_embeddings.saturating_add(1);
    ensure!(
        (2..=longest).contains(&max_length),
        "max-length is {max_length}, expected 2 to {longest} (the model's context and the id after \
         it)"
    );
    let batches = batches(ids, max_length)?;
    let rows = batches.iter().map(|batch| batch.tokens.len()).max();
    let segments = batches.iter().map(|batch| batch.segments.len() - 1).max();
    let (Some(rows), Some(segments)) = (rows, segments) else {
        return Ok(Perplexity::default());
    };
    let mut workspace = Workspace::for_inference(device, &model.config, rows, segments, 1)?;
    let mut score = Perplexity::default();
    for batch in &batches {
        let losses = model.losses(device, batch, &mut workspace)?;
        score.tokens += losses.len();
        score.nll += losses.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(score)
}

/// The windows as segments of batches of about [`BATCH_TOKENS`] tokens.
fn batches(ids: &[u32], max_length: usize) -> Result<Vec<Batch>> {
    let mut batches: Vec<Batch> = Vec::new();
    // A single id at the end predicts nothing.
    for window in ids.chunks(max_length).filter(|window| window.len() > 1) {
        let inputs = window.len() - 1;
        match batches.last_mut() {
            Some(batch) if batch.tokens.len() + inputs <= BATCH_TOKENS => {
                batch.push_segment(&window[..inputs], &window[1..])?;
            }
            _ => {
                let mut batch = Batch::new();
                batch.push_segment(&window[..inputs], &window[1..])?;
                batches.push(batch);
            }
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_is_a_segment_of_its_own() {
        let ids: Vec<u32> = (0..10).collect();
        let batches = batches(&ids, 4).unwrap();
        assert_eq!(batches.len(), 1);
        let Batch {
            tokens,
            targets,
            positions,
            segments,
            groups,
        } = &batches[0];
        assert_eq!(tokens, &[0, 1, 2, 4, 5, 6, 8]);
        assert_eq!(targets, &[1, 2, 3, 5, 6, 7, 9]);
        assert_eq!(positions, &[0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(segments, &[0, 3, 6, 7]);
        assert_eq!(groups, &[0, 7]);
    }

    #[test]
    fn a_lone_last_id_is_not_scored_and_long_texts_are_split() {
        let count = |batches: &[Batch]| batches.iter().map(|b| b.targets.len()).sum::<usize>();
        let ids: Vec<u32> = (0..9).collect();
        assert_eq!(count(&batches(&ids, 4).unwrap()), 6);
        assert!(batches(&[7], 4).unwrap().is_empty());
        let ids = vec![1; 20_000];
        let split = batches(&ids, 256).unwrap();
        assert!(split.len() > 1 && split.iter().all(|b| b.tokens.len() <= BATCH_TOKENS));
        assert_eq!(count(&split), 20_000 - 20_000usize.div_ceil(256));
    }
}
