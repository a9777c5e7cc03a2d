//! Pax extended headers (POSIX.1-2001, pax, "pax Extended Header"), with the extended attributes that star and
//! libarchive keep in them.

use std::collections::BTreeMap;

use super::header::{device, id, path_limit};
use super::sparse::{self, decimal, digits_of};
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
            let (key, value, rest) = split(bytes)?;
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
            b"mtime" => self.mtime = Some(optional(value, time)?),
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

/// Splits the first `LENGTH KEY=VALUE\n` off; LENGTH counts itself and the newline.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let malformed = || invalid(format!("malformed pax record {}", shown(bytes)));
    let space = bytes.iter().position(|&byte| byte == b' ').ok_or_else(malformed)?;
    let length = decimal(&bytes[..space]).map_err(|_| malformed())? as usize;
    if length <= space + 1 || length > bytes.len() {
        return Err(malformed());
    }
    let (record, rest) = bytes.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
    let equals = body.iter().position(|&byte| byte == b'=').ok_or_else(malformed)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(malformed());
    }
    Ok((key, value, rest))
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

/// A decimal number of seconds, maybe negative, maybe with a fraction; what is finer than nanoseconds rounds down.
fn time(value: &[u8]) -> Result<Mtime> {
    let bad = || invalid(format!("{} is not a time", shown(value)));
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let point = digits.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = point.map_or((digits, &b""[..]), |point| (&digits[..point], &digits[point + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    // Wide enough for both signs.
    let whole = digits_of(whole).ok_or_else(bad)?;
    let place = |index: usize| u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + place(index));
    let finer = fraction.iter().skip(9).any(|&digit| digit != b'0');
    // Nanoseconds count forward: -1.5 is half a second after -2.
    let below = nanoseconds + u32::from(finer);
    let (seconds, nanoseconds) = match (negative, below) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - below),
    };
    Ok(Mtime { seconds: i64::try_from(seconds).map_err(|_| bad())?, nanoseconds })
}

fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|&byte| char::from(byte).to_digit(16));
        out.push((digit()? << 4 | digit()?) as u8);
    }
    Some(out)
}

/// Standard alphabet, the padding optional (libarchive leaves it out).
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut text = text;
    while let Some(rest) = text.strip_suffix(b"=") {
        text = rest;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        match group.len() {
            4 => out.extend(&bytes[1..4]),
            3 => out.extend(&bytes[1..3]),
            2 => out.push(bytes[1]),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        type Row<'a> = (&'a [u8], Option<(i64, u32)>);
        let table: &[Row<'_>] = &[
            (b"0", Some((0, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.", Some((1, 0))),
            (b"1.0000000019", Some((1, 1))),
            (b"-1", Some((-1, 0))),
            (b"-1.5", Some((-2, 500_000_000))),
            (b"-0.000000001", Some((-1, 999_999_999))),
            (b"-0.0000000001", Some((-1, 999_999_999))),
            (b"-1.999999999999", Some((-2, 0))),
            (b"9223372036854775807.999999999", Some((i64::MAX, 999_999_999))),
            (b"-9223372036854775807.9", Some((i64::MIN, 100_000_000))),
            (b"-9223372036854775808", Some((i64::MIN, 0))),
            (b"-9223372036854775808.1", None),
            (b"00000000000000000000000000012.5", Some((12, 500_000_000))),
            (b"-0000000000000000000000000001", Some((-1, 0))),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b".5", None),
            (b"+1", None),
            (b"1e9", None),
            (b"1.5.5", None),
            (b"1.-5", None),
            (b" 1", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(seconds, nanoseconds)| Mtime { seconds, nanoseconds });
            assert_eq!(time(text).ok(), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn encodings_of_libarchive() {
        assert_eq!(percent(b"user.a%3Db%25"), Some(b"user.a=b%".to_vec()));
        assert_eq!(percent(b"user.%4"), None);
        assert_eq!(percent(b"user.%zz"), None);
        let table: &[(&[u8], Option<&[u8]>)] = &[
            (b"", Some(b"")),
            (b"AA", Some(b"\0")),
            (b"AA==", Some(b"\0")),
            (b"AAEC", Some(b"\0\x01\x02")),
            (b"+/8", Some(b"\xfb\xff")),
            (b"AAECA", None),
            (b"A*EC", None),
        ];
        for (text, expected) in table {
            assert_eq!(base64(text).as_deref(), *expected, "{}", text.escape_ascii());
        }
    }

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
