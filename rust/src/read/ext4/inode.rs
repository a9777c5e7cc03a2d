//! Inodes and the extents of their data (kernel documentation, ext4, "Index Nodes", "Extent Tree").

use super::image::Image;
use super::records::{Inode, Run};
use crate::entry::Mtime;
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::Fields;

/// Bytes of the fields that all inodes have.
const FIELDS: usize = 128;
/// Flags of an inode.
const EXTENTS: u32 = 0x8_0000;
const UNKNOWN: [(u32, &str); 3] = [(0x800, "encryption"), (0x1000_0000, "inline data"), (0x4, "compression")];
/// Where the map of blocks is, and its bytes.
const MAP: usize = 0x28;
const MAP_LENGTH: usize = 60;

const EXTENT_MAGIC: u16 = 0xF30A;
const EXTENT: usize = 12;
/// Blocks of an extent beyond which it was not written.
const WRITTEN: u16 = 0x8000;
const DEPTH_MAX: u16 = 5;

impl Image {
    pub(super) fn inode(&self, number: u32) -> Result<Inode> {
        let at = self.superblock.place(&self.volume, number)?;
        let bytes = self.volume.bytes(at, self.superblock.inode_size)?;
        let flags = bytes.u32(0x20)?;
        if let Some((_, name)) = UNKNOWN.iter().find(|(flag, _)| flags & flag != 0) {
            return Err(invalid(format!("inode {number} needs {name}, which is not known here")));
        }
        let extra = if bytes.len() > FIELDS { usize::from(bytes.u16(0x80)?) } else { 0 };
        if FIELDS + extra > bytes.len() {
            return Err(invalid(format!("inode {number} has more fields than bytes")));
        }
        let mut mtime = Mtime { seconds: i64::from(bytes.u32(0x10)? as i32), nanoseconds: 0 };
        // The word with the nanoseconds has two more bits of seconds.
        if extra >= 0x8C - FIELDS {
            let word = bytes.u32(0x88)?;
            mtime = Mtime { seconds: mtime.seconds + (i64::from(word & 3) << 32), nanoseconds: word >> 2 };
        }
        if mtime.nanoseconds >= 1_000_000_000 {
            return Err(invalid(format!("the time of inode {number} has more than a second of nanoseconds")));
        }
        let wide = |low: usize, high: usize| {
            Ok::<_, crate::error::Error>(u32::from(bytes.u16(low)?) | u32::from(bytes.u16(high)?) << 16)
        };
        let size = u64::from(bytes.u32(0x4)?) | u64::from(bytes.u32(0x6C)?) << 32;
        if size > i64::MAX as u64 {
            return Err(invalid(format!("inode {number} has {size} bytes")));
        }
        Ok(Inode {
            number,
            mode: bytes.u16(0)?,
            uid: wide(0x2, 0x78)?,
            gid: wide(0x18, 0x7A)?,
            mtime,
            size,
            flags,
            map: bytes.part(MAP, MAP_LENGTH)?.to_vec(),
            attribute_block: u64::from(bytes.u32(0x68)?) | u64::from(bytes.u16(0x76)?) << 32,
            attributes: bytes.get(FIELDS + extra..).filter(|_| extra > 0).unwrap_or_default().to_vec(),
        })
    }

    /// Where the data of an inode stand, ascending; what is missing is a hole.
    pub(super) fn runs(&self, inode: &Inode) -> Result<Vec<Run>> {
        if inode.flags & EXTENTS == 0 {
            if inode.size == 0 || inode.map.iter().all(|&byte| byte == 0) {
                return Ok(Vec::new());
            }
            return Err(invalid(format!(
                "inode {} has no extents but a map of blocks, which is not known here",
                inode.number
            )));
        }
        let mut runs = Vec::new();
        let depth = inode.map.u16(6)?;
        let mut budget = self.volume.size() / self.superblock.block;
        self.node(&inode.map, depth, &mut runs, &mut budget)?;
        Ok(runs)
    }

    /// Reads a node of the tree; `budget` is how many more there may be: each has a block of its own.
    fn node(&self, node: &[u8], depth: u16, runs: &mut Vec<Run>, budget: &mut u64) -> Result<()> {
        let wrong = || invalid("a node of an extent tree is none");
        let (count, most) = (node.u16(2)?, node.u16(4)?);
        let room = node.len() / EXTENT - 1;
        if node.u16(0)? != EXTENT_MAGIC || node.u16(6)? != depth || depth > DEPTH_MAX {
            return Err(wrong());
        }
        if count > most || usize::from(most) > room {
            return Err(wrong());
        }
        for index in 1..=usize::from(count) {
            let entry = node.part(index * EXTENT, EXTENT)?;
            if depth == 0 {
                let length = entry.u16(4)?;
                let unwritten = length > WRITTEN;
                let count = if unwritten { length - WRITTEN } else { length };
                let physical = u64::from(entry.u32(8)?) | u64::from(entry.u16(6)?) << 32;
                let run = Run { logical: entry.u32(0)?.into(), count: count.into(), physical, unwritten };
                // In order they are no more than the file has blocks, however often a node is named.
                if count == 0 || runs.last().is_some_and(|last: &Run| last.logical + last.count > run.logical) {
                    return Err(invalid("the extents of a file are not in order"));
                }
                runs.push(run);
            } else {
                *budget = budget.checked_sub(1).ok_or_else(wrong)?;
                let block = u64::from(entry.u32(4)?) | u64::from(entry.u16(8)?) << 32;
                let child = self.block(block)?;
                self.node(&child, depth - 1, runs, budget)?;
            }
        }
        Ok(())
    }

    /// A block.
    pub(super) fn block(&self, number: u64) -> Result<Vec<u8>> {
        let at = number.checked_mul(self.superblock.block).ok_or_else(|| invalid("a block beyond all files"))?;
        self.volume.bytes(at, self.superblock.block)
    }

    /// Fills a buffer with the bytes of an inode from `offset` on, all of which it has.
    pub(super) fn fill(&self, runs: &[Run], mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        let block = self.superblock.block;
        while !buffer.is_empty() {
            let index = runs.partition_point(|run| (run.logical + run.count) * block <= offset);
            let left = buffer.len() as u64;
            let (length, from) = match runs.get(index) {
                None => (left, None),
                Some(run) if run.logical * block > offset => (left.min(run.logical * block - offset), None),
                Some(run) => {
                    let within = offset - run.logical * block;
                    let at = run.physical.checked_mul(block).ok_or_else(|| invalid("a block beyond all files"))?;
                    (left.min(run.count * block - within), (!run.unwritten).then_some(at.saturating_add(within)))
                }
            };
            let (part, rest) = std::mem::take(&mut buffer).split_at_mut(length as usize);
            match from {
                Some(at) => self.volume.fill(at, part)?,
                None => part.fill(0),
            }
            offset += length;
            buffer = rest;
        }
        Ok(())
    }
}
