//! The superblock and the tables (Linux, fs/squashfs/squashfs_fs.h; Documentation/filesystems/squashfs.rst).

use super::metadata::{MetadataReader, Place};
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::{Fields, Volume};
use crate::read::unpack::BlockAlgorithm;

/// Bytes of the superblock.
const LENGTH: u64 = 96;
const MAGIC: u32 = 0x7371_7368;
/// Bytes that an entry of the table of fragments, of owners and of sets of attributes has.
pub(super) const FRAGMENT: u64 = 16;
pub(super) const ID: u64 = 4;
pub(super) const SET: u64 = 16;
/// Bytes of an address in the index of a table, and of what stands before that of the attributes.
const ADDRESS: u64 = 8;
const SET_HEADER: u64 = 16;
/// What stands for a table that there is not.
const NOTHING: u64 = u64::MAX;

/// What the superblock says.
pub(super) struct Superblock {
    pub block_bits: u32,
    pub root: Place,
    /// Where the tables of inodes and directories begin.
    pub inodes: u64,
    pub directories: u64,
    pub fragments: MetadataTable,
    pub ids: MetadataTable,
    pub sets: Option<Sets>,
}

/// Blocks of metadata that hold entries of one size.
#[derive(Debug)]
pub(super) struct MetadataTable {
    /// Where each block is.
    blocks: Vec<u64>,
    count: u64,
    size: u64,
}

/// Sets of attributes.
pub(super) struct Sets {
    pub table: MetadataTable,
    /// Where names and values begin.
    pub pairs: u64,
}

impl Superblock {
    /// The superblock, and how metadata and data are compressed.
    pub fn read(volume: &Volume) -> Result<(Self, BlockAlgorithm)> {
        let bytes = volume.bytes(0, LENGTH).map_err(|_| invalid("it is too short for a squashfs image"))?;
        if bytes.u32(0)? != MAGIC {
            return Err(invalid("it is no squashfs image"));
        }
        let version = (bytes.u16(28)?, bytes.u16(30)?);
        if version != (4, 0) {
            return Err(invalid(format!("it is a squashfs image of version {}.{}, not 4.0", version.0, version.1)));
        }
        let algorithm = match bytes.u16(20)? {
            1 => BlockAlgorithm::Zlib,
            4 => BlockAlgorithm::Xz,
            5 => BlockAlgorithm::Lz4,
            6 => BlockAlgorithm::Zstd,
            2 => return Err(invalid("it needs the compression lzma, which is not known here")),
            3 => return Err(invalid("it needs the compression lzo, which is not known here")),
            other => return Err(invalid(format!("it needs compression {other}, which is not known here"))),
        };
        let (block, block_bits) = (bytes.u32(12)?, u32::from(bytes.u16(22)?));
        if !(12..=20).contains(&block_bits) || block != 1 << block_bits {
            return Err(invalid(format!("blocks of {block} bytes are not what squashfs has")));
        }
        let table = |at, count, size| MetadataTable::read(volume, at, count, size);
        let sets = match bytes.u64(56)? {
            NOTHING => None,
            at => {
                let head = volume.bytes(at, SET_HEADER)?;
                let table = table(at + SET_HEADER, u64::from(head.u32(8)?), SET)?;
                Some(Sets { table, pairs: head.u64(0)? })
            }
        };
        let fragments = match u64::from(bytes.u32(16)?) {
            0 => MetadataTable { blocks: Vec::new(), count: 0, size: FRAGMENT },
            count => table(bytes.u64(80)?, count, FRAGMENT)?,
        };
        let superblock = Superblock {
            block_bits,
            root: Place::of(bytes.u64(32)?),
            inodes: bytes.u64(64)?,
            directories: bytes.u64(72)?,
            fragments,
            ids: table(bytes.u64(48)?, u64::from(bytes.u16(26)?), ID)?,
            sets,
        };
        Ok((superblock, algorithm))
    }
}

impl MetadataTable {
    /// Reads the index, which is as long as the entries need.
    fn read(volume: &Volume, at: u64, count: u64, size: u64) -> Result<Self> {
        let blocks = (count * size).div_ceil(super::metadata::BLOCK as u64);
        let index = volume.bytes(at, blocks * ADDRESS)?;
        let blocks = (0..blocks as usize).map(|block| index.u64(block * ADDRESS as usize)).collect::<Result<_>>()?;
        Ok(MetadataTable { blocks, count, size })
    }

    /// An entry.
    pub fn entry(&self, metadata: &MetadataReader, number: u64) -> Result<Vec<u8>> {
        if number >= self.count {
            return Err(invalid(format!("entry {number} of a table of {}", self.count)));
        }
        let at = number * self.size;
        let (block, within) = (at / super::metadata::BLOCK as u64, at % super::metadata::BLOCK as u64);
        let address = self.blocks.get(block as usize).ok_or_else(|| invalid("a table without blocks"))?;
        metadata.at(0, Place { block: *address, offset: within as usize })?.bytes(self.size as usize)
    }
}
