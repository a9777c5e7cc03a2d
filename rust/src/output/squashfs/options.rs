//! What is chosen about an image.

use super::codec::Compression;

/// What is chosen about an image.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of blocks and metadata. Contents that wait in a store of another one are compressed anew.
    pub compression: Compression,
}
