//! A part of a compressed stream, inflated by itself.
//!
//! Where it begins is known, or guessed; where it must end, too. Whoever comes there by reading the stream in order
//! decides whether it is what comes next.

use super::gzip::Gzip;
use super::inflated::{Inflated, Sum};
use super::input::Input;
use super::place::{Compression, StreamPlace};
use super::restart::unpack;
use super::room::Space;
use super::zstd;

/// What is to be inflated.
pub(super) struct StreamPart {
    pub(super) compression: Compression,
    pub(super) start: StreamPlace,
    pub(super) end: StreamPlace,
    /// Of a byte that it begins inside of, what is left.
    pub(super) bits: u8,
    /// From the first whole byte to the last one, of which some bits may belong to what follows.
    pub(super) bytes: Vec<u8>,
    /// What the member gave before as far as distances reach, compressed; `None` where they are said to reach back to
    /// nothing.
    pub(super) window: Option<Vec<u8>>,
    /// Of zstd, the largest window as a power of two.
    pub(super) window_log: u32,
}

impl StreamPart {
    /// Inflates all of it into `space`. `None` where it does not end where it should, whatever the reason, and where
    /// that has too little room.
    pub(super) fn inflate(self, mut space: Space) -> Option<Inflated> {
        if self.compression == Compression::Zstd {
            let length = zstd::frames(&self.bytes, &mut space.bytes, self.window_log)?;
            let (sum, bits) = (Sum::default(), (0, 0));
            let StreamPart { start, end, .. } = self;
            return Some(Inflated { start, end, bits, window: None, head: None, sum, ended: 1, space, length });
        }
        let StreamPart { start, end, bits, bytes, window, .. } = self;
        let window = match window {
            Some(packed) => Some(unpack(&packed)?),
            None => None,
        };
        let last = bytes.last().copied().unwrap_or_default();
        let mut gzip = Gzip::new();
        gzip.begin_at(start, bits, window.as_deref().unwrap_or_default());
        gzip.stop = Some(end);
        let mut input = Input::of(bytes, start.taken);
        let mut length = 0;
        while gzip.place(input.taken) != Some(end) {
            let out = &mut space.bytes[length..];
            if out.is_empty() {
                return None;
            }
            length += gzip.read(&mut input, out).ok()??;
        }
        let bits = (bits, if end.count > 0 { last >> (8 - end.count) } else { 0 });
        let (head, ended, sum) = (gzip.head.take(), gzip.ended, gzip.sum().clone());
        Some(Inflated { start, end, bits, window, head, sum, ended, space, length })
    }
}
