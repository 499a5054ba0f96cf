//! Packing: whole examples are put into rows of at most `max_length` positions, so that hardly a
//! position is empty.

use std::collections::VecDeque;

/// So many examples wait at a time for a row that they fill, and at least so many rows' worth. A
/// larger window hardly fills rows better.
const WINDOW: usize = 256;
const WINDOW_ROWS: u64 = 4;

/// Examples row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Numbers of the examples, row after row.
    examples: Vec<u32>,
    /// Row i is `examples[starts[i]..starts[i + 1]]`.
    starts: Vec<u32>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The examples of the rows `from..to`, in order.
    pub(super) fn examples(&self, from: usize, to: usize) -> &[u32] {
        let start = self.starts.get(from).copied().unwrap_or(0) as usize;
        let end = self.starts.get(to).copied().unwrap_or(0) as usize;
        self.examples.get(start..end).unwrap_or_default()
    }
}

/// Packs the examples `order`, where example e takes `lengths[e]` positions (cut to `max_length`).
///
/// Each row begins with the example that has waited longest, so none waits for ever, and is filled
/// up with those of the waiting examples that together leave the fewest positions empty; among
/// equal choices those that waited longer.
pub(super) fn pack(lengths: &[u32], order: &[u32], max_length: u32) -> Rows {
    // A row need not be longer than everything together; that bounds the tables below.
    let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    let max_length = max_length.min(u32::try_from(total).unwrap_or(u32::MAX));
    let rows_worth =
        (WINDOW_ROWS * u64::from(max_length)).saturating_mul(lengths.len() as u64) / total.max(1);
    let window = WINDOW.max(rows_worth as usize);
    let mut rows = Rows {
        examples: Vec::with_capacity(order.len()),
        starts: vec![0],
    };
    let mut upcoming = order
        .iter()
        .map(|&example| (example, lengths[example as usize].min(max_length)));
    let mut waiting: VecDeque<(u32, u32)> = upcoming.by_ref().take(window).collect();
    let mut fill = Fill::new(max_length as usize);
    while let Some((example, length)) = waiting.pop_front() {
        rows.examples.push(example);
        let first_added = rows.examples.len();
        for index in fill.best(
            (max_length - length) as usize,
            waiting.iter().map(|&(_, length)| length as usize),
        ) {
            if let Some((example, _)) = waiting.remove(index) {
                rows.examples.push(example);
            }
        }
        rows.examples[first_added..].reverse();
        rows.starts.push(rows.examples.len() as u32);
        let free = window - waiting.len();
        waiting.extend(upcoming.by_ref().take(free));
    }
    rows
}

/// Finds the subset of lengths whose sum comes closest to a room from below. Sums are bits of a
/// set, so that adding a length to all of them is one shift; most rooms are filled exactly after a
/// dozen lengths.
struct Fill {
    /// Bit s is set when some of the lengths seen so far add up to s.
    sums: Vec<u64>,
    /// Which length reached the sum first; those before it reached the rest.
    reached_by: Vec<u32>,
}

impl Fill {
    fn new(max_room: usize) -> Self {
        Self {
            sums: vec![0; max_room / 64 + 1],
            reached_by: vec![0; max_room + 1],
        }
    }

    /// Numbers of the chosen lengths, falling.
    fn best(&mut self, room: usize, lengths: impl Iterator<Item = usize> + Clone) -> Vec<usize> {
        self.sums.fill(0);
        self.sums[0] = 1;
        for (index, length) in lengths.clone().enumerate() {
            if length <= room && self.add(index, length, room) {
                break;
            }
        }
        let lengths: Vec<usize> = lengths.collect();
        let mut sum = (0..=room).rev().find(|&sum| self.has(sum)).unwrap_or(0);
        let mut chosen = Vec::new();
        while sum > 0 {
            let index = self.reached_by[sum] as usize;
            chosen.push(index);
            sum -= lengths[index];
        }
        chosen
    }

    fn has(&self, sum: usize) -> bool {
        self.sums[sum / 64] >> (sum % 64) & 1 == 1
    }

    /// Adds `length` to every sum; true when `room` is now reached.
    fn add(&mut self, index: usize, length: usize, room: usize) -> bool {
        let (words, bits) = (length / 64, length % 64);
        // From the top down, so that every word is read before it is written.
        for word in (words..=room / 64).rev() {
            let mut shifted = self.sums[word - words] << bits;
            if bits > 0 && word > words {
                shifted |= self.sums[word - words - 1] >> (64 - bits);
            }
            let mut new = shifted & !self.sums[word];
            while new != 0 {
                let sum = word * 64 + new.trailing_zeros() as usize;
                new &= new - 1;
                if sum <= room {
                    self.sums[word] |= 1 << (sum % 64);
                    self.reached_by[sum] = index as u32;
                }
            }
        }
        self.has(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best sum by trying every subset.
    fn best_by_trial(lengths: &[usize], room: usize) -> usize {
        (0u32..1 << lengths.len())
            .map(|mask| {
                (0..lengths.len())
                    .filter(|i| mask >> i & 1 == 1)
                    .map(|i| lengths[i])
                    .sum()
            })
            .filter(|&sum: &usize| sum <= room)
            .max()
            .unwrap()
    }

    #[test]
    fn fill_finds_the_best_subset() {
        let mut state = 1u64;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) % below) as usize
        };
        let mut fill = Fill::new(300);
        for _ in 0..300 {
            let lengths: Vec<usize> = (0..1 + draw(9)).map(|_| 1 + draw(140)).collect();
            let room = draw(301);
            let chosen = fill.best(room, lengths.iter().copied());
            assert!(
                chosen.windows(2).all(|pair| pair[0] > pair[1]),
                "{chosen:?}"
            );
            let sum: usize = chosen.iter().map(|&index| lengths[index]).sum();
            assert_eq!(
                sum,
                best_by_trial(&lengths, room),
                "{lengths:?} into {room}"
            );
        }
    }

    #[test]
    fn rows_hold_each_example_once_and_never_too_much() {
        let lengths: Vec<u32> = (0..5000u32)
            .map(|i| 40 + i.wrapping_mul(2654435761) % 90)
            .collect();
        let order: Vec<u32> = (0..5000).rev().collect();
        for max_length in [1, 50, 129, 256, 1000] {
            let rows = pack(&lengths, &order, max_length);
            let mut seen = vec![0; lengths.len()];
            for row in 0..rows.len() {
                let examples = rows.examples(row, row + 1);
                assert!(!examples.is_empty());
                examples
                    .iter()
                    .for_each(|&example| seen[example as usize] += 1);
                let used: u32 = examples
                    .iter()
                    .map(|&example| lengths[example as usize].min(max_length))
                    .sum();
                assert!(used <= max_length);
            }
            assert!(seen.iter().all(|&count| count == 1));
        }
    }

    #[test]
    fn an_empty_order_has_no_rows() {
        assert_eq!(pack(&[], &[], 256).len(), 0);
    }
}
