//! gzip (RFC 1952), any number of members.

use std::io::Read;

use super::inflate::{AHEAD, Inflate, WINDOW};
use super::input::{Input, garbage, invalid};
use crate::error::{Code, Error, Result};

/// One gzip member after another.
pub(super) struct Gzip {
    inflate: Inflate,
    /// The end of what the member gave before, as far as distances reach, in a buffer of twice that.
    window: Box<[u8]>,
    held: usize,
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
        Gzip {
            inflate: Inflate::new(),
            window: vec![0; 2 * WINDOW].into(),
            held: 0,
            crc: crc32fast::Hasher::new(),
            size: 0,
            part: Part::Header,
        }
    }

    /// The next bytes, straight into `out`, which is not empty; `None` at the end.
    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            match self.part {
                Part::Header => {
                    header(input)?;
                    self.inflate.reset();
                    self.held = 0;
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

    /// Inflates into `out` until it is full or the member ends; then compares the member's trailer.
    fn body<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<usize> {
        let mut produced = 0;
        let mut direct = self.held == 0;
        while produced < out.len() && !self.inflate.done() {
            if direct {
                produced = inflate(&mut self.inflate, input, out, produced)?;
                continue;
            }
            // Distances reach back before `out`: inflated behind the window, until `out` has all that they can reach.
            if self.held == self.window.len() {
                self.window.copy_within(WINDOW.., 0);
                self.held = WINDOW;
            }
            let room = self.window.len().min(self.held + out.len() - produced);
            let end = inflate(&mut self.inflate, input, &mut self.window[..room], self.held)?;
            let step = end - self.held;
            out[produced..produced + step].copy_from_slice(&self.window[self.held..end]);
            (self.held, produced) = (end, produced + step);
            direct = produced >= WINDOW;
        }
        self.crc.update(&out[..produced]);
        self.size = self.size.wrapping_add(produced as u32);
        if self.inflate.done() {
            self.trailer(input)?;
            self.part = Part::Between;
        } else if direct {
            self.held = produced.min(WINDOW);
            self.window[..self.held].copy_from_slice(&out[produced - self.held..produced]);
        }
        Ok(produced)
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

/// Inflates what is at hand to `out[at..]`; returns where the written bytes end.
fn inflate<R: Read>(inflate: &mut Inflate, input: &mut Input<R>, out: &mut [u8], at: usize) -> Result<usize> {
    let compressed = input.at_least(AHEAD)?;
    let all = compressed.len() < AHEAD;
    let (taken, end) =
        inflate.run(compressed, all, out, at).map_err(|fault| invalid(format!("the gzip stream {fault}")))?;
    input.take(taken);
    Ok(end)
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
