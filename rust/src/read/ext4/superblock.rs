//! The superblock and the groups (kernel documentation, ext4, "Super Block", "Block Group Descriptors").

use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::{Fields, Volume};

/// Bytes before the superblock, and of it.
const OFFSET: u64 = 1024;
const LENGTH: u64 = 1024;
const MAGIC: u16 = 0xEF53;
/// Bytes of a group's descriptor in images of 32 bits.
const DESCRIPTOR: u16 = 32;

const FILE_TYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const EXTENTS: u32 = 0x40;
const WIDE: u32 = 0x80;
const FLEXIBLE_GROUPS: u32 = 0x200;
const VALUE_INODES: u32 = 0x400;
const CHECKSUM_SEED: u32 = 0x2000;
const LARGE_DIRECTORIES: u32 = 0x4000;
const KNOWN: u32 = FILE_TYPE | EXTENTS | WIDE | FLEXIBLE_GROUPS | VALUE_INODES | CHECKSUM_SEED | LARGE_DIRECTORIES;
const UNKNOWN_NAMES: [(u32, &str); 9] = [
    (0x1, "compression"),
    (RECOVER, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x100, "mmp"),
    (0x1000, "dirdata"),
    (0x8000, "inline_data"),
    (0x10000, "encrypt"),
    (0x20000, "casefold"),
];
/// Blocks in clusters change nothing in how files are read, but for that they are not known to be right.
const CLUSTERS: u32 = 0x200;

/// What the superblock says.
pub(super) struct Superblock {
    pub block: u64,
    pub inodes: u32,
    pub inode_size: u64,
    inodes_per_group: u32,
    /// Where the descriptors are, and bytes of each.
    descriptors: u64,
    descriptor: u16,
    wide: bool,
}

impl Superblock {
    pub fn read(volume: &Volume) -> Result<Self> {
        let bytes = volume.bytes(OFFSET, LENGTH).map_err(|_| invalid("it is too short for an ext4 image"))?;
        if bytes.u16(0x38)? != MAGIC {
            return Err(invalid("it is no ext4 image"));
        }
        let (needed, read_only) = (bytes.u32(0x60)?, bytes.u32(0x64)?);
        let unknown = needed & !KNOWN;
        if unknown != 0 {
            let names = (0..32).map(|bit| 1 << bit).filter(|bit| unknown & bit != 0).map(|bit| {
                let known = UNKNOWN_NAMES.iter().find(|(known, _)| *known == bit);
                known.map_or(format!("{bit:#x}"), |(_, name)| (*name).to_owned())
            });
            let names: Vec<String> = names.collect();
            return Err(invalid(format!("it needs features of ext4 that are not known here: {}", names.join(", "))));
        }
        if read_only & CLUSTERS != 0 {
            return Err(invalid("it needs a feature of ext4 that is not known here: bigalloc"));
        }
        let log = bytes.u32(0x18)?;
        if log > 6 {
            return Err(invalid(format!("blocks of 2^{log} KiB are not what ext4 has")));
        }
        let block = 1024u64 << log;
        let wide = needed & WIDE != 0;
        let (inodes_per_group, inode_size) = (bytes.u32(0x28)?, u64::from(bytes.u16(0x58)?));
        if inodes_per_group == 0 || inode_size < 128 || inode_size > block || !inode_size.is_power_of_two() {
            return Err(invalid("its inodes have no size that ext4 has"));
        }
        let descriptor = if wide { bytes.u16(0xFE)? } else { DESCRIPTOR };
        if wide && descriptor < 64 {
            return Err(invalid(format!("descriptors of {descriptor} bytes")));
        }
        let first = u64::from(bytes.u32(0x14)?);
        Ok(Superblock {
            block,
            inodes: bytes.u32(0)?,
            inode_size,
            inodes_per_group,
            descriptors: (first + 1) * block,
            descriptor,
            wide,
        })
    }

    /// Where an inode stands.
    pub fn place(&self, volume: &Volume, number: u32) -> Result<u64> {
        if number == 0 || number > self.inodes {
            return Err(invalid(format!("there is no inode {number}")));
        }
        let (group, index) = ((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group);
        let at = self.descriptors + u64::from(group) * u64::from(self.descriptor);
        let descriptor = volume.bytes(at, self.descriptor.into())?;
        let high = if self.wide { u64::from(descriptor.u32(0x28)?) << 32 } else { 0 };
        let table = high | u64::from(descriptor.u32(0x8)?);
        let start = table.checked_mul(self.block).ok_or_else(|| invalid("a table of inodes beyond all files"))?;
        Ok(start.saturating_add(u64::from(index) * self.inode_size))
    }
}
