//! A blob on its way to the stage that decompresses it.

use std::sync::mpsc::{Receiver, Sender};

use crate::decompress::{Recorder, Restart};

/// Bytes of a buffer between two stages.
pub const BUFFER: usize = 256 << 10;

/// The restart points of a layer's blob: those that are known, or what is to note them.
#[derive(Default)]
pub struct Points {
    /// Those that are known.
    pub known: Option<Restart>,
    /// What notes them; once the layer is read, what it has noted.
    pub recorder: Option<Recorder>,
    /// Whether those that were known are of another stream.
    pub wrong: bool,
}

/// What the feeding thread sends to the decompressing one.
pub(super) enum BlobMessage {
    Chunk(Vec<u8>),
    /// The blob is complete and has its digest.
    End,
}

/// The decompressing end of a queue for a blob.
pub struct BlobReceiver {
    pub(super) receiver: Receiver<BlobMessage>,
    pub(super) recycle: Sender<Vec<u8>>,
    pub(super) points: Points,
}

impl BlobReceiver {
    /// The same, with restart points.
    pub fn with_points(self, points: Points) -> Self {
        BlobReceiver { points, ..self }
    }
}
