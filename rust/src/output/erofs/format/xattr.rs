//! An extended attribute on the disk: an entry that follows an inode, or one in the area that inodes share.

use crate::entry::Metadata;

/// Bytes of the header in front of an inode's attributes.
pub const HEADER: usize = 12;

/// Most references to shared entries that one inode can have.
pub const REFERENCES_MAX: usize = 255;

/// Most bytes behind an inode: its count of 4-byte units has 16 bits, and counts the header as one.
pub const BODY_MAX: usize = HEADER + 4 * 65534;

/// An entry of more bytes goes to the shared area even when it is used once, so that the inode, and with it the file's
/// tail, still fit into a block.
pub const SHARED_ALWAYS: usize = 512;

/// Why an attribute cannot be held.
pub const UNKNOWN_PREFIX: &str = "erofs holds user., trusted., security. and system.posix_acl_* attributes only";
const TOO_LONG: &str = "erofs holds attribute names of up to 255 bytes after the prefix";
const TOO_LARGE: &str = "erofs holds attribute values of up to 65535 bytes";
const BAD_ACL: &str = "the value is not an access control list";

/// An attribute as erofs names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attribute<'a> {
    /// Number of the prefix.
    index: u8,
    /// The name without the prefix.
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// Names an attribute.
    ///
    /// # Errors
    /// Why it cannot be held.
    pub fn new(name: &'a [u8], value: &'a [u8]) -> Result<Self, &'static str> {
        const PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
        let (index, name) = match name {
            b"system.posix_acl_access" => (2, &b""[..]),
            b"system.posix_acl_default" => (3, &b""[..]),
            _ => PREFIXES
                .iter()
                .find_map(|&(index, prefix)| Some((index, name.strip_prefix(prefix)?)))
                .filter(|(_, rest)| !rest.is_empty())
                .ok_or(UNKNOWN_PREFIX)?,
        };
        if name.len() > 255 {
            return Err(TOO_LONG);
        }
        if value.len() > usize::from(u16::MAX) {
            return Err(TOO_LARGE);
        }
        // A list that the kernel cannot read would make the file itself unreadable (linux/posix_acl_xattr.h).
        if matches!(index, 2 | 3) && (value.len() < 4 || value[..4] != [2, 0, 0, 0] || value.len() % 8 != 4) {
            return Err(BAD_ACL);
        }
        Ok(Attribute { index, name, value })
    }

    /// Bytes of its entry.
    pub fn size(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(4)
    }

    /// Appends its entry.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.name.len() as u8, self.index]);
        out.extend_from_slice(&(self.value.len() as u16).to_le_bytes());
        out.extend_from_slice(self.name);
        out.extend_from_slice(self.value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// The attributes that can be held.
pub fn held(metadata: &Metadata) -> impl Iterator<Item = Attribute<'_>> {
    pairs(metadata).filter_map(|(name, value)| Attribute::new(name, value).ok())
}

/// All names and values.
pub fn pairs(metadata: &Metadata) -> impl Iterator<Item = (&[u8], &[u8])> {
    metadata.xattrs.iter().flat_map(|set| set.iter()).map(|(name, value)| (name.as_slice(), value.as_slice()))
}

/// At most so many bytes stand between an inode with this metadata and its inline data.
pub fn bound(metadata: &Metadata) -> usize {
    let (mut count, mut bytes) = (0, 0);
    for attribute in held(metadata) {
        let size = attribute.size();
        count += 1;
        bytes += if size > SHARED_ALWAYS { 4 } else { size };
    }
    match count {
        0 => 0,
        1..=REFERENCES_MAX => HEADER + bytes,
        _ => BODY_MAX,
    }
}

/// What i_xattr_icount says of a body of `size` bytes.
pub fn body_count(size: usize) -> u16 {
    if size == 0 { 0 } else { ((size - HEADER) / 4 + 1) as u16 }
}
