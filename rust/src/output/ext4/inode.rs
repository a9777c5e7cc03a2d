//! The on-disk inode (kernel documentation, ext4, "Index Nodes").

use super::checksum::{crc, inode_seed};
use super::layout::{BLOCK, INODE};
use crate::entry::Mtime;

/// The blocks are mapped by an extent tree.
pub(super) const EXTENTS: u32 = 0x8_0000;
/// The directory has a hash index.
pub(super) const INDEX: u32 = 0x1000;
/// The inode holds the value of an extended attribute.
pub(super) const EA_INODE: u32 = 0x20_0000;

/// Bytes of an inode beyond the first 128 that hold fields, not attributes.
pub(super) const EXTRA: usize = 32;
/// Bytes of attributes that an inode holds, after its fields.
pub(super) const ATTRIBUTES: usize = INODE - 128 - EXTRA;
/// First and last second that an inode's time can hold.
pub(super) const SECONDS: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

/// The type in the high bits of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Type {
    Fifo = 0o01,
    CharDevice = 0o02,
    Directory = 0o04,
    BlockDevice = 0o06,
    File = 0o10,
    Symlink = 0o12,
}

impl Type {
    /// The number of the type in a directory entry.
    pub fn in_directory(self) -> u8 {
        match self {
            Type::File => 1,
            Type::Directory => 2,
            Type::CharDevice => 3,
            Type::BlockDevice => 4,
            Type::Fifo => 5,
            Type::Symlink => 7,
        }
    }
}

/// Times as an inode has them: `atime` and `ctime` follow `mtime`, but for an attribute's own inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub access: Mtime,
    pub change: Mtime,
    pub modification: Mtime,
    pub creation: Mtime,
}

impl Times {
    /// All four alike.
    pub fn all(time: Mtime) -> Self {
        Times { access: time, change: time, modification: time, creation: time }
    }
}

/// What an inode says.
#[derive(Debug)]
pub(super) struct Record {
    pub kind: Type,
    pub permissions: u16,
    pub uid: u32,
    pub gid: u32,
    pub times: Times,
    pub links: u16,
    pub size: u64,
    /// Blocks that belong to the inode alone or, for an attribute block, with others.
    pub blocks: u64,
    pub flags: u32,
    pub version: u32,
    /// Extent tree, target of a short link, or device number.
    pub map: [u8; 60],
    /// Block of attributes, 0 when there is none.
    pub attribute_block: u32,
    pub attributes: [u8; ATTRIBUTES],
}

/// Writes fields of a record at their offsets, least significant byte first.
pub(super) struct Fields<'a>(pub &'a mut [u8]);

impl Fields<'_> {
    /// Sets 16 bits.
    pub fn u16(&mut self, offset: usize, value: u16) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    /// Sets 32 bits.
    pub fn u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    /// Sets bytes.
    pub fn bytes(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }
}

/// A time's low 32 bits of seconds, and the word with its nanoseconds and the two bits above.
fn time(at: Mtime) -> (u32, u32) {
    let above = ((at.seconds + (1 << 31)) >> 32) as u32 & 3;
    (at.seconds as u32, at.nanoseconds << 2 | above)
}

/// A device number as Linux keeps it in an inode: the old form where it fits, else the new one.
///
/// `major` has at most 12 bits, `minor` at most 20.
pub(super) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut map = [0; 60];
    if major < 256 && minor < 256 {
        Fields(&mut map).u32(0, major << 8 | minor);
    } else {
        Fields(&mut map).u32(4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
    map
}

impl Record {
    /// An inode without blocks.
    pub fn new(kind: Type, times: Times) -> Self {
        Record {
            kind,
            permissions: 0,
            uid: 0,
            gid: 0,
            times,
            links: 1,
            size: 0,
            blocks: 0,
            flags: 0,
            version: 0,
            map: [0; 60],
            attribute_block: 0,
            attributes: [0; ATTRIBUTES],
        }
    }

    /// The 256 bytes of inode `number`.
    pub fn encode(&self, number: u32, file_system_seed: u32) -> [u8; INODE] {
        let mut bytes = [0; INODE];
        let sectors = self.blocks * (BLOCK as u64 / 512);
        let (access, access_extra) = time(self.times.access);
        let (change, change_extra) = time(self.times.change);
        let (modification, modification_extra) = time(self.times.modification);
        let (creation, creation_extra) = time(self.times.creation);
        Fields(&mut bytes)
            .u16(0x00, (self.kind as u16) << 12 | self.permissions & 0o7777)
            .u16(0x02, self.uid as u16)
            .u32(0x04, self.size as u32)
            .u32(0x08, access)
            .u32(0x0C, change)
            .u32(0x10, modification)
            .u16(0x18, self.gid as u16)
            .u16(0x1A, self.links)
            .u32(0x1C, sectors as u32)
            .u32(0x20, self.flags)
            .u32(0x24, self.version)
            .bytes(0x28, &self.map)
            .u32(0x68, self.attribute_block)
            .u32(0x6C, (self.size >> 32) as u32)
            .u16(0x74, (sectors >> 32) as u16)
            .u16(0x78, (self.uid >> 16) as u16)
            .u16(0x7A, (self.gid >> 16) as u16)
            .u16(0x80, EXTRA as u16)
            .u32(0x84, change_extra)
            .u32(0x88, modification_extra)
            .u32(0x8C, access_extra)
            .u32(0x90, creation)
            .u32(0x94, creation_extra)
            .bytes(128 + EXTRA, &self.attributes);
        seal(&mut bytes, number, file_system_seed);
        bytes
    }
}

/// Puts the checksum into an inode whose checksum fields are zero.
pub(super) fn seal(bytes: &mut [u8; INODE], number: u32, file_system_seed: u32) {
    let sum = crc(inode_seed(file_system_seed, number), bytes);
    let wide = u16::from_le_bytes([bytes[0x80], bytes[0x81]]) >= 4;
    let mut fields = Fields(bytes);
    fields.u16(0x7C, sum as u16);
    if wide {
        fields.u16(0x82, (sum >> 16) as u16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_34_bits() {
        let table = [
            ((0, 0), (0, 0)),
            ((-1, 5), (0xFFFF_FFFF, 20)),
            ((-(1 << 31), 0), (0x8000_0000, 0)),
            ((i64::from(i32::MAX), 999_999_999), (0x7FFF_FFFF, 3_999_999_996)),
            ((1 << 31, 0), (0x8000_0000, 1)),
            ((1 << 32, 1), (0, 5)),
            ((*SECONDS.end(), 0), (0x7FFF_FFFF, 3)),
        ];
        for ((seconds, nanoseconds), expected) in table {
            assert_eq!(time(Mtime { seconds, nanoseconds }), expected, "{seconds}");
        }
    }

    #[test]
    fn devices_take_the_form_that_holds_them() {
        assert_eq!(&device(1, 3)[..8], [3, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&device(4095, 0xF_FFFF)[..8], [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(&device(8, 256)[..8], [0, 0, 0, 0, 0, 8, 0x10, 0]);
    }
}
