//! Router and experts.

use anyhow::{Result, ensure};

use super::{Outputs, Precision, Rig, Tally, Values, same_as_reference};
use crate::ops::reference::ReferenceDevice;
use crate::ops::{Balance, Device, MoeShape, Routing};

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
    pub fn new(probs: Vec<f32>, experts: Vec<u32>, weights: Vec<f32>, count: usize) -> Self {
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
    pub fn upload<D: Device>(&self, rig: Rig<'_, D>) -> Result<Routing<D>> {
        Ok(Routing {
            probs: rig.input_single(&self.probs)?,
            experts: rig.input_index(&self.experts)?,
            weights: rig.input_single(&self.weights)?,
            offsets: rig.input_index(&self.offsets)?,
            slot_source: rig.input_index(&self.slot_source)?,
            source_slot: rig.input_index(&self.source_slot)?,
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
    /// Logits of up to about +-80. The two best stay within 87 of each other: probabilities below 2^-126 are equal to
    /// the fast devices, and which of them is chosen is open.
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

fn router_forward<D: Device>(
    rig: Rig<'_, D>,
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
    let mut balance: Balance<D> = Balance {
        counts: rig.added_single(&counts)?,
        prob_sums: rig.added_single(&values.normal(sums, 3.0))?,
    };
    let index = |len: usize| rig.input_index(&vec![u32::MAX - 3; len]);
    let mut routing: Routing<D> = Routing {
        probs: rig.written_single(count * shape.experts)?,
        experts: index(slots)?,
        weights: rig.written_single(slots)?,
        offsets: index(shape.experts + 1)?,
        slot_source: index(slots)?,
        source_slot: index(slots)?,
    };
    rig.device.router_forward(
        &rig.input(&x)?,
        &rig.input(&weight)?,
        &mut routing,
        &mut balance,
        &rig.input_index(groups)?,
        group_count,
        shape,
        count,
    )?;
    let floats = vec![
        (
            "probs",
            rig.read_single(&routing.probs, count * shape.experts)?,
        ),
        ("weights", rig.read_single(&routing.weights, slots)?),
        ("counts", rig.read_single(&balance.counts, sums)?),
        ("prob_sums", rig.read_single(&balance.prob_sums, sums)?),
    ];
    let indices = vec![
        rig.read_index(&routing.experts, slots)?,
        rig.read_index(&routing.offsets, shape.experts + 1)?,
        rig.read_index(&routing.slot_source, slots)?,
        rig.read_index(&routing.source_slot, slots)?,
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
    let rig = Rig::new(&ReferenceDevice, precision);
    let (floats, indices) = router_forward(rig, shape, &[0, count as u32], load)?;
    let (probs, weights) = (floats[0].1.clone(), floats[1].1.clone());
    let experts = indices[0].clone();
    Ok(HostRouting::new(probs, experts, weights, shape.experts))
}

/// Gradients of the router, with the reference's routing and made-up sums of all layers.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn router_backward<D: Device>(
    rig: Rig<'_, D>,
    shape: &MoeShape,
    groups: &[u32],
    load: Load,
) -> Result<Outputs> {
    let (group_count, count) = (groups.len() - 1, groups[groups.len() - 1] as usize);
    let sums = group_count * shape.experts;
    let (x, weight) = router_input(shape, count, load);
    let mut values = Values::new(count + 3);
    let counts: Vec<f32> = values.indices(sums, 50).iter().map(|&n| n as f32).collect();
    let balance: Balance<D> = Balance {
        counts: rig.input_single(&counts)?,
        prob_sums: rig.input_single(&values.normal(sums, 3.0))?,
    };
    let grad_weights = rig.input_single(&values.normal(count * shape.top_k, 1.0))?;
    let mut grad_x = rig.added(&values.normal(count * shape.hidden, 1.0))?;
    let mut grad_weight = rig.added(&values.normal(shape.experts * shape.hidden, 1.0))?;
    rig.device.router_backward(
        &grad_weights,
        &rig.input(&x)?,
        &rig.input(&weight)?,
        &routing(rig.precision, shape, count, load)?.upload(rig)?,
        &balance,
        &rig.input_index(groups)?,
        group_count,
        3,
        0.7,
        &mut grad_x,
        &mut grad_weight,
        shape,
        count,
    )?;
    let weights = shape.experts * shape.hidden;
    Ok(vec![
        ("grad_x", rig.read(&grad_x, count * shape.hidden)?),
        ("grad_weight", rig.read(&grad_weight, weights)?),
    ])
}

pub(super) fn check_router<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
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
                tally.compare(rig.precision, forward, case, || {
                    let (found, chosen) = router_forward(rig, &shape, &groups, load)?;
                    let reference = rig.reference();
                    let (expected, indices) = router_forward(reference, &shape, &groups, load)?;
                    ensure!(chosen == indices, "other experts, or another order");
                    Ok((found, expected))
                });
                same_as_reference!(
                    tally,
                    rig,
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

struct Experts {
    x: Vec<f32>,
    w13: Vec<f32>,
    w2: Vec<f32>,
    residual: Vec<f32>,
}

fn experts_input(shape: &MoeShape, count: usize, scale: f32) -> Experts {
    let size = shape.experts * shape.hidden * shape.intermediate;
    let mut values = Values::new(count + 5);
    Experts {
        x: values.normal(count * shape.hidden, scale),
        w13: values.normal(2 * size, 0.2),
        w2: values.normal(size, 0.2),
        residual: values.normal(count * shape.hidden, scale),
    }
}

/// `scale` is the standard deviation of the input.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn experts_forward<D: Device>(
    rig: Rig<'_, D>,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Result<Outputs> {
    let given = experts_input(shape, count, scale);
    let kept = count * shape.top_k * 2 * shape.intermediate;
    let mut gate_up = rig.written(kept)?;
    let mut out = rig.written(count * shape.hidden)?;
    rig.device.experts_forward(
        &rig.input(&given.x)?,
        &routing(rig.precision, shape, count, load)?.upload(rig)?,
        &rig.input(&given.w13)?,
        &rig.input(&given.w2)?,
        &rig.input(&given.residual)?,
        &mut gate_up,
        &mut out,
        shape,
        count,
    )?;
    Ok(vec![
        ("gate_up", rig.read(&gate_up, kept)?),
        ("out", rig.read(&out, count * shape.hidden)?),
    ])
}

/// Both devices get the reference's `gate_up`.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn experts_backward<D: Device>(
    rig: Rig<'_, D>,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Result<Outputs> {
    let given = experts_input(shape, count, scale);
    let gate_up = &experts_forward(rig.reference(), shape, count, load, scale)?[0].1;
    let size = shape.experts * shape.hidden * shape.intermediate;
    let mut values = Values::new(count + 6);
    let grad_out = values.normal(count * shape.hidden, 1.0);
    let mut grad_x = rig.written(count * shape.hidden)?;
    let mut grad_w13 = rig.added(&values.normal(2 * size, 1.0))?;
    let mut grad_w2 = rig.added(&values.normal(size, 1.0))?;
    let mut grad_weights = rig.written_single(count * shape.top_k)?;
    rig.device.experts_backward(
        &rig.input(&grad_out)?,
        &rig.input(&given.x)?,
        &routing(rig.precision, shape, count, load)?.upload(rig)?,
        &rig.input(&given.w13)?,
        &rig.input(&given.w2)?,
        &rig.input(gate_up)?,
        &mut grad_x,
        &mut grad_w13,
        &mut grad_w2,
        &mut grad_weights,
        shape,
        count,
    )?;
    Ok(vec![
        ("grad_x", rig.read(&grad_x, count * shape.hidden)?),
        ("grad_w13", rig.read(&grad_w13, 2 * size)?),
        ("grad_w2", rig.read(&grad_w2, size)?),
        (
            "grad_weights",
            rig.read_single(&grad_weights, count * shape.top_k)?,
        ),
    ])
}

/// (hidden, intermediate, tokens)
fn experts_sizes(precision: Precision) -> Vec<(usize, usize, usize)> {
    let small = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257].map(|rows| (36, 44, rows));
    let all = small.into_iter().chain([(40, 36, 33), (384, 448, 65)]);
    // On the simulator: both tiles, rows at odd addresses and at multiples of 16 bytes, several tiles per expert.
    let simulated = vec![
        (36, 44, 1),
        (36, 44, 3),
        (33, 45, 17),
        (36, 44, 70),
        (40, 48, 130),
        (136, 72, 33),
    ];
    precision.choose(all.collect(), simulated)
}

pub(super) fn check_experts<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    for (hidden, intermediate, rows) in experts_sizes(rig.precision) {
        for (experts, top_k, load, scale) in [
            (8, 2, Load::Random, 1.0),
            (5, 3, Load::OneTakesAll, 1.0),
            (5, 2, Load::Empty, 1.0),
            // Gates of about 1e4: silu is 0 or the gate itself. In fp16 the squares of such gates are infinite.
            (3, 1, Load::Random, rig.precision.choose(1e4, 16.0)),
        ] {
            if hidden == 384 && load != Load::Random {
                continue;
            }
            let shape = shape(hidden, intermediate, experts, top_k);
            let case = (shape, rows, load, scale);
            let run = (&shape, rows, load, scale);
            same_as_reference!(
                tally,
                rig,
                "experts_forward",
                case,
                experts_forward,
                run.0,
                run.1,
                run.2,
                run.3
            );
            same_as_reference!(
                tally,
                rig,
                "experts_backward",
                case,
                experts_backward,
                run.0,
                run.1,
                run.2,
                run.3
            );
        }
    }
}
