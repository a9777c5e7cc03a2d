//! Pax extended headers (POSIX.1-2001, pax, "pax Extended Header"), with the extended attributes that star and
//! libarchive keep in them.

use std::collections::BTreeMap;

use super::header::{device, id, path_limit};
use super::sparse::{self, decimal};
use super::values::{base64, first_record, percent, time};
use crate::entry::{Mtime, is_attribute_name};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// What the records of one extended header say. An `Option` inside an `Option` is a record whose value may be empty,
/// which takes back what a global header said.
#[derive(Debug, Default)]
pub(super) struct PaxRecords {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<Option<u32>>,
    pub(super) gid: Option<Option<u32>>,
    pub(super) mtime: Option<Option<Mtime>>,
    dev_major: Option<u64>,
    dev_minor: Option<u64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Option<sparse::Records>,
    /// Records that are known to mean nothing here, or that nobody knows.
    pub(super) dropped: u64,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::TarInvalid, message)
}

impl PaxRecords {
    /// Parses a whole extended header.
    ///
    /// # Errors
    /// `tar_invalid` for a malformed record, a key that stands twice, or a value that its key cannot have;
    /// `limit_exceeded` for too many extended attributes or sparse extents.
    pub(super) fn parse(mut bytes: &[u8], limits: &Limits) -> Result<Self> {
        let mut records = PaxRecords::default();
        let mut keys = Vec::new();
        while !bytes.is_empty() {
            let malformed = || invalid(format!("malformed pax record {}", shown(bytes)));
            let (key, value, rest) = first_record(bytes).ok_or_else(malformed)?;
            bytes = rest;
            // The map of a 0.0 sparse file repeats these two.
            if !matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                keys.push(key);
            }
            records.take(key, value, limits).map_err(|error| named(key, error))?;
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!("the pax record {} stands twice in one header", shown(pair[0]))));
        }
        let total: usize = records.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > limits.xattr_bytes {
            let message = format!("{total} bytes of extended attributes are more than {}", limits.xattr_bytes);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        match key {
            b"path" => self.path = Some(name(value, limits)?),
            b"linkpath" => self.link = Some(name(value, limits)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(optional(value, |value| id("uid", decimal(value)?))?),
            b"gid" => self.gid = Some(optional(value, |value| id("gid", decimal(value)?))?),
            b"mtime" => {
                let wrong = |value: &[u8]| invalid(format!("{} is not a time", shown(value)));
                self.mtime = Some(optional(value, |value| time(value).ok_or_else(|| wrong(value)))?);
            }
            b"SCHILY.devmajor" => self.dev_major = Some(decimal(value)?),
            b"SCHILY.devminor" => self.dev_minor = Some(decimal(value)?),
            // Names are bytes here, whatever they encode.
            b"hdrcharset" if matches!(value, b"" | b"BINARY" | b"ISO-IR 10646 2000 UTF-8") => {}
            b"hdrcharset" => return Err(invalid(format!("unknown character set {}", shown(value)))),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    return self.sparse.get_or_insert_default().record(key, value, limits);
                }
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    return self.attribute(attribute.to_vec(), value.to_vec());
                }
                if let Some(attribute) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let attribute = percent(attribute).ok_or_else(|| invalid("the name is not URL-encoded"))?;
                    let value = base64(value).ok_or_else(|| invalid("the value is not base64"))?;
                    return self.attribute(attribute, value);
                }
                // A part of a file that began on another volume, or ends on the next.
                if key.starts_with(b"GNU.volume.") && key != b"GNU.volume.label" {
                    return Err(invalid("the archive is one of several volumes"));
                }
                self.dropped += 1;
            }
        }
        Ok(())
    }

    /// libarchive writes each attribute in both encodings; they have to agree.
    fn attribute(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<()> {
        if !is_attribute_name(&name) {
            return Err(invalid("the attribute's name is empty or has a NUL byte"));
        }
        match self.xattrs.get(&name) {
            Some(before) if *before != value => Err(invalid("the attribute has two values")),
            _ => {
                self.xattrs.insert(name, value);
                Ok(())
            }
        }
    }

    /// Device numbers, where the records replace those of the header.
    pub(super) fn device(&self, major: u64, minor: u64) -> Result<(u32, u32)> {
        device(self.dev_major.unwrap_or(major), self.dev_minor.unwrap_or(minor))
    }

    /// Adds a later global header to the globals so far.
    ///
    /// # Errors
    /// `tar_invalid` for a record that makes sense for one entry only. Attributes for all would be copied into each
    /// set of an entry's own.
    pub(super) fn merge_global(&mut self, later: &PaxRecords) -> Result<()> {
        let single = [
            ("path", later.path.is_some()),
            ("linkpath", later.link.is_some()),
            ("size", later.size.is_some()),
            ("SCHILY.devmajor", later.dev_major.is_some()),
            ("SCHILY.devminor", later.dev_minor.is_some()),
            ("GNU.sparse", later.sparse.is_some()),
            ("SCHILY.xattr", !later.xattrs.is_empty()),
        ];
        if let Some((key, _)) = single.iter().find(|(_, there)| *there) {
            return Err(invalid(format!("the global pax header has the record {key}, which can be of one entry only")));
        }
        self.uid = later.uid.or(self.uid);
        self.gid = later.gid.or(self.gid);
        self.mtime = later.mtime.or(self.mtime);
        Ok(())
    }
}

fn named(key: &[u8], mut error: Error) -> Error {
    error.message = format!("pax record {}: {}", shown(key), error.message);
    error
}

/// Quoted, and cut where it is long.
fn shown(bytes: &[u8]) -> String {
    let dots = if bytes.len() > 60 { "..." } else { "" };
    format!("\"{}\"{dots}", bytes[..bytes.len().min(60)].escape_ascii())
}

/// A path or link target. Readers disagree on what an empty one or one with a NUL means.
fn name(value: &[u8], limits: &Limits) -> Result<Vec<u8>> {
    if value.is_empty() || value.contains(&0) {
        return Err(invalid("the value is empty or has a NUL byte"));
    }
    path_limit(value, limits)?;
    Ok(value.to_vec())
}

fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records() {
        for bytes in [
            &b"x"[..],
            b"0 a=b\n",
            b"5 a=b\n",
            b"7 a=b\n",
            b"6 a=b ",
            b"5 ab\n",
            b"5 =b\n",
            b"-6 a=b\n",
            b"+6 a=b\n",
            b" 6 a=b\n",
            b"99999999999999999999 a=b\n",
            b"18446744073709551615 a=b\n",
            b"2 ",
            b"6 a=b\n6 a=",
            b"6 a=b\n\0\0",
            b"7 \0a=b\n",
        ] {
            let error = PaxRecords::parse(bytes, &Limits::default()).expect_err("refused");
            assert_eq!(error.code, Code::TarInvalid, "{}", bytes.escape_ascii());
        }
    }
}
