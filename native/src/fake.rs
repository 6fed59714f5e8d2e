//! A kernel made of Rust for the tests: enough of VFIO to see what is asked of it. Errors in the kernel's order are the
//! business of the contract tests against real kernels, not of this one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use libc::Ioctl;

use crate::abi;
use crate::chain::{u32_at, u64_at};
use crate::container::Container;
use crate::failure::{Failure, Result};
use crate::ioctl::Kernel;

/// What the fake does and what it has seen.
#[derive(Debug)]
pub struct State {
    pub entries: BTreeMap<u64, (u64, u64, u32)>,
    pub limit: usize,
    pub viable: bool,
    pub extensions: Vec<u32>,
    /// Answers of these requests: errno.
    pub refuse: BTreeMap<Ioctl, i32>,
    /// Answer of GET_INFO and of GET_REGION_INFO beyond their first word.
    pub info: Vec<u8>,
    /// Arguments in the order of the calls.
    pub calls: Vec<(Ioctl, Vec<u8>)>,
    pub values: Vec<(Ioctl, u64)>,
}

#[derive(Debug, Clone)]
pub struct Fake(pub Rc<RefCell<State>>);

impl Default for Fake {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(State {
            entries: BTreeMap::new(),
            limit: 65535,
            viable: true,
            extensions: vec![abi::TYPE1V2_IOMMU, abi::UNMAP_ALL],
            refuse: BTreeMap::new(),
            info: Vec::new(),
            calls: Vec::new(),
            values: Vec::new(),
        })))
    }
}

impl Fake {
    pub fn container(&self) -> Container<Self> {
        Container::open(self.clone(), "/dev/null", "/dev/null").expect("the fake agrees")
    }
}

impl Kernel for Fake {
    fn with_value(&self, call: &'static str, _: BorrowedFd<'_>, request: Ioctl, value: u64) -> Result<i32> {
        let mut state = self.0.borrow_mut();
        state.values.push((request, value));
        match (state.refuse.get(&request), request) {
            (Some(&errno), _) => Err(Failure::new(call, errno)),
            (None, abi::CHECK_EXTENSION) => Ok(i32::from(state.extensions.contains(&(value as u32)))),
            _ => Ok(0),
        }
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
        if let Some(&errno) = state.refuse.get(&request) {
            return Err(Failure::new(call, errno));
        }
        let errno = match request {
            abi::GROUP_GET_STATUS => {
                argument[4..8].copy_from_slice(&u32::from(state.viable).to_ne_bytes());
                0
            }
            abi::IOMMU_GET_INFO | abi::DEVICE_GET_REGION_INFO => {
                answer(&state.info, argument);
                0
            }
            abi::IOMMU_MAP_DMA => state.map(argument),
            abi::IOMMU_UNMAP_DMA => state.unmap(argument),
            _ => 0,
        };
        if errno == 0 { Ok(0) } else { Err(Failure::new(call, errno)) }
    }
}

/// As the kernel: what fits, and how long all of it is.
fn answer(info: &[u8], argument: &mut [u8]) {
    let fits = argument.len() >= info.len();
    let length = if fits { info.len() } else { 24.min(argument.len()) };
    argument[4..length].copy_from_slice(&info[4..length]);
    argument[..4].copy_from_slice(&(info.len() as u32).to_ne_bytes());
}

impl State {
    fn map(&mut self, bytes: &[u8]) -> i32 {
        let flags = u32_at(bytes, 4).expect("32 bytes");
        let [vaddr, iova, size] = [8, 16, 24].map(|at| u64_at(bytes, at).expect("32 bytes"));
        if self.entries.iter().any(|(&start, &(length, ..))| start < iova + size && iova < start + length) {
            return libc::EEXIST;
        }
        if self.entries.len() >= self.limit {
            return libc::ENOSPC;
        }
        if vaddr >> 63 != 0 {
            return libc::EFAULT;
        }
        self.entries.insert(iova, (size, vaddr, flags));
        0
    }

    fn unmap(&mut self, bytes: &mut [u8]) -> i32 {
        let [iova, size] = [8, 16].map(|at| u64_at(bytes, at).expect("24 bytes"));
        let all = u32_at(bytes, 4).expect("24 bytes") & abi::DMA_UNMAP_FLAG_ALL != 0;
        let end = if all { u64::MAX } else { iova + size };
        let cut =
            |at: u64| self.entries.iter().any(|(&start, &(length, ..))| start < at && at < start + length);
        if cut(iova) || cut(end) {
            return libc::EINVAL;
        }
        let mut removed = 0;
        self.entries.retain(|&start, &mut (length, ..)| {
            let inside = start >= iova && start < end;
            removed += if inside { length } else { 0 };
            !inside
        });
        bytes[16..24].copy_from_slice(&removed.to_ne_bytes());
        0
    }
}
