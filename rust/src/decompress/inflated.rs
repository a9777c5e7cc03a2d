//! What was inflated of a part of a stream, and what its members' checksums are.

use super::place::StreamPlace;
use super::room::Space;

/// What a member's trailer says of it.
#[derive(Clone, Default)]
pub(super) struct Sum {
    pub(super) crc: crc32fast::Hasher,
    /// Bytes, modulo 2^32.
    pub(super) size: u32,
}

impl Sum {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.size = self.size.wrapping_add(bytes.len() as u32);
    }

    /// The sum of what this one is of and what follows it.
    pub(super) fn then(&self, other: &Sum) -> Sum {
        let mut crc = self.crc.clone();
        crc.combine(&other.crc);
        Sum { crc, size: self.size.wrapping_add(other.size) }
    }
}

/// The end of a member that began elsewhere.
pub(super) struct MemberEnd {
    pub(super) sum: Sum,
    /// The trailer: CRC-32 and size.
    pub(super) stated: (u32, u32),
}

/// What came of a part.
pub(super) struct Inflated {
    pub(super) start: StreamPlace,
    pub(super) end: StreamPlace,
    /// What is left of the byte that it begins inside of, and of the one that it ends inside of.
    pub(super) bits: (u8, u8),
    pub(super) window: Option<Vec<u8>>,
    /// Of a member that began before the part.
    pub(super) head: Option<MemberEnd>,
    /// Of the member that goes on behind the part, what the part has of it.
    pub(super) sum: Sum,
    /// Members that ended in it.
    pub(super) ended: u64,
    pub(super) space: Space,
    pub(super) length: usize,
}

impl Inflated {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.space.bytes[..self.length]
    }

    pub(super) fn into_space(self) -> Space {
        self.space
    }
}
