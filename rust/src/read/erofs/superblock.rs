//! The superblock (Linux, fs/erofs/erofs_fs.h, `struct erofs_super_block`) and what it says must be known.

use crate::entry::Mtime;
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::{Fields, Volume};

/// Bytes before the superblock, and of it without extensions.
const OFFSET: u64 = 1024;
const LENGTH: usize = 128;
/// Bytes of a slot of the table of devices, and of an extension of the superblock.
const DEVICE_SLOT: u64 = 128;
const EXTENSION: usize = 16;

const MAGIC: u32 = 0xE0F5_E1E2;

/// Compatible features that change how something is read.
const CHECKSUM: u32 = 1;
const PLAIN_XATTR_PREFIXES: u32 = 0x10;

/// Features that a reader must know.
const ZERO_PADDING: u32 = 0x1;
const COMPRESSION_SETTINGS: u32 = 0x2;
const CHUNKED: u32 = 0x4;
const DEVICES: u32 = 0x8;
const INLINE_CLUSTERS: u32 = 0x10;
const FRAGMENTS: u32 = 0x20;
const XATTR_PREFIXES: u32 = 0x40;
const KNOWN: u32 =
    ZERO_PADDING | COMPRESSION_SETTINGS | CHUNKED | DEVICES | INLINE_CLUSTERS | FRAGMENTS | XATTR_PREFIXES;
const UNKNOWN_NAMES: [(u32, &str); 2] = [(0x80, "48bit"), (0x100, "metabox")];

/// The format's number of LZMA.
const LZMA: u16 = 1;
/// Largest dictionary that Linux takes, in bytes.
const LZMA_DICTIONARY: u32 = 8 << 20;

/// A device that holds data of the image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub blocks: u64,
    /// First block in one address space for all; 0 for none.
    pub mapped: u64,
}

/// What the superblock says.
#[derive(Debug)]
pub(super) struct Superblock {
    /// Bytes of a block, as a power of two.
    pub block_bits: u32,
    /// Bytes of a block of a directory.
    pub directory_block: u64,
    pub root: u64,
    /// The time of short inodes.
    pub build_time: Mtime,
    /// Byte from which inodes are counted, and shared attributes.
    pub metadata: u64,
    pub shared: u64,
    /// Whether compressed data stand at the end of their blocks.
    pub padded: bool,
    /// The inode that holds fragments of others.
    pub packed: Option<u64>,
    /// Bytes of LZMA's dictionary.
    pub lzma_dictionary: u32,
    /// Number of long prefixes of attributes, where they stand, and whether in the packed inode.
    pub prefixes: (u8, u64, bool),
    pub devices: Vec<Device>,
}

impl Superblock {
    pub fn read(volume: &Volume) -> Result<Self> {
        let bytes = volume.bytes(OFFSET, LENGTH as u64).map_err(|_| invalid("it is too short for an erofs image"))?;
        if bytes.u32(0)? != MAGIC {
            return Err(invalid("it is no erofs image"));
        }
        let (compatible, needed) = (bytes.u32(8)?, bytes.u32(80)?);
        refuse_unknown(needed)?;
        let block_bits = u32::from(bytes.u8(12)?);
        if !(9..=16).contains(&block_bits) {
            return Err(invalid(format!("erofs blocks of 2^{block_bits} bytes are not known")));
        }
        if compatible & CHECKSUM != 0 {
            check(volume, block_bits, bytes.u32(4)?)?;
        }
        let directory_bits = block_bits + u32::from(bytes.u8(90)?);
        if directory_bits > 16 {
            return Err(invalid(format!("erofs directory blocks of 2^{directory_bits} bytes are not known")));
        }
        let seconds = bytes.u64(24)? as i64;
        let nanoseconds = bytes.u32(32)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(invalid("the time of the image has more than a second of nanoseconds"));
        }
        let block = |at| Ok::<_, crate::error::Error>(u64::from(bytes.u32(at)?) << block_bits);
        let fragments = needed & FRAGMENTS != 0;
        let packed = Some(bytes.u64(96)?).filter(|&nid| fragments && nid != 0);
        let prefix_count = if needed & XATTR_PREFIXES != 0 { bytes.u8(91)? } else { 0 };
        let in_packed = packed.is_some() && compatible & PLAIN_XATTR_PREFIXES == 0;
        Ok(Superblock {
            block_bits,
            directory_block: 1 << directory_bits,
            root: u64::from(bytes.u16(14)?),
            build_time: Mtime { seconds, nanoseconds },
            metadata: block(40)?,
            shared: block(44)?,
            padded: needed & ZERO_PADDING != 0,
            packed,
            lzma_dictionary: lzma_dictionary(volume, &bytes, needed)?,
            prefixes: (prefix_count, u64::from(bytes.u32(92)?) << 2, in_packed),
            devices: devices(volume, &bytes, needed)?,
        })
    }

    pub fn block(&self) -> u64 {
        1 << self.block_bits
    }
}

fn refuse_unknown(needed: u32) -> Result<()> {
    let unknown = needed & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let bits = (0..32).map(|bit| 1 << bit).filter(|bit| unknown & bit != 0);
    let names: Vec<String> = bits
        .map(|bit| {
            UNKNOWN_NAMES
                .iter()
                .find(|(known, _)| *known == bit)
                .map_or(format!("{bit:#x}"), |(_, name)| (*name).into())
        })
        .collect();
    Err(invalid(format!("it needs features of erofs that are not known here: {}", names.join(", "))))
}

/// Of the superblock's whole block, as CRC32C that is not inverted at its end.
fn check(volume: &Volume, block_bits: u32, expected: u32) -> Result<()> {
    let block = 1u64 << block_bits;
    let mut bytes = volume.bytes(OFFSET, if block > OFFSET { block - OFFSET } else { block })?;
    bytes[4..8].fill(0);
    let found = !crc32c::crc32c(&bytes);
    if found != expected {
        return Err(invalid(format!("the checksum of the superblock is {found:08x}, not {expected:08x}")));
    }
    Ok(())
}

/// From the settings of the algorithms, which stand behind the superblock in the order of their numbers.
fn lzma_dictionary(volume: &Volume, superblock: &[u8], needed: u32) -> Result<u32> {
    if needed & COMPRESSION_SETTINGS == 0 {
        return Ok(LZMA_DICTIONARY);
    }
    let algorithms = superblock.u16(84)?;
    let mut at = OFFSET + (LENGTH + EXTENSION * usize::from(superblock.u8(13)?)) as u64;
    for algorithm in (0..16).filter(|number| algorithms & 1 << number != 0) {
        let length = volume.bytes(at, 2)?.u16(0)?;
        let settings = volume.bytes(at + 2, length.into())?;
        if algorithm == LZMA {
            let dictionary = settings.u32(0)?;
            if dictionary > LZMA_DICTIONARY {
                return Err(invalid(format!("a dictionary of {dictionary} bytes for LZMA is more than Linux takes")));
            }
            return Ok(dictionary);
        }
        at += 2 + u64::from(length);
    }
    Ok(LZMA_DICTIONARY)
}

fn devices(volume: &Volume, superblock: &[u8], needed: u32) -> Result<Vec<Device>> {
    let (count, slot) = (superblock.u16(86)?, superblock.u16(88)?);
    // The bit of the feature means another one in images without devices.
    if needed & DEVICES == 0 || count == 0 {
        return Ok(Vec::new());
    }
    let table = volume.bytes(u64::from(slot) * DEVICE_SLOT, u64::from(count) * DEVICE_SLOT)?;
    let slots = table.chunks(DEVICE_SLOT as usize);
    slots.map(|slot| Ok(Device { blocks: slot.u32(64)?.into(), mapped: slot.u32(68)?.into() })).collect()
}
