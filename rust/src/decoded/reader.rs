//! Reading the table of a layer back. Nothing in it is believed: its checksum is compared first, every length and number
//! is held to its bounds, and the run's limits count as they do for an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::form::{self, CHECKED, FORM, HEADER, SEMANTICS, TableHeader, unzigzag};
use crate::batch::StoredEntry;
use crate::blocks::{BLOCK, Placement, length_of};
use crate::contents::{Content, Extent};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::entry::{Entry, Kind, Metadata, Mtime, Xattrs, is_attribute_name, is_device};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// Entries read at a time.
const BATCH: usize = 512;
/// About how many bytes of metadata are handed on at a time at most.
const BATCH_BYTES: usize = 1 << 20;

/// Most bytes that may follow the entries.
const TAIL_MAX: u64 = 1 << 20;

/// Permission bits with setuid, setgid and sticky.
const MODE_MAX: u16 = 0o7777;

/// Sizes beyond this are no sizes, and sums of a few of them do not overflow.
const SIZE_MAX: u64 = 1 << 60;

/// The error of a table that is not what was written.
fn damaged(what: &str) -> Error {
    Error::new(Code::Io, format!("the table of a kept layer is damaged: {what}"))
}

fn failed(error: &io::Error) -> Error {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return damaged("it is too short");
    }
    Error::io("cannot read the table of a kept layer", error)
}

/// The checksum of a table of `length` bytes.
pub(super) fn checksum(file: &File, header: &TableHeader, length: u64) -> Result<[u8; 32]> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&header.encode()[..CHECKED]);
    let mut buffer = vec![0; 1 << 18];
    let mut at = HEADER as u64;
    while at < length {
        let part = &mut buffer[..(length - at).min(1 << 18) as usize];
        file.read_exact_at(part, at).map_err(|error| failed(&error))?;
        hasher.update(part);
        at += part.len() as u64;
    }
    Ok(hasher.finish_bytes())
}

/// A table whose checksum was compared.
pub struct Table {
    file: File,
    header: TableHeader,
    diff_id: Digest,
    reason: Option<(String, Vec<u8>)>,
    note: Vec<u8>,
}

impl Table {
    /// Opens a table.
    ///
    /// # Errors
    /// `io_error` for what is no table, is of another version, or is damaged.
    pub fn open(file: File) -> Result<Self> {
        let length = file.metadata().map_err(|error| failed(&error))?.len();
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(|error| failed(&error))?;
        let header = TableHeader::decode(&bytes).ok_or_else(|| damaged("it is no table"))?;
        if (header.form, header.semantics) != (FORM, SEMANTICS) {
            return Err(damaged("it is of another version"));
        }
        let tail: u64 = header.tail.iter().map(|&part| u64::from(part)).sum();
        let expected = (HEADER as u64).checked_add(header.body).and_then(|end| end.checked_add(tail));
        if expected != Some(length) || tail > TAIL_MAX {
            return Err(damaged("its length is wrong"));
        }
        if checksum(&file, &header, length)? != header.checksum {
            return Err(damaged("its checksum is wrong"));
        }
        let mut rest = vec![0; tail as usize];
        file.read_exact_at(&mut rest, length - tail).map_err(|error| failed(&error))?;
        let mut parts = header.tail.iter().scan(&rest[..], |rest, &length| {
            let (part, later) = rest.split_at(length as usize);
            *rest = later;
            Some(part.to_vec())
        });
        let mut text = || String::from_utf8(parts.next().unwrap_or_default()).map_err(|_| damaged("no text"));
        let (diff_id, code) = (text()?, text()?);
        let (path, note) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let reason = (!code.is_empty()).then_some((code, path));
        let diff_id = diff_id.parse().map_err(|_| damaged("its diff ID is none"))?;
        Ok(Table { file, header, diff_id, reason, note })
    }

    /// Digest of the decompressed layer.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the decompressed layer.
    pub fn layer_bytes(&self) -> u64 {
        self.header.layer_bytes
    }

    /// First byte of the data file after the contents.
    pub fn data_end(&self) -> u64 {
        self.header.data_end
    }

    /// Number of entries.
    pub fn len(&self) -> u64 {
        self.header.entries
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the layer cannot stand alone, as a code and the path of the first entry that says so.
    pub fn reason(&self) -> Option<(&str, &[u8])> {
        self.reason.as_ref().map(|(code, path)| (code.as_str(), path.as_slice()))
    }

    /// What the writer wanted remembered.
    pub fn note(&self) -> &[u8] {
        &self.note
    }

    /// Writes the same table, with another note, to an empty file that is open for reading as well.
    ///
    /// # Errors
    /// `io_error`.
    pub fn copy(&self, out: &File, note: &[u8]) -> Result<()> {
        let tail: u64 = self.header.tail.iter().map(|&part| u64::from(part)).sum();
        let end = HEADER as u64 + self.header.body + tail - self.note.len() as u64;
        let mut at = HEADER as u64;
        let mut buffer = vec![0; 1 << 18];
        let write = |bytes: &[u8], at| {
            out.write_all_at(bytes, at).map_err(|error| Error::io("cannot write the table of a layer", &error))
        };
        while at < end {
            let part = &mut buffer[..(end - at).min(1 << 18) as usize];
            self.file.read_exact_at(part, at).map_err(|error| failed(&error))?;
            write(part, at)?;
            at += part.len() as u64;
        }
        write(note, end)?;
        let mut header = self.header;
        header.tail[3] = note.len() as u32;
        header.checksum = checksum(out, &header, end + note.len() as u64)?;
        write(&header.encode(), 0)
    }

    /// The entries in the order of the archive, some at a time, as layer `layer` of an image. After an error nothing
    /// follows.
    ///
    /// # Errors
    /// `limit_exceeded` as the archive would give it; `io_error` for a table that was made wrong.
    pub fn entries<'t>(&'t self, layer: u32, limits: &'t Limits) -> TableEntries<'t> {
        let body = Section { file: &self.file, at: HEADER as u64, end: HEADER as u64 + self.header.body };
        TableEntries {
            table: self,
            limits,
            layer,
            body: BufReader::with_capacity(1 << 16, body),
            left: self.header.entries,
            offset: 0,
            last: None,
            apparent: 0,
            failed: false,
        }
    }
}

/// Part of a file as a stream.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.end - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// See [`Table::entries`].
pub struct TableEntries<'t> {
    table: &'t Table,
    limits: &'t Limits,
    layer: u32,
    body: BufReader<Section<'t>>,
    left: u64,
    offset: u64,
    last: Xattrs,
    /// Apparent bytes of all sparse files.
    apparent: u64,
    failed: bool,
}

impl TableEntries<'_> {
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.body.read_exact(&mut byte).map_err(|error| failed(&error))?;
        Ok(byte[0])
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if shift == 63 && part > 1 {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(damaged("a number is too large"))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let number = self.number()?;
        T::try_from(number).map_err(|_| damaged("a number is too large"))
    }

    /// Bytes, at most `most`: more would not have come from an archive with these limits.
    fn bytes(&mut self, most: usize, what: &str) -> Result<Vec<u8>> {
        let length = self.number()?;
        if length > most as u64 {
            return Err(Error::new(Code::LimitExceeded, format!("{what} of {length} bytes is longer than {most}")));
        }
        let mut bytes = vec![0; length as usize];
        self.body.read_exact(&mut bytes).map_err(|error| failed(&error))?;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<Vec<u8>> {
        self.bytes(self.limits.path_bytes, "a path")
    }

    fn device(&mut self, kind: fn(u32, u32) -> Kind) -> Result<Kind> {
        let (major, minor) = (self.small()?, self.small()?);
        if !is_device(u64::from(major), u64::from(minor)) {
            return Err(damaged("a device number is too large"));
        }
        Ok(kind(major, minor))
    }

    fn xattrs(&mut self) -> Result<Xattrs> {
        if self.number()? == form::SAME_SET {
            return self.last.clone().map(Some).ok_or_else(|| damaged("attributes are missing"));
        }
        let (mut set, mut room) = (BTreeMap::new(), self.limits.xattr_bytes);
        for _ in 0..self.number()? {
            let name = self.bytes(room, "extended attributes")?;
            if !is_attribute_name(&name) {
                return Err(damaged("an attribute has no name"));
            }
            room -= name.len();
            let value = self.bytes(room, "extended attributes")?;
            room -= value.len();
            set.insert(name, value);
        }
        self.last = Some(Arc::new(set));
        Ok(self.last.clone())
    }

    fn extents(&mut self, size: u64) -> Result<Arc<[Extent]>> {
        let count = self.number()?;
        if count > self.limits.sparse_extents as u64 {
            let message = format!("the sparse file has more than {} extents", self.limits.sparse_extents);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        self.apparent = self.apparent.saturating_add(size);
        if self.apparent > self.limits.layer_bytes {
            let message = format!("the sparse files have more than {} bytes", self.limits.layer_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let (mut extents, mut at) = (Vec::new(), 0u64);
        for _ in 0..count {
            let (gap, length) = (self.number()?, self.number()?);
            let offset = at.checked_add(gap).ok_or_else(|| damaged("an extent is out of its file"))?;
            at = offset
                .checked_add(length)
                .filter(|&end| end <= size && length > 0)
                .ok_or_else(|| damaged("an extent is out of its file"))?;
            extents.push(Extent { offset, length, stored: 0 });
        }
        Placement::of(&mut extents);
        Ok(extents.into())
    }

    fn entry(&mut self) -> Result<StoredEntry> {
        let flags = self.byte()?;
        let path = self.path()?;
        self.offset = self.offset.wrapping_add(self.number()?);
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let mtime = Mtime { seconds: unzigzag(self.number()?), nanoseconds: self.small()? };
        if mode > MODE_MAX || mtime.nanoseconds >= 1_000_000_000 {
            return Err(damaged("an entry has a mode or a time that is none"));
        }
        let mut position = 0;
        let kind = match flags & form::TYPE {
            form::FILE => {
                let size = self.number()?;
                position = self.number()?;
                Kind::File { size }
            }
            form::DIRECTORY => Kind::Directory,
            form::SYMLINK => Kind::Symlink { target: self.path()? },
            form::HARD_LINK => Kind::HardLink { target: self.path()? },
            form::CHAR_DEVICE => self.device(|major, minor| Kind::CharDevice { major, minor })?,
            form::BLOCK_DEVICE => self.device(|major, minor| Kind::BlockDevice { major, minor })?,
            form::FIFO => Kind::Fifo,
            _ => return Err(damaged("an entry is of no type")),
        };
        let xattrs = if flags & form::XATTRS != 0 { self.xattrs()? } else { None };
        let content = match kind {
            Kind::File { size } => Some(self.content(size, position, flags & form::SPARSE != 0)?),
            _ => None,
        };
        let metadata = Metadata { mode, uid, gid, mtime, xattrs };
        Ok(StoredEntry { entry: Entry { path, kind, metadata, offset: self.offset }, content })
    }

    fn content(&mut self, size: u64, position: u64, sparse: bool) -> Result<Content> {
        if size > SIZE_MAX || position > SIZE_MAX || !position.is_multiple_of(BLOCK) || position < BLOCK {
            return Err(damaged("a content has no place"));
        }
        let extents = if sparse { Some(self.extents(size)?) } else { None };
        let content = Content { layer: self.layer, position, size, extents };
        if position + length_of(&content) > self.table.header.data_end {
            return Err(damaged("a content has no place"));
        }
        Ok(content)
    }

    fn batch(&mut self) -> Result<Vec<StoredEntry>> {
        if self.table.header.layer_bytes > self.limits.layer_bytes {
            let message = format!("the layer has more than {} bytes", self.limits.layer_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let (mut batch, mut weight) = (Vec::new(), 0);
        while self.left > 0 && batch.len() < BATCH && weight < BATCH_BYTES {
            self.left -= 1;
            let ingested = self.entry()?;
            weight += ingested.weight();
            batch.push(ingested);
        }
        Ok(batch)
    }
}

impl Iterator for TableEntries<'_> {
    type Item = Result<Vec<StoredEntry>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.left == 0 {
            return None;
        }
        let batch = self.batch();
        self.failed = batch.is_err();
        Some(batch)
    }
}
