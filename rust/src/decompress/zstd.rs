//! Zstandard (RFC 8878), any number of frames, skippable ones between them.

use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::{bulk, zstd_safe};

use super::input::{Input, garbage, invalid};
use super::place::StreamPlace;
use crate::error::{Code, Error, Result};

/// The magic of a frame or of a skippable frame (RFC 8878, 3.1).
pub(super) fn magic(bytes: &[u8]) -> bool {
    matches!(bytes, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// One zstd frame after another.
pub(super) struct Zstd {
    decoder: Decoder<'static>,
    /// Inside a frame, or with output held back.
    open: bool,
    window_log: u32,
    /// Where to stop, because what follows may be there already.
    pub(super) stop: Option<StreamPlace>,
    /// Frames that have ended.
    pub(super) ended: u64,
}

impl Zstd {
    pub(super) fn new(window_log: u32) -> Result<Self> {
        let set_up = |error: io::Error| Error::io("setting up the zstd decompressor", &error);
        let mut decoder = Decoder::new().map_err(set_up)?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log)).map_err(set_up)?;
        Ok(Zstd { decoder, open: false, window_log, stop: None, ended: 0 })
    }

    /// Where it stands, if that is between frames. `taken` bytes of the input are.
    pub(super) fn place(&self, taken: u64) -> Option<StreamPlace> {
        (!self.open).then_some(StreamPlace { taken, count: 0, body: false })
    }

    /// The next bytes, straight into `out`, which is not empty; none where it is to stop; `None` at the end.
    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            if !self.open {
                if self.stop.is_some() && self.stop == self.place(input.taken) {
                    return Ok(Some(0));
                }
                match input.at_least(4)? {
                    [] => return Ok(None),
                    start if magic(start) => self.open = true,
                    other => return Err(garbage("zstd", other)),
                }
            }
            let compressed = input.fill()?;
            let ended = compressed.is_empty();
            let (mut from, mut to) = (InBuffer::around(compressed), OutBuffer::around(&mut *out));
            let hint = self.decoder.run(&mut from, &mut to).map_err(|error| damaged(&error, self.window_log))?;
            let (taken, produced) = (from.pos(), to.pos());
            input.take(taken);
            self.open = hint != 0;
            self.ended += u64::from(hint == 0);
            if produced > 0 {
                return Ok(Some(produced));
            }
            if ended && self.open {
                return Err(invalid("the zstd stream ends early"));
            }
        }
    }
}

/// Decompresses whole frames, and skips those that are skippable, into a buffer; says how many bytes came of them.
/// `None` where that is not all they are, where a frame wants a window of more than `2^window_log` bytes, and where the
/// buffer has too little room.
pub(super) fn frames(bytes: &[u8], out: &mut [u8], window_log: u32) -> Option<usize> {
    let mut rest = bytes;
    while !rest.is_empty() {
        if !magic(rest) || window(rest)? > 1 << window_log {
            return None;
        }
        rest = rest.get(zstd_safe::find_frame_compressed_size(rest).ok()?..)?;
    }
    bulk::Decompressor::new().ok()?.decompress_to_buffer(bytes, out).ok()
}

/// Bytes of the window that a frame wants (RFC 8878, 3.1.1.1.2); 0 for one that is skippable.
fn window(frame: &[u8]) -> Option<u64> {
    /// The bit of a frame's descriptor that says that the window is all of the content.
    const SINGLE_SEGMENT: u8 = 1 << 5;
    if frame[0] != 0x28 {
        return Some(0);
    }
    if frame.get(4)? & SINGLE_SEGMENT != 0 {
        return zstd_safe::get_frame_content_size(frame).ok()?;
    }
    let stated = *frame.get(5)?;
    let base = 1 << (10 + (stated >> 3));
    Some(base + base / 8 * u64::from(stated & 7))
}

fn damaged(error: &io::Error, window_log: u32) -> Error {
    let text = error.to_string();
    if text.contains("too much memory") {
        let message = format!("the zstd stream needs a window of more than 2^{window_log} bytes");
        return Error::new(Code::LimitExceeded, message);
    }
    invalid(format!("the zstd stream is damaged: {text}"))
}
