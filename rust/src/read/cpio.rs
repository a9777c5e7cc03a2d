//! Reads a cpio archive in the "newc" form (kernel documentation, driver-api/early-userspace/buffer-format).
//!
//! Names of one inode number are one file, whose data come with the last of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::archive::{Archive, ArchiveData, Names};
use super::common::{Image, invalid, kind_of};
use super::source::{ReadAt, Volume};
use crate::entry::{Metadata, Mtime};
use crate::error::Result;
use crate::limits::Limits;
use crate::tree::InodeId;

const MAGIC: &[u8] = b"070701";
/// Bytes of a header, and digits of each of its numbers.
const HEADER: u64 = 110;
const DIGITS: usize = 8;
const END: &[u8] = b"TRAILER!!!";

/// The numbers of a header.
struct Header([u32; 13]);

impl Header {
    fn read(volume: &Volume, at: u64) -> Result<Self> {
        let wrong = || invalid(format!("there is no member of a cpio archive at byte {at}"));
        let bytes = volume.bytes(at, HEADER)?;
        let digits = bytes.strip_prefix(MAGIC).ok_or_else(wrong)?;
        let mut numbers = [0; 13];
        for (number, digits) in numbers.iter_mut().zip(digits.chunks(DIGITS)) {
            let text =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
            *number = text.and_then(|text| u32::from_str_radix(text, 16).ok()).ok_or_else(wrong)?;
        }
        Ok(Header(numbers))
    }
}

/// Reads an archive.
///
/// # Errors
/// As [`super::read`](super::format::read).
pub fn read(source: Arc<dyn ReadAt>, limits: &Limits) -> Result<Image> {
    let volume = Volume::new(source);
    let mut names = Names::new(limits);
    let archive = Archive::new(volume.clone());
    let mut linked: HashMap<(u32, u32, u32), InodeId> = HashMap::new();
    let mut at = 0;
    loop {
        let header = Header::read(&volume, at)?;
        let [number, mode, uid, gid, links, mtime, size, dev_major, dev_minor, major, minor, name_length, _] = header.0;
        if name_length == 0 || u64::from(name_length) > limits.path_bytes as u64 + 3 {
            return Err(invalid(format!("a name of {name_length} bytes")));
        }
        let mut name = volume.bytes(at + HEADER, name_length.into())?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(invalid("a name does not end where its length says"));
        }
        let data = (at + HEADER + u64::from(name_length)).next_multiple_of(4);
        if name == END {
            break;
        }
        if !volume.has(data, size.into()) {
            return Err(invalid(format!("the archive ends within the data of {}", name.escape_ascii())));
        }
        at = (data + u64::from(size)).next_multiple_of(4);
        let mtime = Mtime { seconds: mtime.into(), nanoseconds: 0 };
        let metadata = Metadata { mode: (mode & 0o7777) as u16, uid, gid, mtime, xattrs: None };
        let key = (dev_major, dev_minor, number);
        // Linux makes each name of a symbolic link a link of its own.
        let is_linked = links > 1 && !matches!(mode >> 12, 0o04 | 0o12);
        if let Some(&known) = linked.get(&key).filter(|_| is_linked) {
            names.name(&name, known)?;
            if size > 0 && mode >> 12 == 0o10 {
                archive.set(known, &mut names, ArchiveData::run(data, size.into()))?;
            }
            continue;
        }
        let file = || Ok(archive.file(ArchiveData::run(data, size.into())));
        let target = |length| volume.bytes(data, length as u64);
        let kind = kind_of(&name, mode, (major, minor), size.into(), file, target)?;
        let id = names.add(&name, metadata, kind)?;
        if is_linked {
            linked.insert(key, id);
        }
    }
    Ok(Image { tree: names.finish(), contents: Arc::new(archive) })
}
