//! The typed arrays of a HostBatch as columns.

use core::ops::Range;

/// True when no range of `written` shares memory with another one of `written` or with one of `read`.
pub fn are_apart(written: &[Range<usize>], read: &[Range<usize>]) -> bool {
    written
        .iter()
        .enumerate()
        .all(|(i, one)| read.iter().chain(&written[i + 1..]).all(|other| apart(one, other)))
}

/// The memory of a column.
pub fn span<T>(column: &[T]) -> Range<usize> {
    let range = column.as_ptr_range();
    range.start as usize..range.end as usize
}

fn apart(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.end <= b.start || b.end <= a.start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_shared_memory() {
        let at = |start: usize, end: usize| start..end;
        assert!(are_apart(&[at(0, 8), at(8, 16)], &[at(16, 24), at(16, 24)]));
        assert!(!are_apart(&[at(0, 8), at(7, 16)], &[]));
        assert!(!are_apart(&[at(8, 16)], &[at(0, 4), at(0, 9)]));
        assert!(!are_apart(&[at(8, 16)], &[at(15, 20)]));
        assert!(are_apart(&[at(8, 8)], &[at(8, 8)]));
    }
}
