//! Attention over segments, its gradients, and attention over a cache.

use anyhow::{Result, ensure};

use super::{CaseReport, Outputs, Precision, TestDevice, Values, same_as_reference};
use crate::ops::{AttentionBackward, AttentionDecode, AttentionForward, AttentionPrefill};
use crate::ops::{AttentionShape, Buffer, CachedSequence, Offsets, Operations, issue};

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
fn forward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Forward> {
    let count: usize = lengths.iter().sum();
    let qkv = Values::new(count).normal(count * shape.qkv_size(), scale);
    let segments = test.input_index(&offsets(lengths))?;
    let mut out = test.written(count * shape.out_size())?;
    let mut log_sum = test.written_single(count * shape.heads)?;
    issue(
        test.device,
        AttentionForward {
            qkv: test.input(&qkv)?.matrix(count, shape.qkv_size()),
            segments: Offsets::new(&segments, lengths.len()),
            out: out.matrix_mut(count, shape.out_size()),
            log_sum: log_sum.matrix_mut(count, shape.heads),
            shape: *shape,
        },
    )?;
    Ok(Forward {
        qkv,
        out: test.read(&out, count * shape.out_size())?,
        log_sum: test.read_single(&log_sum, count * shape.heads)?,
    })
}

/// Output and softmax statistics; `scale` is the standard deviation of queries, keys and values.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn attention_forward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let forward = forward(test, shape, lengths, scale)?;
    Ok(vec![("out", forward.out), ("log_sum", forward.log_sum)])
}

/// Both devices get the reference's `out` and `log_sum`: only the backward's own error is left.
///
/// # Errors
/// When the device fails, or writes behind an output.
pub fn attention_backward<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let count: usize = lengths.iter().sum();
    let kept = forward(test.reference(), shape, lengths, scale)?;
    let grad_out = Values::new(count + 1).normal(count * shape.out_size(), 1.0);
    let mut grad_qkv = test.written(count * shape.qkv_size())?;
    issue(
        test.device,
        AttentionBackward {
            grad_out: test.input(&grad_out)?.matrix(count, shape.out_size()),
            qkv: test.input(&kept.qkv)?.matrix(count, shape.qkv_size()),
            out: test.input(&kept.out)?.matrix(count, shape.out_size()),
            log_sum: test.input_single(&kept.log_sum)?.matrix(count, shape.heads),
            segments: Offsets::new(&test.input_index(&offsets(lengths))?, lengths.len()),
            grad_qkv: grad_qkv.matrix_mut(count, shape.qkv_size()),
            shape: *shape,
        },
    )?;
    Ok(vec![(
        "grad_qkv",
        test.read(&grad_qkv, count * shape.qkv_size())?,
    )])
}

/// The gradients in f64, with `delta` from the rounded output as the devices have it.
fn backward_from_output<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    lengths: &[usize],
    scale: f32,
) -> Result<Outputs> {
    let (count, size) = (lengths.iter().sum::<usize>(), shape.head_dim);
    let kept = forward(test.reference(), shape, lengths, scale)?;
    let (qkv, out) = (test.rounded(&kept.qkv), test.rounded(&kept.out));
    let grad_out = test.rounded(&Values::new(count + 1).normal(count * shape.out_size(), 1.0));
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

pub(super) fn check_segments<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
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
            report,
            test,
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
        if scale > 1.0 && test.precision != Precision::Single {
            let operation = "attention_backward, peaked, same output";
            report.compare(test.precision, operation, case, || {
                let found = attention_backward(test, &shape, lengths, scale)?;
                Ok((found, backward_from_output(test, &shape, lengths, scale)?))
            });
        }
        same_as_reference!(
            report,
            test,
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
fn cached<D: Operations>(
    test: TestDevice<'_, D>,
    qkv: &[f32],
    shape: &AttentionShape,
    portions: &[usize],
) -> Result<Outputs> {
    let total: usize = portions.iter().sum();
    let capacity = total + 3;
    let len = capacity * shape.kv_size();
    // What a longer, dropped conversation left in the cache must not be read.
    let mut keys = test.added(&vec![f32::NAN; len])?;
    let mut values = test.added(&vec![f32::NAN; len])?;
    let (mut rows, mut past) = (Vec::new(), 0);
    for &count in portions {
        let new = &qkv[past * shape.qkv_size()..][..count * shape.qkv_size()];
        let mut out = test.written(count * shape.out_size())?;
        issue(
            test.device,
            AttentionPrefill {
                qkv: test.input(new)?.matrix(count, shape.qkv_size()),
                sequence: CachedSequence {
                    keys: keys.matrix_mut(capacity, shape.kv_size()),
                    values: values.matrix_mut(capacity, shape.kv_size()),
                    past,
                },
                out: out.matrix_mut(count, shape.out_size()),
                shape: *shape,
            },
        )?;
        rows.extend(test.read(&out, count * shape.out_size())?);
        past += count;
    }
    let cache = |buffer: &D::Float| -> Result<Vec<f32>> {
        let mut all = test.read(buffer, len)?;
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

/// What portions must give: the whole of them at once, by the reference's attention over one
/// segment.
fn at_once<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    portions: &[usize],
) -> Result<(Forward, Outputs)> {
    let total: usize = portions.iter().sum();
    let whole = forward(test.reference(), shape, &[total], 1.0)?;
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

pub(super) fn check_prefill<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
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
        report.compare(test.precision, "attention_prefill", case, || {
            let (whole, expected) = at_once(test, &shape, portions)?;
            Ok((cached(test, &whole.qkv, &shape, portions)?, expected))
        });
        report.compare(test.precision, "attention_prefill", case, || {
            let (whole, expected) = at_once(test, &shape, portions)?;
            let found = cached(test.reference(), &whole.qkv, &shape, portions)?;
            Ok((found, expected))
        });
    }
}

/// Every sequence of a batch gets what it gets alone, to the bit, and its cache holds the same.
pub(super) fn check_decode<D: Operations>(test: TestDevice<'_, D>, report: &mut CaseReport) {
    let cases: [(AttentionShape, &[usize]); 5] = [
        (shape(1, 1, 2), &[0]),
        (shape(6, 3, 64), &[40, 0, 7, 40, 1]),
        (shape(4, 2, 16), &[3, 16]),
        (shape(3, 3, 36), &[0, 0, 0, 0, 0, 0, 65, 2, 9]),
        (shape(2, 1, 20), &[129]),
    ];
    for (shape, pasts) in cases {
        let name = format_args!("attention_decode {shape:?} {pasts:?}");
        report.case(name, || sequences_equal_each_alone(test, &shape, pasts));
    }
}

/// `pasts` are the lengths of the sequences so far.
fn sequences_equal_each_alone<D: Operations>(
    test: TestDevice<'_, D>,
    shape: &AttentionShape,
    pasts: &[usize],
) -> Result<usize> {
    let capacity = pasts.iter().max().map_or(0, |most| most + 2);
    let len = capacity * shape.kv_size();
    let rows = |past: usize, sequence: usize| {
        Values::new(1 + sequence + 100 * past).normal((past + 1) * shape.qkv_size(), 1.0)
    };
    let new =
        |past: usize, sequence: usize| rows(past, sequence).split_off(past * shape.qkv_size());
    // A sequence's cache after `past` rows.
    let cache = |(sequence, past): (usize, usize)| -> Result<(D::Float, D::Float)> {
        let mut keys = test.added(&vec![f32::NAN; len])?;
        let mut values = test.added(&vec![f32::NAN; len])?;
        let mut out = test.written(past.max(1) * shape.out_size())?;
        let qkv = test.input(&rows(past, sequence))?;
        if past > 0 {
            issue(
                test.device,
                AttentionPrefill {
                    qkv: qkv.matrix(past, shape.qkv_size()),
                    sequence: CachedSequence {
                        keys: keys.matrix_mut(capacity, shape.kv_size()),
                        values: values.matrix_mut(capacity, shape.kv_size()),
                        past: 0,
                    },
                    out: out.matrix_mut(past, shape.out_size()),
                    shape: *shape,
                },
            )?;
        }
        Ok((keys, values))
    };
    let sequences = || pasts.iter().copied().enumerate();
    let mut alone = Vec::new();
    for (sequence, past) in sequences() {
        let (mut keys, mut values) = cache((sequence, past))?;
        let mut out = test.written(shape.out_size())?;
        issue(
            test.device,
            AttentionPrefill {
                qkv: test
                    .input(&new(past, sequence))?
                    .matrix(1, shape.qkv_size()),
                sequence: CachedSequence {
                    keys: keys.matrix_mut(capacity, shape.kv_size()),
                    values: values.matrix_mut(capacity, shape.kv_size()),
                    past,
                },
                out: out.matrix_mut(1, shape.out_size()),
                shape: *shape,
            },
        )?;
        let out = test.read(&out, shape.out_size())?;
        // Two operations that do nothing would be equal too.
        ensure!(
            out.iter().all(|value| value.is_finite()),
            "attention_prefill: sequence {sequence}, alone, gave something that is not finite"
        );
        alone.push((out, test.read(&keys, len)?, test.read(&values, len)?));
    }
    let qkv: Vec<f32> = sequences()
        .flat_map(|(sequence, past)| new(past, sequence))
        .collect();
    let mut caches = sequences().map(cache).collect::<Result<Vec<_>>>()?;
    let together = caches.iter_mut().zip(pasts);
    let together = together.map(|((keys, values), &past)| CachedSequence {
        keys: keys.matrix_mut(capacity, shape.kv_size()),
        values: values.matrix_mut(capacity, shape.kv_size()),
        past,
    });
    let mut out = test.written(pasts.len() * shape.out_size())?;
    issue(
        test.device,
        AttentionDecode {
            qkv: test.input(&qkv)?.matrix(pasts.len(), shape.qkv_size()),
            sequences: together.collect(),
            out: out.matrix_mut(pasts.len(), shape.out_size()),
            shape: *shape,
        },
    )?;
    let out = test.read(&out, pasts.len() * shape.out_size())?;
    let mut compared = 0;
    let found = out.chunks(shape.out_size()).zip(&caches);
    for (sequence, ((row, (keys, values)), alone)) in found.zip(&alone).enumerate() {
        for (what, found, alone) in [
            ("output", row.to_vec(), &alone.0),
            ("keys", test.read(keys, len)?, &alone.1),
            ("values", test.read(values, len)?, &alone.2),
        ] {
            ensure!(
                same_bits(&found, alone),
                "the {what} of sequence {sequence} are not those that it has alone"
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
