//! What the caller of the ext4 writer chooses.

/// What the caller chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How big the image is.
    pub size: Size,
    /// Whether there is a journal, empty.
    pub journal: bool,
}

/// What an image says that its tree does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    /// UUID of the file system; the seed of its directory hashes follows from it.
    pub uuid: [u8; 16],
    /// Seconds since 1970 that stand for the time of creation.
    pub created: i64,
    /// Later modification times become this one, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
}

/// How big an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As big as the tree needs, and so many bytes for users to write, with one free inode for each 16 KiB of them.
    Free(u64),
    /// So many bytes in all.
    Total(u64),
}

impl Identity {
    /// The seed of the directories' hashes.
    pub(super) fn hash_seed(&self) -> [u32; 4] {
        let word = |at: usize| {
            let bytes = &self.uuid[at * 4..];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        std::array::from_fn(word)
    }
}
