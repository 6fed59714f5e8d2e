//! Windows when the process has reached vm.max_map_count; a process of its own, since nothing else may map meanwhile.

use virtio_iommu_native::pages::{Access, Pages};
use virtio_iommu_native::ram::Ram;
use virtio_iommu_native::registry;
use virtio_iommu_native::windows::{Piece, Windows};

const K4: usize = 4096;
/// Mappings of the allocator, which comes and goes.
const SLACK: usize = 64;

fn limit() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("procfs");
    text.trim().parse().expect("a number")
}

fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps").expect("procfs").lines().count()
}

#[test]
fn windows_fall_back_to_nothing_at_the_limit() {
    let limit = limit();
    if limit > 200_000 {
        eprintln!("vm.max_map_count is {limit}: too many mappings to fill for a test");
        return;
    }
    let pages = limit * 2 + 16;
    let ram = Ram::create("test", (pages * K4) as u64, 0, 0).expect("a memfd");
    let mut windows = Windows::new(2 * pages * K4, 2 * limit).expect("a reserve");
    // Every other page, so that no two mappings can be joined.
    let pieces: Vec<_> =
        (0..limit + 8).map(|i| Piece { address: ram.address() + 2 * i * K4, length: K4 }).collect();
    let before = maps();
    let (small, large) = (&pieces[..4], &pieces[..]);
    let mut spare = Vec::with_capacity(16);
    {
        let table = registry::read();
        let kept = windows.build(&table, small, Access::Read).expect("a window");
        assert_eq!(windows.build(&table, large, Access::Read), Err(libc::ENOMEM));
        assert_eq!(windows.pieces(), 4);
        assert!(windows.drop_window(kept));
    }
    assert!(maps() <= before + SLACK, "{} mappings, {before} before", maps());

    // The limit is reached by others after a window was built: it is dropped all the same.
    let table = registry::read();
    let address = windows.build(&table, &pieces[..limit / 2], Access::Read).expect("a window");
    spare.reserve(limit);
    while let Ok(page) = Pages::of_file(file(), 0, K4, Access::Read) {
        spare.push(page);
    }
    assert!(windows.drop_window(address));
    drop(spare);
    assert!(maps() <= before + SLACK, "{} mappings, {before} before", maps());
    let again = windows.build(&table, small, Access::Read).expect("a window");
    assert_eq!(again, address);
}

fn file() -> std::os::fd::BorrowedFd<'static> {
    use std::os::fd::AsFd;
    use std::sync::OnceLock;
    static FILE: OnceLock<std::fs::File> = OnceLock::new();
    FILE.get_or_init(|| std::fs::File::open("/proc/self/exe").expect("an executable")).as_fd()
}
