//! The bytes of a shard file: header, tokens, example index, answer spans. Everything is
//! little-endian, and sections start at multiples of 64 bytes, so that a mapped file is used as it
//! lies.

use bytemuck::{Pod, Zeroable};

use super::Split;

#[cfg(target_endian = "big")]
compile_error!(
    "shard files are little-endian and are read in place: big-endian machines are not supported"
);

/// Version of the files and of the manifest.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// First bytes of every shard file.
pub(super) const MAGIC: [u8; 8] = *b"MUNISHRD";

/// Sections start at multiples of this many bytes.
pub(super) const ALIGNMENT: u64 = 64;

/// Size of [`Header`] in bytes.
pub(super) const HEADER_SIZE: u64 = size_of::<Header>() as u64;

/// The first 128 bytes of a shard file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// [`HEADER_SIZE`].
    pub header_size: u32,
    /// Number of u16 tokens.
    pub token_count: u64,
    /// Number of [`IndexEntry`]s.
    pub example_count: u64,
    /// Number of [`Span`]s.
    pub span_count: u64,
    /// Byte offset of the tokens.
    pub tokens_offset: u64,
    /// Byte offset of the example index.
    pub examples_offset: u64,
    /// Byte offset of the spans.
    pub spans_offset: u64,
    /// Size of the whole file in bytes.
    pub file_size: u64,
    /// Every token is less than this.
    pub vocab_size: u32,
    /// 0 for training, 1 for validation.
    pub split: u32,
    /// SHA-256 of the tokenizer (`Tokenizer::fingerprint`).
    pub fingerprint: [u8; 32],
    /// Zero.
    pub reserved: [u8; 16],
}

/// One example in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct IndexEntry {
    /// First token, counted from the first of the file.
    pub start: u64,
    /// Number of tokens.
    pub length: u32,
    /// First answer span, counted from the first of the file.
    pub span_start: u32,
    /// Number of answer spans.
    pub span_count: u16,
    /// Index into the manifest's `offices`.
    pub office: u16,
    /// Bit i stands for entry i of the manifest's `techniques`.
    pub techniques: u32,
}

/// Where an answer stands in its example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Span {
    /// First token of the answer, counted from the first of the example.
    pub start: u32,
    /// Number of tokens.
    pub length: u32,
}

impl Header {
    /// The header of a file with these many entries: each section follows the one before at the
    /// next multiple of [`ALIGNMENT`], and the file ends at such a multiple. `None` when the counts
    /// overflow.
    pub(super) fn new(
        split: Split,
        counts: Counts,
        vocab_size: u32,
        fingerprint: [u8; 32],
    ) -> Option<Self> {
        let after = |offset: u64, count: u64, size: usize| {
            offset
                .checked_add(count.checked_mul(size as u64)?)?
                .checked_next_multiple_of(ALIGNMENT)
        };
        let tokens_offset = HEADER_SIZE;
        let examples_offset = after(tokens_offset, counts.tokens, size_of::<u16>())?;
        let spans_offset = after(examples_offset, counts.examples, size_of::<IndexEntry>())?;
        let file_size = after(spans_offset, counts.spans, size_of::<Span>())?;
        Some(Self {
            magic: MAGIC,
            version: FORMAT_VERSION,
            header_size: HEADER_SIZE as u32,
            token_count: counts.tokens,
            example_count: counts.examples,
            span_count: counts.spans,
            tokens_offset,
            examples_offset,
            spans_offset,
            file_size,
            vocab_size,
            split: match split {
                Split::Train => 0,
                Split::Validation => 1,
                Split::ValidationOod => 2,
            },
            fingerprint,
            reserved: [0; 16],
        })
    }
}

/// Sizes of the three sections of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub tokens: u64,
    pub examples: u64,
    pub spans: u64,
}

/// First reason why `spans` cannot be the answers of an example of `length` tokens.
pub(super) fn span_fault(spans: impl IntoIterator<Item = Span>, length: usize) -> Option<String> {
    let mut end = 0u64;
    for span in spans {
        let (start, size) = (u64::from(span.start), u64::from(span.length));
        if size == 0 || start < end || start + size > length as u64 {
            return Some(format!(
                "answer span (start {start}, length {size}) is not allowed after token {end} of \
                {length}: spans are not \
                 empty, stand in order, do not overlap and end with the example"
            ));
        }
        end = start + size;
    }
    None
}

/// Lower-case hexadecimal.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of a SHA-256 in hexadecimal.
pub(super) fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn layout_is_the_documented_one() {
        assert_eq!(size_of::<Header>(), 128);
        assert_eq!(offset_of!(Header, token_count), 16);
        assert_eq!(offset_of!(Header, tokens_offset), 40);
        assert_eq!(offset_of!(Header, file_size), 64);
        assert_eq!(offset_of!(Header, vocab_size), 72);
        assert_eq!(offset_of!(Header, fingerprint), 80);
        assert_eq!(offset_of!(Header, reserved), 112);
        assert_eq!(size_of::<IndexEntry>(), 24);
        assert_eq!(offset_of!(IndexEntry, office), 18);
        assert_eq!(size_of::<Span>(), 8);
    }

    #[test]
    fn sections_are_aligned_and_overflow_is_noticed() {
        let counts = Counts {
            tokens: 33,
            examples: 3,
            spans: 1,
        };
        let header = Header::new(Split::Train, counts, 50257, [0; 32]).unwrap();
        assert_eq!(header.examples_offset, 256);
        assert_eq!(header.spans_offset, 384);
        assert_eq!(header.file_size, 448);
        assert!(
            Header::new(
                Split::Train,
                Counts {
                    tokens: u64::MAX / 2,
                    ..counts
                },
                1,
                [0; 32]
            )
            .is_none()
        );
    }

    #[test]
    fn spans_are_checked() {
        let fault = |spans: &[(u32, u32)]| {
            span_fault(
                spans.iter().map(|&(start, length)| Span { start, length }),
                10,
            )
            .is_some()
        };
        assert!(!fault(&[]) && !fault(&[(0, 10)]) && !fault(&[(1, 2), (3, 7)]));
        assert!(
            fault(&[(0, 0)])
                && fault(&[(5, 6)])
                && fault(&[(4, 2), (5, 1)])
                && fault(&[(u32::MAX, u32::MAX)])
        );
    }

    #[test]
    fn hexadecimal_both_ways() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 8);
        assert_eq!(sha256_from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(sha256_from_hex("00"), None);
        assert_eq!(sha256_from_hex(&"zz".repeat(32)), None);
        assert_eq!(sha256_from_hex(&"ä".repeat(32)), None);
    }
}
