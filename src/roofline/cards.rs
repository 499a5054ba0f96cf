//! The cards that plans are made for. Rates are computed from what the makers publish
//! (docs/roofline.md names the sources): multiprocessors, boost clock, and the arithmetic of a
//! multiprocessor's tensor cores per clock.

use serde::Serialize;

/// A card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Card {
    /// Name on the command line.
    pub key: &'static str,
    /// Name for people.
    pub name: &'static str,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Boost clock in MHz.
    pub boost_mhz: f64,
    /// FLOPs of one multiprocessor's tensor cores per clock: dense fp16 inputs with fp32
    /// accumulation. GeForce cards do half of what they do with fp16 accumulation.
    pub flops_per_clock: f64,
    /// Share of that rate that `mma.sync` reaches at best.
    pub mma_sync_share: f64,
    /// Memory traffic.
    pub bytes_per_second: f64,
    /// Memory in bytes.
    pub memory: u64,
}

/// What a display, the driver and a context take of a card's memory, at the least that is sensible
/// to leave.
pub(crate) const RESERVED: u64 = 768 << 20;

const GEFORCE: f64 = 512.0;
const HOPPER: f64 = 4096.0;

#[rustfmt::skip]
#[allow(clippy::too_many_arguments)]
const fn card(
    key: &'static str,
    name: &'static str,
    multiprocessors: usize,
    boost_mhz: f64,
    flops_per_clock: f64,
    mma_sync_share: f64,
    gigabytes_per_second: f64,
    gib: u64,
) -> Card {
    Card {
        key,
        name,
        multiprocessors,
        boost_mhz,
        flops_per_clock,
        mma_sync_share,
        bytes_per_second: gigabytes_per_second * 1e9,
        memory: gib << 30,
    }
}

/// All cards.
#[rustfmt::skip]
pub(crate) static CARDS: [Card; 8] = [
    card("rtx3060",        "GeForce RTX 3060 12 GB",    28, 1777.0, GEFORCE, 1.0,   360.0, 12),
    card("rtx3070",        "GeForce RTX 3070",          46, 1725.0, GEFORCE, 1.0,   448.0, 8),
    card("rtx4060ti",      "GeForce RTX 4060 Ti 8 GB",  34, 2535.0, GEFORCE, 1.0,   288.0, 8),
    card("rtx4060ti-16gb", "GeForce RTX 4060 Ti 16 GB", 34, 2535.0, GEFORCE, 1.0,   288.0, 16),
    card("rtx4070",        "GeForce RTX 4070",          46, 2475.0, GEFORCE, 1.0,   504.0, 12),
    card("rtx4070ti",      "GeForce RTX 4070 Ti",       60, 2610.0, GEFORCE, 1.0,   504.0, 12),
    card("rtx4090",        "GeForce RTX 4090",         128, 2520.0, GEFORCE, 1.0,  1008.0, 24),
    card("h200",           "H200 SXM",                 132, 1830.0, HOPPER,  0.6,  4800.0, 131),
];

impl Card {
    /// FLOPs per second of dense products with fp16 inputs and fp32 accumulation.
    pub(crate) fn flops_per_second(&self) -> f64 {
        self.multiprocessors as f64 * self.boost_mhz * 1e6 * self.flops_per_clock
    }

    /// Bytes that a run may take.
    pub(crate) fn usable(&self) -> u64 {
        self.memory - RESERVED
    }
}

/// The card of that name; case, spaces and dashes do not matter.
pub(crate) fn find(name: &str) -> Option<&'static Card> {
    let plain = |text: &str| -> String {
        text.chars()
            .filter(|c| c.is_ascii_alphanumeric())
            .collect::<String>()
            .to_ascii_lowercase()
    };
    CARDS.iter().find(|card| plain(card.key) == plain(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_the_published_ones() {
        // NVIDIA's whitepapers on GA102 and Ada (fp16 inputs, fp32 accumulation, without sparsity)
        // and the H200's data sheet.
        for (key, teraflops) in [
            ("rtx3060", 25.5),
            ("rtx3070", 40.6),
            ("rtx4060ti", 44.1),
            ("rtx4070", 58.3),
            ("rtx4070ti", 80.2),
            ("rtx4090", 165.2),
            ("h200", 989.5),
        ] {
            let found = find(key).unwrap().flops_per_second() / 1e12;
            assert!((found - teraflops).abs() < 0.1, "{key}: {found}");
        }
    }

    #[test]
    fn names_are_read_generously() {
        assert_eq!(find("RTX 4060 Ti").unwrap().key, "rtx4060ti");
        assert_eq!(find("rtx-4060ti-16GB").unwrap().memory, 16 << 30);
        assert!(find("rtx9999").is_none());
    }
}
