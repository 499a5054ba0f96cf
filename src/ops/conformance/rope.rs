//! Rotary position embedding.

use anyhow::Result;

use super::{CaseReport, Outputs, ROWS, TestDevice, Values, same_as_reference};
use crate::ops::{AttentionShape, Buffer, Operations, RopeBackward, RopeForward, issue};

fn rope<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    count: usize,
    forward: bool,
) -> Result<Outputs> {
    let mut values = Values::new(count);
    let len = count * shape.qkv_size();
    let mut qkv = test.added(&values.normal(len, 1.0))?;
    let positions: Vec<u32> = (0..count as u32).map(|t| t * 37 % 256).collect();
    let positions = test.input_index(&positions)?;
    match forward {
        true => issue(
            test.device,
            RopeForward {
                qkv: qkv.matrix_mut(count, shape.qkv_size()),
                positions: positions.vector(count),
                theta: 1e4,
                shape: *shape,
            },
        ),
        false => issue(
            test.device,
            RopeBackward {
                grad_qkv: qkv.matrix_mut(count, shape.qkv_size()),
                positions: positions.vector(count),
                theta: 1e4,
                shape: *shape,
            },
        ),
    }?;
    Ok(vec![("qkv", test.read(&qkv, len)?)])
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for (heads, kv_heads, head_dim) in [(6, 3, 64), (2, 1, 2), (3, 3, 10), (4, 2, 36)] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
        };
        for rows in ROWS {
            let case = (shape, rows);
            same_as_reference!(report, test, "rope_forward", case, rope, &shape, rows, true);
            same_as_reference!(
                report,
                test,
                "rope_backward",
                case,
                rope,
                &shape,
                rows,
                false
            );
        }
    }
}
