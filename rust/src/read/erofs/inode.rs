//! Inodes and extended attributes (Linux, Documentation/filesystems/erofs.rst, "On-disk details").

use std::collections::BTreeMap;

use super::image::Image;
use super::records::{Inode, Layout};
use crate::entry::{Mtime, is_attribute_name};
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::Fields;

/// Bytes of an inode's slot, of a short and of a long inode.
const SLOT: u64 = 32;
const SHORT: u64 = 32;
const LONG: u64 = 64;

/// Bytes of the header of an inode's attributes, and of a reference to a shared one.
const HEADER: u64 = 12;
const REFERENCE: u64 = 4;
/// Marks a long prefix in the number of a name's prefix.
const LONG_PREFIX: u8 = 0x80;

impl Image {
    pub(super) fn inode(&self, nid: u64) -> Result<Inode> {
        let at = nid.checked_mul(SLOT).and_then(|offset| offset.checked_add(self.superblock.metadata));
        let at = at.ok_or_else(|| invalid(format!("there is no inode {nid}")))?;
        let short = self.primary().bytes(at, SHORT)?;
        let format = short.u16(0)?;
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain,
            1 => Layout::CompressedFull,
            2 => Layout::Inline,
            3 => Layout::CompressedCompact,
            4 => Layout::Chunked,
            other => return Err(invalid(format!("inode {nid} has the unknown data layout {other}"))),
        };
        if format >> 4 != 0 {
            return Err(invalid(format!("inode {nid} has the unknown format {format:#x}")));
        }
        let attributes = match u64::from(short.u16(2)?) {
            0 => 0,
            count => HEADER + REFERENCE * (count - 1),
        };
        let (mode, data) = (short.u16(4)?, short.u32(16)?);
        let build_time = self.superblock.build_time;
        let (length, size, uid, gid, mtime) = if format & 1 == 0 {
            let seconds = build_time.seconds.saturating_add(short.u32(12)?.into());
            let mtime = Mtime { seconds, ..build_time };
            (SHORT, u64::from(short.u32(8)?), u32::from(short.u16(24)?), u32::from(short.u16(26)?), mtime)
        } else {
            let long = self.primary().bytes(at, LONG)?;
            let mtime = Mtime { seconds: long.u64(32)? as i64, nanoseconds: long.u32(40)? };
            (LONG, long.u64(8)?, long.u32(24)?, long.u32(28)?, mtime)
        };
        if mtime.nanoseconds >= 1_000_000_000 {
            return Err(invalid(format!("the time of inode {nid} has more than a second of nanoseconds")));
        }
        if size > i64::MAX as u64 {
            return Err(invalid(format!("inode {nid} has {size} bytes")));
        }
        let attributes = (at + length, attributes);
        let behind = at + length + attributes.1;
        Ok(Inode { nid, mode, uid, gid, mtime, size, layout, data, attributes, behind })
    }

    /// The extended attributes of an inode.
    pub(super) fn attributes(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (at, length) = inode.attributes;
        let mut found = BTreeMap::new();
        if length == 0 {
            return Ok(found);
        }
        let body = self.primary().bytes(at, length)?;
        let mut add = |(name, value): (Vec<u8>, Vec<u8>)| match found.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(invalid(format!("an attribute stands twice at inode {}", inode.nid))),
        };
        let references = usize::from(body.u8(4)?);
        for index in 0..references {
            let id = body.u32(HEADER as usize + REFERENCE as usize * index)?;
            let at = self.superblock.shared + u64::from(id) * REFERENCE;
            let head = self.primary().bytes(at, 4)?;
            let entry = self.primary().bytes(at, 4 + u64::from(head.u8(0)?) + u64::from(head.u16(2)?))?;
            add(self.attribute(&entry)?)?;
        }
        let mut rest = body.get(HEADER as usize + REFERENCE as usize * references..).unwrap_or_default();
        while !rest.is_empty() {
            let length = 4 + usize::from(rest.u8(0)?) + usize::from(rest.u16(2)?);
            add(self.attribute(rest.part(0, length)?)?)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(found)
    }

    fn attribute(&self, entry: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let (name, number) = (usize::from(entry.u8(0)?), entry.u8(1)?);
        let (base, infix): (u8, &[u8]) = if number & LONG_PREFIX != 0 {
            let prefix = self.prefixes.get(usize::from(number & !LONG_PREFIX));
            let prefix = prefix.ok_or_else(|| invalid("an attribute has a prefix that there is not"))?;
            (prefix.0, &prefix.1)
        } else {
            (number, b"")
        };
        let prefix: &[u8] = match base {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => return Err(invalid(format!("an attribute has the unknown prefix {other}"))),
        };
        let name = [prefix, infix, entry.part(4, name)?].concat();
        if !is_attribute_name(&name) {
            return Err(invalid("an attribute has a name with a NUL byte"));
        }
        let value = entry.part(4 + usize::from(entry.u8(0)?), entry.u16(2)?.into())?;
        Ok((name, value.to_vec()))
    }

    /// The long prefixes of attributes: the number of a usual one, and what follows it.
    pub(super) fn read_prefixes(&self) -> Result<Vec<(u8, Vec<u8>)>> {
        let (count, mut at, in_packed) = self.superblock.prefixes;
        let mut prefixes = Vec::new();
        let packed = match self.superblock.packed.filter(|_| in_packed) {
            Some(nid) => Some(self.opened(nid)?),
            None => None,
        };
        let bytes = |at, length: usize| match &packed {
            None => self.primary().bytes(at, length as u64),
            Some(packed) => {
                let mut buffer = vec![0; length];
                self.fill(packed, at, &mut buffer)?;
                Ok(buffer)
            }
        };
        for _ in 0..count {
            let length = usize::from(bytes(at, 2)?.u16(0)?);
            let prefix = bytes(at + 2, length)?;
            let (base, infix) = prefix.split_first().ok_or_else(|| invalid("a prefix of attributes is empty"))?;
            prefixes.push((*base, infix.to_vec()));
            at += (2 + length as u64).next_multiple_of(4);
        }
        Ok(prefixes)
    }
}
