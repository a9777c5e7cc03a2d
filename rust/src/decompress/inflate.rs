//! DEFLATE (RFC 1951), decoded straight into the caller's buffer.
//!
//! Inflating is what most of the time goes into, so this is the project's own: see
//! `docs/decisions/2026-11-22-own-inflate.md`. Wherever there is enough input and room it runs a loop that looks for
//! neither; at the borders it goes symbol by symbol.

use super::bits::{Bits, ENDS, Fault};
use super::tables::{FAST_INPUT, FAST_ROOM, FIXED, Symbol, TOO_FAR, Tables};

/// How far back a distance can reach.
pub(super) const WINDOW: usize = 32 << 10;
/// Bytes of input that [`Inflate::run`] has at hand as long as more come. No header of a block is longer.
pub(super) const AHEAD: usize = 1 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// None: a header comes.
    Header,
    /// Bytes as they are, so many more.
    Stored(usize),
    Codes,
    /// The last one has ended.
    Done,
}

/// Where [`Inflate::run`] stops although it could go on: only ever where the header of a block comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    Never,
    /// Once so many bytes of the input are taken, and so many bits of the last one are left.
    At(usize, u32),
    /// At the next one that is not the first thing.
    Next,
}

/// One stream.
pub(super) struct Inflate {
    /// What is left of the last byte that was taken.
    bits: u64,
    count: u32,
    block: Block,
    last: bool,
    /// A match that has begun: bytes still to come, distance.
    open: (usize, usize),
    /// The block brought no codes of its own.
    fixed: bool,
    /// The codes that the last block with codes of its own brought.
    brought: Box<Tables>,
}

impl Inflate {
    pub(super) fn new() -> Self {
        let brought = Box::new(Tables::new());
        Inflate { bits: 0, count: 0, block: Block::Header, last: false, open: (0, 0), fixed: false, brought }
    }

    /// Begins with a new stream.
    pub(super) fn reset(&mut self) {
        (self.bits, self.count, self.block, self.last, self.open) = (0, 0, Block::Header, false, (0, 0));
    }

    /// Whether the stream has ended. The next byte of the input is then the first behind it.
    pub(super) fn done(&self) -> bool {
        self.block == Block::Done
    }

    /// Begins in the middle of a stream, where a block's header comes; so many bits of a byte stand before it.
    pub(super) fn begin_at_block(&mut self, bits: u8, count: u32) {
        self.reset();
        (self.bits, self.count) = (u64::from(bits), count);
    }

    /// What is left of the last byte that was taken, and how many bits that is, where a block's header comes.
    pub(super) fn at_block(&self) -> Option<(u8, u32)> {
        (self.block == Block::Header).then_some((self.bits as u8, self.count))
    }

    /// Decodes `input` to `out[at..]`, until the stream ends, `out` is full, or less than [`AHEAD`] bytes of input are
    /// left and `all` does not say that no more will come. Returns the bytes taken and where the written ones end.
    ///
    /// `out[..at]` is what the stream gave before, or its last [`WINDOW`] bytes at least. What is in `out` behind the
    /// written bytes is lost.
    pub(super) fn run(
        &mut self,
        input: &[u8],
        all: bool,
        pause: Pause,
        out: &mut [u8],
        mut at: usize,
    ) -> Result<(usize, usize), Fault> {
        let mut bits = Bits { input, at: 0, bits: self.bits, count: self.count };
        let mut begun = self.block != Block::Header;
        loop {
            match self.block {
                Block::Header => {
                    bits.settle();
                    if pause == Pause::At(bits.at, bits.count) || pause == Pause::Next && begun {
                        break;
                    }
                    if !all && bits.left() < AHEAD {
                        break;
                    }
                    begun = true;
                    self.header(&mut bits)?;
                }
                Block::Stored(left) => {
                    let step = left.min(out.len() - at).min(bits.left());
                    out[at..at + step].copy_from_slice(&input[bits.at..bits.at + step]);
                    (bits.at, at) = (bits.at + step, at + step);
                    if step == left {
                        self.end_block();
                    } else if all && at < out.len() {
                        return Err(ENDS);
                    } else {
                        self.block = Block::Stored(left - step);
                        break;
                    }
                }
                Block::Codes => {
                    at = self.codes(&mut bits, all, out, at)?;
                    if self.block == Block::Codes {
                        break;
                    }
                }
                Block::Done => break,
            }
        }
        bits.settle();
        (self.bits, self.count) = (bits.bits, bits.count);
        Ok((bits.at, at))
    }

    fn end_block(&mut self) {
        self.block = if self.last { Block::Done } else { Block::Header };
    }

    /// A block's header (3.2.3), and the codes that it brings.
    fn header(&mut self, bits: &mut Bits<'_>) -> Result<(), Fault> {
        self.last = bits.take(1)? == 1;
        self.block = match bits.take(2)? {
            0 => {
                // What is left of the byte means nothing.
                bits.drop(bits.count % 8);
                let (length, complement) = (bits.take(16)?, bits.take(16)?);
                if length != complement ^ 0xffff {
                    return Err("is damaged: the length of a stored block is wrong");
                }
                bits.settle();
                Block::Stored(length)
            }
            1 => {
                self.fixed = true;
                Block::Codes
            }
            2 => {
                self.fixed = false;
                self.brought.read(bits)?;
                Block::Codes
            }
            _ => return Err("is damaged: a block is of no known type"),
        };
        Ok(())
    }

    /// The codes of the block.
    fn tables(&self) -> &Tables {
        if self.fixed { &FIXED } else { &self.brought }
    }

    /// The symbols of a block (3.2.5).
    fn codes(&mut self, bits: &mut Bits<'_>, all: bool, out: &mut [u8], mut at: usize) -> Result<usize, Fault> {
        loop {
            let (length, distance) = self.open;
            let step = length.min(out.len() - at);
            for to in at..at + step {
                out[to] = out[to - distance];
            }
            at += step;
            self.open.0 -= step;
            if out.len() - at >= FAST_ROOM && bits.left() >= FAST_INPUT {
                let ended;
                (at, ended) = self.tables().fast(bits, out, at)?;
                if ended {
                    self.end_block();
                    return Ok(at);
                }
            }
            if at == out.len() || !all && bits.left() < 8 {
                return Ok(at);
            }
            match self.tables().symbol(bits)? {
                Symbol::Literal(byte) => {
                    out[at] = byte;
                    at += 1;
                }
                Symbol::Match(_, distance) if distance > at => return Err(TOO_FAR),
                Symbol::Match(length, distance) => self.open = (length, distance),
                Symbol::End => {
                    self.end_block();
                    return Ok(at);
                }
            }
        }
    }
}
