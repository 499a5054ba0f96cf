//! What a batch must be before a device sees it: a wrong offset would otherwise become a wrong gradient, silently.

use super::{Batch, ModelConfig};
use crate::ops::IGNORE_TARGET;
use anyhow::{Result, ensure};

/// Checks lengths, offsets, positions and token numbers.
///
/// # Errors
/// Names what is wrong, where, and what was expected.
pub(super) fn check_batch(config: &ModelConfig, batch: &Batch) -> Result<()> {
    let count = batch.tokens.len();
    ensure!(count > 0, "the batch is empty, expected at least one token");
    ensure!(
        batch.targets.len() == count && batch.positions.len() == count,
        "the batch has {count} tokens, {} targets and {} positions, expected the same number of each",
        batch.targets.len(),
        batch.positions.len()
    );
    check_offsets("segments", &batch.segments, count)?;
    check_offsets("groups", &batch.groups, count)?;
    for &start in &batch.groups {
        ensure!(
            batch.segments.binary_search(&start).is_ok(),
            "a logical batch starts at token {start}, inside an example; expected whole examples"
        );
    }
    check_positions(config, batch)?;
    check_tokens(config, &batch.tokens)?;
    let wrong = batch
        .targets
        .iter()
        .find(|&&target| target != IGNORE_TARGET && target as usize >= config.vocab_size);
    if let Some(target) = wrong {
        anyhow::bail!(
            "target {target} is outside the vocabulary, expected less than {}",
            config.vocab_size
        );
    }
    Ok(())
}

/// Checks that all tokens are in the vocabulary.
pub(super) fn check_tokens(config: &ModelConfig, tokens: &[u32]) -> Result<()> {
    let vocab = config.vocab_size;
    match tokens.iter().find(|&&token| token as usize >= vocab) {
        Some(token) => {
            anyhow::bail!("token {token} is outside the vocabulary, expected less than {vocab}")
        }
        None => Ok(()),
    }
}

fn check_offsets(name: &str, offsets: &[u32], count: usize) -> Result<()> {
    let ends = (
        offsets.first().copied(),
        offsets.last().map(|&end| end as usize),
    );
    ensure!(
        offsets.len() >= 2 && ends == (Some(0), Some(count)),
        "{name} go from {:?} to {:?} in {} offsets, expected from 0 to {count} in at least 2",
        ends.0,
        ends.1,
        offsets.len()
    );
    for pair in offsets.windows(2) {
        ensure!(
            pair[0] < pair[1],
            "{name} hold {} after {}, expected increasing offsets",
            pair[1],
            pair[0]
        );
    }
    Ok(())
}

fn check_positions(config: &ModelConfig, batch: &Batch) -> Result<()> {
    for (example, ends) in batch.segments.windows(2).enumerate() {
        let positions = &batch.positions[ends[0] as usize..ends[1] as usize];
        for (expected, &position) in positions.iter().enumerate() {
            ensure!(
                position as usize == expected,
                "token {expected} of example {example} has position {position}, expected {expected}: positions start at 0 in each example"
            );
        }
        ensure!(
            positions.len() <= config.max_position_embeddings,
            "example {example} has {} tokens, expected at most max_position_embeddings, which is {}",
            positions.len(),
            config.max_position_embeddings
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        Batch {
            tokens: vec![1, 2, 3, 4, 5],
            targets: vec![2, IGNORE_TARGET, 4, 5, 6],
            positions: vec![0, 1, 0, 1, 0],
            segments: vec![0, 2, 4, 5],
            groups: vec![0, 4, 5],
        }
    }

    #[test]
    fn wrong_batches_are_refused() {
        type Change = fn(&mut Batch);
        let mut config = ModelConfig::default_47m();
        (config.vocab_size, config.max_position_embeddings) = (7, 2);
        check_batch(&config, &batch()).unwrap();
        let cases: [(&str, Change); 12] = [
            ("the batch is empty", |b| *b = Batch::default()),
            ("5 tokens, 4 targets", |b| b.targets.truncate(4)),
            ("and 4 positions", |b| b.positions.truncate(4)),
            ("segments go from Some(0) to Some(4)", |b| {
                b.segments.truncate(3)
            }),
            ("segments go from None", |b| b.segments.clear()),
            ("segments hold 2 after 2", |b| b.segments = vec![0, 2, 2, 5]),
            ("groups go from Some(1)", |b| b.groups[0] = 1),
            ("starts at token 3, inside an example", |b| b.groups[1] = 3),
            ("token 1 of example 1 has position 2, expected 1", |b| {
                b.positions[3] = 2
            }),
            ("token 7 is outside the vocabulary", |b| b.tokens[2] = 7),
            ("target 9 is outside the vocabulary", |b| b.targets[2] = 9),
            (
                "example 1 has 3 tokens, expected at most max_position_embeddings",
                |b| {
                    b.segments = vec![0, 2, 5];
                    b.groups = vec![0, 5];
                    b.positions[4] = 2;
                },
            ),
        ];
        for (message, change) in cases {
            let mut batch = batch();
            change(&mut batch);
            let error = check_batch(&config, &batch).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} lacks {message:?}");
        }
    }
}
