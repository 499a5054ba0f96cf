//! Where to compute: the one place that knows which devices there are. A command hands in a
//! [`Task`] and gets it run on the device that was asked for.

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use std::str::FromStr;
use std::sync::Arc;

use crate::ops::TrainingDevice;
use crate::ops::conformance::Precision;
use crate::ops::cpu::{CpuDevice, MatmulPrecision};
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::driver::cudarc_driver::{self, CudarcDriver};
use crate::ops::cuda::driver::profile::{Profile, ProfilingDriver};
use crate::ops::cuda::driver::simulator::SimDriver;
use crate::ops::cuda::{CudaDevice, LossScaling};

/// What a command does on whatever device it gets.
pub(super) trait Task {
    /// Does it.
    fn run<D: TrainingDevice>(self, device: &D) -> Result<()>;
}

/// What is done with a device in each precision that it stores, and with the driver below it where
/// there is one.
pub(super) trait Inspection {
    /// Looks at the driver.
    fn driver(&mut self, driver: &Arc<dyn Driver>);
    /// Looks at the device.
    fn device<D: TrainingDevice>(&mut self, device: &D, precision: Precision);
}

/// Arguments of every command that computes.
#[derive(clap::Args)]
pub(super) struct DeviceArguments {
    /// Where to compute: auto (a CUDA card where there is one, else the CPU), cpu, cuda:N, or sim
    /// (the CUDA kernels, simulated: slow, for tests).
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        value_parser = DeviceChoice::from_str
    )]
    device: DeviceChoice,
    /// What is multiplied and, on a card, stored [default: fp32 on the CPU, fp16 on a card].
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// CPU threads [default: all]. The result does not depend on it.
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024)
    )]
    threads: Option<usize>,
}

/// A device as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
    Simulator,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("cuda:").map(str::parse);
        match (text, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("sim", _) => Ok(Self::Simulator),
            (_, Some(Ok(number))) => Ok(Self::Cuda(number)),
            _ => Err("expected auto, cpu, sim or cuda:N, e.g. cuda:0".to_string()),
        }
    }
}

impl DeviceChoice {
    /// Has the device looked at in every precision, without a loss scale. The simulator runs each
    /// launch under all of its schedules.
    ///
    /// # Errors
    /// When the device cannot be had, with what is missing.
    pub(super) fn inspect(self, inspection: &mut impl Inspection) -> Result<()> {
        let driver: Arc<dyn Driver> = match self {
            Self::Cuda(number) => Arc::new(CudarcDriver::new(number)?),
            Self::Simulator => Arc::new(SimDriver::new(true)?),
            Self::Auto => match cudarc_driver::first_card() {
                Some(driver) => Arc::new(driver),
                None => return Self::Cpu.inspect(inspection),
            },
            Self::Cpu => {
                inspection.device(&CpuDevice::new(), Precision::Single);
                let rounding = CpuDevice::with_precision(MatmulPrecision::Bf16);
                inspection.device(&rounding, Precision::Bfloat);
                return Ok(());
            }
        };
        inspection.driver(&driver);
        let scaling = LossScaling::Fixed(1.0);
        let device = CudaDevice::<f16>::on(driver.clone(), scaling)?;
        inspection.device(&device, Precision::Half);
        drop(device);
        let device = CudaDevice::<bf16>::on(driver, scaling)?;
        inspection.device(&device, Precision::Bfloat);
        Ok(())
    }
}

impl DeviceArguments {
    /// Runs a task on the device that was asked for.
    ///
    /// # Errors
    /// When the device cannot be had, with what is missing, and whatever the task says.
    pub(super) fn run(&self, task: impl Task) -> Result<()> {
        self.run_profiled(None, task)
    }

    /// As [`Self::run`], with the times of all kernels going to the profile.
    ///
    /// # Errors
    /// Also where a profile is wanted of the CPU.
    pub(super) fn run_profiled(
        &self,
        profile: Option<&Arc<Profile>>,
        task: impl Task,
    ) -> Result<()> {
        // The calling thread is one of them, so that handing an operation to the pool never means
        // waking somebody and going to sleep.
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.unwrap_or(0))
            .use_current_thread()
            .build_global()
            .context("cannot start the threads; try --threads 1")?;
        match self.device {
            DeviceChoice::Cpu => self.run_on_cpu(profile, task),
            DeviceChoice::Cuda(number) => self.run_on(CudarcDriver::new(number)?, profile, task),
            DeviceChoice::Simulator => self.run_on(SimDriver::new(false)?, profile, task),
            // No card, no driver or no kernels is no failure here; a card that fails later is one.
            DeviceChoice::Auto => match cudarc_driver::first_card() {
                Some(driver) => self.run_on(driver, profile, task),
                None => self.run_on_cpu(profile, task),
            },
        }
    }

    fn run_on(
        &self,
        driver: impl Driver + 'static,
        profile: Option<&Arc<Profile>>,
        task: impl Task,
    ) -> Result<()> {
        match profile {
            Some(profile) => {
                self.run_precisely(ProfilingDriver::new(driver, profile.clone()), task)
            }
            None => self.run_precisely(driver, task),
        }
    }

    fn run_precisely(&self, driver: impl Driver + 'static, task: impl Task) -> Result<()> {
        match self.precision {
            None | Some(Precision::Half) => {
                task.run(&CudaDevice::<f16>::new(driver, LossScaling::of::<f16>())?)
            }
            Some(Precision::Bfloat) => {
                task.run(&CudaDevice::<bf16>::new(driver, LossScaling::of::<bf16>())?)
            }
            Some(Precision::Single) => bail!(
                "--precision is fp32, and a card stores 16 bits: use fp16 or bf16, or --device cpu"
            ),
        }
    }

    fn run_on_cpu(&self, profile: Option<&Arc<Profile>>, task: impl Task) -> Result<()> {
        ensure!(
            profile.is_none(),
            "a profile is made of kernels, and the device is the CPU: use --device cuda:0, or sim"
        );
        let precision = match self.precision {
            None | Some(Precision::Single) => MatmulPrecision::Single,
            Some(Precision::Bfloat) => MatmulPrecision::Bf16,
            Some(Precision::Half) => bail!(
                "--precision is fp16, and the device is the CPU: use fp32 or bf16, or --device \
                 cuda:0"
            ),
        };
        task.run(&CpuDevice::with_precision(precision))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_exactly() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda:1".parse(), Ok(DeviceChoice::Cuda(1)));
        assert_eq!("sim".parse(), Ok(DeviceChoice::Simulator));
        for wrong in ["cuda", "cuda:", "cuda:x", "cuda:-1", "gpu", "CPU", ""] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }
}
