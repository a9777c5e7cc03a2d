//! Extended attributes: entries behind an inode, or shared by many inodes in an area of their own.

use std::collections::HashMap;

use crate::entry::Metadata;

/// Bytes of the header in front of an inode's attributes.
const HEADER: usize = 12;

/// Most references to shared entries that one inode can have.
const REFERENCES_MAX: usize = 255;

/// Most bytes behind an inode: its count of 4-byte units has 16 bits, and counts the header as one.
const BODY_MAX: usize = HEADER + 4 * 65534;

/// An entry of more bytes goes to the shared area even when it is used once, so that the inode, and with it the file's
/// tail, still fit into a block.
const SHARED_ALWAYS: usize = 512;

/// Why an attribute cannot be held.
pub const UNKNOWN_PREFIX: &str = "erofs holds user., trusted., security. and system.posix_acl_* attributes only";
const TOO_LONG: &str = "erofs holds attribute names of up to 255 bytes after the prefix";
const TOO_LARGE: &str = "erofs holds attribute values of up to 65535 bytes";
const BAD_ACL: &str = "the value is not an access control list";
const TOO_MANY: &str = "erofs holds 256 KiB of attributes that no other file shares";

/// An attribute as erofs names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Attribute<'a> {
    /// Number of the prefix.
    index: u8,
    /// The name without the prefix.
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn new(name: &'a [u8], value: &'a [u8]) -> Result<Self, &'static str> {
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

    fn size(&self) -> usize {
        (4 + self.name.len() + self.value.len()).next_multiple_of(4)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.name.len() as u8, self.index]);
        out.extend_from_slice(&(self.value.len() as u16).to_le_bytes());
        out.extend_from_slice(self.name);
        out.extend_from_slice(self.value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

fn held(metadata: &Metadata) -> impl Iterator<Item = Attribute<'_>> {
    pairs(metadata).filter_map(|(name, value)| Attribute::new(name, value).ok())
}

fn pairs(metadata: &Metadata) -> impl Iterator<Item = (&[u8], &[u8])> {
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

/// The entries that inodes share.
#[derive(Default)]
pub struct Shared<'t> {
    /// By entry: how often it is used, then where it stands.
    ids: HashMap<Attribute<'t>, u32>,
    order: Vec<Attribute<'t>>,
}

impl<'t> Shared<'t> {
    /// Looks through the metadata of all inodes, in an order that decides that of the shared entries.
    pub fn collect(inodes: impl Iterator<Item = &'t Metadata>) -> Self {
        const LISTED: u32 = u32::MAX;
        let mut shared = Shared::default();
        for metadata in inodes {
            // Counted as [`bound`] does, whose room the body must not outgrow.
            let few = held(metadata).count() <= REFERENCES_MAX;
            for attribute in held(metadata) {
                let uses = shared.ids.entry(attribute).or_insert(0);
                let large = few && attribute.size() > SHARED_ALWAYS;
                if *uses != LISTED {
                    *uses += 1;
                    if *uses == 2 || large {
                        *uses = LISTED;
                        shared.order.push(attribute);
                    }
                }
            }
        }
        shared.ids.clear();
        shared.ids.shrink_to_fit();
        let mut at = 0;
        // Entries are found by a 32-bit number that counts units of 4 bytes.
        shared.order.retain(|attribute| {
            let id = u32::try_from(at / 4);
            at += attribute.size() as u64;
            id.is_ok()
        });
        let mut at = 0;
        for attribute in &shared.order {
            shared.ids.insert(*attribute, (at / 4) as u32);
            at += attribute.size() as u64;
        }
        shared
    }

    /// Bytes of the shared area.
    pub fn size(&self) -> u64 {
        self.order.iter().map(|attribute| attribute.size() as u64).sum()
    }

    /// The shared area, entry by entry.
    pub fn entries(&self, mut write: impl FnMut(&[u8])) {
        let mut buffer = Vec::new();
        for attribute in &self.order {
            buffer.clear();
            attribute.write(&mut buffer);
            write(&buffer);
        }
    }

    /// What stands behind the inode: nothing, or a header, references and entries. `lost` gets the name of every
    /// attribute that cannot be held, and why.
    pub fn body(&self, metadata: &Metadata, out: &mut Vec<u8>, mut lost: impl FnMut(&[u8], &'static str)) {
        let start = out.len();
        if metadata.xattrs.is_none() {
            return;
        }
        out.resize(start + HEADER, 0);
        let mut entries = Vec::new();
        let mut references = 0;
        let mut room = BODY_MAX - HEADER - 4 * REFERENCES_MAX;
        for (name, value) in pairs(metadata) {
            let attribute = match Attribute::new(name, value) {
                Ok(attribute) => attribute,
                Err(why) => {
                    lost(name, why);
                    continue;
                }
            };
            match self.ids.get(&attribute) {
                Some(id) if references < REFERENCES_MAX => {
                    out.extend_from_slice(&id.to_le_bytes());
                    references += 1;
                }
                _ if attribute.size() <= room => {
                    room -= attribute.size();
                    attribute.write(&mut entries);
                }
                _ => lost(name, TOO_MANY),
            }
        }
        out[start + 4] = references as u8;
        out.append(&mut entries);
        if out.len() == start + HEADER {
            out.truncate(start);
        }
    }

    /// Bytes of [`Shared::body`].
    pub fn body_size(&self, metadata: &Metadata) -> usize {
        let mut out = Vec::new();
        self.body(metadata, &mut out, |_, _| {});
        out.len()
    }
}

/// What i_xattr_icount says of a body of `size` bytes.
pub fn body_count(size: usize) -> u16 {
    if size == 0 { 0 } else { ((size - HEADER) / 4 + 1) as u16 }
}
