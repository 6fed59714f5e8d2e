//! Batches on the fake kernel, with real memory and real windows.

use super::*;
use crate::fake::Fake;
use crate::ram::Ram;

/// A batch that owns its columns.
#[derive(Default)]
struct Batch {
    kind: Vec<u8>,
    iova: Vec<f64>,
    pages: Vec<f64>,
    va: Vec<f64>,
    rights: Vec<u8>,
    pieces: Vec<i32>,
    window: Vec<f64>,
    errno: Vec<i32>,
    done: Vec<f64>,
    piece_va: Vec<f64>,
    piece_pages: Vec<f64>,
}

impl Batch {
    fn push(&mut self, kind: u8, iova: f64, pages: f64, va: f64, rights: u8) -> &mut Self {
        self.kind.push(kind);
        self.iova.push(iova);
        self.pages.push(pages);
        self.va.push(va);
        self.rights.push(rights);
        self.pieces.push(0);
        self.window.push(0.0);
        self.errno.push(0);
        self.done.push(0.0);
        self
    }

    fn gather(&mut self, iova: f64, pages: &[(f64, f64)], rights: u8) -> &mut Self {
        let total = pages.iter().map(|(_, pages)| pages).sum();
        self.push(GATHER, iova, total, self.piece_va.len() as f64, rights);
        *self.pieces.last_mut().expect("a row") = pages.len() as i32;
        self.piece_va.extend(pages.iter().map(|(va, _)| va));
        self.piece_pages.extend(pages.iter().map(|(_, pages)| pages));
        self
    }

    fn columns(&mut self) -> Columns<'_> {
        Columns {
            kind: &self.kind,
            iova: &self.iova,
            pages: &self.pages,
            va: &self.va,
            rights: &self.rights,
            pieces: &self.pieces,
            window: &mut self.window,
            errno: &mut self.errno,
            done: &mut self.done,
            piece_va: &self.piece_va,
            piece_pages: &self.piece_pages,
        }
    }
}

struct Lab {
    fake: Fake,
    batches: Batches<Fake>,
    ram: Ram,
    /// First page of the RAM.
    va: f64,
    _alone: std::sync::MutexGuard<'static, ()>,
}

fn lab() -> Lab {
    let alone = registry::alone();
    let fake = Fake::default();
    let ram = Ram::create("test", 64 * PAGE, 0, 0).expect("a memfd");
    let windows = Some(Windows::new(256 * PAGE as usize, 16).expect("a reserve"));
    let batches = Batches { container: fake.container(), windows };
    let va = window_page(ram.address());
    Lab { fake, batches, ram, va, _alone: alone }
}

#[test]
fn executes_in_order_and_stops_at_the_first_refusal() {
    let mut lab = lab();
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 4.0, lab.va, 3).push(MAP, 8.0, 2.0, lab.va + 4.0, 1 | 4);
    batch.push(MAP, 3.0, 1.0, lab.va, 3).push(UNMAP, 0.0, 16.0, 0.0, 0).push(UNMAP, 0.0, 16.0, 0.0, 0);
    assert_eq!(lab.batches.apply(&mut batch.columns(), 0, 5), 2);
    assert_eq!(batch.errno, [0, 0, libc::EEXIST, 0, 0]);
    let address = lab.ram.address() as u64;
    let entries: Vec<_> = lab.fake.0.borrow().entries.clone().into_iter().collect();
    assert_eq!(entries, [(0, (0x4000, address, 3)), (0x8000, (0x2000, address + 0x4000, 1))]);
    assert_eq!(lab.batches.apply(&mut batch.columns(), 3, 5), 5);
    assert_eq!(batch.done, [0.0, 0.0, 0.0, 6.0, 0.0]);
}

#[test]
fn gives_no_other_memory_to_a_device() {
    let mut lab = lab();
    let heap = Box::new([0u8; 3 * PAGE as usize]);
    let heap_page = (core::ptr::from_ref(heap.as_ref()) as u64 / PAGE + 1) as f64;
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 1.0, heap_page, 3);
    batch.push(MAP, 0.0, 65.0, lab.va, 3);
    batch.push(MAP, 0.0, 1.0, lab.va - 1.0, 3);
    batch.push(MAP, 0.0, 1.0, (PAGE_END - 1) as f64, 3);
    batch.push(MAP, 0.0, 64.0, lab.va, 3);
    for i in 0..4 {
        assert_eq!(lab.batches.apply(&mut batch.columns(), i, i + 1), i);
        assert_eq!(batch.errno[i], libc::EFAULT);
    }
    assert_eq!(lab.batches.apply(&mut batch.columns(), 4, 5), 5);
    drop(lab.ram);
    let mut again = Batch::default();
    again.push(MAP, 100.0, 64.0, lab.va, 3);
    assert_eq!(lab.batches.apply(&mut again.columns(), 0, 1), 0);
}

#[test]
fn refuses_page_numbers_that_are_none() {
    let mut lab = lab();
    let end = PAGE_END as f64;
    let rows = [
        (MAP, 0.5, 1.0, 0.0),
        (MAP, -1.0, 1.0, 0.0),
        (MAP, f64::NAN, 1.0, 0.0),
        (MAP, 0.0, f64::INFINITY, 0.0),
        (MAP, 0.0, end, 0.0),
        (MAP, end, 1.0, 0.0),
        (MAP, 0.0, 1.0, end),
        (MAP, end * 2.0, 1.0, 0.0),
        (UNMAP, 1.0, end, 0.0),
        (UNMAP, end, 1.0, 0.0),
        (7, 0.0, 1.0, 0.0),
        (GATHER, 0.0, 1.0, 0.0),
    ];
    for (kind, iova, pages, va) in rows {
        let mut batch = Batch::default();
        batch.push(kind, iova, pages, va, 3);
        assert_eq!(lab.batches.apply(&mut batch.columns(), 0, 1), 0, "{kind} {iova} {pages} {va}");
        assert_eq!(batch.errno, [EINVAL]);
    }
    let mut last = Batch::default();
    last.push(MAP, end - 1.0, 1.0, lab.va, 3).push(MAP, end - 2.0, 1.0, lab.va, 3);
    assert_eq!(lab.batches.apply(&mut last.columns(), 0, 1), 0);
    assert_eq!((last.errno[0], lab.batches.apply(&mut last.columns(), 1, 2)), (EINVAL, 2));
    assert_eq!(lab.batches.container.unmap_all().0, 0);
    let mut all = Batch::default();
    all.push(MAP, 1.0, 2.0, lab.va, 3).push(UNMAP, 0.0, end, 0.0, 0);
    assert_eq!(lab.batches.apply(&mut all.columns(), 0, 2), 2);
    assert_eq!(all.done[1], 2.0);
}

#[test]
fn gathers_through_a_window_that_is_gone_afterwards() {
    let mut lab = lab();
    let mut batch = Batch::default();
    batch.gather(0.0, &[(lab.va + 9.0, 1.0), (lab.va + 2.0, 2.0)], 3);
    batch.push(MAP, 16.0, 1.0, lab.va, 3);
    batch.gather(32.0, &[(lab.va + 5.0, 1.0), (lab.va + 7.0, 1.0)], 1);
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 3), 3);
    let (first, last) = (batch.window[0], batch.window[2]);
    assert!(first > 0.0 && last == first + 3.0 && batch.window[1] == 0.0);
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 3), 3);
    assert_eq!((batch.window[0], batch.window[2]), (first, last));
    assert_eq!(lab.batches.apply(&mut batch.columns(), 0, 3), 3);
    let entries: Vec<_> = lab.fake.0.borrow().entries.values().copied().collect();
    let at = |page: f64| page as u64 * PAGE;
    assert_eq!(entries[0], (3 * PAGE, at(first), 3));
    assert_eq!(entries[2], (2 * PAGE, at(last), 1));
    assert_eq!(batch.window, [0.0; 3]);
    assert_eq!(lab.batches.windows.as_ref().map(Windows::pieces), Some(0));
    assert_eq!(lab.batches.apply(&mut batch.columns(), 2, 3), 2);
    assert_eq!(batch.errno[2], EINVAL);
}

#[test]
fn drops_the_window_of_a_refused_map_and_those_never_used() {
    let mut lab = lab();
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 1.0, lab.va, 3);
    batch.gather(0.0, &[(lab.va, 1.0), (lab.va + 2.0, 1.0)], 3);
    batch.gather(8.0, &[(lab.va, 1.0), (lab.va + 2.0, 1.0)], 3);
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 3), 3);
    assert_eq!(lab.batches.apply(&mut batch.columns(), 0, 3), 1);
    assert_eq!((batch.errno[1], batch.window[1]), (libc::EEXIST, 0.0));
    assert_eq!(lab.batches.windows.as_ref().map(Windows::pieces), Some(2));
    lab.batches.drop_windows(&mut batch.columns(), 0, 3);
    lab.batches.drop_windows(&mut batch.columns(), 0, 3);
    assert_eq!(lab.batches.windows.as_ref().map(Windows::pieces), Some(0));
    assert_eq!(batch.window, [0.0; 3]);
}

#[test]
fn builds_all_windows_or_none() {
    let mut lab = lab();
    let (va, outside) = (lab.va, lab.va + 64.0);
    let wrong: [(&[(f64, f64)], i32); 4] = [
        (&[(outside, 1.0)], libc::EFAULT),
        (&[(va, 0.5)], EINVAL),
        (&[], EINVAL),
        (&[(va, 1.0); 14], libc::ENOMEM),
    ];
    for (pieces, errno) in wrong {
        let mut batch = Batch::default();
        batch.gather(0.0, &[(va, 1.0), (va + 3.0, 1.0), (va + 5.0, 1.0)], 3).gather(16.0, pieces, 3);
        assert_eq!(lab.batches.build(&mut batch.columns(), 0, 2), 1);
        assert_eq!((batch.errno[1], batch.window[0]), (errno, 0.0));
        assert_eq!(lab.batches.windows.as_ref().map(Windows::pieces), Some(0));
    }
    let mut batch = Batch::default();
    batch.gather(0.0, &[(va, 2.0)], 3);
    batch.pages[0] = 3.0;
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 1), 0);
    batch.pages[0] = 2.0;
    batch.pieces[0] = 2;
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 1), 0);
    batch.pieces[0] = -1;
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 1), 0);
    batch.pieces[0] = 1;
    lab.batches.windows = None;
    assert_eq!(lab.batches.build(&mut batch.columns(), 0, 1), 0);
    assert_eq!(batch.errno[0], EOPNOTSUPP);
    assert!(!batch.columns().hold(0, 2) && batch.columns().hold(1, 1) && !batch.columns().hold(1, 0));
}

#[test]
fn sends_forbidden_addresses_where_nothing_else_changes() {
    let table = crate::registry::Table::new();
    let refused = |va: u64, size: u64| {
        let address = allowed(&table, va, size);
        assert!(!(PAGE..KERNEL_HALF).contains(&address) && address % PAGE == va % PAGE, "{va:#x}");
        assert_eq!(
            address.checked_add(size.wrapping_sub(1)).is_none(),
            va.checked_add(size.wrapping_sub(1)).is_none(),
            "{va:#x} + {size:#x}"
        );
    };
    refused(0x7fff_ffff_f000, 2 * PAGE);
    refused(0x7fff_ffff_f800, PAGE);
    refused(0, 1 << 46);
    refused(u64::MAX - PAGE + 1, PAGE);
    refused(u64::MAX - PAGE + 1, 2 * PAGE);
    refused(1 << 63, 1 << 63);
    refused(PAGE, 1 << 63);
    refused(1 << 63, (1 << 63) + 1);
}
