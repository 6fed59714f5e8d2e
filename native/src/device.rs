//! A VFIO device: regions, configuration space, interrupts, reset, registers mapped for a peer device.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::abi::{self, DeviceInfo, IrqInfo, IrqSet, RegionInfo};
use crate::chain;
use crate::failure::{Failure, Result};
use crate::ioctl::{Kernel, Plain};
use crate::iommufd_device;
use crate::pages::{Access, Pages};
use crate::registry::{Registration, Source};
use crate::sys;

/// What VFIO_DEVICE_GET_REGION_INFO says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Region {
    pub flags: u32,
    pub size: u64,
    /// Where the region starts in the device's file.
    pub offset: u64,
    /// Parts that may be mapped (offset, size), where only parts may.
    pub mappable: Option<Vec<(u64, u64)>>,
    /// The page with the MSI-X table may be mapped as well.
    pub msix_mappable: bool,
}

const MAX_INFO: u32 = 1 << 16;
/// Regions 0 to 5 are the BARs.
const BARS: u32 = 6;

#[derive(Debug)]
pub struct Device<K: Kernel> {
    kernel: K,
    fd: OwnedFd,
    /// Registers that are mapped get a dma-buf too, where the kernel makes one: an iommufd maps nothing else of a device.
    dma_bufs: bool,
}

impl<K: Kernel> Device<K> {
    pub const fn new(kernel: K, fd: OwnedFd) -> Self {
        Self { kernel, fd, dma_bufs: false }
    }

    /// A device that is opened through its own file.
    pub const fn of_iommufd(kernel: K, fd: OwnedFd) -> Self {
        Self { kernel, fd, dma_bufs: true }
    }

    /// What an ioctl of this device needs.
    pub fn parts(&self) -> (&K, BorrowedFd<'_>) {
        (&self.kernel, self.fd.as_fd())
    }

    /// Flags, number of regions, number of interrupt kinds.
    pub fn info(&self) -> Result<(u32, u32, u32)> {
        let mut info = DeviceInfo { argsz: abi::argsz::<DeviceInfo>(), ..DeviceInfo::default() };
        let (call, fd) = ("VFIO_DEVICE_GET_INFO", self.fd.as_fd());
        // SAFETY: the kernel fills at most `argsz` bytes of a vfio_device_info, which `info` is.
        unsafe { self.kernel.with_bytes(call, fd, abi::DEVICE_GET_INFO, info.bytes())? };
        Ok((info.flags, info.num_regions, info.num_irqs))
    }

    /// One region; asks again while the answer is longer than the room given.
    pub fn region(&self, index: u32) -> Result<Region> {
        let call = "VFIO_DEVICE_GET_REGION_INFO";
        let mut argsz = 256u32;
        loop {
            let mut bytes = vec![0u8; argsz as usize];
            bytes[..4].copy_from_slice(&argsz.to_ne_bytes());
            bytes[8..12].copy_from_slice(&index.to_ne_bytes());
            let fd = self.fd.as_fd();
            // SAFETY: the first word says how many bytes there are; the kernel writes no more.
            unsafe { self.kernel.with_bytes(call, fd, abi::DEVICE_GET_REGION_INFO, &mut bytes)? };
            let needed = chain::u32_at(&bytes, 0).unwrap_or(0);
            if needed <= argsz {
                return Ok(read_region(&bytes));
            }
            if needed > MAX_INFO {
                return Err(Failure::new(call, libc::E2BIG));
            }
            argsz = needed;
        }
    }

    /// Reads from the device's file; the position counts from its start, as the offsets of regions do.
    pub fn read(&self, into: &mut [u8], position: u64) -> Result<usize> {
        sys::read_at(self.fd.as_fd(), into, position)
    }

    pub fn write(&self, from: &[u8], position: u64) -> Result<usize> {
        sys::write_at(self.fd.as_fd(), from, position)
    }

    pub fn reset(&self) -> Result<()> {
        self.kernel.with_value("VFIO_DEVICE_RESET", self.fd.as_fd(), abi::DEVICE_RESET, 0)?;
        Ok(())
    }

    /// Flags and number of interrupts of a kind.
    pub fn irq(&self, index: u32) -> Result<(u32, u32)> {
        let mut info = IrqInfo { argsz: abi::argsz::<IrqInfo>(), index, ..IrqInfo::default() };
        let (call, fd) = ("VFIO_DEVICE_GET_IRQ_INFO", self.fd.as_fd());
        // SAFETY: the kernel fills a vfio_irq_info, which `info` is.
        unsafe { self.kernel.with_bytes(call, fd, abi::DEVICE_GET_IRQ_INFO, info.bytes())? };
        Ok((info.flags, info.count))
    }

    /// Has interrupts `start`.. of a kind signal event counters (-1: none); no counters: the kind is switched off.
    pub fn set_irqs(&self, index: u32, start: u32, counters: &[RawFd]) -> Result<()> {
        let count =
            u32::try_from(counters.len()).map_err(|_| Failure::new("VFIO_DEVICE_SET_IRQS", libc::EINVAL))?;
        let data = if count == 0 { abi::IRQ_SET_DATA_NONE } else { abi::IRQ_SET_DATA_EVENTFD };
        let flags = data | abi::IRQ_SET_ACTION_TRIGGER;
        self.irq_set(IrqSet { argsz: 0, flags, index, start, count }, counters)
    }

    /// Masks, or unmasks, `count` interrupts of a kind from `start` on.
    pub fn mask_irqs(&self, index: u32, start: u32, count: u32, masked: bool) -> Result<()> {
        let action = if masked { abi::IRQ_SET_ACTION_MASK } else { abi::IRQ_SET_ACTION_UNMASK };
        let flags = abi::IRQ_SET_DATA_NONE | action;
        self.irq_set(IrqSet { argsz: 0, flags, index, start, count }, &[])
    }

    fn irq_set(&self, mut set: IrqSet, counters: &[RawFd]) -> Result<()> {
        let (call, fd) = ("VFIO_DEVICE_SET_IRQS", self.fd.as_fd());
        let argsz = size_of::<IrqSet>() + 4 * counters.len();
        set.argsz = u32::try_from(argsz).map_err(|_| Failure::new(call, libc::EINVAL))?;
        let mut bytes = set.bytes().to_vec();
        bytes.extend(counters.iter().flat_map(|counter| counter.to_ne_bytes()));
        // SAFETY: the kernel reads `argsz` bytes: the header and the descriptors behind it, which are as many as it says
        // where it says that there are any.
        unsafe { self.kernel.with_bytes(call, fd, abi::DEVICE_SET_IRQS, &mut bytes)? };
        Ok(())
    }

    /// Maps a part of the device's file, for other devices to reach: never touched by this process, since registers can
    /// go away under a mapping.
    pub fn map(&self, position: u64, length: u64) -> Result<Registers> {
        let length = usize::try_from(length).map_err(|_| Failure::new("mmap", libc::EINVAL))?;
        let pages = Pages::of_file(self.fd.as_fd(), position, length, Access::ReadWrite)?;
        let dma_buf = if self.dma_bufs { self.dma_buf(position, length as u64) } else { None };
        let source = dma_buf.map_or(Source::Other, |fd| Source::Registers { dma_buf: Arc::new(fd) });
        let registration = Registration::new(pages.address(), length, source);
        Ok(Registers { _registration: registration, pages })
    }

    /// The dma-buf of a part of the device's file; None where the kernel makes none.
    fn dma_buf(&self, position: u64, length: u64) -> Option<OwnedFd> {
        let bars = (0..BARS).filter_map(|index| Some((index, self.region(index).ok()?)));
        let (index, offset) = bars
            .filter_map(|(index, region)| {
                let offset = position.checked_sub(region.offset)?;
                (offset.checked_add(length)? <= region.size).then_some((index, offset))
            })
            .next()?;
        iommufd_device::dma_buf(self, index, offset, length).ok()
    }

    pub fn duplicate(&self) -> Result<OwnedFd> {
        sys::duplicate(self.fd.as_raw_fd())
    }
}

/// Device registers in this process's addresses; registered while the value lives.
#[derive(Debug)]
pub struct Registers {
    // Before `pages`: the row must leave the table before the addresses go.
    _registration: Registration,
    pages: Pages,
}

impl Registers {
    pub const fn address(&self) -> usize {
        self.pages.address()
    }

    pub const fn length(&self) -> usize {
        self.pages.length()
    }
}

/// The facts in an answer of GET_REGION_INFO; what is not there stays at its default.
pub fn read_region(bytes: &[u8]) -> Region {
    let mut info = RegionInfo::default();
    let length = bytes.len().min(size_of::<RegionInfo>());
    info.bytes()[..length].copy_from_slice(&bytes[..length]);
    let mut region = Region { flags: info.flags, size: info.size, offset: info.offset, ..Region::default() };
    if info.flags & abi::REGION_INFO_FLAG_CAPS == 0 {
        return region;
    }
    for capability in chain::capabilities(bytes, info.cap_offset) {
        let at = capability.at;
        match capability.id {
            abi::REGION_CAP_SPARSE_MMAP => {
                region.mappable =
                    chain::u32_at(bytes, at + 8).map(|count| chain::pairs(bytes, at + 16, count));
            }
            abi::REGION_CAP_MSIX_MAPPABLE => region.msix_mappable = true,
            _ => {}
        }
    }
    region
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::registry;

    fn device(fake: &Fake) -> Device<Fake> {
        let fd = OwnedFd::from(
            std::fs::File::options().read(true).write(true).open("/dev/zero").expect("/dev/zero"),
        );
        Device::new(fake.clone(), fd)
    }

    #[test]
    fn reads_a_region_with_its_mappable_parts() {
        let fake = Fake::default();
        let mut bytes = vec![0u8; 300];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(4, &0xfu32.to_ne_bytes());
        put(12, &32u32.to_ne_bytes());
        put(16, &0x4000u64.to_ne_bytes());
        put(24, &(2u64 << 40).to_ne_bytes());
        for (at, id, next) in [(32, 1u16, 80u32), (80, 3, 0)] {
            put(at, &id.to_ne_bytes());
            put(at + 4, &next.to_ne_bytes());
        }
        put(40, &2u32.to_ne_bytes());
        for (at, value) in [(48, 0u64), (56, 0x1000), (64, 0x2000), (72, 0x2000)] {
            put(at, &value.to_ne_bytes());
        }
        fake.0.borrow_mut().info = bytes;
        let region = device(&fake).region(2).expect("an answer");
        let expected = Region {
            flags: 0xf,
            size: 0x4000,
            offset: 2 << 40,
            mappable: Some(vec![(0, 0x1000), (0x2000, 0x2000)]),
            msix_mappable: true,
        };
        assert_eq!(region, expected);
        let state = fake.0.borrow();
        let asked: Vec<_> = state.calls.iter().map(|(_, bytes)| (bytes.len(), bytes[8])).collect();
        assert_eq!(asked, [(256, 2), (300, 2)]);
    }

    #[test]
    fn hands_over_event_counters() {
        let fake = Fake::default();
        let device = device(&fake);
        device.set_irqs(2, 1, &[7, -1]).expect("an answer");
        device.set_irqs(2, 0, &[]).expect("an answer");
        device.mask_irqs(0, 0, 1, false).expect("an answer");
        device.mask_irqs(1, 2, 3, true).expect("an answer");
        let state = fake.0.borrow();
        let words = |i: usize| -> Vec<i32> {
            state.calls[i]
                .1
                .chunks(4)
                .map(|word| i32::from_ne_bytes(word.try_into().expect("4 bytes")))
                .collect()
        };
        assert_eq!(words(0), [28, 4 | 32, 2, 1, 2, 7, -1]);
        assert_eq!(words(1), [20, 1 | 32, 2, 0, 0]);
        assert_eq!(words(2), [20, 1 | 16, 0, 0, 1]);
        assert_eq!(words(3), [20, 1 | 8, 1, 2, 3]);
    }

    #[test]
    fn registers_what_it_maps() {
        let _alone = registry::alone();
        let registers = device(&Fake::default()).map(0, 0x2000).expect("/dev/zero can be mapped");
        let address = registers.address() as u64;
        assert!(registry::read().contains(address, 0x2000));
        assert_eq!(registry::read().file_at(registers.address(), 1).err(), Some(libc::EINVAL));
        drop(registers);
        assert!(!registry::read().contains(address, 1));
    }

    #[test]
    fn refuses_positions_from_half_of_64_bits_on() {
        let _alone = registry::alone();
        let device = device(&Fake::default());
        for position in [1u64 << 63, u64::MAX] {
            assert_eq!(device.read(&mut [0; 4], position).expect_err("refused").errno, libc::EINVAL);
            assert_eq!(device.write(&[0; 4], position).expect_err("refused").errno, libc::EINVAL);
            assert_eq!(device.map(position, 0x1000).expect_err("refused").errno, libc::EOVERFLOW);
        }
        assert_eq!(device.read(&mut [1; 4], 8), Ok(4));
    }
}
