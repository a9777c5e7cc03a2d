//! Inodes (Linux, fs/squashfs/squashfs_fs.h, from `struct squashfs_base_inode` on) and extended attributes.

use std::collections::BTreeMap;

use super::image::Image;
use super::metadata::Place;
use super::records::{FileBody, Inode, InodeBody};
use crate::entry::{Mtime, is_attribute_name};
use crate::error::Result;
use crate::path::TARGET_MAX;
use crate::read::common::invalid;
use crate::read::source::Fields;

/// What stands for no fragment, no set of attributes.
const NOTHING: u32 = u32::MAX;
/// Bytes that all inodes begin with.
const HEAD: usize = 16;
/// Marks an attribute whose value stands elsewhere.
const ELSEWHERE: u16 = 0x100;
/// A directory's size counts `.` and `..`, which stand nowhere.
const DOTS: u64 = 3;
/// Most bytes of a value that Linux takes.
const VALUE_MAX: u32 = 65536;

impl Image {
    /// An inode by its place; of a file with its blocks only where they are wanted.
    pub(super) fn inode(&self, place: Place, with_blocks: bool) -> Result<Inode> {
        let mut stream = self.metadata.at(self.superblock.inodes, place)?;
        let head = stream.bytes(HEAD)?;
        let kind = head.u16(0)?;
        let mut set = NOTHING;
        let body = match kind {
            1 => {
                let rest = stream.bytes(16)?;
                let place = Place { block: rest.u32(0)?.into(), offset: rest.u16(10)?.into() };
                InodeBody::Directory(u64::from(rest.u16(8)?), place)
            }
            8 => {
                let rest = stream.bytes(24)?;
                set = rest.u32(20)?;
                let place = Place { block: rest.u32(8)?.into(), offset: rest.u16(18)?.into() };
                InodeBody::Directory(u64::from(rest.u32(4)?), place)
            }
            2 | 9 => {
                let (start, fragment, offset, size) = if kind == 2 {
                    let rest = stream.bytes(16)?;
                    (u64::from(rest.u32(0)?), rest.u32(4)?, rest.u32(8)?, u64::from(rest.u32(12)?))
                } else {
                    let rest = stream.bytes(40)?;
                    set = rest.u32(36)?;
                    (rest.u64(0)?, rest.u32(28)?, rest.u32(32)?, rest.u64(8)?)
                };
                if size > i64::MAX as u64 {
                    return Err(invalid(format!("a file of {size} bytes")));
                }
                let fragment = (fragment != NOTHING).then_some((fragment, offset));
                let mut blocks = Vec::new();
                if with_blocks {
                    let block = 1u64 << self.superblock.block_bits;
                    let count = if fragment.is_none() { size.div_ceil(block) } else { size / block };
                    // One by one: there may be fewer than the size says.
                    for _ in 0..count {
                        blocks.push(stream.bytes(4)?.u32(0)?);
                    }
                }
                InodeBody::File(FileBody { start, size, fragment, blocks })
            }
            3 | 10 => {
                let length = stream.bytes(8)?.u32(4)? as usize;
                if length > TARGET_MAX {
                    return Err(invalid(format!("a link target of {length} bytes")));
                }
                let target = stream.bytes(length)?;
                if kind == 10 {
                    set = stream.bytes(4)?.u32(0)?;
                }
                InodeBody::Symlink(target)
            }
            4 | 5 | 11 | 12 => {
                let device = stream.bytes(8)?.u32(4)?;
                if kind > 7 {
                    set = stream.bytes(4)?.u32(0)?;
                }
                if matches!(kind, 4 | 11) { InodeBody::BlockDevice(device) } else { InodeBody::CharDevice(device) }
            }
            6 | 13 => {
                stream.bytes(4)?;
                if kind > 7 {
                    set = stream.bytes(4)?.u32(0)?;
                }
                InodeBody::Fifo
            }
            7 | 14 => return Err(invalid("a socket, which is no part of an image")),
            other => return Err(invalid(format!("an inode of the unknown type {other}"))),
        };
        let id = |at| -> Result<u32> { self.superblock.ids.entry(&self.metadata, head.u16(at)?.into())?.u32(0) };
        Ok(Inode {
            mode: head.u16(2)? & 0o7777,
            uid: id(4)?,
            gid: id(6)?,
            mtime: Mtime { seconds: head.u32(8)?.into(), nanoseconds: 0 },
            kind: (kind - 1) % 7 + 1,
            body,
            set: (set != NOTHING).then_some(set),
        })
    }

    /// Bytes of names that a directory has.
    pub(super) fn names_length(size: u64) -> u64 {
        size.saturating_sub(DOTS)
    }

    /// A set of attributes.
    pub(super) fn attributes(&self, set: u32) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let sets = self.superblock.sets.as_ref().ok_or_else(|| invalid("attributes, and no table of them"))?;
        let entry = sets.table.entry(&self.metadata, set.into())?;
        let (mut stream, count) = (self.metadata.at(sets.pairs, Place::of(entry.u64(0)?))?, entry.u32(8)?);
        let mut found = BTreeMap::new();
        for _ in 0..count {
            let head = stream.bytes(4)?;
            let kind = head.u16(0)?;
            let prefix: &[u8] = match kind & 0xff {
                0 => b"user.",
                1 => b"trusted.",
                2 => b"security.",
                other => return Err(invalid(format!("an attribute of the unknown class {other}"))),
            };
            let name = [prefix, &stream.bytes(head.u16(2)?.into())?].concat();
            let length = |bytes: &[u8]| match bytes.u32(0)? {
                length if length <= VALUE_MAX => Ok(length as usize),
                length => Err(invalid(format!("an attribute of {length} bytes"))),
            };
            let size = length(&stream.bytes(4)?)?;
            let mut value = stream.bytes(size)?;
            if kind & ELSEWHERE != 0 {
                let mut stream = self.metadata.at(sets.pairs, Place::of(value.u64(0)?))?;
                let size = length(&stream.bytes(4)?)?;
                value = stream.bytes(size)?;
            }
            if !is_attribute_name(&name) || found.insert(name, value).is_some() {
                return Err(invalid("an attribute stands twice, or has a name that is none"));
            }
        }
        Ok(found)
    }
}
