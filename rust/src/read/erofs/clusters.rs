//! The clusters of a compressed file: where each begins, in the file and in the image.
//!
//! Linux, fs/erofs/erofs_fs.h, from `struct z_erofs_map_header` on. Each logical cluster has an entry: it is the head of
//! an extent, which begins somewhere in it, or lies within one. In the compact form 2 or 16 entries share one address.

use super::image::Image;
use super::records::{Inode, Layout, LogicalExtent, Packing};
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::Fields;
use crate::read::unpack::BlockAlgorithm;

/// Advice of the header.
const SHORT_ENTRIES: u16 = 0x1;
const BIG: [u16; 2] = [0x2, 0x4];
const INLINE: u16 = 0x8;
const INTERLACED: u16 = 0x10;
const FRAGMENT: u16 = 0x20;
const KNOWN: u16 = SHORT_ENTRIES | BIG[0] | BIG[1] | INLINE | INTERLACED | FRAGMENT;

/// Marks a file that is a fragment as a whole, in the byte of the cluster's size.
const WHOLE_FRAGMENT: u8 = 0x80;
/// Marks the number of blocks of an extent, which stands with its second logical cluster.
const BLOCK_COUNT: u32 = 1 << 11;
/// Bytes of the header, and of it with what stands before full entries.
const HEADER: u64 = 8;
const FULL_HEADER: u64 = 16;
const FULL_ENTRY: u64 = 8;
/// Most bytes that one extent unpacks to; Linux takes 12 MiB.
const EXTENT_MAX: u64 = 16 << 20;

/// An entry.
#[derive(Clone, Copy, Debug)]
struct ClusterEntry {
    kind: u32,
    /// Where in its logical cluster an extent begins.
    offset: u64,
    block: u64,
    /// Blocks of the extent that this cluster is the second one of.
    count: Option<u64>,
}

/// Kinds of entries; the one that is left is the head of an extent of the second algorithm.
const PLAIN: u32 = 0;
const FIRST: u32 = 1;
const REST: u32 = 2;

/// All entries of a file in memory.
struct ClusterIndex {
    bytes: Vec<u8>,
    /// Bytes of the image before the first.
    start: u64,
    cluster_bits: u32,
    form: Form,
    big: [bool; 2],
}

#[derive(Clone, Copy)]
enum Form {
    Full,
    /// Entries of 4 bytes before those of 2, and of 2.
    Compact(u64, u64),
}

impl ClusterIndex {
    /// Where the pack of an entry begins, its bytes, and the entry's number in it; bytes count from `start`.
    fn pack(&self, number: u64) -> (u64, u64, u64) {
        match self.form {
            Form::Full => (number * FULL_ENTRY, FULL_ENTRY, 0),
            Form::Compact(first, short) => {
                let (at, size, shift) = if number < first {
                    (4 * number, 8, 2)
                } else if number < first + short {
                    (4 * first + 2 * (number - first), 32, 1)
                } else {
                    (4 * first + 2 * short + 4 * (number - first - short), 8, 2)
                };
                // Packs are aligned in the image, and the first ones may begin in the middle of one.
                let absolute = self.start + at;
                let base = absolute / size * size;
                (base.saturating_sub(self.start), size, (absolute - base.max(self.start)) >> shift)
            }
        }
    }

    fn entry(&self, number: u64) -> Result<ClusterEntry> {
        let (base, size, within) = self.pack(number);
        let pack = self.bytes.part(base as usize, size as usize)?;
        if let Form::Full = self.form {
            let (kind, value) = (u32::from(pack.u16(0)?) & 3, pack.u32(4)?);
            let count = value & 0xffff;
            let count = (kind == REST && count & BLOCK_COUNT != 0).then_some(u64::from(count & !BLOCK_COUNT));
            return Ok(ClusterEntry { kind, offset: pack.u16(2)?.into(), block: value.into(), count });
        }
        let entries = if size == 8 { 2 } else { 16 };
        let bits = ((size - 4) * 8 / entries) as usize;
        let low_bits = self.cluster_bits.max(12);
        let value = |index: u64| -> Result<(u32, u32)> {
            let at = bits * index as usize;
            // The last entries end before the address does, so these bytes are there.
            let value = pack.u32(at / 8)? >> (at % 8);
            Ok((value & ((1 << low_bits) - 1), value >> low_bits & 3))
        };
        let (low, kind) = value(within)?;
        if kind == REST {
            let count = (low & BLOCK_COUNT != 0).then_some(u64::from(low & !BLOCK_COUNT));
            return Ok(ClusterEntry { kind, offset: 0, block: 0, count });
        }
        // The blocks of the extents that begin before in this pack lie between its address and this one's.
        let (mut blocks, mut index) = (if self.big[0] { 0 } else { 1 }, within as i64);
        while index > 0 {
            index -= 1;
            let (low, kind) = value(index as u64)?;
            let low = i64::from(low);
            match (kind, self.big[0]) {
                (REST, false) => {
                    index -= low;
                    blocks += u64::from(index >= 0);
                }
                (REST, true) if low & i64::from(BLOCK_COUNT) != 0 => {
                    index -= 1;
                    blocks += (low & !i64::from(BLOCK_COUNT)) as u64;
                }
                (REST, true) if low <= 1 => return Err(invalid("an entry of a compressed file leads nowhere")),
                (REST, true) => index -= low - 2,
                _ => blocks += 1,
            }
        }
        let block = u64::from(pack.u32(size as usize - 4)?) + blocks;
        Ok(ClusterEntry { kind, offset: low.into(), block, count: None })
    }
}

impl Image {
    /// The extents of a compressed file, in order.
    pub(super) fn extents(&self, inode: &Inode) -> Result<Vec<LogicalExtent>> {
        let wrong = |what: &str| invalid(format!("{what} of the compressed inode {}", inode.nid));
        if inode.size == 0 {
            return Ok(Vec::new());
        }
        let aligned = inode.behind.next_multiple_of(8);
        let header = self.primary().bytes(aligned, HEADER)?;
        let sizes = header.u8(7)?;
        if sizes & WHOLE_FRAGMENT != 0 {
            let packing = Packing::Fragment(header.u64(0)? ^ 1 << 63);
            return Ok(vec![LogicalExtent { logical: 0, place: (0, 0), in_blocks: false, packing }]);
        }
        let advice = header.u16(4)?;
        let full = inode.layout == Layout::CompressedFull;
        if advice & !KNOWN != 0 || full && advice & SHORT_ENTRIES != 0 {
            return Err(wrong(&format!("unknown advice {advice:#x}")));
        }
        let cluster_bits = self.superblock.block_bits + u32::from(sizes & 15);
        if cluster_bits > 14 || advice & SHORT_ENTRIES != 0 && cluster_bits > 12 {
            return Err(wrong("unknown logical clusters"));
        }
        let algorithms = header.u8(6)?;
        let algorithms = [self.algorithm(algorithms & 15)?, self.algorithm(algorithms >> 4)?];
        let count = inode.size.div_ceil(1 << cluster_bits);
        let big = BIG.map(|bit| advice & bit != 0);
        let index = self.index(aligned, cluster_bits, count, full, advice, big)?;
        let mut extents: Vec<LogicalExtent> = Vec::new();
        for number in 0..count {
            let entry = index.entry(number)?;
            if entry.kind == REST {
                continue;
            }
            let logical = (number << cluster_bits) + entry.offset;
            if entry.offset >= 1 << cluster_bits || extents.is_empty() && logical > 0 {
                return Err(wrong("a gap before an extent"));
            }
            // The last entry may say where the data end.
            if logical >= inode.size {
                break;
            }
            let turned = if advice & INTERLACED != 0 { entry.offset } else { 0 };
            let packing = match entry.kind {
                PLAIN => Packing::Plain { turned },
                FIRST => Packing::Compressed(algorithms[0].ok_or_else(|| wrong("unknown algorithm"))?),
                _ => Packing::Compressed(algorithms[1].ok_or_else(|| wrong("unknown algorithm"))?),
            };
            let is_big = big[usize::from(entry.kind != FIRST)];
            let next = if is_big && number + 1 < count { index.entry(number + 1)?.count } else { None };
            let length = next.unwrap_or(1) << self.superblock.block_bits;
            let place = (entry.block << self.superblock.block_bits, length);
            extents.push(LogicalExtent { logical, place, in_blocks: true, packing });
        }
        let last = extents.last_mut().ok_or_else(|| wrong("no extents"))?;
        if advice & INLINE != 0 {
            let (base, size, _) = index.pack(count - 1);
            *last =
                LogicalExtent { place: (index.start + base + size, header.u16(2)?.into()), in_blocks: false, ..*last };
        }
        if advice & FRAGMENT != 0 {
            *last = LogicalExtent { packing: Packing::Fragment(header.u32(0)?.into()), ..*last };
        }
        let ends = extents.iter().skip(1).map(|extent| extent.logical).chain([inode.size]);
        let too_long = |(extent, end): (&LogicalExtent, u64)| {
            !matches!(extent.packing, Packing::Fragment(_)) && end - extent.logical > EXTENT_MAX
        };
        if extents.iter().zip(ends).any(too_long) {
            return Err(wrong("an extent of more than 16 MiB"));
        }
        Ok(extents)
    }

    /// Reads the entries; there are as many as the image has room for.
    fn index(
        &self,
        aligned: u64,
        cluster_bits: u32,
        count: u64,
        full: bool,
        advice: u16,
        big: [bool; 2],
    ) -> Result<ClusterIndex> {
        let missing = || invalid("a compressed file has more clusters than the image has bytes");
        if count > self.primary().size() {
            return Err(missing());
        }
        if full {
            let start = aligned + FULL_HEADER;
            let bytes = self.primary().bytes(start, count * FULL_ENTRY).map_err(|_| missing())?;
            return Ok(ClusterIndex { bytes, start, cluster_bits, form: Form::Full, big });
        }
        let start = aligned + HEADER;
        // Entries of 4 bytes lead up to the next 32 bytes, from which on those of 2 come in packs of 16.
        let first = ((32 - start % 32) / 4 % 8).min(count);
        let short = if advice & SHORT_ENTRIES != 0 { (count - first) / 16 * 16 } else { 0 };
        let mut index = ClusterIndex { bytes: Vec::new(), start, cluster_bits, form: Form::Compact(first, short), big };
        let (base, size, _) = index.pack(count - 1);
        index.bytes = self.primary().bytes(start, base + size).map_err(|_| missing())?;
        Ok(index)
    }

    /// An algorithm by its number; none for one that is not known, which may be that of no cluster.
    fn algorithm(&self, number: u8) -> Result<Option<BlockAlgorithm>> {
        Ok(match number {
            0 => Some(BlockAlgorithm::Lz4),
            1 => Some(BlockAlgorithm::MicroLzma(self.superblock.lzma_dictionary)),
            2 => Some(BlockAlgorithm::Deflate),
            3 => Some(BlockAlgorithm::Zstd),
            _ => None,
        })
    }
}
