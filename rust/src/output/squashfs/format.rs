//! What stands where in an image (Linux, fs/squashfs/squashfs_fs.h). All numbers are little endian.

use crate::error::{Code, Error, Result};

/// Plain bytes of a block of metadata.
pub const METADATA: usize = 8192;

/// In the length of a block of data: it stands as it is.
pub const PLAIN: u32 = 1 << 24;

/// In the length of a block of metadata: it stands as it is.
pub const METADATA_PLAIN: u16 = 1 << 15;

/// No fragment, no attributes.
pub const NONE: u32 = u32::MAX;

/// No table.
pub const NOWHERE: u64 = u64::MAX;

/// Where contents begin. Other filesystems have marks of two bytes before, which a file can have by chance; then programs
/// that guess the type of an image would guess two.
pub const CONTENTS: u64 = 4096;

/// The image is a multiple of this, as loop devices want it.
pub const PADDING: u64 = 4096;

const MAGIC: u32 = 0x7371_7368;
const VERSION: [u16; 2] = [4, 0];

/// Metadata, data, fragments, attributes and owners stand as they are.
const ALL_PLAIN: u16 = 0x1 | 0x2 | 0x8 | 0x100 | 0x800;
const NO_FRAGMENTS: u16 = 0x10;
const ALWAYS_FRAGMENTS: u16 = 0x20;
const DUPLICATES: u16 = 0x40;
const EXPORTABLE: u16 = 0x80;
const COMPRESSOR_OPTIONS: u16 = 0x400;

/// Bytes of an image, collected field by field.
#[derive(Debug, Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    /// A field of 16 bits.
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A field of 32 bits.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A field of 64 bits.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// The first bytes of an image.
#[derive(Clone, Copy, Debug)]
pub struct Superblock {
    /// Number of inodes.
    pub inodes: u32,
    /// When the image was made.
    pub created: u32,
    /// Plain bytes of a block of data, a power of two.
    pub block_size: u32,
    /// Number of fragment blocks.
    pub fragments: u32,
    /// The format's number of the compressor.
    pub compressor: u16,
    /// Whether the compressor's options follow.
    pub options: bool,
    /// Whether nothing is compressed.
    pub plain: bool,
    /// Whether ends of files are packed together.
    pub packs_tails: bool,
    /// Number of owners and groups.
    pub ids: u16,
    /// Where the root's inode is.
    pub root: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Where the tables are.
    pub tables: TablePlaces,
}

/// Where the tables of an image are, in their order.
#[derive(Clone, Copy, Debug)]
pub struct TablePlaces {
    /// Inodes.
    pub inodes: u64,
    /// Directories.
    pub directories: u64,
    /// Index of the fragment blocks.
    pub fragments: u64,
    /// Index of inodes by number.
    pub export: u64,
    /// Index of owners and groups.
    pub ids: u64,
    /// Index of the attributes, or [`NOWHERE`].
    pub xattrs: u64,
}

impl Superblock {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut flags = DUPLICATES | EXPORTABLE;
        flags |= if self.plain { ALL_PLAIN } else { 0 };
        flags |= if self.packs_tails { ALWAYS_FRAGMENTS } else { NO_FRAGMENTS };
        flags |= if self.options { COMPRESSOR_OPTIONS } else { 0 };
        let TablePlaces { inodes, directories, fragments, export, ids, xattrs } = self.tables;
        let fields = Fields::default()
            .u32(MAGIC)
            .u32(self.inodes)
            .u32(self.created)
            .u32(self.block_size)
            .u32(self.fragments)
            .u16(self.compressor)
            .u16(self.block_size.trailing_zeros() as u16)
            .u16(flags)
            .u16(self.ids)
            .u16(VERSION[0])
            .u16(VERSION[1])
            .u64(self.root)
            .u64(self.bytes);
        fields.u64(ids).u64(xattrs).u64(inodes).u64(directories).u64(fragments).u64(export).0
    }
}

/// A number of 32 bits.
///
/// # Errors
/// `output_unsupported` for a larger one: `what` names it.
pub fn narrow(number: u64, what: &str) -> Result<u32> {
    u32::try_from(number)
        .map_err(|_| Error::new(Code::OutputUnsupported, format!("{what} are beyond what squashfs can hold")))
}
