//! Router.

use anyhow::{Result, ensure};

use super::{CaseReport, Outputs, Precision, TestDevice, Values, same_as_reference};
use crate::ops::reference::ReferenceDevice;
use crate::ops::{Balance, Buffer, MoeShape, Offsets, Operations, RouterBackward};
use crate::ops::{RouterForward, Routing, issue};

/// In the order in which one says it.
pub const fn shape(hidden: usize, intermediate: usize, experts: usize, top_k: usize) -> MoeShape {
    MoeShape {
        hidden,
        intermediate,
        experts,
        top_k,
    }
}

/// A routing on the host, as `router_forward` would leave it.
pub struct HostRouting {
    /// As in [`Routing`].
    pub probs: Vec<f32>,
    /// As in [`Routing`].
    pub experts: Vec<u32>,
    /// As in [`Routing`].
    pub weights: Vec<f32>,
    /// As in [`Routing`].
    pub offsets: Vec<u32>,
    /// As in [`Routing`].
    pub slot_source: Vec<u32>,
    /// As in [`Routing`].
    pub source_slot: Vec<u32>,
}

impl HostRouting {
    /// Sorts the slots of the choices `experts [T, K]`.
    pub(crate) fn new(probs: Vec<f32>, experts: Vec<u32>, weights: Vec<f32>, count: usize) -> Self {
        let mut slot_source: Vec<u32> = (0..experts.len() as u32).collect();
        slot_source.sort_by_key(|&source| experts[source as usize]);
        let mut source_slot = vec![0; experts.len()];
        for (slot, &source) in slot_source.iter().enumerate() {
            source_slot[source as usize] = slot as u32;
        }
        let before = |expert: usize| experts.iter().filter(|&&e| (e as usize) < expert).count();
        let offsets = (0..=count).map(|expert| before(expert) as u32).collect();
        Self {
            probs,
            experts,
            weights,
            offsets,
            slot_source,
            source_slot,
        }
    }

    /// Buffers with the values of this.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload<D: Operations>(
        &self,
        test: TestDevice<'_, D>,
    ) -> Result<Routing<D::Single, D::Index>> {
        Ok(Routing {
            probs: test.input_single(&self.probs)?,
            experts: test.input_index(&self.experts)?,
            weights: test.input_single(&self.weights)?,
            offsets: test.input_index(&self.offsets)?,
            slot_source: test.input_index(&self.slot_source)?,
            source_slot: test.input_index(&self.source_slot)?,
        })
    }
}

/// How tokens meet the experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    /// As random weights have it.
    Random,
    /// The last expert is every token's first choice.
    OneTakesAll,
    /// Experts 1 and 2 have no token.
    Empty,
    /// Experts 0, 2 and 3 have the same router weights: equal probabilities.
    Ties,
    /// Logits of up to about +-80. The two best stay within 87 of each other: probabilities below
    /// 2^-126 are equal to the fast devices, and which of them is chosen is open.
    Extreme,
}

/// Router input and weight that make the load.
fn router_input(shape: &MoeShape, count: usize, load: Load) -> (Vec<f32>, Vec<f32>) {
    let hidden = shape.hidden;
    let mut values = Values::new(count + 17);
    let mut x = values.normal(count * hidden, 1.0);
    let mut weight = values.normal(shape.experts * hidden, 0.3);
    // The last column is 1, so that the weight's last column is a bias.
    x.iter_mut()
        .skip(hidden - 1)
        .step_by(hidden)
        .for_each(|x| *x = 1.0);
    let mut set_bias = |expert: usize, bias: f32| weight[(expert + 1) * hidden - 1] = bias;
    match load {
        Load::Random => {}
        Load::OneTakesAll => set_bias(shape.experts - 1, 30.0),
        Load::Empty => (1..3).for_each(|expert| set_bias(expert, -30.0)),
        Load::Ties => {
            let (first, rest) = weight.split_at_mut(hidden);
            for expert in [2, 3] {
                rest[(expert - 1) * hidden..][..hidden].copy_from_slice(first);
            }
        }
        Load::Extreme => {
            let scale = 25.0 / (0.3 * (hidden as f32).sqrt());
            weight.iter_mut().for_each(|w| *w *= scale);
        }
    }
    (x, weight)
}

fn router_forward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &MoeShape,
    groups: &[u32],
    load: Load,
) -> Result<(Outputs, Vec<Vec<u32>>)> {
    let (group_count, count) = (groups.len() - 1, groups[groups.len() - 1] as usize);
    let (slots, sums) = (count * shape.top_k, group_count * shape.experts);
    let (x, weight) = router_input(shape, count, load);
    let mut values = Values::new(count);
    // Earlier layers' sums.
    let counts: Vec<f32> = values.indices(sums, 50).iter().map(|&n| n as f32).collect();
    let mut balance: Balance<D::Single> = Balance {
        counts: test.added_single(&counts)?,
        prob_sums: test.added_single(&values.normal(sums, 3.0))?,
    };
    let index = |len: usize| test.input_index(&vec![u32::MAX - 3; len]);
    let mut routing: Routing<D::Single, D::Index> = Routing {
        probs: test.written_single(count * shape.experts)?,
        experts: index(slots)?,
        weights: test.written_single(slots)?,
        offsets: index(shape.experts + 1)?,
        slot_source: index(slots)?,
        source_slot: index(slots)?,
    };
    issue(
        test.device,
        RouterForward {
            x: test.input(&x)?.matrix(count, shape.hidden),
            weight: test.input(&weight)?.matrix(shape.experts, shape.hidden),
            routing: &mut routing,
            balance: &mut balance,
            groups: Offsets::new(&test.input_index(groups)?, group_count),
            shape: *shape,
        },
    )?;
    let floats = vec![
        (
            "probs",
            test.read_single(&routing.probs, count * shape.experts)?,
        ),
        ("weights", test.read_single(&routing.weights, slots)?),
        ("counts", test.read_single(&balance.counts, sums)?),
        ("prob_sums", test.read_single(&balance.prob_sums, sums)?),
    ];
    let indices = vec![
        test.read_index(&routing.experts, slots)?,
        test.read_index(&routing.offsets, shape.experts + 1)?,
        test.read_index(&routing.slot_source, slots)?,
        test.read_index(&routing.source_slot, slots)?,
    ];
    Ok((floats, indices))
}

/// The reference's routing of inputs in this precision.
///
/// # Errors
/// Where the shape is none that a router could have.
pub fn routing(
    precision: Precision,
    shape: &MoeShape,
    count: usize,
    load: Load,
) -> Result<HostRouting> {
    let test = TestDevice::new(&ReferenceDevice, precision);
    let (floats, indices) = router_forward(test, shape, &[0, count as u32], load)?;
    let (probs, weights) = (floats[0].1.clone(), floats[1].1.clone());
    let experts = indices[0].clone();
    Ok(HostRouting::new(probs, experts, weights, shape.experts))
}

/// Gradients of the router, with the reference's routing and made-up sums of all layers.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn router_backward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &MoeShape,
    groups: &[u32],
    load: Load,
) -> Result<Outputs> {
    let (group_count, count) = (groups.len() - 1, groups[groups.len() - 1] as usize);
    let sums = group_count * shape.experts;
    let (x, weight) = router_input(shape, count, load);
    let mut values = Values::new(count + 3);
    let counts: Vec<f32> = values.indices(sums, 50).iter().map(|&n| n as f32).collect();
    let balance: Balance<D::Single> = Balance {
        counts: test.input_single(&counts)?,
        prob_sums: test.input_single(&values.normal(sums, 3.0))?,
    };
    let grad_weights = test.input_single(&values.normal(count * shape.top_k, 1.0))?;
    let mut grad_x = test.added(&values.normal(count * shape.hidden, 1.0))?;
    let mut grad_weight = test.added(&values.normal(shape.experts * shape.hidden, 1.0))?;
    issue(
        test.device,
        RouterBackward {
            grad_weights: grad_weights.matrix(count, shape.top_k),
            x: test.input(&x)?.matrix(count, shape.hidden),
            weight: test.input(&weight)?.matrix(shape.experts, shape.hidden),
            routing: &routing(test.precision, shape, count, load)?.upload(test)?,
            balance: &balance,
            groups: Offsets::new(&test.input_index(groups)?, group_count),
            layers: 3,
            balance_scale: 0.7,
            grad_x: grad_x.matrix_mut(count, shape.hidden),
            grad_weight: grad_weight.matrix_mut(shape.experts, shape.hidden),
            shape: *shape,
        },
    )?;
    let weights = shape.experts * shape.hidden;
    Ok(vec![
        ("grad_x", test.read(&grad_x, count * shape.hidden)?),
        ("grad_weight", test.read(&grad_weight, weights)?),
    ])
}

pub(super) fn check<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    for rows in [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257_u32] {
        for (shape, load) in [
            (shape(36, 44, 8, 2), Load::Random),
            (shape(40, 44, 5, 3), Load::OneTakesAll),
            (shape(48, 44, 4, 1), Load::Random),
            (shape(36, 44, 5, 2), Load::Empty),
            (shape(36, 44, 8, 2), Load::Ties),
            (shape(36, 44, 3, 3), Load::Random),
            (shape(36, 44, 1, 1), Load::Random),
            (shape(36, 44, 8, 2), Load::Extreme),
            (shape(384, 448, 8, 2), Load::Random),
        ] {
            for groups in [vec![0, rows], vec![0, 1, rows.div_ceil(2), rows]] {
                if groups.windows(2).any(|pair| pair[0] >= pair[1]) {
                    continue;
                }
                let case = (shape, load, &groups);
                let (forward, backward) = match load {
                    Load::Extreme => (
                        "router_forward, logits of 80",
                        "router_backward, logits of 80",
                    ),
                    _ => ("router_forward", "router_backward"),
                };
                report.compare(test.precision, forward, case, || {
                    let (found, chosen) = router_forward(test, &shape, &groups, load)?;
                    let reference = test.reference();
                    let (expected, indices) = router_forward(reference, &shape, &groups, load)?;
                    ensure!(chosen == indices, "other experts, or another order");
                    Ok((found, expected))
                });
                same_as_reference!(
                    report,
                    test,
                    backward,
                    case,
                    router_backward,
                    &shape,
                    &groups,
                    load
                );
            }
        }
    }
}
