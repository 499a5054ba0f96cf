//! Attention over segments, its gradients, and attention over a cache.

use anyhow::{Result, ensure};

use super::{Outputs, Precision, Rig, Tally, Values, same_as_reference};
use crate::ops::{AttentionShape, CachedText, Device};

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
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Forward> {
    let count: usize = lengths.iter().sum();
    let qkv = Values::new(count).normal(count * shape.qkv_size(), scale);
    let segments = rig.input_index(&offsets(lengths))?;
    let mut out = rig.written(count * shape.out_size())?;
    let mut log_sum = rig.written_single(count * shape.heads)?;
    rig.device.attention_forward(
        &rig.input(&qkv)?,
        &segments,
        &mut out,
        &mut log_sum,
        shape,
        lengths.len(),
        count,
    )?;
    Ok(Forward {
        qkv,
        out: rig.read(&out, count * shape.out_size())?,
        log_sum: rig.read_single(&log_sum, count * shape.heads)?,
    })
}

/// Output and softmax statistics; `scale` is the standard deviation of queries, keys and values.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn attention_forward<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let forward = forward(rig, shape, lengths, scale)?;
    Ok(vec![("out", forward.out), ("log_sum", forward.log_sum)])
}

/// Both devices get the reference's `out` and `log_sum`: only the backward's own error is left.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn attention_backward<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let count: usize = lengths.iter().sum();
    let kept = forward(rig.reference(), shape, lengths, scale)?;
    let grad_out = Values::new(count + 1).normal(count * shape.out_size(), 1.0);
    let mut grad_qkv = rig.written(count * shape.qkv_size())?;
    rig.device.attention_backward(
        &rig.input(&grad_out)?,
        &rig.input(&kept.qkv)?,
        &rig.input(&kept.out)?,
        &rig.input_single(&kept.log_sum)?,
        &rig.input_index(&offsets(lengths))?,
        &mut grad_qkv,
        shape,
        lengths.len(),
        count,
    )?;
    Ok(vec![(
        "grad_qkv",
        rig.read(&grad_qkv, count * shape.qkv_size())?,
    )])
}

/// The gradients in f64, with `delta` from the rounded output as the devices have it.
fn backward_from_output<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let (count, size) = (lengths.iter().sum::<usize>(), shape.head_dim);
    let kept = forward(rig.reference(), shape, lengths, scale)?;
    let (qkv, out) = (rig.rounded(&kept.qkv), rig.rounded(&kept.out));
    let grad_out = rig.rounded(&Values::new(count + 1).normal(count * shape.out_size(), 1.0));
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
    Ok(vec![("grad_qkv", sums)])
}

pub(super) fn check_segments<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
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
            tally,
            rig,
            "attention_forward",
            case,
            attention_forward,
            &shape,
            lengths,
            scale
        );
        let operation = match scale > 1.0 {
            true => "attention_backward, peaked",
            false => "attention_backward",
        };
        if scale > 1.0 && rig.precision != Precision::Single {
            let operation = "attention_backward, peaked, same output";
            tally.compare(rig.precision, operation, case, || {
                let found = attention_backward(rig, &shape, lengths, scale)?;
                Ok((found, backward_from_output(rig, &shape, lengths, scale)?))
            });
        }
        same_as_reference!(
            tally,
            rig,
            operation,
            case,
            attention_backward,
            &shape,
            lengths,
            scale
        );
    }
}

/// Feeds the rows of `qkv` in the given portions and returns what each row gave, and the cache.
fn cached<D: Device>(
    rig: Rig<'_, D>,
    qkv: &[f32],
    shape: &AttentionShape,
    portions: &[usize],
) -> Result<Outputs> {
    let total: usize = portions.iter().sum();
    let capacity = total + 3;
    let len = capacity * shape.kv_size();
    // What a longer, dropped conversation left in the cache must not be read.
    let mut keys = rig.added(&vec![f32::NAN; len])?;
    let mut values = rig.added(&vec![f32::NAN; len])?;
    let (mut rows, mut past) = (Vec::new(), 0);
    for &count in portions {
        let new = &qkv[past * shape.qkv_size()..][..count * shape.qkv_size()];
        let mut out = rig.written(count * shape.out_size())?;
        rig.device.attention_cached(
            &rig.input(new)?,
            &mut keys,
            &mut values,
            &mut out,
            shape,
            past,
            count,
            capacity,
        )?;
        rows.extend(rig.read(&out, count * shape.out_size())?);
        past += count;
    }
    let cache = |buffer: &D::Float| -> Result<Vec<f32>> {
        let mut all = rig.read(buffer, len)?;
        let unused = all.split_off(total * shape.kv_size());
        ensure!(
            unused.iter().all(|value| value.is_nan()),
            "rows of the cache behind its text were written"
        );
        Ok(all)
    };
    Ok(vec![
        ("out", rows),
        ("keys", cache(&keys)?),
        ("values", cache(&values)?),
    ])
}

/// What portions must give: the whole of them at once, by the reference's attention over one segment.
fn at_once<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    portions: &[usize],
) -> Result<(Forward, Outputs)> {
    let total: usize = portions.iter().sum();
    let whole = forward(rig.reference(), shape, &[total], 1.0)?;
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
    Ok((whole, expected))
}

pub(super) fn check_cached<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
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
        let case = (shape, portions);
        tally.compare(rig.precision, "attention_cached", case, || {
            let (whole, expected) = at_once(rig, &shape, portions)?;
            Ok((cached(rig, &whole.qkv, &shape, portions)?, expected))
        });
        tally.compare(rig.precision, "attention_cached", case, || {
            let (whole, expected) = at_once(rig, &shape, portions)?;
            let found = cached(rig.reference(), &whole.qkv, &shape, portions)?;
            Ok((found, expected))
        });
    }
}

/// Every text of a batch gets what it gets alone, to the bit, and its cache holds the same.
pub(super) fn check_texts<D: Device>(rig: Rig<'_, D>, tally: &mut Tally) {
    let cases: [(AttentionShape, &[usize]); 5] = [
        (shape(1, 1, 2), &[0]),
        (shape(6, 3, 64), &[40, 0, 7, 40, 1]),
        (shape(4, 2, 16), &[3, 16]),
        (shape(3, 3, 36), &[0, 0, 0, 0, 0, 0, 65, 2, 9]),
        (shape(2, 1, 20), &[129]),
    ];
    for (shape, pasts) in cases {
        let name = format_args!("attention_cached_texts {shape:?} {pasts:?}");
        tally.case(name, || texts_equal_each_alone(rig, &shape, pasts));
    }
}

/// `pasts` are the lengths of the texts so far.
fn texts_equal_each_alone<D: Device>(
    rig: Rig<'_, D>,
    shape: &AttentionShape,
    pasts: &[usize],
) -> Result<usize> {
    let capacity = pasts.iter().max().map_or(0, |most| most + 2);
    let len = capacity * shape.kv_size();
    let rows = |past: usize, text: usize| {
        Values::new(1 + text + 100 * past).normal((past + 1) * shape.qkv_size(), 1.0)
    };
    let new = |past: usize, text: usize| rows(past, text).split_off(past * shape.qkv_size());
    // A text's cache after `past` rows.
    let cache = |(text, past): (usize, usize)| -> Result<(D::Float, D::Float)> {
        let mut keys = rig.added(&vec![f32::NAN; len])?;
        let mut values = rig.added(&vec![f32::NAN; len])?;
        let mut out = rig.written(past.max(1) * shape.out_size())?;
        let qkv = rig.input(&rows(past, text))?;
        if past > 0 {
            rig.device.attention_cached(
                &qkv,
                &mut keys,
                &mut values,
                &mut out,
                shape,
                0,
                past,
                capacity,
            )?;
        }
        Ok((keys, values))
    };
    let texts = || pasts.iter().copied().enumerate();
    let mut alone = Vec::new();
    for (text, past) in texts() {
        let (mut keys, mut values) = cache((text, past))?;
        let mut out = rig.written(shape.out_size())?;
        rig.device.attention_cached(
            &rig.input(&new(past, text))?,
            &mut keys,
            &mut values,
            &mut out,
            shape,
            past,
            1,
            capacity,
        )?;
        let out = rig.read(&out, shape.out_size())?;
        // Two operations that do nothing would be equal too.
        ensure!(
            out.iter().all(|value| value.is_finite()),
            "attention_cached: text {text}, alone, gave something that is not finite"
        );
        alone.push((out, rig.read(&keys, len)?, rig.read(&values, len)?));
    }
    let qkv: Vec<f32> = texts().flat_map(|(text, past)| new(past, text)).collect();
    let mut caches = texts().map(cache).collect::<Result<Vec<_>>>()?;
    let mut together: Vec<CachedText<D>> = caches
        .iter_mut()
        .zip(pasts)
        .map(|((keys, values), &past)| CachedText { keys, values, past })
        .collect();
    let mut out = rig.written(pasts.len() * shape.out_size())?;
    let qkv = rig.input(&qkv)?;
    rig.device
        .attention_cached_texts(&qkv, &mut together, &mut out, shape, capacity)?;
    let out = rig.read(&out, pasts.len() * shape.out_size())?;
    let mut compared = 0;
    let found = out.chunks(shape.out_size()).zip(&caches);
    for (text, ((row, (keys, values)), alone)) in found.zip(&alone).enumerate() {
        for (what, found, alone) in [
            ("output", row.to_vec(), &alone.0),
            ("keys", rig.read(keys, len)?, &alone.1),
            ("values", rig.read(values, len)?, &alone.2),
        ] {
            ensure!(
                same_bits(&found, alone),
                "the {what} of text {text} are not those that it has alone"
            );
            compared += found.len();
        }
    }
    Ok(compared)
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    bits(a) == bits(b)
}
