//! Router and experts.

use super::*;
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::ops::{Balance, MoeShape, Routing};

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
    pub probs: Vec<f32>,
    pub experts: Vec<u32>,
    pub weights: Vec<f32>,
    pub offsets: Vec<u32>,
    pub slot_source: Vec<u32>,
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

    pub fn upload<D: Device>(&self, device: &D) -> Routing<D> {
        Routing {
            probs: input_single(device, &self.probs),
            experts: input_index(device, &self.experts),
            weights: input_single(device, &self.weights),
            offsets: input_index(device, &self.offsets),
            slot_source: input_index(device, &self.slot_source),
            source_slot: input_index(device, &self.source_slot),
        }
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
    device: &D,
    shape: &MoeShape,
    groups: &[u32],
    load: Load,
) -> (Outputs, Vec<Vec<u32>>) {
    let (group_count, count) = (groups.len() - 1, groups[groups.len() - 1] as usize);
    let (slots, sums) = (count * shape.top_k, group_count * shape.experts);
    let (x, weight) = router_input(shape, count, load);
    let mut values = Values::new(count);
    // Earlier layers' sums.
    let counts: Vec<f32> = values.indices(sums, 50).iter().map(|&n| n as f32).collect();
    let mut balance: Balance<D> = Balance {
        counts: added_single(device, &counts),
        prob_sums: added_single(device, &values.normal(sums, 3.0)),
    };
    let index = |len: usize| input_index(device, &vec![u32::MAX - 3; len]);
    let mut routing: Routing<D> = Routing {
        probs: written_single(device, count * shape.experts),
        experts: index(slots),
        weights: written_single(device, slots),
        offsets: index(shape.experts + 1),
        slot_source: index(slots),
        source_slot: index(slots),
    };
    device
        .router_forward(
            &input(device, &x),
            &input(device, &weight),
            &mut routing,
            &mut balance,
            &input_index(device, groups),
            group_count,
            shape,
            count,
        )
        .unwrap();
    let exact = |buffer: &D::Index, len: usize| {
        let mut all = device.download_index(buffer, len + TAIL).unwrap();
        assert_eq!(all.split_off(len), [WRONG_INDEX; TAIL]);
        all
    };
    let floats = vec![
        (
            "probs",
            read_single(device, &routing.probs, count * shape.experts),
        ),
        ("weights", read_single(device, &routing.weights, slots)),
        ("counts", read_single(device, &balance.counts, sums)),
        ("prob_sums", read_single(device, &balance.prob_sums, sums)),
    ];
    let indices = vec![
        exact(&routing.experts, slots),
        exact(&routing.offsets, shape.experts + 1),
        exact(&routing.slot_source, slots),
        exact(&routing.source_slot, slots),
    ];
    (floats, indices)
}

/// The reference's routing.
pub fn routing(shape: &MoeShape, count: usize, load: Load) -> HostRouting {
    let (floats, indices) = router_forward(&ReferenceDevice, shape, &[0, count as u32], load);
    let (probs, weights) = (floats[0].1.clone(), floats[1].1.clone());
    HostRouting::new(probs, indices[0].clone(), weights, shape.experts)
}

/// Gradients of the router, with the reference's routing and made-up sums of all layers.
pub fn router_backward<D: Device>(
    device: &D,
    shape: &MoeShape,
    groups: &[u32],
    load: Load,
) -> Outputs {
    let (group_count, count) = (groups.len() - 1, groups[groups.len() - 1] as usize);
    let sums = group_count * shape.experts;
    let (x, weight) = router_input(shape, count, load);
    let mut values = Values::new(count + 3);
    let counts: Vec<f32> = values.indices(sums, 50).iter().map(|&n| n as f32).collect();
    let balance: Balance<D> = Balance {
        counts: input_single(device, &counts),
        prob_sums: input_single(device, &values.normal(sums, 3.0)),
    };
    let grad_weights = input_single(device, &values.normal(count * shape.top_k, 1.0));
    let mut grad_x = added(device, &values.normal(count * shape.hidden, 1.0));
    let mut grad_weight = added(device, &values.normal(shape.experts * shape.hidden, 1.0));
    device
        .router_backward(
            &grad_weights,
            &input(device, &x),
            &input(device, &weight),
            &routing(shape, count, load).upload(device),
            &balance,
            &input_index(device, groups),
            group_count,
            3,
            0.7,
            &mut grad_x,
            &mut grad_weight,
            shape,
            count,
        )
        .unwrap();
    let weights = shape.experts * shape.hidden;
    vec![
        ("grad_x", read(device, &grad_x, count * shape.hidden)),
        ("grad_weight", read(device, &grad_weight, weights)),
    ]
}

fn check_router<D: Device>(device: &D) {
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
                let case = format!("{shape:?} {load:?} {groups:?}");
                let (found, found_indices) = router_forward(device, &shape, &groups, load);
                let (expected, indices) = router_forward(&ReferenceDevice, &shape, &groups, load);
                assert_eq!(found_indices, indices, "router_forward {case}");
                let (forward, backward) = match load {
                    Load::Extreme => (
                        "router_forward, logits of 80",
                        "router_backward, logits of 80",
                    ),
                    _ => ("router_forward", "router_backward"),
                };
                compare(forward, &case, &found, &expected);
                same_as_reference!(
                    backward,
                    case,
                    router_backward,
                    device,
                    &shape,
                    &groups,
                    load
                );
            }
        }
    }
}

#[test]
fn cpu_equals_reference_router() {
    check_router(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_router, check_router);

#[test]
fn loads_are_what_their_names_say() {
    let sizes = |shape: MoeShape, load| -> Vec<u32> {
        let offsets = routing(&shape, 65, load).offsets;
        offsets.windows(2).map(|pair| pair[1] - pair[0]).collect()
    };
    assert_eq!(sizes(shape(40, 44, 5, 3), Load::OneTakesAll)[4], 65);
    assert_eq!(sizes(shape(36, 44, 5, 2), Load::Empty)[1..3], [0, 0]);
    let tied = routing(&shape(36, 44, 8, 2), 65, Load::Ties).experts;
    assert!(tied.chunks(2).all(|chosen| !chosen.contains(&3)));
    assert!(tied.chunks(2).any(|chosen| chosen == [0, 2]));
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

pub fn experts_forward<D: Device>(
    device: &D,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Outputs {
    let given = experts_input(shape, count, scale);
    let kept = count * shape.top_k * 2 * shape.intermediate;
    let mut gate_up = written(device, kept);
    let mut out = written(device, count * shape.hidden);
    device
        .experts_forward(
            &input(device, &given.x),
            &routing(shape, count, load).upload(device),
            &input(device, &given.w13),
            &input(device, &given.w2),
            &input(device, &given.residual),
            &mut gate_up,
            &mut out,
            shape,
            count,
        )
        .unwrap();
    vec![
        ("gate_up", read(device, &gate_up, kept)),
        ("out", read(device, &out, count * shape.hidden)),
    ]
}

/// Both devices get the reference's `gate_up`.
pub fn experts_backward<D: Device>(
    device: &D,
    shape: &MoeShape,
    count: usize,
    load: Load,
    scale: f32,
) -> Outputs {
    let given = experts_input(shape, count, scale);
    let gate_up = &experts_forward(&ReferenceDevice, shape, count, load, scale)[0].1;
    let size = shape.experts * shape.hidden * shape.intermediate;
    let mut values = Values::new(count + 6);
    let grad_out = values.normal(count * shape.hidden, 1.0);
    let mut grad_x = written(device, count * shape.hidden);
    let mut grad_w13 = added(device, &values.normal(2 * size, 1.0));
    let mut grad_w2 = added(device, &values.normal(size, 1.0));
    let mut grad_weights = written_single(device, count * shape.top_k);
    device
        .experts_backward(
            &input(device, &grad_out),
            &input(device, &given.x),
            &routing(shape, count, load).upload(device),
            &input(device, &given.w13),
            &input(device, &given.w2),
            &input(device, gate_up),
            &mut grad_x,
            &mut grad_w13,
            &mut grad_w2,
            &mut grad_weights,
            shape,
            count,
        )
        .unwrap();
    vec![
        ("grad_x", read(device, &grad_x, count * shape.hidden)),
        ("grad_w13", read(device, &grad_w13, 2 * size)),
        ("grad_w2", read(device, &grad_w2, size)),
        (
            "grad_weights",
            read_single(device, &grad_weights, count * shape.top_k),
        ),
    ]
}

/// (hidden, intermediate, tokens)
fn experts_sizes() -> Vec<(usize, usize, usize)> {
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
    by_precision(all.collect(), simulated)
}

fn check_experts<D: Device>(device: &D) {
    for (hidden, intermediate, rows) in experts_sizes() {
        for (experts, top_k, load, scale) in [
            (8, 2, Load::Random, 1.0),
            (5, 3, Load::OneTakesAll, 1.0),
            (5, 2, Load::Empty, 1.0),
            // Gates of about 1e4: silu is 0 or the gate itself. In fp16 the squares of such gates are infinite.
            (3, 1, Load::Random, by_precision(1e4, 16.0)),
        ] {
            if hidden == 384 && load != Load::Random {
                continue;
            }
            let shape = shape(hidden, intermediate, experts, top_k);
            let case = (shape, rows, load, scale);
            let run = (&shape, rows, load, scale);
            same_as_reference!(
                "experts_forward",
                case,
                experts_forward,
                device,
                run.0,
                run.1,
                run.2,
                run.3
            );
            same_as_reference!(
                "experts_backward",
                case,
                experts_backward,
                device,
                run.0,
                run.1,
                run.2,
                run.3
            );
        }
    }
}

#[test]
fn cpu_equals_reference_experts() {
    check_experts(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_experts, check_experts);
