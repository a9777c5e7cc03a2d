//! Compressed files: which cluster of a file is where, and how an inode says so.

use super::numbers::{BLOCK, blocks};

/// Advice of the map header: clusters may have more than one block; the last is behind the inode.
const BIG: u16 = 2;
const INLINE: u16 = 8;

/// Types of a logical block: its own block of data as it is, the first of a compressed cluster, or a later one.
const PLAIN: u16 = 0;
const HEAD: u16 = 1;
const REST: u16 = 2;

/// Marks the number of blocks of a cluster, which stands with its second logical block.
const BLOCK_COUNT: u16 = 1 << 11;

/// Bytes of the header before the logical blocks' entries, and of an entry.
const HEADER: usize = 16;
const ENTRY: usize = 8;

/// One cluster of a file. A compressed one of no blocks is the last, and behind the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterExtent {
    /// Logical blocks, the last maybe not whole.
    pub logical: u16,
    /// Blocks of the image.
    pub physical: u16,
    /// Whether the data are compressed.
    pub compressed: bool,
}

/// Where a file's data are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clusters<'a> {
    /// First block; all clusters follow each other.
    pub start: u32,
    /// The clusters, in order.
    pub extents: &'a [ClusterExtent],
    /// Bytes of the last cluster when it is behind the inode, else 0.
    pub tail: usize,
    /// The format's number of the algorithm.
    pub algorithm: u8,
}

/// Bytes behind an inode (and its attributes, which together have `head` bytes) of a file of `size` bytes, but for the
/// tail.
pub fn table_size(head: usize, size: u64) -> usize {
    head.next_multiple_of(8) - head + HEADER + ENTRY * blocks(size) as usize
}

impl Clusters<'_> {
    /// Blocks of the image.
    pub fn blocks(&self) -> u32 {
        self.extents.iter().map(|extent| u32::from(extent.physical)).sum()
    }

    /// Writes what [`table_size`] measures.
    pub fn write(&self, head: usize, mut write: impl FnMut(&[u8])) {
        write(&[0; 8][..head.next_multiple_of(8) - head]);
        let advice = BIG | if self.tail > 0 { INLINE } else { 0 };
        write(&[0; 2]);
        write(&(self.tail as u16).to_le_bytes());
        write(&advice.to_le_bytes());
        write(&[self.algorithm, (BLOCK.trailing_zeros() - 12) as u8]);
        write(&[0; 8]);
        let mut block = self.start;
        for extent in self.extents {
            for index in 0..extent.logical {
                let (kind, data) = match (extent.compressed, index) {
                    (false, _) => (PLAIN, (block + u32::from(index)).to_le_bytes()),
                    (true, 0) => (HEAD, block.to_le_bytes()),
                    (true, _) => {
                        let back = if index == 1 { BLOCK_COUNT | extent.physical } else { index };
                        let [a, b] = back.to_le_bytes();
                        let [c, d] = (extent.logical - index).to_le_bytes();
                        (REST, [a, b, c, d])
                    }
                };
                write(&kind.to_le_bytes());
                write(&[0; 2]);
                write(&data);
            }
            block += u32::from(extent.physical);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_logical_block_has_its_entry() {
        let extents = [
            ClusterExtent { logical: 3, physical: 2, compressed: true },
            ClusterExtent { logical: 2, physical: 2, compressed: false },
            ClusterExtent { logical: 1, physical: 0, compressed: true },
        ];
        let clusters = Clusters { start: 100, extents: &extents, tail: 9, algorithm: 3 };
        assert_eq!(clusters.blocks(), 4);
        let mut out = Vec::new();
        clusters.write(64 + 12, |bytes| out.extend_from_slice(bytes));
        assert_eq!(out.len(), table_size(64 + 12, 5 * 4096 + 1));
        let entries: Vec<(u8, u16, u16)> = out[4 + 16..]
            .chunks(8)
            .map(|entry| (entry[0], u16::from_le_bytes([entry[4], entry[5]]), u16::from_le_bytes([entry[6], entry[7]])))
            .collect();
        assert_eq!(out[4..12], [0, 0, 9, 0, 10, 0, 3, 0]);
        let expected = [(1, 100, 0), (2, 2048 + 2, 2), (2, 2, 1), (0, 102, 0), (0, 103, 0), (1, 104, 0)];
        assert_eq!(entries, expected);
    }
}
