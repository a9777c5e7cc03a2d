//! Inodes: what one looks like on disk.

use super::numbers::{COMPACT, DataLayout, EXTENDED};
use crate::entry::Mtime;

/// The fields of an inode.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// How the data are found.
    pub layout: DataLayout,
    /// Type and permissions.
    pub mode: u16,
    /// What the count of the attributes' bytes says.
    pub xattr_count: u16,
    /// Names.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// First block, device number or chunk format.
    pub data: u32,
    /// A small number for systems whose inode numbers have 32 bits.
    pub number: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
}

impl Record {
    /// Bytes of the inode: the short form has 16 bits for owners and names, 32 for the size, and no time of its own but
    /// that of the whole image.
    pub fn length(&self, build_time: Mtime) -> usize {
        let narrow = |number: u32| number <= u32::from(u16::MAX);
        let short = narrow(self.uid) && narrow(self.gid) && narrow(self.nlink) && self.size <= u64::from(u32::MAX);
        if short && self.mtime == build_time { COMPACT } else { EXTENDED }
    }

    /// The inode's bytes.
    pub fn write(&self, build_time: Mtime, out: &mut Vec<u8>) {
        let extended = self.length(build_time) == EXTENDED;
        let format = u16::from(extended) | (self.layout as u16) << 1;
        out.extend_from_slice(&format.to_le_bytes());
        out.extend_from_slice(&self.xattr_count.to_le_bytes());
        out.extend_from_slice(&self.mode.to_le_bytes());
        if extended {
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&self.size.to_le_bytes());
            out.extend_from_slice(&self.data.to_le_bytes());
            out.extend_from_slice(&self.number.to_le_bytes());
            out.extend_from_slice(&self.uid.to_le_bytes());
            out.extend_from_slice(&self.gid.to_le_bytes());
            out.extend_from_slice(&self.mtime.seconds.to_le_bytes());
            out.extend_from_slice(&self.mtime.nanoseconds.to_le_bytes());
            out.extend_from_slice(&self.nlink.to_le_bytes());
            out.extend_from_slice(&[0; 16]);
        } else {
            out.extend_from_slice(&(self.nlink as u16).to_le_bytes());
            out.extend_from_slice(&(self.size as u32).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&self.data.to_le_bytes());
            out.extend_from_slice(&self.number.to_le_bytes());
            out.extend_from_slice(&(self.uid as u16).to_le_bytes());
            out.extend_from_slice(&(self.gid as u16).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_only_where_everything_fits() {
        let record = Record {
            layout: DataLayout::FlatPlain,
            mode: 0o100644,
            xattr_count: 0,
            nlink: 65535,
            size: u64::from(u32::MAX),
            data: 0,
            number: 1,
            uid: 65535,
            gid: 65535,
            mtime: Mtime { seconds: -5, nanoseconds: 7 },
        };
        let build_time = record.mtime;
        assert_eq!(record.length(build_time), COMPACT);
        for other in [
            Record { nlink: 65536, ..record },
            Record { size: 1 << 32, ..record },
            Record { uid: 65536, ..record },
            Record { gid: 65536, ..record },
            Record { mtime: Mtime { seconds: -5, nanoseconds: 8 }, ..record },
        ] {
            let mut out = Vec::new();
            other.write(build_time, &mut out);
            assert_eq!((other.length(build_time), out.len()), (EXTENDED, EXTENDED), "{other:?}");
        }
        let mut out = Vec::new();
        record.write(build_time, &mut out);
        assert_eq!(out.len(), COMPACT);
    }
}
