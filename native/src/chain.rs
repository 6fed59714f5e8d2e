//! Capability chains that VFIO hangs behind a struct: `{id u16, version u16, next u32}`, `next` counted from the start of
//! the struct, not always aligned. Bytes in, values out.

/// Reads a little- or big-endian integer as the host stores it; None outside the bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// One capability: its id and where it starts in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capability {
    pub id: u16,
    pub at: usize,
}

/// Walks the chain that starts at `first` (0: none). Stops at the end, at a link that leaves the bytes, and at one that
/// does not lead forward, so that a chain never costs more than its bytes.
pub fn capabilities(bytes: &[u8], first: u32) -> Vec<Capability> {
    let mut found = Vec::new();
    let mut at = first as usize;
    while at != 0 {
        let (Some(id), Some(next)) = (u16_at(bytes, at), u32_at(bytes, at + 4)) else {
            break;
        };
        found.push(Capability { id, at });
        if (next as usize) < at + 8 {
            break;
        }
        at = next as usize;
    }
    found
}

/// `count` pairs of u64 from `at` on, as many as there are.
pub fn pairs(bytes: &[u8], at: usize, count: u32) -> Vec<(u64, u64)> {
    (0..count as usize)
        .map_while(|i| {
            let at = at.checked_add(i.checked_mul(16)?)?;
            Some((u64_at(bytes, at)?, u64_at(bytes, at + 8)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &mut [u8], at: usize, id: u16, next: u32) {
        bytes[at..at + 2].copy_from_slice(&id.to_ne_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&next.to_ne_bytes());
    }

    #[test]
    fn walks_an_unaligned_chain() {
        let mut bytes = vec![0; 120];
        header(&mut bytes, 24, 2, 56);
        header(&mut bytes, 56, 3, 68);
        header(&mut bytes, 68, 1, 0);
        let found: Vec<_> = capabilities(&bytes, 24).iter().map(|each| (each.id, each.at)).collect();
        assert_eq!(found, [(2, 24), (3, 56), (1, 68)]);
        assert!(capabilities(&bytes, 0).is_empty());
    }

    #[test]
    fn ends_at_loops_and_at_the_end_of_the_bytes() {
        let mut bytes = vec![0; 64];
        header(&mut bytes, 24, 1, 24);
        assert_eq!(capabilities(&bytes, 24).len(), 1);
        header(&mut bytes, 24, 1, 8);
        assert_eq!(capabilities(&bytes, 24).len(), 1);
        header(&mut bytes, 24, 1, 56);
        header(&mut bytes, 56, 1, 64);
        assert_eq!(capabilities(&bytes, 24).len(), 2);
        assert!(capabilities(&bytes, 57).is_empty());
        assert!(capabilities(&bytes, u32::MAX).is_empty());
        assert!(capabilities(&[], 24).is_empty());
    }

    #[test]
    fn reads_as_many_pairs_as_there_are() {
        let bytes: Vec<u8> = (0..40).collect();
        assert_eq!(pairs(&bytes, 0, 1).len(), 1);
        assert_eq!(pairs(&bytes, 8, u32::MAX).len(), 2);
        assert_eq!(pairs(&bytes, 9, u32::MAX).len(), 1);
        assert!(pairs(&bytes, usize::MAX, 3).is_empty());
    }

    /// Every start, every pair of next pointers of a small buffer of noise: no panic, no endless walk.
    #[test]
    fn survives_noise() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let rounds = if cfg!(miri) { 30 } else { 5000 };
        for _ in 0..rounds {
            let mut bytes = vec![0u8; 80];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = if state >> 62 == 0 { (state >> 40) as u8 } else { (state >> 40) as u8 & 0x3f };
            }
            for first in 0..96 {
                assert!(capabilities(&bytes, first).len() <= 10);
                pairs(&bytes, first as usize, u32::MAX);
            }
        }
    }
}
