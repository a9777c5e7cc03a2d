//! Writing an archive as a stream: ustar headers, and pax records only for what ustar cannot hold.

use std::collections::BTreeMap;
use std::io::Write;

use super::header::BLOCK;
use super::sparse;
use crate::entry::{Metadata, Mtime};
use crate::error::{Code, Error, Result};

/// A member to write.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Path without a leading slash; empty or `.` for the root. A directory's trailing slash is added.
    pub path: &'a [u8],
    /// Mode, owner, time, attributes.
    pub metadata: &'a Metadata,
    /// Type and what belongs to it.
    pub kind: MemberKind<'a>,
}

/// The type of a [`Member`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind<'a> {
    /// A regular file; exactly `size` bytes follow by [`Writer::write_data`].
    File {
        /// Bytes.
        size: u64,
    },
    /// A regular file of `size` bytes with holes: only the bytes of `data` follow, one stretch after the other. It is
    /// written in GNU's sparse format 1.0 (GNU tar manual, "PAX Format, Version 1.0"), which GNU tar, libarchive, Go and
    /// Python read.
    SparseFile {
        /// Bytes, holes included.
        size: u64,
        /// Offset and length of each stretch of data, ascending and apart.
        data: &'a [(u64, u64)],
    },
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// Another name of the member at this path, which was written before.
    HardLink(&'a [u8]),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A writer whose bytes are a function of the members alone: no names of users, no times or ids of its own, pax
/// records sorted and only where ustar cannot hold a value.
///
/// ```
/// use ocifast_core::{entry::Metadata, tar::{Member, MemberKind, Writer}};
///
/// let mut writer = Writer::new(Vec::new());
/// let metadata = Metadata { mode: 0o644, ..Metadata::default() };
/// writer.append(&Member { path: b"greeting", metadata: &metadata, kind: MemberKind::File { size: 5 } })?;
/// writer.write_data(b"hello")?;
/// assert_eq!(writer.finish()?.len(), 4 * 512);
/// # Ok::<(), ocifast_core::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    /// Bytes of the current file still to come.
    left: u64,
    padding: usize,
    gnu_links: bool,
}

/// Largest number in a field of twelve bytes: eleven octal digits.
const MAX_12: u64 = (1 << 33) - 1;
/// Largest number in a field of eight bytes: seven octal digits.
const MAX_8: u64 = (1 << 21) - 1;

impl<W: Write> Writer<W> {
    /// A writer of an archive that starts where `inner` is.
    pub fn new(inner: W) -> Self {
        Writer { inner, left: 0, padding: 0, gnu_links: false }
    }

    /// Writes long link targets as GNU tar does (a member of type `K` before), not as a pax record: sqfstar 4.5 takes
    /// the leading slash from the target in a record.
    pub fn with_gnu_links(mut self) -> Self {
        self.gnu_links = true;
        self
    }

    /// Writes the headers of a member.
    ///
    /// # Errors
    /// `size_mismatch` when the data of the member before are incomplete; `output_unsupported` for a value that a
    /// tar archive cannot hold (a NUL in a name, an empty path or link target, a size of 2^63 or more, a device
    /// number over 21 bits); `io_error`.
    pub fn append(&mut self, member: &Member<'_>) -> Result<()> {
        self.end_data()?;
        let headers = headers(member, self.gnu_links).map_err(|mut error| {
            error.context.path.get_or_insert_with(|| member.path.to_vec());
            error
        })?;
        self.write(&headers)?;
        let size = match member.kind {
            MemberKind::File { size } => size,
            MemberKind::SparseFile { size, data } => {
                self.write(&sparse::written_map(size, data))?;
                data.iter().map(|(_, length)| length).sum()
            }
            _ => 0,
        };
        self.left = size;
        self.padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        Ok(())
    }

    /// Writes the next bytes of the current file.
    ///
    /// # Errors
    /// `size_mismatch` for more bytes than the member's size; `io_error`.
    pub fn write_data(&mut self, data: &[u8]) -> Result<()> {
        let Some(left) = self.left.checked_sub(data.len() as u64) else {
            let message = format!("{} bytes were given of a file that lacks {}", data.len(), self.left);
            return Err(Error::new(Code::SizeMismatch, message));
        };
        self.left = left;
        self.write(data)
    }

    /// Ends the archive with two blocks of zeros; an archive whose writer was only dropped is not complete.
    ///
    /// # Errors
    /// `size_mismatch` when the data of the last member are incomplete; `io_error`.
    pub fn finish(mut self) -> Result<W> {
        self.end_data()?;
        self.write(&[0; 2 * BLOCK])?;
        self.inner.flush().map_err(|error| Error::io("writing the archive", &error))?;
        Ok(self.inner)
    }

    fn end_data(&mut self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::new(Code::SizeMismatch, format!("the file before lacks {} bytes", self.left)));
        }
        let padding = std::mem::take(&mut self.padding);
        self.write(&[0; BLOCK][..padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).map_err(|error| Error::io("writing the archive", &error))
    }
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Code::OutputUnsupported, message)
}

/// The blocks that stand before a member's data, for archives that are not written from front to back.
///
/// # Errors
/// `output_unsupported`, as [`Writer::append`].
pub fn header(member: &Member<'_>) -> Result<Vec<u8>> {
    headers(member, false)
}

fn headers(member: &Member<'_>, gnu_links: bool) -> Result<Vec<u8>> {
    let Member { path, metadata, kind } = *member;
    let mut path = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
    if kind == MemberKind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let (flag, target, size, (major, minor)) = match kind {
        MemberKind::File { size } => (b'0', &b""[..], size, (0, 0)),
        MemberKind::SparseFile { size, data } => {
            let stored =
                sparse::written_map(size, data).len() as u64 + data.iter().map(|(_, length)| length).sum::<u64>();
            (b'0', &b""[..], stored, (0, 0))
        }
        MemberKind::HardLink(target) => (b'1', target, 0, (0, 0)),
        MemberKind::Symlink(target) => (b'2', target, 0, (0, 0)),
        MemberKind::CharDevice { major, minor } => (b'3', &b""[..], 0, (major, minor)),
        MemberKind::BlockDevice { major, minor } => (b'4', &b""[..], 0, (major, minor)),
        MemberKind::Directory => (b'5', &b""[..], 0, (0, 0)),
        MemberKind::Fifo => (b'6', &b""[..], 0, (0, 0)),
    };
    if path.contains(&0) || target.contains(&0) {
        return Err(unsupported("a tar archive cannot hold a name with a NUL byte"));
    }
    if target.is_empty() && matches!(flag, b'1' | b'2') {
        return Err(unsupported("a tar archive cannot hold a link without a target"));
    }
    if size > i64::MAX as u64 {
        return Err(unsupported(format!("a tar archive cannot hold a file of {size} bytes")));
    }
    if u64::from(major.max(minor)) > MAX_8 {
        return Err(unsupported(format!("a tar archive cannot hold the device number {major}:{minor}")));
    }

    let mut records = BTreeMap::new();
    let mut record = |key: &[u8], value: &[u8]| records.insert(key.to_vec(), value.to_vec());
    // What stands in a pax record is taken for UTF-8 unless it is said not to be.
    let mut binary = false;
    let mut plain_name = Vec::new();
    if let MemberKind::SparseFile { size, .. } = kind {
        record(b"GNU.sparse.major", b"1");
        record(b"GNU.sparse.minor", b"0");
        record(b"GNU.sparse.name", &path);
        record(b"GNU.sparse.realsize", size.to_string().as_bytes());
        binary |= std::str::from_utf8(&path).is_err();
        // Seen by those only who do not know the format, and extract the map with the data.
        plain_name = [b"GNUSparseFile.0/", path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()].concat();
        plain_name.truncate(100);
    }
    let (prefix, name) = match split(&path) {
        _ if !plain_name.is_empty() => (&b""[..], &plain_name[..]),
        Some(halves) => halves,
        None => {
            record(b"path", &path);
            binary |= std::str::from_utf8(&path).is_err();
            (&b""[..], &path[..100])
        }
    };
    let gnu_link = gnu_links && target.len() > 100;
    if target.len() > 100 && !gnu_links {
        record(b"linkpath", target);
        binary |= std::str::from_utf8(target).is_err();
    }
    if binary {
        record(b"hdrcharset", b"BINARY");
    }
    if size > MAX_12 {
        record(b"size", size.to_string().as_bytes());
    }
    if u64::from(metadata.uid) > MAX_8 {
        record(b"uid", metadata.uid.to_string().as_bytes());
    }
    if u64::from(metadata.gid) > MAX_8 {
        record(b"gid", metadata.gid.to_string().as_bytes());
    }
    let seconds = u64::try_from(metadata.mtime.seconds).ok().filter(|&seconds| seconds <= MAX_12);
    if seconds.is_none() || metadata.mtime.nanoseconds > 0 {
        record(b"mtime", time(metadata.mtime).as_bytes());
    }
    for (name, value) in metadata.xattrs.iter().flat_map(|xattrs| xattrs.iter()) {
        if name.is_empty() || name.contains(&0) {
            return Err(unsupported("a tar archive cannot hold an attribute whose name is empty or has a NUL byte"));
        }
        // A key ends at the first `=`; libarchive's encoding has a way to write one.
        if name.contains(&b'=') {
            record(&[b"LIBARCHIVE.xattr.", &percent(name)[..]].concat(), &base64(value));
        } else {
            record(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
    }

    let mut out = Vec::with_capacity(BLOCK);
    if !records.is_empty() {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        let header = HeaderBlock::new(b"x", b"PaxHeader").number(100..108, 0o644).number(124..136, body.len() as u64);
        out.extend_from_slice(&header.finish());
        out.extend_from_slice(&body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    if gnu_link {
        let length = target.len() as u64 + 1;
        out.extend_from_slice(&HeaderBlock::new(b"K", b"././@LongLink").number(124..136, length).finish());
        out.extend_from_slice(target);
        // The NUL that ends it, and zeros up to the next block.
        out.resize((out.len() + 1).next_multiple_of(BLOCK), 0);
    }
    let or_zero = |value: u64, max: u64| if value <= max { value } else { 0 };
    let block = HeaderBlock::new(&[flag], name)
        .bytes(157, &target[..target.len().min(100)])
        .bytes(345, prefix)
        .number(100..108, u64::from(metadata.mode & 0o7777))
        .number(108..116, or_zero(u64::from(metadata.uid), MAX_8))
        .number(116..124, or_zero(u64::from(metadata.gid), MAX_8))
        .number(124..136, or_zero(size, MAX_12))
        .number(136..148, seconds.unwrap_or(0))
        .number(329..337, u64::from(major))
        .number(337..345, u64::from(minor));
    out.extend_from_slice(&block.finish());
    Ok(out)
}

/// Prefix and name, where ustar can hold the path: up to 100 bytes after a slash, up to 155 before it.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The name keeps at least one byte, also when the path ends with a slash.
    let candidates = path.len().saturating_sub(101)..path.len() - 1;
    let slash = candidates.filter(|&index| index <= 155).find(|&index| path[index] == b'/' && index > 0)?;
    Some((&path[..slash], &path[slash + 1..]))
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn time(mtime: Mtime) -> String {
    let (mut seconds, mut nanoseconds, mut sign) = (i128::from(mtime.seconds), mtime.nanoseconds, "");
    if seconds < 0 {
        sign = "-";
        seconds = -seconds;
        if nanoseconds > 0 {
            (seconds, nanoseconds) = (seconds - 1, 1_000_000_000 - nanoseconds);
        }
    }
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn percent(name: &[u8]) -> Vec<u8> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'=' | b'%');
    let encode = |&byte: &u8| if plain(byte) { vec![byte] } else { format!("%{byte:02X}").into_bytes() };
    name.iter().flat_map(encode).collect()
}

fn base64(value: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |group: &[u8]| {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        (0..=group.len()).map(|index| ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]).collect::<Vec<u8>>()
    };
    value.chunks(3).flat_map(encode).collect()
}

/// A ustar header in the making.
struct HeaderBlock([u8; BLOCK]);

impl HeaderBlock {
    fn new(flag: &[u8; 1], name: &[u8]) -> Self {
        let block = HeaderBlock([0; BLOCK]).bytes(0, name).bytes(156, flag).bytes(257, b"ustar\x0000");
        block.number(108..116, 0).number(116..124, 0).number(136..148, 0).number(329..337, 0).number(337..345, 0)
    }

    fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Octal digits and a NUL.
    fn number(mut self, field: std::ops::Range<usize>, mut value: u64) -> Self {
        let (last, digits) = (field.end - 1, field.start..field.end - 1);
        self.0[last] = 0;
        for digit in self.0[digits].iter_mut().rev() {
            *digit = b'0' + (value & 7) as u8;
            value >>= 3;
        }
        self
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|&byte| u64::from(byte)).sum();
        // Six digits, a NUL and the space that is left.
        self.number(148..155, sum).0
    }
}
