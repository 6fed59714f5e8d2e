//! A VFIO container of type 1 v2 with one group: life cycle, facts, single maps and unmaps. Not here: batches.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::abi::{self, DmaMap, DmaUnmap, GroupStatus, IommuInfo};
use crate::chain;
use crate::failure::{Failure, Result};
use crate::ioctl::{Kernel, Plain};
use crate::sys;

/// What VFIO_IOMMU_GET_INFO says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub page_sizes: u64,
    /// None without the capability: no real IOMMU stands behind the container.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// None before Linux 5.10.
    pub available: Option<u32>,
    /// The type1 driver itself has this capability, iommufd in its place has not.
    pub migration: bool,
}

/// Longest answer of GET_INFO that is asked for: 65,536 ranges and more.
const MAX_INFO: u32 = 1 << 20;

/// A container that holds one group and is ready for maps.
#[derive(Debug)]
pub struct Container<K: Kernel> {
    kernel: K,
    container: OwnedFd,
    group: OwnedFd,
}

impl<K: Kernel> Container<K> {
    /// Opens `container` and `group` (paths), and brings the group into the container as type 1 v2.
    /// The failure names the step; `VFIO_GROUP_GET_STATUS` with errno 0: the group is not viable; `VFIO_CHECK_EXTENSION`
    /// with errno 0: no type 1 v2, or no VFIO_UNMAP_ALL.
    pub fn open(kernel: K, container: &str, group: &str) -> Result<Self> {
        let container = sys::open_device(container).map_err(|it| Failure::new("open container", it.errno))?;
        check_container(&kernel, &container)?;
        let group = sys::open_device(group).map_err(|it| Failure::new("open group", it.errno))?;
        let opened = Self { kernel, container, group };
        opened.check_viable()?;
        let mut number = opened.container.as_raw_fd().to_ne_bytes();
        let (group, call) = (opened.group.as_fd(), "VFIO_GROUP_SET_CONTAINER");
        // SAFETY: the kernel reads an int, and `number` is one.
        unsafe { opened.kernel.with_bytes(call, group, abi::GROUP_SET_CONTAINER, &mut number)? };
        let version = u64::from(abi::TYPE1V2_IOMMU);
        opened.kernel.with_value("VFIO_SET_IOMMU", opened.container.as_fd(), abi::SET_IOMMU, version)?;
        Ok(opened)
    }

    fn check_viable(&self) -> Result<()> {
        let mut status = GroupStatus { argsz: abi::argsz::<GroupStatus>(), flags: 0 };
        let call = "VFIO_GROUP_GET_STATUS";
        // SAFETY: the kernel fills a vfio_group_status, which `status` is.
        unsafe { self.kernel.with_bytes(call, self.group.as_fd(), abi::GROUP_GET_STATUS, status.bytes())? };
        if status.flags & abi::GROUP_FLAGS_VIABLE == 0 { Err(Failure::new(call, 0)) } else { Ok(()) }
    }

    /// The descriptor of a device of the group, by its name in sysfs.
    pub fn device(&self, name: &str) -> Result<OwnedFd> {
        use std::os::fd::FromRawFd;
        let call = "VFIO_GROUP_GET_DEVICE_FD";
        let mut name = name.as_bytes().to_vec();
        if name.contains(&0) {
            return Err(Failure::new(call, libc::EINVAL));
        }
        name.push(0);
        let group = self.group.as_fd();
        // SAFETY: the kernel reads a NUL-terminated string, and `name` is one.
        let fd = unsafe { self.kernel.with_bytes(call, group, abi::GROUP_GET_DEVICE_FD, &mut name)? };
        // SAFETY: the kernel has just made this descriptor (close-on-exec) for us, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// VFIO_IOMMU_GET_INFO with its capabilities; asks again while the answer is longer than the room given.
    pub fn facts(&self) -> Result<Facts> {
        let call = "VFIO_IOMMU_GET_INFO";
        let mut argsz = 4096u32;
        loop {
            let mut bytes = vec![0u8; argsz as usize];
            bytes[..4].copy_from_slice(&argsz.to_ne_bytes());
            let container = self.container.as_fd();
            // SAFETY: the first word says how many bytes there are; the kernel writes no more.
            unsafe { self.kernel.with_bytes(call, container, abi::IOMMU_GET_INFO, &mut bytes)? };
            let needed = chain::u32_at(&bytes, 0).unwrap_or(0);
            if needed <= argsz {
                return Ok(read_facts(&bytes));
            }
            if needed > MAX_INFO {
                return Err(Failure::new(call, libc::E2BIG));
            }
            argsz = needed;
        }
    }

    /// VFIO_IOMMU_MAP_DMA. The caller has seen to it that `vaddr` may be given to a device.
    pub fn map(&self, argsz: u32, flags: u32, vaddr: u64, iova: u64, size: u64) -> Result<()> {
        let mut map = DmaMap { argsz, flags, vaddr, iova, size };
        let container = self.container.as_fd();
        // SAFETY: the kernel reads a vfio_iommu_type1_dma_map, which `map` is; it pins `vaddr` only.
        unsafe { self.kernel.with_bytes("VFIO_IOMMU_MAP_DMA", container, abi::IOMMU_MAP_DMA, map.bytes())? };
        Ok(())
    }

    /// VFIO_IOMMU_UNMAP_DMA; returns the size that the kernel left in the struct, with the errno or 0.
    pub fn unmap(&self, argsz: u32, flags: u32, iova: u64, size: u64) -> (i32, u64) {
        let mut unmap = DmaUnmap { argsz, flags, iova, size };
        let (call, container) = ("VFIO_IOMMU_UNMAP_DMA", self.container.as_fd());
        // The dirty bitmap that flag 1 asks for would follow the struct: 24 bytes that say "no bitmap".
        let mut bytes = [0u8; 48];
        bytes[..24].copy_from_slice(unmap.bytes());
        // SAFETY: the kernel reads a vfio_iommu_type1_dma_unmap and at most a vfio_bitmap of 24 bytes behind it, whose
        // pointer is null.
        let result = unsafe { self.kernel.with_bytes(call, container, abi::IOMMU_UNMAP_DMA, &mut bytes) };
        unmap.bytes().copy_from_slice(&bytes[..24]);
        (result.err().map_or(0, |failure| failure.errno), unmap.size)
    }

    /// Removes every entry.
    pub fn unmap_all(&self) -> (i32, u64) {
        self.unmap(abi::argsz::<DmaUnmap>(), abi::DMA_UNMAP_FLAG_ALL, 0, 0)
    }
}

fn check_container<K: Kernel>(kernel: &K, container: &OwnedFd) -> Result<()> {
    let version = kernel.with_value("VFIO_GET_API_VERSION", container.as_fd(), abi::GET_API_VERSION, 0)?;
    if version != abi::API_VERSION {
        return Err(Failure::new("VFIO_GET_API_VERSION", 0));
    }
    for extension in [abi::TYPE1V2_IOMMU, abi::UNMAP_ALL] {
        let call = "VFIO_CHECK_EXTENSION";
        let has = kernel.with_value(call, container.as_fd(), abi::CHECK_EXTENSION, u64::from(extension))?;
        if has == 0 {
            return Err(Failure::new(call, 0));
        }
    }
    Ok(())
}

/// The facts in an answer of GET_INFO; what is not there stays at its default.
pub fn read_facts(bytes: &[u8]) -> Facts {
    let mut info = IommuInfo::default();
    let length = bytes.len().min(size_of::<IommuInfo>());
    info.bytes()[..length].copy_from_slice(&bytes[..length]);
    let mut facts = Facts::default();
    if info.flags & abi::IOMMU_INFO_PGSIZES != 0 {
        facts.page_sizes = info.iova_pgsizes;
    }
    if info.flags & abi::IOMMU_INFO_CAPS == 0 {
        return facts;
    }
    for capability in chain::capabilities(bytes, info.cap_offset) {
        let at = capability.at;
        match capability.id {
            abi::CAP_IOVA_RANGE => {
                facts.ranges = chain::u32_at(bytes, at + 8).map(|count| chain::pairs(bytes, at + 16, count));
            }
            abi::CAP_MIGRATION => facts.migration = true,
            abi::CAP_DMA_AVAIL => facts.available = chain::u32_at(bytes, at + 8),
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// What Linux 6.1 answers on VT-d: capabilities 2, 3, 1 in this order, the last one not aligned to 8.
    fn linux_6_1() -> Vec<u8> {
        let mut bytes = vec![0u8; 116];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &116u32.to_ne_bytes());
        put(4, &3u32.to_ne_bytes());
        put(8, &0x4020_1000u64.to_ne_bytes());
        put(16, &24u32.to_ne_bytes());
        for (at, id, next) in [(24, 2u16, 56u32), (56, 3, 68), (68, 1, 0)] {
            put(at, &id.to_ne_bytes());
            put(at + 2, &1u16.to_ne_bytes());
            put(at + 4, &next.to_ne_bytes());
        }
        put(64, &65535u32.to_ne_bytes());
        put(76, &2u32.to_ne_bytes());
        for (at, value) in [(84, 0u64), (92, 0xfedf_ffff), (100, 0xfef0_0000), (108, 0x7f_ffff_ffff)] {
            put(at, &value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn opens_in_the_order_that_the_kernel_wants() {
        let fake = Fake::default();
        drop(fake.container());
        let state = fake.0.borrow();
        let requests: Vec<_> = state.calls.iter().map(|(request, _)| *request).collect();
        assert_eq!(requests, [abi::GROUP_GET_STATUS, abi::GROUP_SET_CONTAINER]);
        let last = state.values.last().expect("calls");
        assert_eq!(*last, (abi::SET_IOMMU, 3));
    }

    #[test]
    fn names_the_step_that_was_refused() {
        let open = |change: &dyn Fn(&Fake)| {
            let fake = Fake::default();
            change(&fake);
            Container::open(fake, "/dev/null", "/dev/null").expect_err("refused")
        };
        let not_viable = open(&|fake| fake.0.borrow_mut().viable = false);
        assert_eq!(not_viable, Failure::new("VFIO_GROUP_GET_STATUS", 0));
        let old = open(&|fake| fake.0.borrow_mut().extensions = vec![abi::TYPE1V2_IOMMU]);
        assert_eq!(old, Failure::new("VFIO_CHECK_EXTENSION", 0));
        for (request, call, errno) in [
            (abi::GROUP_SET_CONTAINER, "VFIO_GROUP_SET_CONTAINER", libc::EPERM),
            (abi::SET_IOMMU, "VFIO_SET_IOMMU", libc::EPERM),
            (abi::GET_API_VERSION, "VFIO_GET_API_VERSION", libc::ENOTTY),
        ] {
            let failure = open(&|fake| {
                fake.0.borrow_mut().refuse.insert(request, errno);
            });
            assert_eq!(failure, Failure::new(call, errno));
        }
        let missing = |container: &str, group: &str| {
            Container::open(Fake::default(), container, group).expect_err("refused")
        };
        assert_eq!(missing("/nowhere", "/dev/null"), Failure::new("open container", libc::ENOENT));
        assert_eq!(missing("/dev/null", "/nowhere"), Failure::new("open group", libc::ENOENT));
        assert_eq!(missing("a\0b", "/dev/null"), Failure::new("open container", libc::EINVAL));
    }

    #[test]
    fn reads_the_facts_also_of_an_answer_longer_than_the_room() {
        let fake = Fake::default();
        let container = fake.container();
        fake.0.borrow_mut().info = linux_6_1();
        let expected = Facts {
            page_sizes: 0x4020_1000,
            ranges: Some(vec![(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)]),
            available: Some(65535),
            migration: true,
        };
        assert_eq!(container.facts(), Ok(expected.clone()));
        let mut long = linux_6_1();
        long.resize(9000, 0);
        fake.0.borrow_mut().info = long;
        assert_eq!(container.facts(), Ok(expected));
        let asked = fake.0.borrow().calls.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>();
        assert_eq!(asked[asked.len() - 2..], [4096, 9000]);
        fake.0.borrow_mut().info = vec![0; MAX_INFO as usize + 1];
        assert_eq!(container.facts().expect_err("refused").errno, libc::E2BIG);
    }

    #[test]
    fn reads_truncated_answers_without_a_panic() {
        let whole = linux_6_1();
        for length in 0..whole.len() {
            let facts = read_facts(&whole[..length]);
            assert!(facts.ranges.is_none_or(|ranges| ranges.len() <= 2));
        }
        assert_eq!(read_facts(&[]), Facts::default());
    }

    #[test]
    fn leaves_the_size_of_a_refused_unmap() {
        let fake = Fake::default();
        let container = fake.container();
        container.map(32, 3, 0x1000, 0x20_0000, 0x20_0000).expect("room");
        assert_eq!(container.unmap(24, 0, 0x20_0000, 0x1000), (libc::EINVAL, 0x1000));
        assert_eq!(container.unmap(24, 0, 0, 0x100_0000), (0, 0x20_0000));
        assert_eq!(container.unmap_all(), (0, 0));
    }
}
