//! Memory for what is inflated ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that all streams of one image may take for what is ahead: what is read of them, and what came of it.
pub const ROOM: usize = 32 << 20;

/// Bytes of memory that several streams share.
#[derive(Debug)]
pub struct Room(AtomicUsize);

impl Room {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Room(AtomicUsize::new(bytes))
    }

    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<Reserved> {
        let enough = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).ok()?;
        Some(Reserved { room: Arc::clone(self), bytes })
    }
}

/// A share of a room, until it is dropped.
pub(super) struct Reserved {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Where what comes of a part is written to.
pub(super) struct Space {
    pub(super) bytes: Vec<u8>,
    pub(super) _reserved: Reserved,
}
