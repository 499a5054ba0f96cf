//! Embedding.

use anyhow::Result;

use super::{CaseReport, Outputs, ROWS, TestDevice, Values, same_as_reference};
use crate::ops::{Buffer, EmbeddingBackward, EmbeddingForward, Operations, issue};

fn embedding_forward<D: Operations>(
    test: TestDevice<'_, D>,
    (count, vocab, hidden): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let table = test.input(&values.normal(vocab * hidden, 1.0))?;
    let mut tokens = values.indices(count, vocab);
    tokens[0] = vocab as u32 - 1;
    let tokens = test.input_index(&tokens)?;
    let mut out = test.written(count * hidden)?;
    issue(
        test.device,
        EmbeddingForward {
            table: table.matrix(vocab, hidden),
            tokens: tokens.vector(count),
            out: out.matrix_mut(count, hidden),
        },
    )?;
    Ok(vec![("out", test.read(&out, count * hidden)?)])
}

/// Gradient of the table, which begins with random values.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn embedding_backward<D: Operations>(
    test: TestDevice<'_, D>,
    (count, vocab, hidden): (usize, usize, usize),
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let grad_out = test.input(&values.normal(count * hidden, 1.0))?;
    // Few different tokens, so that rows meet.
    let tokens = test.input_index(&values.indices(count, vocab.min(9)))?;
    let mut grad_table = test.added(&values.normal(vocab * hidden, 1.0))?;
    issue(
        test.device,
        EmbeddingBackward {
            grad_out: grad_out.matrix(count, hidden),
            tokens: tokens.vector(count),
            grad_table: grad_table.matrix_mut(vocab, hidden),
        },
    )?;
    Ok(vec![(
        "grad_table",
        test.read(&grad_table, vocab * hidden)?,
    )])
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for (vocab, hidden) in [(131, 36), (257, 48), (9, 40), (1, 384)] {
        for rows in ROWS {
            let case = (rows, vocab, hidden);
            same_as_reference!(
                report,
                test,
                "embedding_forward",
                case,
                embedding_forward,
                case
            );
            same_as_reference!(
                report,
                test,
                "embedding_backward",
                case,
                embedding_backward,
                case
            );
        }
    }
}
