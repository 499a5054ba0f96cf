//! The conformance suite: every operation against the reference device, on seeded inputs. Tests run
//! it on the CPU and the simulator, `muni-engine doctor --check-kernels` on whatever a machine has.
//!
//! Each buffer is longer than the operation needs. Behind an input stand NaNs (or indices out of
//! range), so that a read past the used part spoils the result; behind an output stand sentinels
//! that must keep their bits. Outputs that an operation writes (`=`) begin as NaN, outputs that it
//! adds to (`+=`) begin as random values.
//!
//! Inputs of devices that store 16 bits are rounded for the reference too, so that only the
//! kernels' own error is left.
//!
//! A check that loses its cases does not pass: each says how many it has, in each precision.

pub mod attention;
pub mod bounds;
mod case_report;
pub mod embedding;
pub mod experts;
pub mod head;
pub mod linear;
pub mod optimizer;
pub mod rmsnorm;
pub(crate) mod rope;
pub mod router;
mod test_device;

pub(crate) use case_report::CaseReport;
pub use case_report::{Outcome, Outputs, difference};
pub use test_device::TestDevice;
pub(crate) use test_device::Values;

use serde::Serialize;
use std::fmt;

use super::Operations;

/// What a device multiplies and, on a card, stores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits, 24 of them significant: the CPU's own.
    #[serde(rename = "fp32")]
    #[value(name = "fp32")]
    Single,
    /// 16 bits, 8 of them significant, with the range of 32. The CPU rounds only what large
    /// products multiply.
    #[serde(rename = "bf16")]
    #[value(name = "bf16")]
    Bfloat,
    /// 16 bits, 11 of them significant; training moves a loss scale. For a card, and sim.
    #[serde(rename = "fp16")]
    #[value(name = "fp16")]
    Half,
}

impl Precision {
    /// `single` where the device stores `f32`, else `half`: for values that fp16 does not reach
    /// (65504 at most), and for sizes, because the simulator is slow.
    pub(crate) fn choose<T>(self, single: T, half: T) -> T {
        match self {
            Self::Single => single,
            Self::Half | Self::Bfloat => half,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Single => "fp32",
            Self::Half => "fp16",
            Self::Bfloat => "bf16",
        })
    }
}

/// Some operations of a device with all their cases.
pub struct Check<D: Operations> {
    /// `file/what`.
    pub name: &'static str,
    /// Cases that it has in fp32, fp16 and bf16; 0 where it is not for that precision.
    cases: [usize; 3],
    run: fn(TestDevice<'_, D>, &mut CaseReport),
}

impl<D: Operations> Check<D> {
    /// How many cases it has; 0 where it is not for this precision.
    pub fn cases(&self, precision: Precision) -> usize {
        let [single, half, bfloat] = self.cases;
        match precision {
            Precision::Single => single,
            Precision::Half => half,
            Precision::Bfloat => bfloat,
        }
    }

    /// Runs all cases; one that fails does not stop the others.
    pub fn run(&self, device: &D, precision: Precision) -> Outcome {
        let test = TestDevice::new(device, precision);
        let (name, cases) = (self.name, self.cases(precision));
        Outcome::of(name, Some(precision), cases, |report| {
            (self.run)(test, report)
        })
    }
}

/// Row counts on both sides of the tiles' and chunks' edges.
const ROWS: [usize; 11] = [1, 2, 3, 5, 7, 17, 63, 64, 65, 130, 257];

/// The table.
pub fn checks<D: Operations>() -> [Check<D>; 16] {
    let check = |name, single, half, run| Check {
        name,
        cases: [single, half, half],
        run,
    };
    [
        check("dense/embedding", 88, 88, embedding::check),
        check("dense/rmsnorm", 330, 330, rmsnorm::check),
        check("dense/linear", 290, 60, linear::check),
        check("dense/rope", 88, 88, rope::check),
        check("attention/segments", 26, 27, attention::check_segments),
        check("attention/cached", 16, 16, attention::check_prefill),
        check("attention/texts", 5, 5, attention::check_decode),
        check("moe/router", 360, 360, router::check),
        check("moe/experts", 100, 48, experts::check),
        check("head/loss", 165, 65, head::check_loss),
        Check {
            name: "head/gpt2-vocabulary",
            // Once: it takes long on the simulator, and bf16 differs in nothing that depends on the
            // vocabulary.
            cases: [0, 1, 0],
            run: head::check_gpt2_vocabulary,
        },
        check("head/all-ignored", 1, 1, head::check_all_ignored),
        check("head/broken-input", 16, 16, head::check_broken_input),
        check(
            "optimizer/global-norm",
            14,
            14,
            optimizer::check_global_norm,
        ),
        check("optimizer/adamw", 72, 72, optimizer::check_adamw),
        check("optimizer/broken-norm", 2, 2, optimizer::check_broken_norm),
    ]
}

/// Runs an operation on the device and on the reference device as one case, and compares.
macro_rules! same_as_reference {
    ($report:ident, $test:ident, $operation:expr, $case:expr, $run:ident $(, $argument:expr)*) => {
        $report.compare($test.precision, $operation, $case, || {
            Ok(($run($test $(, $argument)*)?, $run($test.reference() $(, $argument)*)?))
        })
    };
}
use same_as_reference;
