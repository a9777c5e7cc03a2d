//! Reads a tar archive in the form that POSIX calls pax (IEEE Std 1003.1, "pax Interchange Format"), with GNU's sparse
//! files of version 1.0 and attributes as `SCHILY.xattr.` and `LIBARCHIVE.xattr.` have them. What other tars have besides,
//! and whiteouts, are no part of a root filesystem's archive: layers are read elsewhere.
//!
//! Nothing of an archive is parsed by the code that reads layers: each finds the other's faults where both read one,
//! as fuzzing has it.

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
        let header = volume.bytes(at, BLOCK).map_err(|_| invalid("the archive has no end"))?;
        if header.iter().all(|&byte| byte == 0) {
            if !records.is_empty() || volume.bytes(at + BLOCK, BLOCK)?.iter().any(|&byte| byte != 0) {
                return Err(invalid("the archive ends within a member"));
            }
            return Ok(Image { tree: names.finish(), contents: Arc::new(archive) });
        }
        check(&header, at)?;
        let stored = match records.get(&b"size"[..]) {
            Some(size) => decimal(size)?,
            None => octal(&header[124..136])?,
        };
        let data = at + BLOCK;
        if !volume.has(data, stored) {
            return Err(invalid(format!("the archive ends within the member at byte {at}")));
        }
        at = data + stored.next_multiple_of(BLOCK);
        if header[156] == b'x' {
            if !records.is_empty() || stored > limits.extension_bytes as u64 {
                return Err(invalid("records stand twice before a member, or are too many"));
            }
            records = parse(&volume.bytes(data, stored)?)?;
            continue;
        }
        let member = ReadMember { header: &header, records: std::mem::take(&mut records), data, stored };
        member.read(&volume, &archive, &mut names)?;
    }
}

fn check(header: &[u8], at: u64) -> Result<()> {
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, &byte)| u64::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum();
    if octal(&header[148..156])? != sum || header[257..263] != *b"ustar\0" {
        return Err(invalid(format!("the header at byte {at} is damaged, or not of the pax form")));
    }
    Ok(())
}

/// Octal digits, up to a space or NUL.
fn octal(field: &[u8]) -> Result<u64> {
    let digits = field.split(|byte| matches!(byte, 0 | b' ')).next().unwrap_or_default();
    let add = |value: u64, &digit: &u8| (b'0'..=b'7').contains(&digit).then(|| value << 3 | u64::from(digit - b'0'));
    digits.iter().try_fold(0, add).ok_or_else(|| invalid("a number in a header is none"))
}

fn decimal<T: std::str::FromStr>(text: &[u8]) -> Result<T> {
    let plain = text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a number in a record is none"))
}

/// `LENGTH KEYWORD=VALUE` and a newline, one after the other.
fn parse(mut bytes: &[u8]) -> Result<RawRecords> {
    let wrong = || invalid("a record of a member is damaged");
    let mut records = RawRecords::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let length: usize = decimal(&bytes[..space])?;
        let record = bytes.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(wrong)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
        if records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec()).is_some() {
            return Err(wrong());
        }
        bytes = &bytes[length..];
    }
    Ok(records)
}

/// Seconds with a fraction, which counts away from zero.
fn time(text: &[u8]) -> Result<Mtime> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let seconds: i64 = decimal(parts.next().unwrap_or_default())?;
    let mut fraction = parts.next().unwrap_or_default().to_vec();
    fraction.resize(9, b'0');
    let nanoseconds: u32 = decimal(&fraction)?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

struct ReadMember<'h> {
    header: &'h [u8],
    records: RawRecords,
    data: u64,
    stored: u64,
}

impl ReadMember<'_> {
    fn record(&self, keyword: &str) -> Option<&[u8]> {
        self.records.get(keyword.as_bytes()).map(Vec::as_slice)
    }

    /// A name, up to its NUL.
    fn text(&self, from: usize, to: usize) -> &[u8] {
        self.header[from..to].split(|&byte| byte == 0).next().unwrap_or_default()
    }

    fn path(&self) -> Vec<u8> {
        if let Some(path) = self.record("GNU.sparse.name").or(self.record("path")) {
            return path.to_vec();
        }
        match self.text(345, 500) {
            b"" => self.text(0, 100).to_vec(),
            prefix => [prefix, b"/", self.text(0, 100)].concat(),
        }
    }

    fn metadata(&self, names: &mut Names) -> Result<Metadata> {
        let number = |keyword, from, to| match self.record(keyword) {
            Some(text) => decimal(text),
            None => Ok(octal(&self.header[from..to])? as u32),
        };
        let mtime = match self.record("mtime") {
            Some(text) => time(text)?,
            None => Mtime { seconds: octal(&self.header[136..148])? as i64, nanoseconds: 0 },
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
        let mode = octal(&self.header[100..108])? as u16 & 0o7777;
        Ok(Metadata { mode, uid: number("uid", 108, 116)?, gid: number("gid", 116, 124)?, mtime, xattrs })
    }

    fn read(&self, volume: &Volume, archive: &Archive, names: &mut Names) -> Result<()> {
        let path = self.path();
        let target = || self.record("linkpath").unwrap_or_else(|| self.text(157, 257));
        let device = || {
            Ok::<_, crate::error::Error>((octal(&self.header[329..337])? as u32, octal(&self.header[337..345])? as u32))
        };
        let kind = match self.header[156] {
            b'0' => archive.file(self.part(volume)?),
            b'1' => {
                let known = names.known(target())?;
                return names.name(&path, known);
            }
            b'2' if target().len() > TARGET_MAX => return Err(invalid("a link target of more than 4095 bytes")),
            b'2' => InodeKind::Symlink(target().into()),
            b'3' => {
                let (major, minor) = device()?;
                InodeKind::CharDevice { major, minor }
            }
            b'4' => {
                let (major, minor) = device()?;
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

fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// Without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for &byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}
