//! Streams that are read with helpers and without.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocifast_core::decompress::{Ahead, Decompressor, ROOM, Restart, Room};
use ocifast_core::error::Error;
use ocifast_core::limits::Limits;

/// Gives at most so many bytes a time; all of them are at hand.
pub struct Pieces<'a>(pub &'a [u8], pub usize);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.1.min(out.len());
        self.0.read(&mut out[..most])
    }
}

/// What came, and what it ended with.
pub type Seen = (Vec<u8>, Option<String>);

pub fn read_all<R: Read>(mut layer: Decompressor<R>, chunk: usize) -> Seen {
    let (mut all, mut out) = (Vec::new(), vec![0; chunk]);
    loop {
        match layer.read_chunk(&mut out) {
            Ok(0) => return (all, None),
            Ok(count) => all.extend_from_slice(&out[..count]),
            Err(error) => return (all, Some(told(&error))),
        }
    }
}

fn told(error: &Error) -> String {
    format!("{:?} {error}", error.code)
}

pub fn in_order(blob: &[u8], chunk: usize, limits: &Limits) -> Seen {
    read_all(Decompressor::new(blob, limits), chunk)
}

/// With so many helpers, and restart points.
pub fn side_by_side(
    blob: &[u8],
    helpers: usize,
    (piece, chunk): (usize, usize),
    limits: &Limits,
    restart: Option<Restart>,
) -> (Seen, Arc<Ahead>) {
    let ahead = Arc::new(Ahead::new(Arc::new(Room::new(ROOM))));
    ahead.want(helpers > 0);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if !ahead.work() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let ready = |rest: &mut Pieces<'_>| !rest.0.is_empty();
        let mut layer = Decompressor::with_ahead(Pieces(blob, piece), ready, limits, Arc::clone(&ahead));
        restart.into_iter().for_each(|restart| layer.use_points(restart));
        let seen = read_all(layer, chunk);
        done.store(true, Ordering::Relaxed);
        seen
    });
    (seen, ahead)
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }

    /// Bytes of which some come again.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 300);
        while bytes.len() < length {
            if bytes.len() > 300 && self.next(4) == 0 {
                let from = bytes.len() - 1 - self.next(bytes.len().min(32_000) - 300) - 299;
                bytes.extend_from_within(from..from + 3 + self.next(250));
            } else {
                bytes.extend((0..40).map(|_| self.next(64) as u8));
            }
        }
        bytes.truncate(length);
        bytes
    }
}
