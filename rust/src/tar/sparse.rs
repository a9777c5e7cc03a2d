//! Sparse files in the four encodings of GNU tar (its manual, "Storing Sparse Files"): the map that an old GNU header
//! and its extension blocks hold, pax 0.0 and 0.1 whose map is in the records, and pax 1.0 whose map stands before
//! the data.

use super::header::{BLOCK, unsigned};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// A range of a sparse file that has data; they stand back to back in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DataRange {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What comes next of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Data(u64),
    Hole(u64),
}

/// A checked map, and how far it has been read.
#[derive(Debug)]
pub(super) struct SparseMap {
    extents: std::vec::IntoIter<DataRange>,
    ahead: Option<DataRange>,
    position: u64,
    size: u64,
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::TarInvalid, message)
}

impl SparseMap {
    /// A map of a file of `size` bytes of which `stored` are in the archive.
    ///
    /// # Errors
    /// `tar_invalid` when the extents overlap, go backwards, pass the end, or do not add up to `stored`.
    pub(super) fn new(mut extents: Vec<DataRange>, size: u64, stored: u64) -> Result<Self> {
        let (mut end, mut sum) = (0, 0);
        for extent in &extents {
            let next = extent.offset.checked_add(extent.length).filter(|&next| next <= size);
            let Some(next) = next.filter(|_| extent.offset >= end) else {
                let DataRange { offset, length } = extent;
                let message =
                    format!("the sparse map's extent of {length} bytes at {offset} overlaps or passes {size}");
                return Err(invalid(message));
            };
            end = next;
            // Bounded by `size`: the extents do not overlap.
            sum += extent.length;
        }
        if sum != stored {
            return Err(invalid(format!("the sparse map covers {sum} bytes, the archive holds {stored}")));
        }
        extents.retain(|extent| extent.length > 0);
        Ok(SparseMap { extents: extents.into_iter(), ahead: None, position: 0, size })
    }

    /// The next stretch, never empty; `None` at the end of the file.
    pub(super) fn next_segment(&mut self) -> Option<Segment> {
        let ahead = self.ahead.take().or_else(|| self.extents.next());
        let hole_end = ahead.map_or(self.size, |extent| extent.offset);
        if self.position < hole_end {
            let hole = hole_end - self.position;
            (self.ahead, self.position) = (ahead, hole_end);
            return Some(Segment::Hole(hole));
        }
        let extent = ahead?;
        self.position += extent.length;
        Some(Segment::Data(extent.length))
    }
}

/// Adds an extent unless there are too many.
pub(super) fn push(extents: &mut Vec<DataRange>, extent: DataRange, limits: &Limits) -> Result<()> {
    if extents.len() >= limits.sparse_extents {
        let message = format!("the sparse file has more than {} extents", limits.sparse_extents);
        return Err(Error::new(Code::LimitExceeded, message));
    }
    extents.push(extent);
    Ok(())
}

/// The part of a map that an old GNU header (`4` entries from byte 386) or an extension block (`21` from byte 0)
/// holds. Returns whether another extension block follows.
pub(super) fn old_gnu(
    block: &[u8; BLOCK],
    header: bool,
    extents: &mut Vec<DataRange>,
    limits: &Limits,
) -> Result<bool> {
    let (entries, more) = if header { (&block[386..482], block[482]) } else { (&block[..504], block[504]) };
    for entry in entries.chunks_exact(24) {
        let (offset, length) = entry.split_at(12);
        // A map shorter than its room ends with an entry of NULs.
        if offset[0] == 0 && length[0] == 0 {
            break;
        }
        let (offset, length) = (unsigned("sparse offset", offset)?, unsigned("sparse length", length)?);
        push(extents, DataRange { offset, length }, limits)?;
    }
    Ok(more != 0)
}

/// The size of the whole file, from an old GNU header.
pub(super) fn old_gnu_size(block: &[u8; BLOCK]) -> Result<u64> {
    unsigned("sparse file's real size", &block[483..495])
}

/// What the `GNU.sparse.*` records of one pax header say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    version: [Option<u64>; 2],
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    blocks: Option<u64>,
    map: Option<Vec<DataRange>>,
    /// The offset of a pair whose length has not come yet (0.0 alternates them).
    offset: Option<u64>,
}

/// Where the map of a pax sparse file is.
#[derive(Debug)]
pub(super) enum PaxMap {
    /// In the records (0.0, 0.1).
    Records { extents: Vec<DataRange>, size: u64 },
    /// Before the data (1.0).
    Data { size: u64 },
}

impl Records {
    /// Takes the record `GNU.sparse.KEY`.
    ///
    /// # Errors
    /// `tar_invalid` for an unknown key or a value that is no number; `limit_exceeded` for too many extents.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<()> {
        match key {
            b"major" => self.version[0] = Some(decimal(value)?),
            b"minor" => self.version[1] = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => self.blocks = Some(decimal(value)?),
            b"offset" => {
                if self.offset.replace(decimal(value)?).is_some() {
                    return Err(invalid("two GNU.sparse.offset records without a GNU.sparse.numbytes between them"));
                }
            }
            b"numbytes" => {
                let offset = self.offset.take();
                let offset = offset.ok_or_else(|| invalid("a GNU.sparse.numbytes record without an offset"))?;
                push(self.map.get_or_insert_default(), DataRange { offset, length: decimal(value)? }, limits)?;
            }
            b"map" => {
                if self.map.is_some() {
                    return Err(invalid("two sparse maps in one pax header"));
                }
                self.map = Some(parse_map(value, limits)?);
            }
            _ => return Err(invalid(format!("unknown pax record GNU.sparse.{}", key.escape_ascii()))),
        }
        Ok(())
    }

    /// Brings the records together.
    ///
    /// # Errors
    /// `tar_invalid` when they contradict each other or something is missing.
    pub(super) fn resolve(self) -> Result<PaxMap> {
        if self.offset.is_some() {
            return Err(invalid("a GNU.sparse.offset record without its GNU.sparse.numbytes"));
        }
        let size = match (self.real_size, self.size) {
            (Some(one), Some(other)) if one != other => {
                return Err(invalid(format!("the sparse file's size is both {one} and {other}")));
            }
            (one, other) => one.or(other).ok_or_else(|| invalid("the sparse file's size is missing"))?,
        };
        match (self.version, self.map) {
            ([Some(1), Some(0)], None) => Ok(PaxMap::Data { size }),
            ([None, None] | [Some(0), Some(0 | 1)], Some(extents)) => {
                if self.blocks.is_some_and(|blocks| blocks != extents.len() as u64) {
                    return Err(invalid(format!(
                        "the sparse map has not GNU.sparse.numblocks entries: {}",
                        extents.len()
                    )));
                }
                Ok(PaxMap::Records { extents, size })
            }
            ([None, None] | [Some(0), Some(0 | 1)], None) => Err(invalid("the sparse file has no map")),
            ([Some(1), Some(0)], Some(_)) => Err(invalid("the sparse file has a map in its records and in its data")),
            ([major, minor], _) => {
                let shown = |part: Option<u64>| part.map_or("?".to_owned(), |part| part.to_string());
                Err(invalid(format!("unknown sparse format {}.{}", shown(major), shown(minor))))
            }
        }
    }
}

/// `offset,length,offset,length,...`, empty for a file that is all hole.
fn parse_map(value: &[u8], limits: &Limits) -> Result<Vec<DataRange>> {
    let mut extents = Vec::new();
    if value.is_empty() {
        return Ok(extents);
    }
    let mut numbers = value.split(|&byte| byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| invalid("GNU.sparse.map has an odd count of numbers"))?;
        push(&mut extents, DataRange { offset: decimal(offset)?, length: decimal(length)? }, limits)?;
    }
    Ok(extents)
}

/// Reads the map that stands before the data in format 1.0: the count, then offset and length of each extent, each a
/// decimal number and a newline, padded to a whole block.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    count: Option<u64>,
    offset: Option<u64>,
    digits: Vec<u8>,
    pub(super) extents: Vec<DataRange>,
}

impl DataMap {
    /// Takes the next block. Returns whether the map is complete.
    ///
    /// # Errors
    /// `tar_invalid` for anything but numbers and newlines, and for a padding that is not zero.
    pub(super) fn block(&mut self, block: &[u8; BLOCK], limits: &Limits) -> Result<bool> {
        let mut bytes = block.iter();
        while !self.complete() {
            let Some(&byte) = bytes.next() else { return Ok(false) };
            if byte != b'\n' {
                if self.digits.len() >= 20 {
                    return Err(invalid("a number of the sparse map is too long"));
                }
                // Leading zeros are no part of a number's length.
                if self.digits == b"0" {
                    self.digits.clear();
                }
                self.digits.push(byte);
                continue;
            }
            let number = decimal(&self.digits)?;
            self.digits.clear();
            match (self.count, self.offset.take()) {
                (None, _) => self.count = Some(number),
                (Some(_), None) => self.offset = Some(number),
                (Some(_), Some(offset)) => push(&mut self.extents, DataRange { offset, length: number }, limits)?,
            }
        }
        if bytes.any(|&byte| byte != 0) {
            return Err(invalid("the sparse map is followed by something else than zeros"));
        }
        Ok(true)
    }

    fn complete(&self) -> bool {
        self.offset.is_none() && self.count == Some(self.extents.len() as u64)
    }
}

/// The map of a file in format 1.0, padded to whole blocks: how many extents there are, then each one's offset and
/// length. An empty extent at the end tells GNU tar where a last hole ends.
pub(super) fn written_map(size: u64, data: &[(u64, u64)]) -> Vec<u8> {
    let last = data.last().map_or(0, |(offset, length)| offset + length);
    let end = (last < size || data.is_empty()).then_some((size, 0));
    let mut map = format!("{}\n", data.len() + usize::from(end.is_some())).into_bytes();
    for (offset, length) in data.iter().copied().chain(end) {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// A number of decimal digits that a signed 64-bit offset holds. Leading zeros mean nothing, however many there are.
pub(super) fn decimal(value: &[u8]) -> Result<u64> {
    let number = digits_of(value).and_then(|number| u64::try_from(number).ok());
    number.filter(|&number| number <= i64::MAX as u64).ok_or_else(|| {
        let shown = &value[..value.len().min(40)];
        invalid(format!("\"{}\" is not a decimal number below 2^63", shown.escape_ascii()))
    })
}

/// The number that decimal digits and nothing else say, up to some value over 2^64.
pub(super) fn digits_of(text: &[u8]) -> Option<i128> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = text.iter().take_while(|&&digit| digit == b'0').count();
    let digits = &text[zeros..];
    let fold = |digits: &[u8]| digits.iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    (digits.len() <= 20).then(|| fold(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent((offset, length): (u64, u64)) -> DataRange {
        DataRange { offset, length }
    }

    fn segments(map: &[(u64, u64)], size: u64, stored: u64) -> Result<Vec<Segment>> {
        let mut map = SparseMap::new(map.iter().copied().map(extent).collect(), size, stored)?;
        Ok(std::iter::from_fn(|| map.next_segment()).collect())
    }

    #[test]
    fn maps_become_segments() -> Result<()> {
        use Segment::{Data, Hole};
        assert_eq!(segments(&[], 0, 0)?, []);
        assert_eq!(segments(&[], 9, 0)?, [Hole(9)]);
        assert_eq!(segments(&[(9, 0)], 9, 0)?, [Hole(9)]);
        assert_eq!(segments(&[(0, 9)], 9, 9)?, [Data(9)]);
        assert_eq!(
            segments(&[(1, 2), (3, 1), (6, 0), (7, 1)], 9, 4)?,
            [Hole(1), Data(2), Data(1), Hole(3), Data(1), Hole(1)]
        );
        Ok(())
    }

    #[test]
    fn leading_zeros_mean_nothing() {
        let zeros = [b'0'; 4000];
        let table: &[(&[u8], Option<u64>)] = &[
            (&zeros, Some(0)),
            (&[&zeros[..], b"9223372036854775807"].concat(), Some(i64::MAX as u64)),
            (b"9223372036854775808", None),
            (b"99999999999999999999", None),
            (b"100000000000000000000", None),
            (b"", None),
            (b"+1", None),
            (b"1 ", None),
        ];
        for (text, expected) in table {
            assert_eq!(decimal(text).ok(), *expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for (map, size, stored) in [
            (&[(0, 2), (1, 1)][..], 9, 3),
            (&[(4, 1), (0, 1)], 9, 2),
            (&[(8, 2)], 9, 2),
            (&[(u64::MAX, 2)], 9, 2),
            (&[(0, 2)], 9, 3),
            (&[(0, 2)], 9, 1),
        ] {
            assert_eq!(segments(map, size, stored).expect_err("refused").code, Code::TarInvalid, "{map:?}");
        }
    }
}
