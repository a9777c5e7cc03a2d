//! Places in compressed streams, and how these are compressed.

/// How the bytes of a layer are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: a tar archive.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Bytes that a part may have, compressed or not: a chunk of 4 MiB, as eStargz has them, with what stands around it.
pub(super) const MOST: usize = (4 << 20) + (64 << 10);

/// A place in a compressed stream where a header comes: a member's, a frame's or a block's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamPlace {
    /// Bytes of the stream before it, a byte that it is inside of included.
    pub(super) taken: u64,
    /// Bits of the last one of them that are behind it.
    pub(super) count: u32,
    /// Whether it is inside a member, so that a block comes.
    pub(super) body: bool,
}
