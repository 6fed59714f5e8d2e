//! Batches on the fake iommufd, with real memory.

use super::*;
use crate::iommufd_fake::Fake;
use crate::ram::Ram;

#[derive(Default)]
struct Batch {
    kind: Vec<u8>,
    iova: Vec<f64>,
    pages: Vec<f64>,
    va: Vec<f64>,
    rights: Vec<u8>,
    errno: Vec<i32>,
    done: Vec<f64>,
}

impl Batch {
    fn push(&mut self, kind: u8, iova: f64, pages: f64, va: f64, rights: u8) -> &mut Self {
        self.kind.push(kind);
        self.iova.push(iova);
        self.pages.push(pages);
        self.va.push(va);
        self.rights.push(rights);
        self.errno.push(0);
        self.done.push(0.0);
        self
    }

    fn columns(&mut self) -> IommufdColumns<'_> {
        IommufdColumns {
            kind: &self.kind,
            iova: &self.iova,
            pages: &self.pages,
            va: &self.va,
            rights: &self.rights,
            errno: &mut self.errno,
            done: &mut self.done,
        }
    }
}

struct Lab {
    fake: Fake,
    file: Iommufd<Fake>,
    ioas: u32,
    cut: bool,
    /// First page of 64 pages of RAM.
    va: f64,
    _ram: Ram,
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl Lab {
    fn run(&mut self, batch: &mut Batch, from: usize) -> usize {
        let count = batch.kind.len();
        apply(&mut self.file, self.ioas, self.cut, &mut batch.columns(), from, count)
    }

    fn areas(&self) -> Vec<(u64, u64)> {
        let areas = self.file.areas(self.ioas).expect("an address space");
        areas.iter().map(|(first, area)| (first / PAGE, (area.last - first) / PAGE + 1)).collect()
    }
}

fn lab(cut: bool) -> Lab {
    let alone = registry::alone();
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    if cut {
        file.small_pages(ioas).expect("the fake agrees");
    }
    let ram = Ram::create("test", 64 * PAGE, 0, 0).expect("a memfd");
    let va = (ram.address() as u64 / PAGE) as f64;
    Lab { fake, file, ioas, cut, va, _ram: ram, _alone: alone }
}

#[test]
fn executes_in_order_and_stops_at_the_first_refusal() {
    let mut lab = lab(false);
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 4.0, lab.va, 3).push(MAP, 8.0, 2.0, lab.va + 4.0, 1 | MMIO);
    batch.push(MAP, 3.0, 1.0, lab.va, 3).push(UNMAP, 0.0, 16.0, 0.0, 0).push(UNMAP, 0.0, 16.0, 0.0, 0);
    assert_eq!(lab.run(&mut batch, 0), 2);
    assert_eq!(batch.errno, [0, 0, libc::EEXIST, 0, 0]);
    assert_eq!(lab.areas(), [(0, 4), (8, 2)]);
    let flags: Vec<_> = lab.fake.words(iommufd::IOAS_MAP).iter().map(|words| words[1]).collect();
    assert_eq!(flags, [7, 5, 7]);
    assert_eq!(lab.run(&mut batch, 3), 4);
    assert_eq!(batch.errno[3..], [0, ENOENT]);
    assert_eq!(batch.done, [0.0, 0.0, 0.0, 6.0, 0.0]);
}

#[test]
fn looks_at_both_ends_before_it_unmaps() {
    let mut lab = lab(false);
    let mut batch = Batch::default();
    for i in 0..3 {
        batch.push(MAP, f64::from(4 * i), 4.0, lab.va, 3);
    }
    assert_eq!(lab.run(&mut batch, 0), 3);
    for (iova, pages) in [(0.0, 10.0), (1.0, 11.0), (5.0, 2.0), (0.0, 1.0), (11.0, 1.0)] {
        let mut batch = Batch::default();
        assert_eq!(lab.run(batch.push(UNMAP, iova, pages, 0.0, 0), 0), 0);
        assert_eq!((batch.errno[0], lab.areas().len()), (ENOENT, 3), "{iova} + {pages}");
    }
    assert_eq!(lab.fake.words(iommufd::IOAS_UNMAP).len(), 0);
    let mut batch = Batch::default();
    assert_eq!(lab.run(batch.push(UNMAP, 4.0, 100.0, 0.0, 0), 0), 1);
    assert_eq!((batch.done[0], lab.areas()), (8.0, vec![(0, 4)]));
}

#[test]
fn cuts_where_it_may() {
    let mut lab = lab(true);
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 16.0, lab.va, 3).push(UNMAP, 5.0, 2.0, 0.0, 0).push(UNMAP, 0.0, 1.0, 0.0, 0);
    batch.push(UNMAP, 15.0, 9.0, 0.0, 0);
    assert_eq!(lab.run(&mut batch, 0), 4);
    assert_eq!(lab.areas(), [(1, 4), (7, 8)]);
    assert_eq!(batch.done, [0.0, 2.0, 1.0, 1.0]);
    assert_eq!(lab.fake.words(iommufd::IOAS_UNMAP).len(), 0);
    let mut batch = Batch::default();
    assert_eq!(lab.run(batch.push(UNMAP, 2.0, 0.0, 0.0, 0), 0), 0);
    assert_eq!((batch.errno[0], lab.areas().len()), (EINVAL, 2));
    let mut batch = Batch::default();
    batch.push(UNMAP, 0.0, (1u64 << 52) as f64, 0.0, 0).push(UNMAP, 0.0, (1u64 << 52) as f64, 0.0, 0);
    assert_eq!(lab.run(&mut batch, 0), 2);
    assert_eq!((batch.done[0], lab.areas().len()), (12.0, 0));
}

#[test]
fn cuts_in_the_address_space_that_is_named_whichever_was_before() {
    let mut lab = lab(true);
    let other = lab.file.allocate().expect("two");
    lab.file.small_pages(other).expect("the fake agrees");
    let first = lab.ioas;
    for ioas in [first, other] {
        lab.ioas = ioas;
        let mut batch = Batch::default();
        batch.push(MAP, 0.0, 8.0, lab.va, 3);
        assert_eq!(lab.run(&mut batch, 0), 1);
    }
    for (ioas, at) in [(first, 2.0), (other, 4.0), (first, 6.0)] {
        lab.ioas = ioas;
        let mut batch = Batch::default();
        batch.push(UNMAP, at, 1.0, 0.0, 0);
        assert_eq!((lab.run(&mut batch, 0), batch.done[0]), (1, 1.0));
    }
    lab.ioas = first;
    assert_eq!(lab.areas(), [(0, 2), (3, 3), (7, 1)]);
    lab.ioas = other;
    assert_eq!(lab.areas(), [(0, 4), (5, 3)]);
}

#[test]
fn refuses_page_numbers_that_are_none() {
    let mut lab = lab(false);
    let end = (1u64 << 52) as f64;
    let rows = [
        (MAP, 0.5, 1.0, 0.0, EINVAL),
        (MAP, -1.0, 1.0, 0.0, EINVAL),
        (MAP, f64::NAN, 1.0, 0.0, EINVAL),
        (MAP, 0.0, f64::INFINITY, 0.0, EINVAL),
        (MAP, 0.0, 1.0, 0.5, EINVAL),
        (MAP, 0.0, end, 0.0, EOVERFLOW),
        (MAP, end, 1.0, 0.0, EOVERFLOW),
        (MAP, 0.0, 1.0, end, libc::EFAULT),
        (UNMAP, 1.0, end, 0.0, EOVERFLOW),
        (UNMAP, end, 1.0, 0.0, EOVERFLOW),
        (UNMAP, end - 1.0, 2.0, 0.0, EOVERFLOW),
        (UNMAP, 0.0, 0.0, 0.0, EINVAL),
        (7, 0.0, 1.0, 0.0, EINVAL),
        (3, 0.0, 1.0, 0.0, EINVAL),
    ];
    for (kind, iova, pages, va, errno) in rows {
        let mut batch = Batch::default();
        batch.push(kind, iova, pages, va, 3);
        assert_eq!(lab.run(&mut batch, 0), 0, "{kind} {iova} {pages} {va}");
        assert_eq!(batch.errno, [errno], "{kind} {iova} {pages} {va}");
    }
}

#[test]
fn wants_every_column() {
    let mut batch = Batch::default();
    batch.push(MAP, 0.0, 1.0, 0.0, 3);
    assert!(batch.columns().hold(0, 1) && batch.columns().hold(1, 1));
    assert!(!batch.columns().hold(0, 2) && !batch.columns().hold(2, 1));
    let mut short = batch.columns();
    short.va = &[];
    assert!(!short.hold(0, 1));
}
