//! Single calls on the fake iommufd, with real memory.

use super::*;
use crate::device::Device;
use crate::iommufd_device::dma_buf;
use crate::iommufd_fake::Fake;
use crate::ram::Ram;
use crate::registry::{self, Registration, Source};

const PAGE: u64 = 4096;

fn map(ioas: u32, va: u64, length: u64, iova: u64) -> Map {
    Map { ioas, flags: 7, va, length, iova }
}

fn firsts(file: &Iommufd<Fake>, ioas: u32) -> Vec<u64> {
    file.areas(ioas).expect("an address space").iter().map(|(first, _)| first).collect()
}

#[test]
fn opens_with_the_accounting_that_is_asked_for() {
    let fake = Fake::default();
    drop(fake.open());
    assert_eq!(fake.words(abi::OPTION).len(), 0);
    drop(Iommufd::open(fake.clone(), "/dev/null", true).expect("the fake agrees"));
    assert_eq!(fake.words(abi::OPTION), [[24, abi::OPTION_RLIMIT_MODE, 0, 0, 1, 0]]);
    fake.0.borrow_mut().refuse.insert(abi::OPTION, libc::EPERM);
    let failure = |path: &str| Iommufd::open(fake.clone(), path, true).expect_err("refused");
    assert_eq!(failure("/dev/null"), Failure::new("IOMMU_OPTION_RLIMIT_MODE", libc::EPERM));
    assert_eq!(failure("/nowhere"), Failure::new("open iommufd", libc::ENOENT));
    assert_eq!(failure("a\0b"), Failure::new("open iommufd", libc::EINVAL));
}

#[test]
fn makes_address_spaces_of_both_kinds() {
    let fake = Fake::default();
    let mut file = fake.open();
    let (first, second) = (file.allocate().expect("one"), file.allocate().expect("two"));
    file.small_pages(second).expect("the fake agrees");
    assert_eq!(fake.words(abi::OPTION), [[24, abi::OPTION_HUGE_PAGES, 0, second, 0, 0]]);
    file.destroy(first).expect("the fake agrees");
    assert_eq!(fake.words(abi::DESTROY), [[8, first]]);
    assert!(file.areas(first).is_none());
    fake.0.borrow_mut().refuse.extend([(abi::IOAS_ALLOC, libc::ENOMEM), (abi::DESTROY, libc::EBUSY)]);
    assert_eq!(file.allocate(), Err(Failure::new("IOMMU_IOAS_ALLOC", libc::ENOMEM)));
    assert_eq!(file.destroy(second), Err(Failure::new("IOMMU_DESTROY", libc::EBUSY)));
    assert!(file.areas(second).is_some());
}

#[test]
fn reads_ranges_also_of_an_answer_longer_than_the_room() {
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    for count in [1u64, 16, 17, 300] {
        let ranges: Vec<_> = (0..count).map(|i| (i << 32, (i << 32) + 5)).collect();
        fake.0.borrow_mut().ranges.clone_from(&ranges);
        assert_eq!(file.ranges(ioas), Ok(Ranges { ranges, alignment: PAGE }));
    }
    fake.0.borrow_mut().ranges = vec![(0, 1); MAX_RANGES as usize + 1];
    assert_eq!(file.ranges(ioas).expect_err("refused").errno, libc::EMSGSIZE);
}

#[test]
fn gives_only_registered_memory() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    let va = ram.address() as u64;
    let table = registry::read();
    assert_eq!(file.map(&table, map(ioas, va, 16 * PAGE, PAGE)), Ok(()));
    for (wrong, length) in [(va, 17 * PAGE), (va - PAGE, PAGE), (0x1000, PAGE), (va + 16 * PAGE, PAGE)] {
        let refused = file.map(&table, map(ioas, wrong, length, 1 << 30)).expect_err("refused");
        assert_eq!(refused, Failure::new("IOMMU_IOAS_MAP", libc::EFAULT));
        let refused = file.map_file(&table, map(ioas, wrong, length, 1 << 30)).expect_err("refused");
        assert_eq!(refused, Failure::new("IOMMU_IOAS_MAP_FILE", libc::EFAULT));
    }
    // What wraps is the kernel's to refuse: the address goes through.
    assert_eq!(guarded(&table, u64::MAX - 0xfff, PAGE), u64::MAX - 0xfff);
    assert_eq!(guarded(&table, 0x7fff_ffff_f000, u64::MAX), 0x7fff_ffff_f000);
    assert_eq!(guarded(&table, 0x1234, PAGE), KERNEL_HALF | 0x234);
    assert_eq!(firsts(&file, ioas), [PAGE]);
}

#[test]
fn maps_the_file_behind_memory_and_registers() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    let registers = 0x5000_0000_0000usize;
    let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
    let _row = Registration::new(registers, 4096, Source::Registers { dma_buf: Arc::new(null()) });
    let table = registry::read();
    let va = ram.address() as u64 + 3 * PAGE;
    assert_eq!(file.map_file(&table, map(ioas, va, 13 * PAGE, 0)), Ok(()));
    assert_eq!(file.map_file(&table, map(ioas, registers as u64, PAGE, 1 << 20)), Ok(()));
    let words = fake.words(abi::IOAS_MAP_FILE);
    assert_eq!(words[0][4..], [3 * PAGE as u32, 0, 13 * PAGE as u32, 0, 0, 0]);
    assert_eq!(words[1][4..], [0, 0, PAGE as u32, 0, 1 << 20, 0]);
    assert_ne!(words[0][3], words[1][3]);
}

#[test]
fn knows_what_is_left_after_unmaps() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    let va = ram.address() as u64;
    let table = registry::read();
    for i in 0..4 {
        file.map(&table, map(ioas, va, 4 * PAGE, 4 * i * PAGE)).expect("room");
    }
    assert_eq!(file.unmap(ioas, 0, 10 * PAGE), (libc::ENOENT, 10 * PAGE));
    assert_eq!(firsts(&file, ioas), [8 * PAGE, 12 * PAGE]);
    assert_eq!(file.unmap(ioas, 0, PAGE), (libc::ENOENT, PAGE));
    assert_eq!(file.unmap(ioas, 12 * PAGE, 4 * PAGE), (0, 4 * PAGE));
    assert_eq!(firsts(&file, ioas), [8 * PAGE]);
    file.small_pages(ioas).expect("the fake agrees");
    assert_eq!(file.unmap_dma(ioas, 24, 0, 9 * PAGE, PAGE), (0, PAGE));
    assert_eq!(firsts(&file, ioas), [8 * PAGE, 10 * PAGE]);
    assert_eq!(file.unmap_dma(ioas, 24, 2, 0, 0), (0, 3 * PAGE));
    assert_eq!(file.unmap_all(ioas), (0, 0));
    assert_eq!(file.unmap_dma(ioas, 24, 0, 0, PAGE), (libc::ENOENT, 0));
}

/// Address spaces that were selected so far.
fn selected(fake: &Fake) -> Vec<u32> {
    fake.words(abi::VFIO_IOAS).iter().map(|words| words[1]).collect()
}

#[test]
fn the_legacy_unmap_changes_the_address_space_that_is_named() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let (one, two) = (file.allocate().expect("one"), file.allocate().expect("two"));
    for ioas in [one, two] {
        file.small_pages(ioas).expect("the fake agrees");
        file.map(&registry::read(), map(ioas, ram.address() as u64, 8 * PAGE, 0)).expect("room");
    }
    assert_eq!(file.unmap_dma(one, 24, 0, 2 * PAGE, PAGE), (0, PAGE));
    assert_eq!((firsts(&file, one), firsts(&file, two)), (vec![0, 3 * PAGE], vec![0]));
    assert_eq!(file.unmap_dma(one, 24, 0, 3 * PAGE, PAGE), (0, PAGE));
    assert_eq!(selected(&fake), [one]);
    assert_eq!(file.unmap_dma(two, 24, 0, 0, PAGE), (0, PAGE));
    assert_eq!(file.unmap_dma(one, 24, 2, 0, 0), (0, 6 * PAGE));
    assert_eq!((firsts(&file, one), firsts(&file, two)), (vec![], vec![PAGE]));
    assert_eq!(selected(&fake), [one, two, one]);
    assert_eq!(fake.words(abi::VFIO_IOAS)[0], [12, one, 1]);
}

#[test]
fn an_address_space_that_cannot_be_selected_stays_as_it_is_and_so_do_the_others() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let (one, two) = (file.allocate().expect("one"), file.allocate().expect("two"));
    for ioas in [one, two] {
        file.small_pages(ioas).expect("the fake agrees");
        file.map(&registry::read(), map(ioas, ram.address() as u64, 8 * PAGE, 0)).expect("room");
    }
    assert_eq!(file.unmap_dma(one, 24, 0, 0, PAGE), (0, PAGE));
    fake.0.borrow_mut().refuse.insert(abi::VFIO_IOAS, libc::ENOMEM);
    let before = fake.words(vfio::IOMMU_UNMAP_DMA).len();
    assert_eq!(file.unmap_dma(two, 24, 0, 0, PAGE), (libc::ENOMEM, PAGE));
    assert_eq!(fake.words(vfio::IOMMU_UNMAP_DMA).len(), before);
    assert_eq!(firsts(&file, two), [0]);
    fake.0.borrow_mut().refuse.clear();
    assert_eq!(file.unmap_dma(two, 24, 2, 0, 0), (0, 8 * PAGE));
}

#[test]
fn the_selected_address_space_is_forgotten_when_it_is_destroyed() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let (kept, gone) = (file.allocate().expect("one"), file.allocate().expect("two"));
    assert_eq!(file.unmap_dma(gone, 24, 2, 0, 0), (0, 0));
    fake.0.borrow_mut().refuse.insert(abi::DESTROY, libc::EBUSY);
    file.destroy(gone).expect_err("refused");
    fake.0.borrow_mut().refuse.clear();
    assert_eq!(file.unmap_dma(gone, 24, 2, 0, 0), (0, 0));
    assert_eq!(selected(&fake), [gone], "a refused destruction changes nothing");
    file.destroy(gone).expect("the fake agrees");
    // The next one gets the same id, and must be selected all the same.
    assert_eq!(file.allocate(), Ok(gone));
    file.map(&registry::read(), map(gone, ram.address() as u64, PAGE, 0)).expect("room");
    assert_eq!(file.unmap_dma(gone, 24, 2, 0, 0), (0, PAGE));
    assert_eq!(selected(&fake), [gone, gone]);
    file.destroy(gone).expect("the fake agrees");
    assert_eq!(file.unmap_dma(gone, 24, 2, 0, 0), (libc::ENOENT, 0), "there is none");
    assert_eq!(file.unmap_dma(kept, 24, 2, 0, 0), (0, 0));
}

#[test]
fn copies_with_the_memory_and_only_while_it_is_registered() {
    let _alone = registry::alone();
    let ram = Ram::create("test", 16 * PAGE, 0, 0).expect("a memfd");
    let fake = Fake::default();
    let mut file = fake.open();
    let (to, from) = (file.allocate().expect("one"), file.allocate().expect("two"));
    let va = ram.address() as u64;
    let copy = Copy { ioas: to, source: from, flags: 7, source_iova: PAGE, length: 4 * PAGE, iova: 1 << 30 };
    {
        let table = registry::read();
        for i in 0..2 {
            file.map(&table, map(from, va + 4 * i * PAGE, 4 * PAGE, 4 * i * PAGE)).expect("room");
        }
        assert_eq!(file.copy(&table, copy), Ok(()));
        assert_eq!(fake.words(abi::IOAS_COPY)[0][2..4], [to, from]);
        let areas: Vec<_> =
            file.areas(to).expect("one").iter().map(|(first, area)| (first, area.va)).collect();
        let expected = [(1 << 30, Some(va + PAGE)), ((1 << 30) + 3 * PAGE, Some(va + 4 * PAGE))];
        assert_eq!(areas, expected);
    }
    let device =
        Device::of_iommufd(fake.clone(), OwnedFd::from(std::fs::File::open("/dev/null").expect("null")));
    assert_eq!(file.attach(&device, to), Ok(()));
    drop(ram);
    let table = registry::read();
    let gone = file.copy(&table, Copy { iova: 1 << 31, ..copy }).expect_err("refused");
    assert_eq!(gone, Failure::new("IOMMU_IOAS_COPY", libc::EFAULT));
    drop(table);
    let refused = file.attach(&device, to).expect_err("refused");
    assert_eq!(refused, Failure::new("VFIO_DEVICE_ATTACH_IOMMUFD_PT", libc::EFAULT));
}

#[test]
fn binds_attaches_and_detaches_devices() {
    let _alone = registry::alone();
    let fake = Fake::default();
    let mut file = fake.open();
    let ioas = file.allocate().expect("one");
    let device = file.bind("/dev/zero").expect("the fake agrees");
    file.attach(&device, ioas).expect("the fake agrees");
    file.detach(&device).expect("the fake agrees");
    assert_eq!(fake.words(abi::DEVICE_BIND), [[16, 0, file.fd().as_raw_fd() as u32, 0]]);
    assert_eq!(fake.words(abi::DEVICE_ATTACH), [[12, 0, ioas]]);
    assert_eq!(fake.words(abi::DEVICE_DETACH), [[8, 0]]);
    drop(dma_buf(&device, 2, PAGE, 3 * PAGE).expect("the fake agrees"));
    let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let (page, three) = (PAGE as u32, 3 * PAGE as u32);
    assert_eq!(fake.words(abi::DEVICE_FEATURE), [[40, 0x1_000b, 2, flags, 0, 1, page, 0, three, 0]]);
    fake.0.borrow_mut().refuse.insert(abi::DEVICE_BIND, libc::EBUSY);
    let failure = |path: &str| file.bind(path).expect_err("refused");
    assert_eq!(failure("/dev/zero"), Failure::new("VFIO_DEVICE_BIND_IOMMUFD", libc::EBUSY));
    assert_eq!(failure("/nowhere"), Failure::new("open device", libc::ENOENT));
}

#[test]
fn tries_whether_registers_can_be_mapped() {
    let fake = Fake::default();
    let mut file = fake.open();
    let device = file.bind("/dev/zero").expect("the fake agrees");
    assert!(!file.maps_registers(&device), "a device without BARs");
    fake.0.borrow_mut().bar_bytes = PAGE;
    assert!(file.maps_registers(&device));
    assert_eq!(fake.words(abi::IOAS_MAP_FILE).len(), 1);
    for (request, errno) in [(abi::IOAS_MAP_FILE, libc::ENOTTY), (abi::DEVICE_FEATURE, libc::ENOTTY)] {
        fake.0.borrow_mut().refuse.insert(request, errno);
        assert!(!file.maps_registers(&device));
    }
    assert_eq!(fake.words(abi::DESTROY).len(), 4);
    fake.0.borrow_mut().refuse.insert(abi::IOAS_ALLOC, libc::ENOMEM);
    assert!(!file.maps_registers(&device));
}
