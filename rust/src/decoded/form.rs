//! The table of a layer's entries on disk: its header, and the numbers that entries begin with.
//!
//! A header of fixed length, the entries one after the other, then diff ID, reason and note. Integers of the header are
//! little-endian; all others are written seven bits a byte, lowest first, the highest bit set in all but the last.

/// What a table begins with.
pub const MAGIC: [u8; 8] = *b"ocifastL";

/// Version of this form. A table of another one counts as missing.
pub const FORM: u32 = 2;

/// Version of what the decoder makes of a layer: raised whenever the same bytes give other entries, so that no table of
/// an older decoder is taken for one of this.
pub const SEMANTICS: u32 = 1;

/// What an entry begins with: its type, and whether it has attributes or holes.
pub const TYPE: u8 = 7;
/// See [`TYPE`].
pub const XATTRS: u8 = 1 << 3;
/// See [`TYPE`].
pub const SPARSE: u8 = 1 << 4;

/// Types of entries.
pub const FILE: u8 = 0;
/// See [`FILE`].
pub const DIRECTORY: u8 = 1;
/// See [`FILE`].
pub const SYMLINK: u8 = 2;
/// See [`FILE`].
pub const HARD_LINK: u8 = 3;
/// See [`FILE`].
pub const CHAR_DEVICE: u8 = 4;
/// See [`FILE`].
pub const BLOCK_DEVICE: u8 = 5;
/// See [`FILE`].
pub const FIFO: u8 = 6;

/// What precedes an entry's attributes: a new set follows, or the one before is meant.
pub const NEW_SET: u64 = 0;
/// See [`NEW_SET`].
pub const SAME_SET: u64 = 1;

/// The fixed part of a table, in the order of its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableHeader {
    /// See [`FORM`].
    pub form: u32,
    /// See [`SEMANTICS`].
    pub semantics: u32,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of the decompressed layer.
    pub layer_bytes: u64,
    /// First byte of the data file after the contents.
    pub data_end: u64,
    /// Bytes of all entries.
    pub body: u64,
    /// Bytes of diff ID, reason, the reason's path, and note, each.
    pub tail: [u32; 4],
    /// SHA-256 of the header before this field and of all that follows the header.
    pub checksum: [u8; 32],
}

/// Bytes of a header before its checksum, and with it.
pub const CHECKED: usize = 64;
/// See [`CHECKED`].
pub const HEADER: usize = CHECKED + 32;

impl TableHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.form.to_le_bytes());
        out[12..16].copy_from_slice(&self.semantics.to_le_bytes());
        for (index, number) in [self.entries, self.layer_bytes, self.data_end, self.body].iter().enumerate() {
            out[16 + 8 * index..24 + 8 * index].copy_from_slice(&number.to_le_bytes());
        }
        for (index, length) in self.tail.iter().enumerate() {
            out[48 + 4 * index..52 + 4 * index].copy_from_slice(&length.to_le_bytes());
        }
        out[CHECKED..].copy_from_slice(&self.checksum);
        out
    }

    /// Reads a header; `None` when the bytes are not one.
    pub fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        (bytes[..8] == MAGIC).then(|| TableHeader {
            form: u32_at(8),
            semantics: u32_at(12),
            entries: u64_at(16),
            layer_bytes: u64_at(24),
            data_end: u64_at(32),
            body: u64_at(40),
            tail: std::array::from_fn(|index| u32_at(48 + 4 * index)),
            checksum: std::array::from_fn(|index| bytes[CHECKED + index]),
        })
    }
}

/// Writes a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7F {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes a length and so many bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Signed numbers of small size as small unsigned ones, and back.
pub fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

/// See [`zigzag`].
pub fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
