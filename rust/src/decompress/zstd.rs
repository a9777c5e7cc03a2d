//! Zstandard (RFC 8878), any number of frames, skippable ones between them.

use std::io::{self, Read};

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::input::{Input, garbage, invalid};
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
}

impl Zstd {
    pub(super) fn new(window_log: u32) -> Result<Self> {
        let set_up = |error: io::Error| Error::io("setting up the zstd decompressor", &error);
        let mut decoder = Decoder::new().map_err(set_up)?;
        decoder.set_parameter(DParameter::WindowLogMax(window_log)).map_err(set_up)?;
        Ok(Zstd { decoder, open: false, window_log })
    }

    /// The next bytes, straight into `out`, which is not empty; `None` at the end.
    pub(super) fn read<R: Read>(&mut self, input: &mut Input<R>, out: &mut [u8]) -> Result<Option<usize>> {
        loop {
            if !self.open {
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
            if produced > 0 {
                return Ok(Some(produced));
            }
            if ended && self.open {
                return Err(invalid("the zstd stream ends early"));
            }
        }
    }
}

fn damaged(error: &io::Error, window_log: u32) -> Error {
    let text = error.to_string();
    if text.contains("too much memory") {
        let message = format!("the zstd stream needs a window of more than 2^{window_log} bytes");
        return Error::new(Code::LimitExceeded, message);
    }
    invalid(format!("the zstd stream is damaged: {text}"))
}
