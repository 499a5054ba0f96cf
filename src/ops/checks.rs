//! Checks of lengths, ranges and shapes that the host's devices share. Every error begins with the
//! operation's name and states what was found and what is needed, so that a caller's mistake is
//! told apart from the device's.

use anyhow::{Result, bail, ensure};

use super::{AdamStep, AttentionShape, IGNORE_TARGET, MoeShape};

/// Number of elements of a `dims`-shaped buffer.
///
/// # Errors
/// Where the product does not fit `usize`.
pub(crate) fn element_count(op: &str, name: &str, dims: &[usize]) -> Result<usize> {
    let product = dims
        .iter()
        .try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    match product {
        Some(product) => Ok(product),
        None => bail!("{op}: the size of {name} {dims:?} does not fit this machine's addresses"),
    }
}

/// A buffer of `found` elements is long enough for `needed`.
///
/// # Errors
/// Where it is shorter.
pub(crate) fn expect_len(op: &str, name: &str, found: usize, needed: usize) -> Result<()> {
    ensure!(
        found >= needed,
        "{op}: {name} holds {found} elements, {needed} are needed"
    );
    Ok(())
}

/// The part of `buffer` that an operation may read: its first `dims[0] * dims[1] * ...` elements.
///
/// # Errors
/// Where the buffer is shorter than that.
pub(crate) fn prefix<'a, T>(
    op: &str,
    name: &str,
    buffer: &'a [T],
    dims: &[usize],
) -> Result<&'a [T]> {
    let needed = element_count(op, name, dims)?;
    match buffer.get(..needed) {
        Some(used) => Ok(used),
        None => bail!("{}", too_short(op, name, buffer.len(), needed, dims)),
    }
}

/// The part of `buffer` that an operation may write: its first `dims[0] * dims[1] * ...` elements.
///
/// # Errors
/// Where the buffer is shorter than that.
pub(crate) fn prefix_mut<'a, T>(
    op: &str,
    name: &str,
    buffer: &'a mut [T],
    dims: &[usize],
) -> Result<&'a mut [T]> {
    let needed = element_count(op, name, dims)?;
    let found = buffer.len();
    match buffer.get_mut(..needed) {
        Some(used) => Ok(used),
        None => bail!("{}", too_short(op, name, found, needed, dims)),
    }
}

fn too_short(op: &str, name: &str, found: usize, needed: usize, dims: &[usize]) -> String {
    format!("{op}: {name} holds {found} elements, {needed} are needed for {dims:?}")
}

/// Every token is a row of a `vocab`-row table.
///
/// # Errors
/// Names the first token that is not, and where it stands.
pub(crate) fn expect_tokens_in_range(
    op: &str,
    name: &str,
    tokens: &[u32],
    vocab: usize,
) -> Result<()> {
    match tokens.iter().position(|&token| token as usize >= vocab) {
        None => Ok(()),
        Some(at) => bail!(
            "{op}: {name}[{at}] is {}, the vocabulary has {vocab} tokens",
            tokens[at]
        ),
    }
}

/// Every target is a row of a `vocab`-row table or [`IGNORE_TARGET`].
///
/// # Errors
/// Names the first target that is not, and where it stands.
pub(crate) fn expect_targets_in_range(
    op: &str,
    name: &str,
    targets: &[u32],
    vocab: usize,
) -> Result<()> {
    let wrong = |&target: &u32| target != IGNORE_TARGET && target as usize >= vocab;
    match targets.iter().position(wrong) {
        None => Ok(()),
        Some(at) => bail!(
            "{op}: {name}[{at}] is {}, neither one of {vocab} tokens nor the mark for no loss \
             ({IGNORE_TARGET})",
            targets[at]
        ),
    }
}

/// `offsets` cut `total` positions into `parts` parts that are not empty: 0 first, increasing,
/// `total` last. Returns the `parts + 1` used offsets.
///
/// # Errors
/// Names the first offset that breaks this.
pub(crate) fn expect_offsets<'a>(
    op: &str,
    name: &str,
    offsets: &'a [u32],
    parts: usize,
    total: usize,
) -> Result<&'a [u32]> {
    let used = expect_offsets_or_empty(op, name, offsets, parts, total)?;
    if let Some(at) = used.windows(2).position(|pair| pair[0] == pair[1]) {
        bail!(
            "{op}: {name}[{}] is {} again, but every part needs at least one position",
            at + 1,
            used[at + 1]
        );
    }
    Ok(used)
}

/// As [`expect_offsets`], with empty parts allowed (an expert without tokens).
///
/// # Errors
/// Names the first offset that breaks this.
pub(crate) fn expect_offsets_or_empty<'a>(
    op: &str,
    name: &str,
    offsets: &'a [u32],
    parts: usize,
    total: usize,
) -> Result<&'a [u32]> {
    let used = prefix(op, name, offsets, &[parts.saturating_add(1)])?;
    ensure!(
        used[0] == 0,
        "{op}: {name}[0] is {}, offsets begin with 0",
        used[0]
    );
    if let Some(at) = used.windows(2).position(|pair| pair[0] > pair[1]) {
        bail!(
            "{op}: {name}[{}] is {}, less than {} before it",
            at + 1,
            used[at + 1],
            used[at]
        );
    }
    ensure!(
        used[parts] as usize == total,
        "{op}: {name}[{parts}] is {}, but the parts make {total} positions",
        used[parts]
    );
    Ok(used)
}

/// A size that an operation divides by, or that must not be empty.
///
/// # Errors
/// Where it is 0.
pub(crate) fn expect_nonzero(op: &str, name: &str, value: usize) -> Result<()> {
    ensure!(value > 0, "{op}: {name} is 0, at least 1 is needed");
    Ok(())
}

/// `count` new positions after `past` fit a cache of `capacity`.
///
/// # Errors
/// Where they do not.
pub(crate) fn expect_room(op: &str, past: usize, count: usize, capacity: usize) -> Result<()> {
    ensure!(
        past.checked_add(count).is_some_and(|end| end <= capacity),
        "{op}: {past} cached and {count} new positions do not fit a cache of {capacity}"
    );
    Ok(())
}

/// Heads, key/value heads and head size fit together.
///
/// # Errors
/// Names the size that does not fit.
pub(crate) fn expect_attention_shape(op: &str, shape: &AttentionShape) -> Result<()> {
    let &AttentionShape {
        heads,
        kv_heads,
        head_dim,
    } = shape;
    expect_nonzero(op, "the number of heads", heads)?;
    expect_nonzero(op, "the number of key/value heads", kv_heads)?;
    ensure!(
        heads.is_multiple_of(kv_heads),
        "{op}: {heads} heads are not a multiple of {kv_heads} key/value heads"
    );
    ensure!(
        head_dim > 0 && head_dim.is_multiple_of(2),
        "{op}: the head size is {head_dim}, it must be even and at least 2"
    );
    Ok(())
}

/// Sizes of the mixture of experts fit together, and `tokens` of them can be numbered by `u32`
/// slots.
///
/// # Errors
/// Names the size that does not fit.
pub(crate) fn expect_moe_shape(op: &str, shape: &MoeShape, tokens: usize) -> Result<()> {
    expect_nonzero(op, "the hidden size", shape.hidden)?;
    expect_nonzero(op, "the intermediate size", shape.intermediate)?;
    expect_nonzero(op, "the number of experts", shape.experts)?;
    ensure!(
        (1..=shape.experts).contains(&shape.top_k),
        "{op}: {} experts per token are asked for, there are {}",
        shape.top_k,
        shape.experts
    );
    let slots = element_count(op, "slots", &[tokens, shape.top_k])?;
    ensure!(
        u32::try_from(slots).is_ok(),
        "{op}: {tokens} tokens with {} experts each are more slots than 32 bits count",
        shape.top_k
    );
    Ok(())
}

/// The index buffers of a [`super::Routing`] as slices, of any length.
#[derive(Clone, Copy)]
pub(crate) struct RoutingIndices<'a> {
    /// Chosen experts `[T, K]`.
    pub experts: &'a [u32],
    /// First slot of each expert `[E + 1]`.
    pub offsets: &'a [u32],
    /// `token * K + choice` of each slot `[T K]`.
    pub slot_source: &'a [u32],
    /// Slot of each (token, choice) `[T, K]`.
    pub source_slot: &'a [u32],
}

/// A routing that `router_forward` could have made for `tokens` tokens: expert numbers in range,
/// slots grouped by expert, `slot_source` and `source_slot` inverse to each other. After it,
/// indexing by any of them is in range. Returns the used part of each buffer.
///
/// # Errors
/// Names the first value that breaks this.
pub(crate) fn expect_routing<'a>(
    op: &str,
    routing: RoutingIndices<'a>,
    shape: &MoeShape,
    tokens: usize,
) -> Result<RoutingIndices<'a>> {
    expect_moe_shape(op, shape, tokens)?;
    let dims = [tokens, shape.top_k];
    let slots = tokens * shape.top_k;
    let experts = prefix(op, "routing.experts", routing.experts, &dims)?;
    let slot_source = prefix(op, "routing.slot_source", routing.slot_source, &dims)?;
    let source_slot = prefix(op, "routing.source_slot", routing.source_slot, &dims)?;
    let name = "routing.offsets";
    let offsets = expect_offsets_or_empty(op, name, routing.offsets, shape.experts, slots)?;

    for (expert, bounds) in offsets.windows(2).enumerate() {
        for slot in bounds[0]..bounds[1] {
            let source = slot_source[slot as usize];
            ensure!(
                (source as usize) < slots,
                "{op}: routing.slot_source[{slot}] is {source}, there are {slots} slots"
            );
            let (found, back) = (experts[source as usize], source_slot[source as usize]);
            ensure!(
                found as usize == expert,
                "{op}: routing.experts[{source}] is {found}, but its slot {slot} belongs to expert \
                 {expert}"
            );
            ensure!(
                back == slot,
                "{op}: routing.source_slot[{source}] is {back}, but slot {slot} names it as its \
                 source"
            );
        }
    }
    Ok(RoutingIndices {
        experts,
        offsets,
        slot_source,
        source_slot,
    })
}

/// Numbers of an AdamW update are ones that the formula is defined for.
///
/// # Errors
/// Names the number that is not.
pub(crate) fn expect_adam_step(op: &str, step: &AdamStep) -> Result<()> {
    for (name, value) in [
        ("weight_decay", step.weight_decay),
        ("epsilon", step.epsilon),
    ] {
        ensure!(
            value.is_finite() && value >= 0.0,
            "{op}: {name} is {value}, it must be finite and not negative"
        );
    }
    for (name, value) in [("beta1", step.beta1), ("beta2", step.beta2)] {
        ensure!(
            (0.0..1.0).contains(&value),
            "{op}: {name} is {value}, it must lie in 0..1"
        );
    }
    ensure!(
        step.max_norm >= 0.0,
        "{op}: max_norm is {}, it must not be negative",
        step.max_norm
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => "no error".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn lengths_name_the_operation_and_both_values() {
        assert_eq!(
            message(prefix("linear_forward", "x", &[0.0; 14], &[3, 5])),
            "linear_forward: x holds 14 elements, 15 are needed for [3, 5]"
        );
        assert!(prefix("linear_forward", "x", &[0.0; 16], &[3, 5]).is_ok_and(|x| x.len() == 15));
        assert!(expect_len("clear", "buffer", 3, 4).is_err());
        assert!(element_count("zeros", "buffer", &[usize::MAX, 2]).is_err());
    }

    #[test]
    fn tokens_and_targets_out_of_range_are_named() {
        assert_eq!(
            message(expect_tokens_in_range(
                "embedding_forward",
                "tokens",
                &[1, 7, 9],
                7
            )),
            "embedding_forward: tokens[1] is 7, the vocabulary has 7 tokens"
        );
        assert!(expect_targets_in_range("head_loss", "targets", &[6, IGNORE_TARGET], 7).is_ok());
        assert!(expect_targets_in_range("head_loss", "targets", &[IGNORE_TARGET - 1], 7).is_err());
    }

    #[test]
    fn offsets_begin_with_zero_increase_and_end_with_the_total() {
        let check = |offsets: &[u32], parts| {
            expect_offsets("attention_forward", "segments", offsets, parts, 5).map(<[u32]>::len)
        };
        assert_eq!(check(&[0, 2, 5, 99], 2).ok(), Some(3));
        for (wrong, parts) in [
            (&[1_u32, 5][..], 1),
            (&[0, 4], 1),
            (&[0, 3, 2, 5], 3),
            (&[0, 3, 3, 5], 3),
            (&[0, 5], 2),
            (&[], 0),
        ] {
            assert!(check(wrong, parts).is_err(), "{wrong:?}");
        }
        assert!(expect_offsets_or_empty("router", "offsets", &[0, 0, 5], 2, 5).is_ok());
    }

    #[test]
    fn an_inconsistent_routing_is_refused() {
        let shape = MoeShape {
            hidden: 2,
            intermediate: 2,
            experts: 3,
            top_k: 2,
        };
        let experts = [2, 0, 0, 2];
        let good = RoutingIndices {
            experts: &experts,
            offsets: &[0, 2, 2, 4],
            slot_source: &[1, 2, 0, 3],
            source_slot: &[2, 0, 1, 3],
        };
        let check = |routing| expect_routing("experts_forward", routing, &shape, 2).is_ok();
        assert!(check(good));
        assert!(!check(RoutingIndices {
            experts: &[2, 1, 0, 2],
            ..good
        }));
        assert!(!check(RoutingIndices {
            offsets: &[0, 2, 3, 4],
            ..good
        }));
        assert!(!check(RoutingIndices {
            slot_source: &[1, 2, 0, 4],
            ..good
        }));
        assert!(!check(RoutingIndices {
            slot_source: &[1, 1, 0, 3],
            ..good
        }));
        assert!(!check(RoutingIndices {
            source_slot: &[2, 1, 0, 3],
            ..good
        }));
    }
}
