//! What ptxas reports of the kernels: hot ones use neither stack nor spills on any architecture,
//! and docs/generated/kernels.md holds the table. `UPDATE_DOCS=1 cargo test --test it cuda::ptxas`
//! writes it anew.

use muni_engine::ops::cuda::kernels::{ARCHITECTURES, KERNELS, MODULES, NO_KERNELS};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One kernel on one architecture.
#[derive(Clone, Debug, Default, PartialEq)]
struct Usage {
    registers: u32,
    /// Static shared memory in bytes.
    shared: u32,
    stack: u32,
    spills: u32,
}

/// By kernel and architecture.
type Report = BTreeMap<(String, u32), Usage>;

fn number_before(line: &str, word: &str) -> Option<u32> {
    line.split(word)
        .next()?
        .split_whitespace()
        .next_back()?
        .parse()
        .ok()
}

fn parse(report: &str, into: &mut Report) {
    let mut current: Option<(String, u32)> = None;
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut parts = rest.split('\'');
            let name = parts.next().unwrap_or_default().to_owned();
            let arch = parts.nth(1).and_then(|arch| arch.strip_prefix("sm_"));
            let arch = arch.and_then(|arch| arch.parse().ok()).unwrap_or(0);
            current = Some((name, arch));
            continue;
        }
        // A function's own lines come behind the entry that it is compiled for.
        let Some(current) = &current else { continue };
        let usage = into.entry(current.clone()).or_default();
        if line.contains("bytes stack frame") {
            usage.stack += number_before(line, " bytes stack frame").unwrap_or(u32::MAX / 4);
            let spills = line.split(',').skip(1);
            usage.spills += spills
                .filter_map(|part| number_before(part, " bytes spill"))
                .sum::<u32>();
        }
        if line.contains("Used ") && line.contains(" registers") {
            usage.registers = number_before(line, " registers").unwrap_or(0);
            usage.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
}

fn report() -> Report {
    let mut report = Report::new();
    MODULES
        .iter()
        .for_each(|module| parse(module.ptxas_report, &mut report));
    report
}

fn architectures() -> Vec<u32> {
    ARCHITECTURES
        .split(',')
        .filter_map(|arch| arch.parse().ok())
        .collect()
}

/// No kernels for cards in this build; said aloud, because then nothing is checked. CI builds with
/// `MUNI_CUDA=require`.
fn nothing_to_check() -> bool {
    if let Some(reason) = NO_KERNELS {
        eprintln!("ptxas' report is not checked: {reason}");
    }
    NO_KERNELS.is_some()
}

#[test]
fn reports_are_read() {
    let text = "\
ptxas info    : Compiling entry function 'one_f16' for 'sm_86'
ptxas info    : Function properties for one_f16
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 396 bytes cmem[0]
ptxas info    : Compiling entry function 'one_f16' for 'sm_120'
ptxas info    : Function properties for one_f16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
";
    let mut report = Report::new();
    parse(text, &mut report);
    let usage = |registers, shared, stack, spills| Usage {
        registers,
        shared,
        stack,
        spills,
    };
    assert_eq!(report[&("one_f16".to_owned(), 86)], usage(40, 2048, 16, 20));
    assert_eq!(report[&("one_f16".to_owned(), 120)], usage(255, 0, 0, 0));
}

#[test]
fn no_kernel_spills_or_has_a_stack_frame() {
    if nothing_to_check() {
        return;
    }
    let report = report();
    let architectures = architectures();
    assert!(!architectures.is_empty());
    for kernel in KERNELS
        .iter()
        .filter(|kernel| !kernel.name().starts_with("probe_"))
    {
        for &arch in &architectures {
            let usage = report.get(&(kernel.name().to_owned(), arch));
            let usage =
                usage.unwrap_or_else(|| panic!("no report of {} on sm_{arch}", kernel.name()));
            assert!(
                usage.registers > 0,
                "{} on sm_{arch}: {usage:?}",
                kernel.name()
            );
            assert_eq!(
                (usage.stack, usage.spills),
                (0, 0),
                "{} on sm_{arch}: {usage:?}",
                kernel.name()
            );
        }
    }
}

/// What one multiprocessor holds: threads, blocks, shared memory in bytes. Registers are 65,536 on
/// all.
fn limits(arch: u32) -> (u32, u32, u32) {
    match arch {
        80 => (2048, 32, 164 << 10),
        90 => (2048, 32, 228 << 10),
        89 => (1536, 24, 100 << 10),
        120 => (1536, 24, 100 << 10),
        _ => (1536, 16, 100 << 10),
    }
}

/// Share of a multiprocessor's threads that run at once, in percent: what registers, shared memory
/// and blocks allow.
fn occupancy(arch: u32, threads: u32, usage: &Usage, dynamic: u32) -> u32 {
    let (most_threads, most_blocks, memory) = limits(arch);
    let warps = threads.div_ceil(32);
    // Registers are given to warps in units of 256; a block's shared memory is rounded to 128 and
    // costs 1 KiB more.
    let per_warp = (usage.registers * 32).next_multiple_of(256);
    let by_registers = 65_536 / per_warp.max(1) / 4 * 4 / warps;
    let by_memory = memory / ((usage.shared + dynamic).next_multiple_of(128) + 1024);
    let by_threads = most_threads / (warps * 32);
    let blocks = by_registers.min(by_memory).min(by_threads).min(most_blocks);
    100 * blocks * warps * 32 / most_threads
}

fn table() -> String {
    let report = report();
    let architectures = architectures();
    let mut text = String::from(
        "| kernel | threads | shared memory, static + dynamic (bytes) | registers, occupancy |",
    );
    let heads: Vec<String> = architectures
        .iter()
        .map(|arch| format!("sm_{arch}"))
        .collect();
    text.truncate(text.len() - " registers, occupancy |".len());
    let _ = writeln!(text, " {} |", heads.join(" | "));
    let _ = writeln!(text, "|---|---|---|{}", "---|".repeat(heads.len()));
    for kernel in KERNELS {
        let usage = |arch: u32| {
            report
                .get(&(kernel.name().to_owned(), arch))
                .cloned()
                .unwrap_or_default()
        };
        let shared = architectures.first().map_or(0, |&arch| usage(arch).shared);
        let _ = write!(
            text,
            "| `{}` | {} | {shared} + {} |",
            kernel.name(),
            kernel.threads,
            kernel.dynamic_shared
        );
        for &arch in &architectures {
            let usage = usage(arch);
            let share = occupancy(arch, kernel.threads, &usage, kernel.dynamic_shared);
            let _ = write!(text, " {}, {share}% |", usage.registers);
        }
        text.push('\n');
    }
    text
}

const BEGIN: &str = "<!-- begin: made by UPDATE_DOCS=1 cargo test --test it cuda::ptxas -->\n";
const END: &str = "<!-- end -->\n";

#[test]
fn the_documentation_holds_the_table() {
    if nothing_to_check() {
        return;
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/generated/kernels.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            text == wanted,
            "the table of docs/generated/kernels.md is not this build's: \
             run UPDATE_DOCS=1 cargo test --test it cuda::ptxas"
        );
    }
}

#[test]
fn occupancy_is_what_the_tightest_resource_allows() {
    let usage = |registers, shared| Usage {
        registers,
        shared,
        ..Usage::default()
    };
    // 65536 / (128 * 128) = 4 blocks of 128 threads of 1536.
    assert_eq!(occupancy(86, 128, &usage(128, 0), 0), 33);
    // 100 KiB / 49 KiB = 2 blocks.
    assert_eq!(occupancy(86, 128, &usage(32, 0), 48 << 10), 16);
    // 16 blocks of 64 threads is all that sm_86 holds.
    assert_eq!(occupancy(86, 64, &usage(16, 0), 0), 66);
    assert_eq!(occupancy(80, 1024, &usage(32, 0), 0), 100);
}
