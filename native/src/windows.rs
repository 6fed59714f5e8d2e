//! Gather windows: pieces of guest RAM shown side by side for as long as one MAP takes.
//!
//! One reserve of inaccessible address space for each container; windows are cut out of it with MAP_FIXED and fall back to
//! inaccessible addresses, so that the reserve never has a hole into which somebody else's memory could come.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::failure::Result;
use crate::pages::{Access, Pages};
use crate::registry::{FilePart, GuestFile, Table};
use crate::sys;

/// Mappings kept in hand for `clear`: the kernel refuses every mmap of a process that has reached
/// vm.max_map_count, also the one that would make many mappings into one.
const BALLAST: usize = 4;

/// One part of a window: addresses of registered guest RAM.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub address: usize,
    pub length: usize,
}

#[derive(Debug)]
struct Window {
    length: usize,
    pieces: usize,
}

/// The windows of one container.
#[derive(Debug)]
pub struct Windows {
    reserve: Pages,
    /// Free parts: offset to length; neighbours are joined.
    free: BTreeMap<usize, usize>,
    /// Standing windows by offset.
    standing: BTreeMap<usize, Window>,
    pieces: usize,
    limit: usize,
    ballast: Vec<Pages>,
}

impl Windows {
    /// `limit`: most pieces of all standing windows.
    pub fn new(reserve: usize, limit: usize) -> Result<Self> {
        let reserve = Pages::anonymous(reserve, Access::None)?;
        let free = BTreeMap::from([(0, reserve.length())]);
        let mut windows =
            Self { reserve, free, standing: BTreeMap::new(), pieces: 0, limit, ballast: Vec::new() };
        windows.load_ballast()?;
        Ok(windows)
    }

    /// The reserve: first address and length.
    pub const fn reserve(&self) -> (usize, usize) {
        (self.reserve.address(), self.reserve.length())
    }

    /// Pieces of all standing windows.
    pub const fn pieces(&self) -> usize {
        self.pieces
    }

    /// Builds a window and returns its address. ENOMEM: too many pieces, no room, or no mapping left; EFAULT: a piece that is
    /// not registered; EINVAL: a piece that is no file, or not whole pages of its file, or would stand at a wrong address;
    /// EACCES or EPERM: a file that cannot be mapped with this access. Nothing is left of a refused window.
    pub fn build(
        &mut self,
        table: &Table,
        pieces: &[Piece],
        access: Access,
    ) -> core::result::Result<usize, i32> {
        if pieces.is_empty() {
            return Err(libc::EINVAL);
        }
        if pieces.len() > self.limit - self.pieces {
            return Err(libc::ENOMEM);
        }
        let (length, align) = measure(table, pieces)?;
        let at = self.take(length, align).ok_or(libc::ENOMEM)?;
        if let Err(errno) = self.show(table, at, pieces, access) {
            self.clear(at, length);
            return Err(errno);
        }
        self.pieces += pieces.len();
        self.standing.insert(at, Window { length, pieces: pieces.len() });
        Ok(self.reserve.address() + at)
    }

    /// Length of the window at an address; None when no window starts there.
    pub fn length(&self, address: usize) -> Option<usize> {
        let at = address.checked_sub(self.reserve.address())?;
        self.standing.get(&at).map(|window| window.length)
    }

    /// Makes the window at an address inaccessible; false when none starts there.
    pub fn drop_window(&mut self, address: usize) -> bool {
        let Some(at) = address.checked_sub(self.reserve.address()) else {
            return false;
        };
        let Some(window) = self.standing.remove(&at) else {
            return false;
        };
        self.pieces -= window.pieces;
        self.clear(at, window.length);
        true
    }

    fn show(
        &self,
        table: &Table,
        at: usize,
        pieces: &[Piece],
        access: Access,
    ) -> core::result::Result<(), i32> {
        let mut to = at;
        let mut unsealed = None;
        for piece in pieces {
            let mut done = 0;
            while done < piece.length {
                let part = table.file_at(piece.address + done, piece.length - done)?;
                check_whole(&part, self.reserve.address() + to)?;
                if access == Access::ReadWrite && unsealed != Some(Arc::as_ptr(part.file)) {
                    check_seals(part.file)?;
                    unsealed = Some(Arc::as_ptr(part.file));
                }
                self.reserve
                    .show_file(to, part.file.fd.as_fd(), part.offset, part.length, access)
                    .map_err(|failure| failure.errno)?;
                to += part.length;
                done += part.length;
            }
        }
        Ok(())
    }

    /// First fit: windows are few and live for one batch.
    fn take(&mut self, length: usize, align: usize) -> Option<usize> {
        let base = self.reserve.address();
        let (start, at, size) = self.free.iter().find_map(|(&start, &size)| {
            let at = (base + start).checked_next_multiple_of(align)? - base;
            (at.checked_add(length)? <= start + size).then_some((start, at, size))
        })?;
        self.free.remove(&start);
        if at > start {
            self.free.insert(start, at - start);
        }
        if at + length < start + size {
            self.free.insert(at + length, start + size - at - length);
        }
        Some(at)
    }

    fn give(&mut self, at: usize, length: usize) {
        let (mut start, mut size) = (at, length);
        if let Some((&before, &its)) = self.free.range(..at).next_back()
            && before + its == at
        {
            self.free.remove(&before);
            (start, size) = (before, its + size);
        }
        if let Some(after) = self.free.remove(&(at + length)) {
            size += after;
        }
        self.free.insert(start, size);
    }

    /// Makes a part inaccessible and free. Cannot fail: at vm.max_map_count the ballast makes room for the one mapping
    /// that replaces many; should others take that room, the part is closed as it is and replaced when it is used again.
    fn clear(&mut self, at: usize, length: usize) {
        if self.reserve.hide(at, length).is_err() {
            self.ballast.clear();
            if self.reserve.hide(at, length).is_err() {
                // The whole mappings of a window change, so nothing has to be split, which is what could fail.
                let closed = self.reserve.protect(at, length, Access::None);
                debug_assert!(closed.is_ok(), "mprotect of whole mappings cannot be refused");
            }
            // Without ballast the next drop at the limit is less sure; the next new container tries again.
            let _ = self.load_ballast();
        }
        self.give(at, length);
    }

    /// Mappings that cannot be joined with any other: the same page of a file, over and over.
    fn load_ballast(&mut self) -> Result<()> {
        let page = sys::page_size();
        let fd = sys::memory_file(c"virtio-iommu-ballast", 0)?;
        sys::truncate(fd.as_fd(), page)?;
        while self.ballast.len() < BALLAST {
            self.ballast.push(Pages::of_file(fd.as_fd(), 0, page as usize, Access::None)?);
        }
        Ok(())
    }
}

/// Length of the window of some pieces, and the alignment that those of them need which are there.
fn measure(table: &Table, pieces: &[Piece]) -> core::result::Result<(usize, usize), i32> {
    let mut align = sys::page_size() as usize;
    let mut length = 0usize;
    for piece in pieces {
        if piece.length == 0 {
            return Err(libc::EINVAL);
        }
        length = length.checked_add(piece.length).ok_or(libc::EINVAL)?;
        let mut done = 0;
        while let Ok(part) = table.file_at(piece.address + done, piece.length - done) {
            align = align.max(part.file.page as usize);
            done += part.length;
            if done == piece.length {
                break;
            }
        }
    }
    Ok((length, align))
}

/// EINVAL for a part that is not whole pages of its file, or would stand at an address that these do not allow.
fn check_whole(part: &FilePart<'_>, address: usize) -> core::result::Result<(), i32> {
    let page = part.file.page;
    let numbers = [part.offset, part.length as u64, address as u64];
    if numbers.iter().all(|number| number.is_multiple_of(page)) { Ok(()) } else { Err(libc::EINVAL) }
}

/// Linux before 6.12 asks for the seals when the addresses of MAP_FIXED are free already: refused, it leaves a hole in the
/// reserve, into which a mapping of another thread may come before we can close it. So nothing is tried that a seal forbids.
fn check_seals(file: &GuestFile) -> core::result::Result<(), i32> {
    let seals = sys::seals(file.fd.as_fd()).unwrap_or(0);
    if seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) == 0 { Ok(()) } else { Err(libc::EPERM) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::Ram;
    use crate::registry;

    const K4: usize = 4096;

    fn byte(address: usize) -> u8 {
        // SAFETY: the tests pass addresses of windows and RAM that are mapped readable.
        unsafe { core::ptr::read_volatile(address as *const u8) }
    }

    fn fill(ram: &Ram) {
        for page in 0..ram.length() / K4 {
            // SAFETY: the address is inside the RAM, which is mapped for writing.
            unsafe { core::ptr::write_volatile((ram.address() + page * K4) as *mut u8, page as u8 + 1) };
        }
    }

    fn piece(ram: &Ram, page: usize, pages: usize) -> Piece {
        Piece { address: ram.address() + page * K4, length: pages * K4 }
    }

    #[test]
    fn shows_pieces_side_by_side_and_reuses_the_addresses() {
        let _alone = registry::alone();
        let ram = Ram::create("test", 16 * K4 as u64, 0, 0).expect("a memfd");
        fill(&ram);
        let mut windows = Windows::new(64 * K4, 8).expect("a reserve");
        let table = registry::read();
        let pieces = [piece(&ram, 9, 1), piece(&ram, 2, 2), piece(&ram, 0, 1)];
        let first = windows.build(&table, &pieces, Access::Read).expect("a window");
        let seen: Vec<u8> = (0..4).map(|page| byte(first + page * K4)).collect();
        assert_eq!(seen, [10, 3, 4, 1]);
        let second = windows.build(&table, &pieces[..1], Access::ReadWrite).expect("a window");
        assert_eq!(
            (second, windows.length(first), windows.length(second)),
            (first + 4 * K4, Some(4 * K4), Some(K4))
        );
        assert_eq!(windows.length(first + K4), None);
        assert_eq!(windows.pieces(), 4);
        assert!(windows.drop_window(first));
        assert!(!windows.drop_window(first));
        assert!(!windows.drop_window(0));
        assert_eq!(windows.build(&table, &pieces[1..2], Access::Read), Ok(first));
        assert!(windows.drop_window(second) && windows.drop_window(first));
        assert_eq!((windows.pieces(), windows.free.len(), windows.standing.len()), (0, 1, 0));
    }

    #[test]
    fn refuses_what_it_cannot_show() {
        let _alone = registry::alone();
        let ram = Ram::create("test", 16 * K4 as u64, 0, 0).expect("a memfd");
        let mut windows = Windows::new(4 * K4, 3).expect("a reserve");
        let table = registry::read();
        let mut build = |pieces: &[Piece]| windows.build(&table, pieces, Access::Read);
        assert_eq!(build(&[]), Err(libc::EINVAL));
        assert_eq!(build(&[piece(&ram, 0, 0)]), Err(libc::EINVAL));
        assert_eq!(build(&[Piece { address: ram.address() + 1, length: K4 }]), Err(libc::EINVAL));
        assert_eq!(build(&[Piece { address: ram.address(), length: K4 - 1 }]), Err(libc::EINVAL));
        assert_eq!(build(&[piece(&ram, 15, 2)]), Err(libc::EFAULT));
        assert_eq!(build(&[piece(&ram, 0, 5)]), Err(libc::ENOMEM));
        assert_eq!(build(&[piece(&ram, 0, 1); 4]), Err(libc::ENOMEM));
        assert!(build(&[piece(&ram, 0, 1); 3]).is_ok());
        assert_eq!(build(&[piece(&ram, 0, 1)]), Err(libc::ENOMEM));
    }

    #[test]
    fn tries_nothing_that_a_seal_forbids() {
        let _alone = registry::alone();
        let free = Ram::create("test", 4 * K4 as u64, 0, 0).expect("a memfd");
        let sealed = Ram::create("test", 4 * K4 as u64, 0, libc::F_SEAL_FUTURE_WRITE).expect("a memfd");
        let table = registry::read();
        let pieces = [piece(&free, 0, 1), piece(&sealed, 0, 1), piece(&free, 1, 1)];
        assert_eq!(check_seals(table.file_at(sealed.address(), 1).expect("a file").file), Err(libc::EPERM));
        assert_eq!(check_seals(table.file_at(free.address(), 1).expect("a file").file), Ok(()));
        let mut windows = Windows::new(8 * K4, 8).expect("a reserve");
        assert_eq!(windows.build(&table, &pieces, Access::ReadWrite), Err(libc::EPERM));
        assert!(windows.build(&table, &pieces, Access::Read).is_ok());
    }

    #[test]
    fn aligns_windows() {
        let mut windows = Windows::new(64 * K4, 8).expect("a reserve");
        let align = 16 * K4;
        let base = windows.reserve.address();
        windows.take(K4, K4).expect("room");
        let at = windows.take(2 * K4, align).expect("room");
        assert_eq!((base + at) % align, 0);
        windows.give(at, 2 * K4);
        windows.give(0, K4);
        assert_eq!(windows.free, BTreeMap::from([(0, 64 * K4)]));
        assert_eq!(windows.take(65 * K4, K4), None);
        assert_eq!(windows.take(usize::MAX, K4), None);
    }
}
