//! Bounds on what a layer may ask for. Memory and disk follow what is read, never what a header claims, but for the holes
//! of sparse files, which outputs without holes fill with zeros. These bounds stop both from growing without end.

/// The bounds for one image. `Default` is generous enough for every image seen in the wild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries over all layers, with the directories that only their paths name.
    pub entries: u64,
    /// Bytes of all paths, link targets, attributes and sparse maps over all layers: of paths what differs from the one
    /// before, of attributes every set once. Also the bytes of link targets that paths go through.
    pub metadata_bytes: u64,
    /// Decompressed bytes of one layer; also the bytes of all its sparse files with their holes.
    pub layer_bytes: u64,
    /// Bytes of the regular files of all layers together, with their holes: what an output without holes would hold.
    pub image_bytes: u64,
    /// Decompressed bytes per compressed byte, looked at after the first GiB of output.
    pub ratio: u64,
    /// Bytes of one path or link target.
    pub path_bytes: usize,
    /// Components of one path.
    pub depth: usize,
    /// Bytes of one pax extended header block or GNU long name.
    pub extension_bytes: usize,
    /// Bytes of all extended attributes of one entry.
    pub xattr_bytes: usize,
    /// Data extents of one sparse file.
    pub sparse_extents: usize,
    /// Layers of one image.
    pub layers: usize,
    /// Bytes of a zstd window, as a power of two.
    pub zstd_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            entries: 5_000_000,
            metadata_bytes: 256 << 20,
            layer_bytes: 1 << 41,
            image_bytes: 1 << 41,
            ratio: 2000,
            path_bytes: 64 << 10,
            depth: 2048,
            extension_bytes: 4 << 20,
            xattr_bytes: 1 << 20,
            sparse_extents: 1 << 20,
            layers: 1024,
            zstd_window_log: 27,
        }
    }
}
