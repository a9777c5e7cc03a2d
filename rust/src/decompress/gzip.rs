//! gzip (RFC 1952), any number of members.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use super::input::{Input, garbage, invalid};
use crate::error::{Code, Error, Result};

/// One gzip member after another.
pub(super) struct Gzip {
    inflate: Decompress,
    crc: crc32fast::Hasher,
    /// Bytes of the member so far, modulo 2^32 as its trailer counts them.
    size: u32,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Body,
    /// Between members: the end, another member, or zeros to the end.
    Between,
}

impl Gzip {
    pub(super) fn new() -> Self {
        Gzip { inflate: Decompress::new(false), crc: crc32fast::Hasher::new(), size: 0, part: Part::Header }
    }

    /// The next bytes, straight into `out`, which is not empty; `None` at the end.
    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.part {
                Part::Header => {
                    header(input)?;
                    self.inflate.reset(false);
                    self.crc.reset();
                    self.size = 0;
                    self.part = Part::Body;
                }
                Part::Body => {
                    let produced = self.body(input, out)?;
                    if produced > 0 {
                        return Ok(Some(produced));
                    }
                }
                Part::Between => match input.at_least(2)? {
                    [] => return Ok(None),
                    [0x1f, 0x8b, ..] => self.part = Part::Header,
                    // Tapes were padded with zeros; gzip lets them be.
                    [0, ..] => return zeros(input).map(|()| None),
                    other => return Err(garbage("gzip", other)),
                },
            }
        }
    }

    /// Inflates straight into `out`; at the end of the member compares its trailer.
    fn body<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        let mut produced = 0;
        loop {
            let compressed = input.fill()?;
            if compressed.is_empty() {
                return Err(invalid("the gzip stream ends early"));
            }
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(compressed, &mut out[produced..], FlushDecompress::None);
            let status = status.map_err(|error| invalid(format!("the gzip stream is damaged: {error}")))?;
            let taken = (self.inflate.total_in() - before_in) as usize;
            let step = (self.inflate.total_out() - before_out) as usize;
            self.crc.update(&out[produced..produced + step]);
            self.size = self.size.wrapping_add(step as u32);
            produced += step;
            input.take(taken);
            if status == Status::StreamEnd {
                self.trailer(input)?;
                self.part = Part::Between;
                return Ok(produced);
            }
            if produced == out.len() {
                return Ok(produced);
            }
            if taken == 0 && step == 0 {
                return Err(invalid("the gzip stream is damaged"));
            }
        }
    }

    fn trailer<R: Read>(&self, input: &mut Input<R>) -> Result<()> {
        let Some(&[a, b, c, d, e, f, g, h]) = input.at_least(8)?.first_chunk::<8>() else {
            return Err(invalid("the gzip stream ends inside a trailer"));
        };
        input.take(8);
        let (crc, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let seen = self.crc.clone().finalize();
        if crc != seen {
            let (expected, seen) = (format!("{crc:08x}"), format!("{seen:08x}"));
            return Err(Error::mismatch(Code::CompressionInvalid, "the gzip stream's CRC-32", expected, seen));
        }
        if size != self.size {
            return Err(Error::mismatch(Code::CompressionInvalid, "the gzip stream's size", size, self.size));
        }
        Ok(())
    }
}

/// Reads a member's header (RFC 1952, 2.3).
fn header<R: Read>(input: &mut Input<R>) -> Result<()> {
    let mut crc = crc32fast::Hasher::new();
    let mut byte = || -> Result<u8> {
        let Some(&byte) = input.fill()?.first() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(1);
        crc.update(&[byte]);
        Ok(byte)
    };
    let mut fixed = [0; 10];
    for slot in &mut fixed {
        *slot = byte()?;
    }
    let [_, _, method, flags, ..] = fixed;
    if method != 8 {
        return Err(invalid(format!("the gzip stream has the unknown method {method}")));
    }
    if flags & 0xe0 != 0 {
        return Err(invalid(format!("the gzip stream has reserved flags: {flags:#04x}")));
    }
    if flags & 4 != 0 {
        let length = u16::from_le_bytes([byte()?, byte()?]);
        for _ in 0..length {
            byte()?;
        }
    }
    // Name and comment, each ended by a NUL.
    for flag in [8, 16] {
        while flags & flag != 0 && byte()? != 0 {}
    }
    if flags & 2 != 0 {
        let [low, high, ..] = crc.finalize().to_le_bytes();
        let seen = [low, high];
        let Some(&written) = input.at_least(2)?.first_chunk::<2>() else {
            return Err(invalid("the gzip stream ends inside a header"));
        };
        input.take(2);
        if written != seen {
            return Err(invalid("the gzip header's checksum is wrong"));
        }
    }
    Ok(())
}

fn zeros<R: Read>(input: &mut Input<R>) -> Result<()> {
    loop {
        let bytes = input.fill()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            return Err(garbage("gzip", &bytes[at..]));
        }
        let count = bytes.len();
        input.take(count);
    }
}
