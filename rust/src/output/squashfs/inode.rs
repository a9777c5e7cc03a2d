//! Inodes: what one looks like in the image. Each type has a short form and a long one.

use super::format::{Fields, NONE, narrow};
use super::metadata::Position;
use super::store::BlockRun;
use crate::error::Result;

/// What every inode begins with.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Permissions.
    pub mode: u16,
    /// Owner, by its number in the table.
    pub uid: u16,
    /// Group, likewise.
    pub gid: u16,
    /// Modification time.
    pub mtime: u32,
    /// The inode's number.
    pub number: u32,
    /// Names; of a directory its subdirectories and 2.
    pub nlink: u32,
    /// The set of attributes, or [`NONE`].
    pub xattrs: u32,
}

/// A file's content.
#[derive(Clone, Copy, Debug)]
pub struct FileBlocks<'a> {
    /// Bytes.
    pub size: u64,
    /// Where its first block is.
    pub start: u64,
    /// Its blocks.
    pub runs: &'a [BlockRun],
    /// Bytes in blocks of zeros.
    pub sparse: u64,
    /// Fragment and offset of its end.
    pub end: Option<(u32, u32)>,
}

/// A directory's listing.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Where it begins among all.
    pub start: Position,
    /// Its bytes.
    pub length: u64,
    /// Where to look for names in a long one, encoded.
    pub index: Vec<u8>,
    /// Entries of that index.
    pub indexes: u16,
}

/// The type of an inode that a directory says, and that the short form of it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Directory = 1,
    File = 2,
    Symlink = 3,
    BlockDevice = 4,
    CharDevice = 5,
    Fifo = 6,
}

/// From a type's number to that of its long form.
const LONG: u16 = 7;

/// Bytes that Linux counts into a directory's size for its two dots.
const DOTS: u64 = 3;

impl Head {
    fn begin(&self, kind: Type, long: bool) -> Fields {
        let kind = kind as u16 + if long { LONG } else { 0 };
        Fields::default().u16(kind).u16(self.mode).u16(self.uid).u16(self.gid).u32(self.mtime).u32(self.number)
    }

    fn has_xattrs(&self) -> bool {
        self.xattrs != NONE
    }

    /// A regular file, but for its blocks' lengths.
    fn file_head(&self, data: &FileBlocks<'_>) -> Fields {
        let (fragment, offset) = data.end.unwrap_or((NONE, 0));
        match (u32::try_from(data.start), u32::try_from(data.size)) {
            (Ok(start), Ok(size)) if self.nlink == 1 && !self.has_xattrs() && data.sparse == 0 => {
                self.begin(Type::File, false).u32(start).u32(fragment).u32(offset).u32(size)
            }
            _ => {
                let fields = self.begin(Type::File, true).u64(data.start).u64(data.size).u64(data.sparse);
                fields.u32(self.nlink).u32(fragment).u32(offset).u32(self.xattrs)
            }
        }
    }

    /// A regular file, handed to `take` in parts: what is long are its blocks' lengths.
    ///
    /// # Errors
    /// What `take` returns.
    pub fn file(&self, data: &FileBlocks<'_>, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        const PART: usize = 8192;
        let mut part = self.file_head(data).0;
        for run in data.runs {
            let mut left = run.count();
            while left > 0 {
                let now = left.min((PART / 4) as u64);
                (0..now).for_each(|_| part.extend_from_slice(&run.length().to_le_bytes()));
                left -= now;
                if part.len() >= PART {
                    take(&part)?;
                    part.clear();
                }
            }
        }
        take(&part)
    }

    /// A directory, whose parent has the number `parent`.
    ///
    /// # Errors
    /// `output_unsupported` for more names than 32 bits count.
    pub fn directory(&self, listing: &Listing, parent: u32) -> Result<Vec<u8>> {
        let start = narrow(listing.start.block, "the names of the image")?;
        let (size, offset) = (listing.length + DOTS, listing.start.offset);
        match u16::try_from(size) {
            Ok(size) if !self.has_xattrs() && listing.indexes == 0 => {
                let fields = self.begin(Type::Directory, false).u32(start).u32(self.nlink);
                Ok(fields.u16(size).u16(offset).u32(parent).0)
            }
            _ => {
                let size = narrow(size, "the names of a directory")?;
                let fields = self.begin(Type::Directory, true).u32(self.nlink).u32(size).u32(start).u32(parent);
                Ok(fields.u16(listing.indexes).u16(offset).u32(self.xattrs).bytes(&listing.index).0)
            }
        }
    }

    /// A symbolic link.
    pub fn symlink(&self, target: &[u8]) -> Vec<u8> {
        let fields = self.begin(Type::Symlink, self.has_xattrs()).u32(self.nlink);
        self.end(fields.u32(target.len() as u32).bytes(target))
    }

    /// A device, with its number as Linux encodes it.
    pub fn device(&self, kind: Type, number: u32) -> Vec<u8> {
        self.end(self.begin(kind, self.has_xattrs()).u32(self.nlink).u32(number))
    }

    /// A named pipe.
    pub fn fifo(&self) -> Vec<u8> {
        self.end(self.begin(Type::Fifo, self.has_xattrs()).u32(self.nlink))
    }

    fn end(&self, fields: Fields) -> Vec<u8> {
        if self.has_xattrs() { fields.u32(self.xattrs).0 } else { fields.0 }
    }
}
