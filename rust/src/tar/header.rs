//! The 512-byte header block: v7, ustar (POSIX.1-1988) and old GNU (GNU tar manual, "Basic Tar Format").

use crate::entry::is_device;
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// Bytes of a block; headers are one block, data are padded to whole blocks.
pub(super) const BLOCK: usize = 512;

/// Which dialect the magic announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFormat {
    /// No magic: neither prefix nor device numbers mean anything.
    V7,
    /// `ustar\0`: names may have a prefix.
    Ustar,
    /// `ustar  \0`: what ustar calls the prefix holds times and a sparse map.
    Gnu,
}

/// A header block whose checksum has been found right.
pub(super) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Checks the sum of all bytes, the sum's own field counted as spaces. Some old writers summed signed bytes.
    ///
    /// # Errors
    /// `tar_invalid` when neither sum is the one written.
    pub(super) fn verify(block: &'a [u8; BLOCK]) -> Result<Self> {
        let written = number("checksum", &block[148..156])?;
        let unsigned = sum(block, i64::from);
        if written != unsigned && written != sum(block, |byte| i64::from(byte as i8)) {
            let message = format!("the header's checksum is {written}, the sum of its bytes is {unsigned}");
            return Err(Error::new(Code::TarInvalid, message));
        }
        Ok(Header(block))
    }

    /// The dialect.
    ///
    /// # Errors
    /// `tar_invalid` for a magic that is nearly ustar while the prefix field is in use: readers disagree on the name.
    pub(super) fn format(&self) -> Result<HeaderFormat> {
        match &self.0[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] => Ok(HeaderFormat::Ustar),
            b"ustar  \0" => Ok(HeaderFormat::Gnu),
            magic if magic.starts_with(b"ustar") && self.0[345] != 0 => {
                let message = format!("the header's magic \"{}\" is of no known format", magic.escape_ascii());
                Err(Error::new(Code::TarInvalid, message))
            }
            _ => Ok(HeaderFormat::V7),
        }
    }

    /// The type flag.
    pub(super) fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the ustar prefix before it.
    pub(super) fn path(&self, format: HeaderFormat) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if format == HeaderFormat::Ustar { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() || name.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The link target.
    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    /// Permission bits; the type bits that some writers add are masked away.
    pub(super) fn mode(&self) -> Result<u16> {
        let mode = unsigned("mode", &self.0[100..108])?;
        Ok((mode & 0o7777) as u16)
    }

    /// Owner.
    pub(super) fn uid(&self) -> Result<u32> {
        id("uid", unsigned("uid", &self.0[108..116])?)
    }

    /// Group.
    pub(super) fn gid(&self) -> Result<u32> {
        id("gid", unsigned("gid", &self.0[116..124])?)
    }

    /// Bytes of data after the header.
    pub(super) fn size(&self) -> Result<u64> {
        unsigned("size", &self.0[124..136])
    }

    /// Seconds since 1970.
    pub(super) fn mtime(&self) -> Result<i64> {
        number("mtime", &self.0[136..148])
    }

    /// Major number of a device.
    pub(super) fn dev_major(&self) -> Result<u64> {
        unsigned("devmajor", &self.0[329..337])
    }

    /// Minor number of a device.
    pub(super) fn dev_minor(&self) -> Result<u64> {
        unsigned("devminor", &self.0[337..345])
    }
}

/// Whether the block is all zeros: the end of the archive.
pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(0, |or, byte| or | byte) == 0
}

/// Whether these bytes begin like a tar archive: a header with the right checksum, or the end blocks of an empty one.
pub(crate) fn looks_like_tar(bytes: &[u8]) -> bool {
    let Some(block) = bytes.first_chunk::<BLOCK>() else { return false };
    is_zero(block) || Header::verify(block).is_ok()
}

/// Refuses a path or link target beyond the limits.
pub(super) fn path_limit(path: &[u8], limits: &Limits) -> Result<()> {
    if path.len() > limits.path_bytes {
        let message = format!("a path of {} bytes is longer than {}", path.len(), limits.path_bytes);
        return Err(Error::new(Code::LimitExceeded, message));
    }
    Ok(())
}

/// An id as Linux holds it.
pub(super) fn id(field: &str, value: u64) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| Error::new(Code::TarInvalid, format!("the {field} {value} does not fit in 32 bits")))
}

/// A device number as Linux holds it.
pub(super) fn device(major: u64, minor: u64) -> Result<(u32, u32)> {
    if !is_device(major, minor) {
        let message = format!("the device number {major}:{minor} does not fit in 12 and 20 bits");
        return Err(Error::new(Code::TarInvalid, message));
    }
    Ok((major as u32, minor as u32))
}

/// What is wrong with bytes that begin like a header but for its checksum: they have ustar's magic, or a v7 header's
/// numbers.
pub(crate) fn damaged_header(bytes: &[u8]) -> Option<Error> {
    let block = bytes.first_chunk::<BLOCK>()?;
    let octal = |field: &[u8]| number("", field).is_ok() && field.iter().any(u8::is_ascii_digit) && field[0] < 0x80;
    let like_v7 =
        || [100..108, 108..116, 116..124, 124..136, 136..148, 148..156].into_iter().all(|at| octal(&block[at]));
    if block[257..262] == *b"ustar" || block[0] != 0 && like_v7() { Header::verify(block).err() } else { None }
}

fn sum(block: &[u8; BLOCK], value: impl Fn(u8) -> i64) -> i64 {
    let around = block[..148].iter().chain(&block[156..]);
    around.map(|&byte| value(byte)).sum::<i64>() + 8 * i64::from(b' ')
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number that cannot be negative.
pub(super) fn unsigned(name: &str, field: &[u8]) -> Result<u64> {
    let value = number(name, field)?;
    u64::try_from(value).map_err(|_| Error::new(Code::TarInvalid, format!("the {name} {value} is negative")))
}

/// A numeric field: octal digits with spaces before and spaces or NULs after (nothing at all is 0), or, with the first
/// bit set, a big-endian two's complement number in the other bits ("base-256", GNU tar manual, "Extensions").
fn number(name: &str, field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        return base_256(field).ok_or_else(|| {
            Error::new(Code::TarInvalid, format!("the {name} field's number does not fit in 63 bits and a sign"))
        });
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        let message = format!("the {name} field \"{}\" is not an octal number", field.escape_ascii());
        return Err(Error::new(Code::TarInvalid, message));
    }
    // Twelve digits of three bits: no overflow.
    Ok(digits.iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

fn base_256(field: &[u8]) -> Option<i64> {
    // The second bit is the sign; the first only marks the encoding.
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let mut value = if negative { -1_i64 } else { 0 };
    for byte in std::iter::once(first).chain(field[1..].iter().copied()) {
        if !(i64::MIN >> 8..=i64::MAX >> 8).contains(&value) {
            return None;
        }
        value = value << 8 | i64::from(byte);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let table: &[(&[u8], Option<i64>)] = &[
            (b"0000644\0", Some(0o644)),
            (b"  644 \0 ", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"777777777777", Some((1 << 36) - 1)),
            (b"0000648\0", None),
            (b"000\x00644\0", None),
            (b"\x000000644", None),
            (b"-000644\0", None),
            (b"00 00644", None),
            (b"\x80\0\0\0\0\0\0\x01", Some(1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in table {
            assert_eq!(number("test", field).ok(), *expected, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn negative_numbers_are_named() {
        let error = unsigned("size", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").expect_err("refused");
        assert_eq!(error.message, "the size -1 is negative");
    }
}
