//! What an IOAS holds, as this process has put it there: the kernel tells neither its areas nor their memory, and its
//! unmap is not atomic, so both ends are looked at here first. Byte addresses, last ones inclusive.

use std::collections::BTreeMap;

/// One area (struct iopt_area).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    pub last: u64,
    /// The memory that the kernel will pin, once devices are attached; None where a file stands behind it.
    pub va: Option<u64>,
}

/// Areas by first address; they do not overlap.
#[derive(Debug, Default, Clone)]
pub struct Areas {
    rows: BTreeMap<u64, Area>,
}

impl Areas {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
    }

    pub fn insert(&mut self, first: u64, last: u64, va: Option<u64>) {
        self.rows.insert(first, Area { last, va });
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, Area)> {
        self.rows.iter().map(|(&first, &area)| (first, area))
    }

    /// The area that has bytes on both sides of the border below `at`.
    fn over(&self, at: u64) -> Option<(u64, Area)> {
        let (&first, &area) = self.rows.range(..at).next_back()?;
        (area.last >= at).then_some((first, area))
    }

    /// True when [first, last] cuts no area at either of its ends.
    pub fn is_whole(&self, first: u64, last: u64) -> bool {
        self.over(first).is_none() && last.checked_add(1).is_none_or(|next| self.over(next).is_none())
    }

    /// Makes two of the area over the border below `at`, as iopt_area_split() does; false when there is one and the border
    /// is none of pages.
    pub fn cut(&mut self, at: u64) -> bool {
        let Some((first, area)) = self.over(at) else { return true };
        if at & 0xfff != 0 {
            return false;
        }
        self.insert(first, at - 1, area.va);
        self.insert(at, area.last, area.va.map(|va| va + (at - first)));
        true
    }

    /// Removes areas of [first, last] in ascending order, up to the first that is not inside, as
    /// iopt_unmap_iova_range() does.
    pub fn remove(&mut self, first: u64, last: u64) {
        if self.over(first).is_some() {
            return;
        }
        while let Some((&start, area)) = self.rows.range(first..=last).next() {
            if area.last > last {
                return;
            }
            self.rows.remove(&start);
        }
    }

    /// The parts of areas that cover [first, last], each with its length less one and its memory; None where one is
    /// missing.
    pub fn slices(&self, first: u64, last: u64) -> Option<Vec<(u64, Option<u64>)>> {
        let mut found = Vec::new();
        let mut at = first;
        loop {
            let (&start, area) = self.rows.range(..=at).next_back()?;
            if area.last < at {
                return None;
            }
            let end = area.last.min(last);
            found.push((end - at, area.va.map(|va| va + (at - start))));
            if end == last {
                return Some(found);
            }
            at = end + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Areas {
        let mut areas = Areas::default();
        areas.insert(0x1000, 0x2fff, Some(0x10_0000));
        areas.insert(0x3000, 0x3fff, None);
        areas.insert(u64::MAX - 0xfff, u64::MAX, Some(0x20_0000));
        areas
    }

    #[test]
    fn tells_which_ranges_cut_an_area() {
        let areas = three();
        for (first, last, whole) in [
            (0x1000, 0x2fff, true),
            (0, 0xfff, true),
            (0, 0x3fff, true),
            (0x2000, 0x3fff, false),
            (0x1000, 0x2ffe, false),
            (0x1001, 0x2fff, false),
            (0x1000, 0x3000, false),
            (0x3000, u64::MAX, true),
            (0x3000, u64::MAX - 1, false),
            (u64::MAX, u64::MAX, false),
            (0, u64::MAX, true),
        ] {
            assert_eq!(areas.is_whole(first, last), whole, "{first:#x}-{last:#x}");
        }
    }

    #[test]
    fn removes_as_the_kernel_does() {
        let left = |first, last| {
            let mut areas = three();
            areas.remove(first, last);
            areas.iter().map(|(first, _)| first).collect::<Vec<_>>()
        };
        let top = u64::MAX - 0xfff;
        assert_eq!(left(0, u64::MAX), []);
        assert_eq!(left(0, 0x3fff), [top]);
        assert_eq!(left(0x1000, 0x3ffe), [0x3000, top]);
        assert_eq!(left(0x2000, u64::MAX), [0x1000, 0x3000, top]);
        assert_eq!(left(0x4000, u64::MAX - 1), [0x1000, 0x3000, top]);
        assert_eq!(left(0x5000, 0x5fff), [0x1000, 0x3000, top]);
    }

    #[test]
    fn splits_with_the_memory() {
        let mut areas = three();
        for (at, done) in
            [(0x2000, true), (0x1000, true), (0x3000, true), (0, true), (0x9001, true), (0x1800, false)]
        {
            assert_eq!(areas.cut(at), done);
        }
        assert_eq!(areas.len(), 4);
        let rows: Vec<_> = areas.iter().take(2).collect();
        let area = |last, va| Area { last, va: Some(va) };
        assert_eq!(rows, [(0x1000, area(0x1fff, 0x10_0000)), (0x2000, area(0x2fff, 0x10_1000))]);
        areas.clear();
        assert!(areas.is_empty());
    }

    #[test]
    fn slices_without_gaps() {
        let areas = three();
        assert_eq!(areas.slices(0x2000, 0x3fff), Some(vec![(0xfff, Some(0x10_1000)), (0xfff, None)]));
        assert_eq!(areas.slices(0x1800, 0x27ff), Some(vec![(0xfff, Some(0x10_0800))]));
        assert_eq!(areas.slices(0x3000, 0x4000), None);
        assert_eq!(areas.slices(0xfff, 0x1000), None);
        assert_eq!(areas.slices(u64::MAX, u64::MAX), Some(vec![(0, Some(0x20_0fff))]));
    }
}
