//! What the model is fed: examples end to end in flat arrays, without padding.

use anyhow::{Result, ensure};

use crate::ops::IGNORE_TARGET;

/// A ragged batch of T tokens. Each segment is one example: positions restart and attention begins
/// anew there.
///
/// Joining batches with [`Batch::concat`] makes one physical micro-batch of several logical ones;
/// `groups` remembers them, because the load-balancing loss is taken over each logical batch alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Input token ids, `[T]`.
    pub tokens: Vec<u32>,
    /// The token to predict at each place, `[T]`; [`IGNORE_TARGET`] carries no loss.
    pub targets: Vec<u32>,
    /// Position of each token in its example, `[T]`.
    pub positions: Vec<u32>,
    /// Segment i is `segments[i]..segments[i + 1]`: examples + 1 offsets, the first 0, the last T.
    pub segments: Vec<u32>,
    /// Logical batch i is the tokens `groups[i]..groups[i + 1]`: logical batches + 1 offsets, the
    /// first 0, the last T.
    pub groups: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty logical batch, to be filled with [`Batch::push_segment`].
    pub fn new() -> Self {
        Self {
            tokens: vec![],
            targets: vec![],
            positions: vec![],
            segments: vec![0],
            groups: vec![0, 0],
        }
    }

    /// Appends one example to the last logical batch: `targets[i]` is to be predicted from
    /// `tokens[..=i]`.
    ///
    /// # Errors
    /// When the two differ in length, are empty, or the batch would exceed 2^32 - 1 tokens.
    pub fn push_segment(&mut self, tokens: &[u32], targets: &[u32]) -> Result<()> {
        ensure!(
            tokens.len() == targets.len() && !tokens.is_empty(),
            "a segment needs as many targets as tokens, and at least one: found {} tokens and {} \
             targets",
            tokens.len(),
            targets.len()
        );
        let end = checked_end(self.tokens.len(), tokens.len())?;
        self.tokens.extend_from_slice(tokens);
        self.targets.extend_from_slice(targets);
        self.positions.extend(0..tokens.len() as u32);
        self.segments.push(end);
        if let Some(last) = self.groups.last_mut() {
            *last = end;
        }
        Ok(())
    }

    /// Joins logical batches into one physical micro-batch, in order.
    ///
    /// # Errors
    /// When the whole would exceed 2^32 - 1 tokens.
    pub fn concat(batches: &[Batch]) -> Result<Batch> {
        let mut whole = Self {
            groups: vec![0],
            ..Self::new()
        };
        for batch in batches {
            checked_end(whole.tokens.len(), batch.tokens.len())?;
            let offset = whole.tokens.len() as u32;
            whole.tokens.extend_from_slice(&batch.tokens);
            whole.targets.extend_from_slice(&batch.targets);
            whole.positions.extend_from_slice(&batch.positions);
            whole
                .segments
                .extend(batch.segments.iter().skip(1).map(|end| offset + end));
            whole
                .groups
                .extend(batch.groups.iter().skip(1).map(|end| offset + end));
        }
        Ok(whole)
    }

    /// Number of tokens T.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.segments.len().saturating_sub(1)
    }

    /// Number of logical batches.
    pub fn logical_batches(&self) -> usize {
        self.groups.len().saturating_sub(1)
    }

    /// Length of the longest example.
    pub fn longest_segment(&self) -> usize {
        self.segments
            .windows(2)
            .map(|ends| ends[1].saturating_sub(ends[0]) as usize)
            .max()
            .unwrap_or(0)
    }

    /// Number of places that carry loss.
    pub fn counted_targets(&self) -> usize {
        self.targets
            .iter()
            .filter(|&&target| target != IGNORE_TARGET)
            .count()
    }

    /// Checks everything the model relies on: lengths, offsets, positions, and ids below
    /// `vocab_size`.
    ///
    /// # Errors
    /// Names the first array that is wrong.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let count = self.tokens.len();
        ensure!(
            self.targets.len() == count && self.positions.len() == count,
            "batch of {count} tokens has {} targets and {} positions",
            self.targets.len(),
            self.positions.len()
        );
        check_offsets("segments", &self.segments, count, true)?;
        check_offsets("groups", &self.groups, count, false)?;
        ensure!(
            self.groups
                .iter()
                .all(|end| self.segments.binary_search(end).is_ok()),
            "a logical batch ends inside an example"
        );
        let in_range = |id: u32| (id as usize) < vocab_size;
        if let Some(id) = self.tokens.iter().find(|&&id| !in_range(id)) {
            anyhow::bail!("token {id} in the batch, but the vocabulary has {vocab_size} tokens");
        }
        if let Some(id) = self
            .targets
            .iter()
            .find(|&&id| id != IGNORE_TARGET && !in_range(id))
        {
            anyhow::bail!("target {id} in the batch, but the vocabulary has {vocab_size} tokens");
        }
        for ends in self.segments.windows(2) {
            let positions = &self.positions[ends[0] as usize..ends[1] as usize];
            ensure!(
                positions
                    .iter()
                    .zip(0..)
                    .all(|(&position, index)| position == index),
                "positions do not count up from 0 in the example at token {}",
                ends[0]
            );
        }
        Ok(())
    }
}

fn checked_end(length: usize, added: usize) -> Result<u32> {
    let end = length + added;
    u32::try_from(end).map_err(|_| {
        anyhow::anyhow!(
            "a batch of {end} tokens is too large: at most {} fit",
            u32::MAX
        )
    })
}

fn check_offsets(name: &str, offsets: &[u32], count: usize, strict: bool) -> Result<()> {
    let ordered = offsets
        .windows(2)
        .all(|pair| pair[0] < pair[1] || (!strict && pair[0] == pair[1]));
    ensure!(
        offsets.first() == Some(&0)
            && offsets.last().is_some_and(|&last| last as usize == count)
            && ordered,
        "{name} of the batch do not rise from 0 to {count}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(segments: &[&[u32]]) -> Batch {
        let mut batch = Batch::new();
        for tokens in segments {
            let targets: Vec<u32> = tokens
                .iter()
                .map(|id| if id % 2 == 0 { *id } else { IGNORE_TARGET })
                .collect();
            batch.push_segment(tokens, &targets).unwrap();
        }
        batch
    }

    #[test]
    fn segments_and_groups_follow_the_tokens() {
        let first = batch(&[&[1, 2, 3], &[4]]);
        assert_eq!(first.positions, [0, 1, 2, 0]);
        assert_eq!(first.segments, [0, 3, 4]);
        assert_eq!(first.groups, [0, 4]);
        assert_eq!(first.counted_targets(), 2);
        assert_eq!((first.examples(), first.longest_segment()), (2, 3));
        first.check(5).unwrap();
    }

    #[test]
    fn concat_shifts_segments_and_keeps_groups() {
        let parts = [
            batch(&[&[1, 2, 3], &[4]]),
            batch(&[&[5, 6]]),
            batch(&[&[7], &[8]]),
        ];
        let whole = Batch::concat(&parts).unwrap();
        whole.check(9).unwrap();
        assert_eq!(whole.tokens, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(whole.positions, [0, 1, 2, 0, 0, 1, 0, 0]);
        assert_eq!(whole.segments, [0, 3, 4, 6, 7, 8]);
        assert_eq!(whole.groups, [0, 4, 6, 8]);
        assert_eq!(Batch::concat(&parts[..1]).unwrap(), parts[0]);
        assert!(Batch::concat(&[]).unwrap().is_empty());
    }

    #[test]
    fn check_finds_each_fault() {
        let good = batch(&[&[1, 2], &[3]]);
        type Spoil = fn(&mut Batch);
        let faults: [(&str, Spoil); 6] = [
            ("targets", |batch| batch.targets.truncate(1)),
            ("segments", |batch| batch.segments[1] = 9),
            ("groups", |batch| batch.groups[0] = 1),
            ("inside", |batch| batch.groups = vec![0, 1, 3]),
            ("positions", |batch| batch.positions[2] = 2),
            ("token 40", |batch| batch.tokens[0] = 40),
        ];
        for (name, spoil) in faults {
            let mut batch = good.clone();
            spoil(&mut batch);
            let error = batch.check(5).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}
