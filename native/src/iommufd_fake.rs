//! An iommufd made of Rust for the tests: address spaces with areas, devices that can be attached, and a log of requests.
//! Errors in the kernel's order are the business of the contract tests against real kernels, not of this one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::rc::Rc;

use libc::Ioctl;

use crate::abi as vfio;
use crate::chain::{u32_at, u64_at};
use crate::failure::{Failure, Result};
use crate::ioctl::Kernel;
use crate::iommufd::Iommufd;
use crate::iommufd_abi as abi;
use crate::iommufd_areas::Areas;

/// What the fake does and what it has seen.
#[derive(Debug, Default)]
pub struct State {
    pub spaces: BTreeMap<u32, Areas>,
    pub refuse: BTreeMap<Ioctl, i32>,
    pub ranges: Vec<(u64, u64)>,
    /// Size of every region of a device.
    pub bar_bytes: u64,
    pub calls: Vec<(Ioctl, Vec<u8>)>,
    selected: Option<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Fake(pub Rc<RefCell<State>>);

impl Fake {
    pub fn open(&self) -> Iommufd<Self> {
        Iommufd::open(self.clone(), "/dev/null", false).expect("the fake agrees")
    }

    /// Arguments of the calls with one request, as words of 32 bits.
    pub fn words(&self, request: Ioctl) -> Vec<Vec<u32>> {
        let words =
            |bytes: &Vec<u8>| (0..bytes.len()).step_by(4).filter_map(|at| u32_at(bytes, at)).collect();
        self.0
            .borrow()
            .calls
            .iter()
            .filter(|(made, _)| *made == request)
            .map(|(_, bytes)| words(bytes))
            .collect()
    }
}

impl Kernel for Fake {
    fn with_value(&self, call: &'static str, _: BorrowedFd<'_>, _: Ioctl, _: u64) -> Result<i32> {
        Err(Failure::new(call, libc::ENOTTY))
    }

    unsafe fn with_bytes(
        &self,
        call: &'static str,
        _: BorrowedFd<'_>,
        request: Ioctl,
        argument: &mut [u8],
    ) -> Result<i32> {
        let mut state = self.0.borrow_mut();
        state.calls.push((request, argument.to_vec()));
        let errno = match (state.refuse.get(&request), request) {
            (Some(&errno), _) => errno,
            (None, abi::IOAS_ALLOC) => state.allocate(argument),
            (None, abi::DESTROY) => state.destroy(argument),
            (None, abi::IOAS_IOVA_RANGES) => state.tell_ranges(argument),
            (None, abi::IOAS_MAP | abi::IOAS_MAP_FILE) => state.map(argument),
            (None, abi::IOAS_UNMAP) => state.unmap(argument),
            (None, vfio::IOMMU_UNMAP_DMA) => state.unmap_dma(argument),
            (None, vfio::DEVICE_GET_REGION_INFO) => {
                argument[..4].copy_from_slice(&32u32.to_ne_bytes());
                put(argument, 16, state.bar_bytes);
                0
            }
            (None, abi::VFIO_IOAS) => state.select(argument),
            (None, abi::DEVICE_FEATURE) => {
                return Ok(std::fs::File::open("/dev/null").expect("/dev/null").into_raw_fd());
            }
            _ => 0,
        };
        if errno == 0 { Ok(0) } else { Err(Failure::new(call, errno)) }
    }
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
}

impl State {
    fn allocate(&mut self, bytes: &mut [u8]) -> i32 {
        // The lowest that is free, as the kernel does.
        let id = (5..).find(|id| !self.spaces.contains_key(id)).expect("a free id");
        self.spaces.insert(id, Areas::default());
        bytes[8..12].copy_from_slice(&id.to_ne_bytes());
        0
    }

    fn destroy(&mut self, bytes: &[u8]) -> i32 {
        let id = u32_at(bytes, 4).expect("8 bytes");
        self.selected = self.selected.filter(|&selected| selected != id);
        if self.spaces.remove(&id).is_some() { 0 } else { libc::ENOENT }
    }

    fn select(&mut self, bytes: &[u8]) -> i32 {
        let id = u32_at(bytes, 4).expect("12 bytes");
        if !self.spaces.contains_key(&id) {
            return libc::ENOENT;
        }
        self.selected = Some(id);
        0
    }

    fn tell_ranges(&mut self, bytes: &mut [u8]) -> i32 {
        let room = u32_at(bytes, 8).expect("32 bytes") as usize;
        bytes[8..12].copy_from_slice(&(self.ranges.len() as u32).to_ne_bytes());
        put(bytes, 24, 4096);
        let list = u64_at(bytes, 16).expect("32 bytes") as *mut u64;
        for (i, &(first, last)) in self.ranges.iter().take(room).enumerate() {
            // SAFETY: the caller has given room for that many pairs.
            unsafe {
                list.add(2 * i).write(first);
                list.add(2 * i + 1).write(last);
            }
        }
        if self.ranges.len() > room { libc::EMSGSIZE } else { 0 }
    }

    fn map(&mut self, bytes: &[u8]) -> i32 {
        let ioas = u32_at(bytes, 8).expect("40 bytes");
        let [va, length, iova] = [16, 24, 32].map(|at| u64_at(bytes, at).expect("40 bytes"));
        let Some(areas) = self.spaces.get_mut(&ioas) else { return libc::ENOENT };
        let last = iova + (length - 1);
        if areas.iter().any(|(first, area)| first <= last && iova <= area.last) {
            return libc::EEXIST;
        }
        if va >> 63 != 0 {
            return libc::EFAULT;
        }
        areas.insert(iova, last, Some(va));
        0
    }

    fn unmap(&mut self, bytes: &mut [u8]) -> i32 {
        let ioas = u32_at(bytes, 4).expect("24 bytes");
        let [iova, length] = [8, 16].map(|at| u64_at(bytes, at).expect("24 bytes"));
        let Some(areas) = self.spaces.get_mut(&ioas) else { return libc::ENOENT };
        let last = if length == u64::MAX { length } else { iova + (length - 1) };
        let whole = areas.is_whole(iova, last);
        let before = bytes_of(areas);
        areas.remove(iova, last);
        let removed = before - bytes_of(areas);
        if !whole || removed == 0 && length != u64::MAX {
            return libc::ENOENT;
        }
        put(bytes, 16, removed);
        0
    }

    fn unmap_dma(&mut self, bytes: &mut [u8]) -> i32 {
        let flags = u32_at(bytes, 4).expect("24 bytes");
        let [iova, size] = [8, 16].map(|at| u64_at(bytes, at).expect("24 bytes"));
        let Some(areas) = self.selected.and_then(|id| self.spaces.get_mut(&id)) else { return libc::ENODEV };
        let before = bytes_of(areas);
        if flags & vfio::DMA_UNMAP_FLAG_ALL != 0 {
            areas.clear();
        } else {
            areas.cut(iova);
            areas.cut(iova.wrapping_add(size));
            areas.remove(iova, iova + (size - 1));
        }
        let removed = before - bytes_of(areas);
        put(bytes, 16, removed);
        if removed == 0 && flags == 0 { libc::ENOENT } else { 0 }
    }
}

fn bytes_of(areas: &Areas) -> u64 {
    areas.iter().map(|(first, area)| area.last - first + 1).sum()
}
