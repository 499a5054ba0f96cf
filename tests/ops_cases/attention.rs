//! Attention over segments, its gradients, and attention over a cache.

use super::*;
use muni_engine::ops::cpu::CpuDevice;
use muni_engine::ops::{AttentionShape, CachedText};

const fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
    }
}

/// Segment lengths of one batch.
fn offsets(lengths: &[usize]) -> Vec<u32> {
    let mut offsets = vec![0];
    for &length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length as u32);
    }
    offsets
}

struct Forward {
    qkv: Vec<f32>,
    out: Vec<f32>,
    log_sum: Vec<f32>,
}

/// `scale` is the standard deviation of queries, keys and values.
fn forward<D: Device>(
    device: &D,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Forward {
    let count: usize = lengths.iter().sum();
    let qkv = Values::new(count).normal(count * shape.qkv_size(), scale);
    let segments = input_index(device, &offsets(lengths));
    let mut out = written(device, count * shape.out_size());
    let mut log_sum = written_single(device, count * shape.heads);
    device
        .attention_forward(
            &input(device, &qkv),
            &segments,
            &mut out,
            &mut log_sum,
            shape,
            lengths.len(),
            count,
        )
        .unwrap();
    Forward {
        qkv,
        out: read(device, &out, count * shape.out_size()),
        log_sum: read_single(device, &log_sum, count * shape.heads),
    }
}

pub fn attention_forward<D: Device>(
    device: &D,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Outputs {
    let forward = forward(device, shape, lengths, scale);
    vec![("out", forward.out), ("log_sum", forward.log_sum)]
}

/// Both devices get the reference's `out` and `log_sum`: only the backward's own error is left.
pub fn attention_backward<D: Device>(
    device: &D,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Outputs {
    let count: usize = lengths.iter().sum();
    let kept = forward(&ReferenceDevice, shape, lengths, scale);
    let grad_out = Values::new(count + 1).normal(count * shape.out_size(), 1.0);
    let mut grad_qkv = written(device, count * shape.qkv_size());
    device
        .attention_backward(
            &input(device, &grad_out),
            &input(device, &kept.qkv),
            &input(device, &kept.out),
            &input_single(device, &kept.log_sum),
            &input_index(device, &offsets(lengths)),
            &mut grad_qkv,
            shape,
            lengths.len(),
            count,
        )
        .unwrap();
    vec![(
        "grad_qkv",
        read(device, &grad_qkv, count * shape.qkv_size()),
    )]
}

/// The gradients in f64, with `delta` from the rounded output as the devices have it.
fn backward_from_output(shape: &AttentionShape, lengths: &[usize], scale: f32) -> Outputs {
    let (count, size) = (lengths.iter().sum::<usize>(), shape.head_dim);
    let kept = forward(&ReferenceDevice, shape, lengths, scale);
    let (qkv, out) = (rounded(&kept.qkv), rounded(&kept.out));
    let grad_out = rounded(&Values::new(count + 1).normal(count * shape.out_size(), 1.0));
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    let unit = 1.0 / (size as f64).sqrt();
    let mut sums = vec![0.0_f64; qkv.len()];
    let ends = offsets(lengths);
    for segment in ends.windows(2) {
        for t in segment[0] as usize..segment[1] as usize {
            for head in 0..shape.heads {
                let kv = head / (shape.heads / shape.kv_heads);
                let query = t * shape.qkv_size() + head * size;
                let row = t * shape.out_size() + head * size;
                let grad = &grad_out[row..][..size];
                let delta = dot(grad, &out[row..][..size]);
                let key_of = |s: usize| s * shape.qkv_size() + (shape.heads + kv) * size;
                let value_of = |s: usize| key_of(s) + shape.kv_size();
                let scores: Vec<f64> = (segment[0] as usize..=t)
                    .map(|s| unit * dot(&qkv[query..][..size], &qkv[key_of(s)..][..size]))
                    .collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let all: f64 = scores.iter().map(|score| (score - most).exp()).sum();
                for (s, score) in (segment[0] as usize..=t).zip(&scores) {
                    let p = (score - most).exp() / all;
                    let (key, value) = (key_of(s), value_of(s));
                    let product = unit * p * (dot(grad, &qkv[value..][..size]) - delta);
                    for d in 0..size {
                        sums[query + d] += product * f64::from(qkv[key + d]);
                        sums[key + d] += product * f64::from(qkv[query + d]);
                        sums[value + d] += p * f64::from(grad[d]);
                    }
                }
            }
        }
    }
    let sums = sums.into_iter().map(|sum| sum as f32).collect();
    vec![("grad_qkv", sums)]
}

fn check_attention<D: Device>(device: &D) {
    let cases: [(AttentionShape, &[usize], f32); 13] = [
        (shape(1, 1, 2), &[1], 1.0),
        (shape(2, 1, 10), &[1, 1, 1], 1.0),
        (shape(3, 3, 36), &[2, 3, 5, 7, 1], 1.0),
        (shape(4, 2, 16), &[17, 1, 63], 1.0),
        (shape(6, 2, 12), &[64, 65], 1.0),
        (shape(4, 1, 20), &[130, 1, 31, 32, 33], 1.0),
        (shape(6, 3, 64), &[5, 257, 1], 1.0),
        (shape(2, 1, 36), &[300], 1.0),
        // One key of a query takes all: scores of some tens.
        (shape(4, 2, 16), &[40, 7], 4.0),
        // Nearly uniform probabilities.
        (shape(4, 2, 16), &[40, 7], 1e-3),
        (shape(2, 2, 128), &[9, 12], 1.0),
        (shape(2, 1, 128), &[3, 90], 1.0),
        (shape(3, 1, 32), &[70, 1, 30], 1.0),
    ];
    for (shape, lengths, scale) in cases {
        let case = (shape, lengths, scale);
        same_as_reference!(
            "attention_forward",
            case,
            attention_forward,
            device,
            &shape,
            lengths,
            scale
        );
        let operation = match scale > 1.0 {
            true => "attention_backward, peaked",
            false => "attention_backward",
        };
        if scale > 1.0 && precision() != Precision::Single {
            let operation = "attention_backward, peaked, same output";
            let found = attention_backward(device, &shape, lengths, scale);
            let expected = backward_from_output(&shape, lengths, scale);
            compare(operation, &format!("{case:?}"), &found, &expected);
        }
        same_as_reference!(
            operation,
            case,
            attention_backward,
            device,
            &shape,
            lengths,
            scale
        );
    }
}

#[test]
fn cpu_equals_reference_attention() {
    check_attention(&CpuDevice::new());
}

on_simulator!(sim_equals_reference_attention, check_attention);

/// Feeds the rows of `qkv` in the given portions and returns what each row gave, and the cache.
fn cached<D: Device>(
    device: &D,
    qkv: &[f32],
    shape: &AttentionShape,
    portions: &[usize],
) -> Outputs {
    let total: usize = portions.iter().sum();
    let capacity = total + 3;
    let len = capacity * shape.kv_size();
    // What a longer, dropped conversation left in the cache must not be read.
    let mut keys = added(device, &vec![f32::NAN; len]);
    let mut values = added(device, &vec![f32::NAN; len]);
    let (mut rows, mut past) = (Vec::new(), 0);
    for &count in portions {
        let new = &qkv[past * shape.qkv_size()..][..count * shape.qkv_size()];
        let mut out = written(device, count * shape.out_size());
        device
            .attention_cached(
                &input(device, new),
                &mut keys,
                &mut values,
                &mut out,
                shape,
                past,
                count,
                capacity,
            )
            .unwrap();
        rows.extend(read(device, &out, count * shape.out_size()));
        past += count;
    }
    let cache = |buffer: &D::Float| {
        let mut all = read(device, buffer, len);
        let unused = all.split_off(total * shape.kv_size());
        assert!(unused.iter().all(|value| value.is_nan()));
        all
    };
    vec![
        ("out", rows),
        ("keys", cache(&keys)),
        ("values", cache(&values)),
    ]
}

fn check_attention_cached<D: Device>(device: &D) {
    let single_steps = [1; 40];
    let cases: [(AttentionShape, &[usize]); 8] = [
        (shape(1, 1, 2), &[1]),
        (shape(6, 3, 64), &single_steps),
        (shape(6, 3, 64), &[37, 1, 1, 1]),
        (shape(4, 2, 16), &[5, 3, 7, 1, 17]),
        (shape(3, 3, 36), &[1, 63, 1]),
        (shape(4, 1, 10), &[65, 64, 1, 1]),
        (shape(2, 1, 20), &[130, 127]),
        (shape(2, 1, 36), &[300, 1]),
    ];
    for (shape, portions) in cases {
        let total: usize = portions.iter().sum();
        // The whole of it at once, by the reference's attention over one segment.
        let whole = forward(&ReferenceDevice, &shape, &[total], 1.0);
        let columns = |from: usize| -> Vec<f32> {
            let rows = whole.qkv.chunks(shape.qkv_size());
            rows.flat_map(|row| &row[from..from + shape.kv_size()])
                .copied()
                .collect()
        };
        let expected = vec![
            ("out", whole.out.clone()),
            ("keys", columns(shape.out_size())),
            ("values", columns(shape.out_size() + shape.kv_size())),
        ];
        let case = format!("{shape:?} {portions:?}");
        let found = cached(device, &whole.qkv, &shape, portions);
        compare("attention_cached", &case, &found, &expected);
        let reference = cached(&ReferenceDevice, &whole.qkv, &shape, portions);
        compare("attention_cached", &case, &reference, &expected);
    }
}

#[test]
fn cpu_equals_reference_attention_cached() {
    check_attention_cached(&CpuDevice::new());
}

on_simulator!(
    sim_equals_reference_attention_cached,
    check_attention_cached
);

/// Every text of a batch gets what it gets alone, to the bit, and its cache holds the same.
fn check_attention_cached_texts<D: Device>(device: &D) {
    let cases: [(AttentionShape, &[usize]); 5] = [
        (shape(1, 1, 2), &[0]),
        (shape(6, 3, 64), &[40, 0, 7, 40, 1]),
        (shape(4, 2, 16), &[3, 16]),
        (shape(3, 3, 36), &[0, 0, 0, 0, 0, 0, 65, 2, 9]),
        (shape(2, 1, 20), &[129]),
    ];
    for (shape, pasts) in cases {
        let capacity = pasts.iter().max().unwrap() + 2;
        let len = capacity * shape.kv_size();
        let rows = |past: usize, text: usize| {
            Values::new(1 + text + 100 * past).normal((past + 1) * shape.qkv_size(), 1.0)
        };
        // A text's cache after `past` rows.
        let cache = |past: usize, text: usize| {
            let mut keys = added(device, &vec![f32::NAN; len]);
            let mut values = added(device, &vec![f32::NAN; len]);
            let mut out = written(device, past.max(1) * shape.out_size());
            let qkv = input(device, &rows(past, text));
            if past > 0 {
                device
                    .attention_cached(
                        &qkv,
                        &mut keys,
                        &mut values,
                        &mut out,
                        &shape,
                        0,
                        past,
                        capacity,
                    )
                    .unwrap();
            }
            (keys, values)
        };
        let new = |past: usize, text: usize| rows(past, text).split_off(past * shape.qkv_size());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let mut alone = Vec::new();
        for (text, &past) in pasts.iter().enumerate() {
            let (mut keys, mut values) = cache(past, text);
            let mut out = written(device, shape.out_size());
            let qkv = input(device, &new(past, text));
            device
                .attention_cached(
                    &qkv,
                    &mut keys,
                    &mut values,
                    &mut out,
                    &shape,
                    past,
                    1,
                    capacity,
                )
                .unwrap();
            let out = read(device, &out, shape.out_size());
            alone.push((out, read(device, &keys, len), read(device, &values, len)));
        }
        let texts = || pasts.iter().copied().enumerate();
        let qkv: Vec<f32> = texts().flat_map(|(text, past)| new(past, text)).collect();
        let mut caches: Vec<_> = texts().map(|(text, past)| cache(past, text)).collect();
        let mut together: Vec<CachedText<D>> = caches
            .iter_mut()
            .zip(pasts)
            .map(|((keys, values), &past)| CachedText { keys, values, past })
            .collect();
        let mut out = written(device, pasts.len() * shape.out_size());
        device
            .attention_cached_texts(
                &input(device, &qkv),
                &mut together,
                &mut out,
                &shape,
                capacity,
            )
            .unwrap();
        let out = read(device, &out, pasts.len() * shape.out_size());
        let rows = out.chunks(shape.out_size()).zip(&caches);
        for ((row, (keys, values)), (out, k, v)) in rows.zip(&alone) {
            let case = format!("{shape:?} {pasts:?}");
            assert_eq!(bits(row), bits(out), "{case}");
            assert_eq!(bits(&read(device, keys, len)), bits(k), "{case}");
            assert_eq!(bits(&read(device, values, len)), bits(v), "{case}");
        }
    }
}

#[test]
fn cpu_attention_cached_texts_equals_each_alone() {
    check_attention_cached_texts(&CpuDevice::new());
    check_attention_cached_texts(&ReferenceDevice);
}

on_simulator!(
    sim_attention_cached_texts_equals_each_alone,
    check_attention_cached_texts
);
