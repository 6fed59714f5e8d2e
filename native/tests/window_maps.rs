//! What /proc/self/maps says of windows: right while they stand, inaccessible afterwards, never a hole.
//! A process of its own, so that nothing else maps meanwhile.

use virtio_iommu_native::pages::Access;
use virtio_iommu_native::ram::Ram;
use virtio_iommu_native::registry;
use virtio_iommu_native::windows::{Piece, Windows};

const K4: usize = 4096;
const PAGES: usize = 512;

struct Line {
    start: usize,
    end: usize,
    access: String,
    name: String,
}

/// The mappings inside [start, end), which must cover it without a gap.
fn covering(start: usize, end: usize) -> Vec<Line> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    let mut lines = Vec::new();
    let mut at = start;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next().expect("a range"), words.next().expect("access"));
        let (from, to) = range.split_once('-').expect("a range");
        let number = |text: &str| usize::from_str_radix(text, 16).expect("hexadecimal");
        let (from, to) = (number(from).max(start), number(to).min(end));
        if from >= to {
            continue;
        }
        assert_eq!(from, at, "a hole before {from:#x}");
        at = to;
        lines.push(Line { start: from, end: to, access: access.into(), name: line.into() });
    }
    assert_eq!(at, end, "a hole before {end:#x}");
    lines
}

fn hidden(start: usize, end: usize) -> bool {
    covering(start, end).iter().all(|line| line.access == "---p" && !line.name.contains("memfd"))
}

#[test]
fn a_window_shows_its_pieces_and_leaves_no_hole() {
    let ram = Ram::create("test-window", (2 * PAGES * K4) as u64, 0, 0).expect("a memfd");
    for page in 0..2 * PAGES {
        // SAFETY: inside the RAM, which is mapped for writing, at a multiple of 4.
        unsafe { ((ram.address() + page * K4) as *mut u32).write_volatile(page as u32) };
    }
    let mut windows = Windows::new(64 << 20, 4096).expect("a reserve");
    let (start, length) = windows.reserve();
    let end = start + length;
    assert!(hidden(start, end));

    // 2 MiB of scattered pages, in an order without neighbours.
    let order: Vec<usize> = (0..PAGES).map(|i| (i * 389 + 7) % PAGES * 2).collect();
    let pieces: Vec<_> =
        order.iter().map(|page| Piece { address: ram.address() + page * K4, length: K4 }).collect();
    let table = registry::read();
    for access in [Access::ReadWrite, Access::Read] {
        let window = windows.build(&table, &pieces, access).expect("a window");
        assert_eq!(windows.pieces(), PAGES);
        for (i, page) in order.iter().enumerate() {
            // SAFETY: inside the window, which is mapped for reading, at a multiple of 4.
            let word = unsafe { ((window + i * K4) as *const u32).read_volatile() };
            assert_eq!(word, *page as u32);
        }
        let expected = if access == Access::Read { "r--s" } else { "rw-s" };
        let lines = covering(window, window + PAGES * K4);
        assert_eq!(lines.len(), PAGES);
        assert!(lines.iter().all(|line| line.access == expected && line.end - line.start == K4));
        if access == Access::ReadWrite {
            // SAFETY: inside the window, which is mapped for writing, at a multiple of 4.
            unsafe { ((window + 3 * K4) as *mut u32).write_volatile(0xabcd) };
            let back = (ram.address() + order[3] * K4) as *mut u32;
            // SAFETY: inside the RAM, which is mapped for reading and writing, at a multiple of 4.
            unsafe {
                assert_eq!(back.read_volatile(), 0xabcd);
                back.write_volatile(order[3] as u32);
            }
        }
        assert!(windows.drop_window(window));
        assert!(hidden(start, end));
        assert_eq!(covering(start, end).len(), 1);
    }

    // A refused window leaves nothing either.
    let mut wrong = pieces.clone();
    wrong.push(Piece { address: start, length: K4 });
    assert_eq!(windows.build(&table, &wrong, Access::Read), Err(libc::EFAULT));
    assert!(hidden(start, end));
    drop(table);
    drop(windows);
    let text = std::fs::read_to_string("/proc/self/maps").expect("procfs");
    assert_eq!(text.lines().filter(|line| line.contains("memfd:test-window")).count(), 1);
    assert!(!text.contains("memfd:virtio-iommu-ballast"));
    drop(ram);
    assert!(!std::fs::read_to_string("/proc/self/maps").expect("procfs").contains("memfd:"));
}
