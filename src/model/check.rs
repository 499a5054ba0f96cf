//! What a batch must be for this model, besides well formed: a wrong one would become a wrong
//! gradient, silently.

use super::{Batch, ModelConfig};
use anyhow::{Result, bail, ensure};

/// Checks a batch against the model's sizes.
///
/// # Errors
/// Names what is wrong and what was expected.
pub(super) fn check_batch(config: &ModelConfig, batch: &Batch) -> Result<()> {
    ensure!(
        !batch.is_empty(),
        "the batch is empty, expected at least one token"
    );
    batch.check(config.vocab_size)?;
    // Its load-balancing loss would be 0 / 0.
    ensure!(
        batch.groups.windows(2).all(|ends| ends[0] < ends[1]),
        "a logical batch is empty, expected at least one token in each"
    );
    let (longest, most) = (batch.longest_segment(), config.max_position_embeddings);
    ensure!(
        longest <= most,
        "an example has {longest} tokens, expected at most max_position_embeddings, which is {most}"
    );
    Ok(())
}

/// Checks that all tokens are in the vocabulary.
pub(super) fn check_tokens(config: &ModelConfig, tokens: &[u32]) -> Result<()> {
    let vocab = config.vocab_size;
    match tokens.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => {
            bail!("token {token} is outside the vocabulary, expected less than {vocab}")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_do_not_fit_the_model_are_refused() {
        let mut config = ModelConfig::default_47m();
        (config.vocab_size, config.max_position_embeddings) = (7, 2);
        let mut batch = Batch::new();
        let refused = |batch: &Batch| check_batch(&config, batch).unwrap_err().to_string();
        assert!(refused(&batch).contains("the batch is empty"));
        batch.push_segment(&[1, 2], &[2, 3]).unwrap();
        check_batch(&config, &batch).unwrap();
        let hollow = Batch {
            groups: vec![0, 2, 2],
            ..batch.clone()
        };
        assert!(refused(&hollow).contains("a logical batch is empty"));
        let mut foreign = batch.clone();
        foreign.push_segment(&[7], &[1]).unwrap();
        assert!(refused(&foreign).contains("token 7"));
        batch.push_segment(&[1, 2, 3], &[2, 3, 4]).unwrap();
        assert!(
            refused(&batch)
                .contains("an example has 3 tokens, expected at most max_position_embeddings")
        );
    }
}
