//! A VFIO device for JavaScript.

use napi::bindgen_prelude::{BigInt, BigUint64Array, Uint8ArraySlice};
use napi_derive::napi;

use super::{Result, bigint, closed, u64_of};
use crate::device::{Device, Registers};
use crate::ioctl::Linux;

#[napi]
pub struct NativeDevice {
    device: Option<Device<Linux>>,
}

/// What VFIO_DEVICE_GET_REGION_INFO says.
#[napi(object, object_from_js = false)]
pub struct NativeRegion {
    pub flags: u32,
    pub size: BigInt,
    pub offset: BigInt,
    /// Offset and size of each part that may be mapped, where only parts may.
    pub mappable: Option<BigUint64Array>,
    pub msix_mappable: bool,
}

impl NativeDevice {
    pub const fn new(device: Device<Linux>) -> Self {
        Self { device: Some(device) }
    }

    pub(super) fn device(&self) -> Result<&Device<Linux>> {
        self.device.as_ref().ok_or_else(closed)
    }
}

#[napi]
impl NativeDevice {
    /// Flags, number of regions, number of interrupt kinds.
    #[napi]
    pub fn info(&self) -> Result<Vec<u32>> {
        let (flags, regions, irqs) = self.device()?.info()?;
        Ok(vec![flags, regions, irqs])
    }

    #[napi]
    pub fn region(&self, index: u32) -> Result<NativeRegion> {
        let region = self.device()?.region(index)?;
        let mappable = region.mappable.map(|parts| {
            BigUint64Array::new(parts.into_iter().flat_map(|(start, size)| [start, size]).collect())
        });
        Ok(NativeRegion {
            flags: region.flags,
            size: BigInt::from(region.size),
            offset: BigInt::from(region.offset),
            mappable,
            msix_mappable: region.msix_mappable,
        })
    }

    /// Fills `into` from a position in the device's file; returns the number of bytes.
    #[napi]
    pub fn read(&self, mut into: Uint8ArraySlice<'_>, position: BigInt) -> Result<u32> {
        // SAFETY: JavaScript does not run before this returns, and nothing else here holds the bytes.
        let into = unsafe { into.as_mut() };
        Ok(self.device()?.read(into, u64_of(&position)?)? as u32)
    }

    /// Writes `from` to a position in the device's file; returns the number of bytes.
    #[napi]
    pub fn write(&self, from: &[u8], position: BigInt) -> Result<u32> {
        Ok(self.device()?.write(from, u64_of(&position)?)? as u32)
    }

    #[napi]
    pub fn reset(&self) -> Result<()> {
        Ok(self.device()?.reset()?)
    }

    /// Flags and number of interrupts of a kind.
    #[napi]
    pub fn irq(&self, index: u32) -> Result<Vec<u32>> {
        let (flags, count) = self.device()?.irq(index)?;
        Ok(vec![flags, count])
    }

    /// Has interrupts `start`.. of a kind signal event counters (-1: none); none at all: switches the kind off.
    #[napi]
    pub fn set_irqs(&self, index: u32, start: u32, counters: &[i32]) -> Result<()> {
        Ok(self.device()?.set_irqs(index, start, counters)?)
    }

    /// Masks, or unmasks, `count` interrupts of a kind from `start` on.
    #[napi]
    pub fn mask_irqs(&self, index: u32, start: u32, count: u32, masked: bool) -> Result<()> {
        Ok(self.device()?.mask_irqs(index, start, count, masked)?)
    }

    /// Maps a part of the device's file for other devices to reach.
    #[napi]
    pub fn map(&self, position: BigInt, length: BigInt) -> Result<NativeRegisters> {
        let registers = self.device()?.map(u64_of(&position)?, u64_of(&length)?)?;
        Ok(NativeRegisters { registers: Some(registers) })
    }

    #[napi]
    pub fn close(&mut self) {
        self.device = None;
    }
}

/// Device registers in this process's addresses.
#[napi]
pub struct NativeRegisters {
    registers: Option<Registers>,
}

#[napi]
impl NativeRegisters {
    #[napi]
    pub fn address(&self) -> Result<BigInt> {
        Ok(bigint(self.registers.as_ref().ok_or_else(closed)?.address()))
    }

    #[napi]
    pub fn close(&mut self) {
        self.registers = None;
    }
}
