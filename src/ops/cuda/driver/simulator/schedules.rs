//! The ways to run a launch: orders of its threads and blocks, patterns in memory that nobody
//! wrote.

/// One way to run a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) schedule: Schedule,
    /// Every byte that nobody wrote: NaNs, or a plausible number.
    pub(super) poison: u8,
    /// Whether `cp.async` reads its source when it is waited for, or when it is issued.
    pub(super) late_reads: bool,
}

/// As `sim::Schedule`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub(super) enum Schedule {
    Forward,
    Reverse,
    Shuffled,
    GreedyFirst,
    GreedyLast,
}

const fn way(schedule: Schedule, poison: u8, late_reads: bool) -> Run {
    Run {
        schedule,
        poison,
        late_reads,
    }
}

pub(super) const RUNS: [Run; 5] = [
    way(Schedule::Forward, 0xff, false),
    way(Schedule::GreedyFirst, 0x5a, true),
    way(Schedule::Reverse, 0x5a, false),
    way(Schedule::GreedyLast, 0xff, true),
    way(Schedule::Shuffled, 0x5a, true),
];
