//! A device under test, and the buffers that operations get: longer than they need, with something
//! behind the used part that shows whether it was touched.

use anyhow::{Result, ensure};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Precision;
use crate::ops::Device;
use crate::ops::reference::ReferenceDevice;

/// Elements behind the used part of every buffer.
pub(crate) const TAIL: usize = 19;
/// Stands behind outputs; exact in every storage precision.
const SENTINEL: f32 = -1984.0;
/// Stands behind indices: neither a token nor the mark of an ignored target.
pub(crate) const WRONG_INDEX: u32 = u32::MAX - 7;

/// Seeded inputs.
pub(crate) struct Values(ChaCha8Rng);

impl Values {
    /// The same numbers for the same seed.
    pub(crate) fn new(seed: usize) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed as u64))
    }

    /// Sums of four uniform numbers, standard deviation `scale`.
    pub(crate) fn normal(&mut self, len: usize, scale: f32) -> Vec<f32> {
        let mut uniform = || (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32 - 0.5;
        (0..len)
            .map(|_| scale * 3.0_f32.sqrt() * (uniform() + uniform() + uniform() + uniform()))
            .collect()
    }

    fn index(&mut self, below: usize) -> u32 {
        self.0.next_u32() % below as u32
    }

    /// `len` numbers below `below`.
    pub(crate) fn indices(&mut self, len: usize, below: usize) -> Vec<u32> {
        (0..len).map(|_| self.index(below)).collect()
    }
}

/// A device and the precision that inputs are rounded to: that of the device under test, for its
/// reference too.
pub struct TestDevice<'a, D: Device> {
    /// The device.
    pub device: &'a D,
    /// What the device under test stores.
    pub precision: Precision,
}

impl<D: Device> Clone for TestDevice<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Device> Copy for TestDevice<'_, D> {}

impl<'a, D: Device> TestDevice<'a, D> {
    /// A device that stores this precision.
    pub fn new(device: &'a D, precision: Precision) -> Self {
        Self { device, precision }
    }

    /// The reference device, with the same inputs.
    pub(crate) fn reference(self) -> TestDevice<'static, ReferenceDevice> {
        TestDevice::new(&ReferenceDevice, self.precision)
    }

    /// The values as the device under test stores them.
    pub(crate) fn rounded(self, values: &[f32]) -> Vec<f32> {
        match self.precision {
            Precision::Single => values.to_vec(),
            Precision::Half => values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
            Precision::Bfloat => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        }
    }

    /// A buffer with exactly these values.
    ///
    /// # Errors
    /// When the device fails, as all that make or read buffers.
    pub fn float(self, values: &[f32]) -> Result<D::Float> {
        let mut buffer = self.device.zeros_float(values.len())?;
        let values = self.rounded(values);
        self.device.upload_float(&values, &mut buffer)?;
        Ok(buffer)
    }

    /// As [`Self::float`].
    ///
    /// # Errors
    /// As [`Self::float`].
    pub fn single(self, values: &[f32]) -> Result<D::Single> {
        let mut buffer = self.device.zeros_single(values.len())?;
        self.device.upload_single(values, &mut buffer)?;
        Ok(buffer)
    }

    /// An input.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub(crate) fn input(self, values: &[f32]) -> Result<D::Float> {
        self.float(&followed_by(values, f32::NAN))
    }

    /// An input.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub(crate) fn input_single(self, values: &[f32]) -> Result<D::Single> {
        self.single(&followed_by(values, f32::NAN))
    }

    /// An input.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub fn input_index(self, values: &[u32]) -> Result<D::Index> {
        let values = [values, &[WRONG_INDEX; TAIL]].concat();
        let mut buffer = self.device.zeros_index(values.len())?;
        self.device.upload_index(&values, &mut buffer)?;
        Ok(buffer)
    }

    /// An output that is added to.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub(crate) fn added(self, initial: &[f32]) -> Result<D::Float> {
        self.float(&followed_by(initial, SENTINEL))
    }

    /// An output that is added to.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub(crate) fn added_single(self, initial: &[f32]) -> Result<D::Single> {
        self.single(&followed_by(initial, SENTINEL))
    }

    /// An output that is written.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub fn written(self, len: usize) -> Result<D::Float> {
        self.added(&vec![f32::NAN; len])
    }

    /// An output that is written.
    ///
    /// # Errors
    /// As [`Self::float`].
    pub(crate) fn written_single(self, len: usize) -> Result<D::Single> {
        self.added_single(&vec![f32::NAN; len])
    }

    /// The used part of an output.
    ///
    /// # Errors
    /// Where something behind it was written.
    pub fn read(self, buffer: &D::Float, len: usize) -> Result<Vec<f32>> {
        without_tail(self.device.download_float(buffer, len + TAIL)?, len)
    }

    /// The used part of an output.
    ///
    /// # Errors
    /// Where something behind it was written.
    pub(crate) fn read_single(self, buffer: &D::Single, len: usize) -> Result<Vec<f32>> {
        without_tail(self.device.download_single(buffer, len + TAIL)?, len)
    }

    /// The used part of an index that an operation wrote.
    ///
    /// # Errors
    /// Where something behind it was written.
    pub(crate) fn read_index(self, buffer: &D::Index, len: usize) -> Result<Vec<u32>> {
        let mut all = self.device.download_index(buffer, len + TAIL)?;
        let tail = all.split_off(len);
        ensure!(
            tail == [WRONG_INDEX; TAIL],
            "behind {len} indices stands {tail:?} instead of {WRONG_INDEX}"
        );
        Ok(all)
    }
}

fn followed_by(values: &[f32], tail: f32) -> Vec<f32> {
    [values, &[tail; TAIL]].concat()
}

fn without_tail(mut values: Vec<f32>, len: usize) -> Result<Vec<f32>> {
    for (i, value) in values[len..].iter().enumerate() {
        ensure!(
            value.to_bits() == SENTINEL.to_bits(),
            "element {i} behind an output became {value}"
        );
    }
    values.truncate(len);
    Ok(values)
}
