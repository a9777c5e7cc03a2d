//! Reads a tar archive in the form that POSIX calls pax (IEEE Std 1003.1, "pax Interchange Format"), with GNU's sparse
//! files of version 1.0 and attributes as `SCHILY.xattr.` and `LIBARCHIVE.xattr.` have them. What other tars have besides,
//! and whiteouts, are no part of a root filesystem's archive: layers are read elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::archive::{Archive, ArchiveData, Names};
use super::common::{Image, invalid};
use super::source::{ReadAt, Volume};
use crate::contents::Extents;
use crate::entry::{Metadata, Mtime};
use crate::error::Result;
use crate::limits::Limits;
use crate::path::TARGET_MAX;
use crate::tar::{Header, HeaderFormat, base64, digits_of, first_record, percent, time};
use crate::tree::InodeKind;

const BLOCK: u64 = 512;

/// Keyword and value of each record.
type RawRecords = BTreeMap<Vec<u8>, Vec<u8>>;

/// Reads an archive.
///
/// # Errors
/// As [`super::read`](super::format::read).
pub fn read(source: Arc<dyn ReadAt>, limits: &Limits) -> Result<Image> {
    let volume = Volume::new(source);
    let mut names = Names::new(limits);
    let archive = Archive::new(volume.clone());
    let (mut at, mut records) = (0, RawRecords::new());
    loop {
        let mut block = [0; BLOCK as usize];
        volume.fill(at, &mut block).map_err(|_| invalid("the archive has no end"))?;
        if block.iter().all(|&byte| byte == 0) {
            if !records.is_empty() || volume.bytes(at + BLOCK, BLOCK)?.iter().any(|&byte| byte != 0) {
                return Err(invalid("the archive ends within a member"));
            }
            return Ok(Image { tree: names.finish(), contents: Arc::new(archive) });
        }
        let header = Header::verify(&block).ok().filter(|header| matches!(header.format(), Ok(HeaderFormat::Ustar)));
        let wrong = || invalid(format!("the header at byte {at} is damaged, or not of the pax form"));
        let header = header.ok_or_else(wrong)?;
        let stored = match records.get(&b"size"[..]) {
            Some(size) => decimal(size)?,
            None => said(header.size())?,
        };
        let data = at + BLOCK;
        if !volume.has(data, stored) {
            return Err(invalid(format!("the archive ends within the member at byte {at}")));
        }
        at = data + stored.next_multiple_of(BLOCK);
        if header.type_flag() == b'x' {
            if !records.is_empty() || stored > limits.extension_bytes as u64 {
                return Err(invalid("records stand twice before a member, or are too many"));
            }
            records = parse(&volume.bytes(data, stored)?)?;
            continue;
        }
        let member = ReadMember { header, records: std::mem::take(&mut records), data, stored };
        member.read(&volume, &archive, &mut names)?;
    }
}

/// What a header says; its errors are the archive's.
fn said<T>(field: Result<T>) -> Result<T> {
    field.map_err(|error| invalid(error.message))
}

fn decimal<T: TryFrom<i128>>(text: &[u8]) -> Result<T> {
    let number = digits_of(text).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| invalid("a number in a record is none"))
}

fn parse(mut bytes: &[u8]) -> Result<RawRecords> {
    let wrong = || invalid("a record of a member is damaged");
    let mut records = RawRecords::new();
    while !bytes.is_empty() {
        let (keyword, value, rest) = first_record(bytes).ok_or_else(wrong)?;
        if records.insert(keyword.to_vec(), value.to_vec()).is_some() {
            return Err(wrong());
        }
        bytes = rest;
    }
    Ok(records)
}

struct ReadMember<'h> {
    header: Header<'h>,
    records: RawRecords,
    data: u64,
    stored: u64,
}

impl ReadMember<'_> {
    fn record(&self, keyword: &str) -> Option<&[u8]> {
        self.records.get(keyword.as_bytes()).map(Vec::as_slice)
    }

    fn path(&self) -> Vec<u8> {
        let path = self.record("GNU.sparse.name").or(self.record("path"));
        path.map_or_else(|| self.header.path(HeaderFormat::Ustar), <[u8]>::to_vec)
    }

    fn metadata(&self, names: &mut Names) -> Result<Metadata> {
        let number = |keyword, field| match self.record(keyword) {
            Some(text) => decimal(text),
            None => said(field),
        };
        let mtime = match self.record("mtime") {
            Some(text) => time(text).ok_or_else(|| invalid("a time in a record is none"))?,
            None => Mtime { seconds: said(self.header.mtime())?, nanoseconds: 0 },
        };
        let mut attributes = BTreeMap::new();
        for (keyword, value) in &self.records {
            if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                attributes.insert(name.to_vec(), value.clone());
            } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                let (name, value) = (percent(name), base64(value));
                let (name, value) = name.zip(value).ok_or_else(|| invalid("an attribute is not encoded well"))?;
                attributes.entry(name).or_insert(value);
            }
        }
        let xattrs = names.planting().shared(attributes)?;
        let (uid, gid) = (number("uid", self.header.uid())?, number("gid", self.header.gid())?);
        Ok(Metadata { mode: said(self.header.mode())?, uid, gid, mtime, xattrs })
    }

    fn read(&self, volume: &Volume, archive: &Archive, names: &mut Names) -> Result<()> {
        let path = self.path();
        let target = || self.record("linkpath").unwrap_or_else(|| self.header.link());
        let kind = match self.header.type_flag() {
            b'0' => archive.file(self.part(volume)?),
            b'1' => {
                let known = names.known(target())?;
                return names.name(&path, known);
            }
            b'2' if target().len() > TARGET_MAX => return Err(invalid("a link target of more than 4095 bytes")),
            b'2' => InodeKind::Symlink(target().into()),
            b'3' => {
                let (major, minor) = said(self.header.device())?;
                InodeKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = said(self.header.device())?;
                InodeKind::BlockDevice { major, minor }
            }
            b'5' => InodeKind::Directory(Default::default()),
            b'6' => InodeKind::Fifo,
            other => {
                return Err(invalid(format!("a member of the type {}, which is not known here", other.escape_ascii())));
            }
        };
        let metadata = self.metadata(names)?;
        names.add(&path, metadata, kind).map(drop)
    }

    /// The data; before those of a sparse file stands a map of them, in lines of one number.
    fn part(&self, volume: &Volume) -> Result<ArchiveData> {
        let Some(size) = self.record("GNU.sparse.realsize") else {
            return Ok(ArchiveData::run(self.data, self.stored));
        };
        let wrong = || invalid("the map of a sparse file is damaged");
        if (self.record("GNU.sparse.major"), self.record("GNU.sparse.minor")) != (Some(b"1"), Some(b"0")) {
            return Err(invalid("a sparse file of a version that is not known here"));
        }
        let mut lines = Lines { volume, at: self.data, end: self.data + self.stored, held: Vec::new() };
        let (size, count) = (decimal::<u64>(size)?, lines.number()?);
        let mut runs = Extents::default();
        for _ in 0..count {
            let (offset, length) = (lines.number()?, lines.number()?);
            runs.hole(offset.checked_sub(runs.size()).ok_or_else(wrong)?);
            if runs.size().checked_add(length).is_none_or(|end| end > size) {
                return Err(wrong());
            }
            runs.data(length);
        }
        runs.hole(size.checked_sub(runs.size()).ok_or_else(wrong)?);
        let start = self.data + (lines.at - self.data).next_multiple_of(BLOCK);
        if start + runs.stored() != self.data + self.stored {
            return Err(wrong());
        }
        Ok(ArchiveData { start, size, runs: runs.take() })
    }
}

/// Numbers in lines, read a block at a time.
struct Lines<'v> {
    volume: &'v Volume,
    /// Behind the last number.
    at: u64,
    end: u64,
    /// What was read and not looked at, last byte first.
    held: Vec<u8>,
}

impl Lines<'_> {
    fn number(&mut self) -> Result<u64> {
        let mut digits = Vec::new();
        loop {
            if self.held.is_empty() {
                let length = BLOCK.min(self.end.saturating_sub(self.at));
                self.held = self.volume.bytes(self.at, length)?;
                self.held.reverse();
            }
            self.at += 1;
            match self.held.pop() {
                Some(b'\n') => return decimal(&digits),
                Some(digit) if digits.len() < 20 => digits.push(digit),
                _ => return Err(invalid("the map of a sparse file is damaged")),
            }
        }
    }
}
