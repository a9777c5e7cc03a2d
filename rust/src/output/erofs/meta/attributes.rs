//! The attributes of all inodes: those that several inodes share have an area of their own, the others follow their inode.

use std::collections::HashMap;

use crate::entry::Metadata;
use crate::output::erofs::format::xattr::{Attribute, BODY_MAX, HEADER, REFERENCES_MAX, SHARED_ALWAYS, held, pairs};

/// Why an attribute cannot be held.
const TOO_MANY: &str = "erofs holds 256 KiB of attributes that no other file shares";

/// The entries that inodes share.
#[derive(Default)]
pub struct SharedAttributes<'t> {
    /// By entry: how often it is used, then where it stands.
    ids: HashMap<Attribute<'t>, u32>,
    order: Vec<Attribute<'t>>,
}

impl<'t> SharedAttributes<'t> {
    /// Looks through the metadata of all inodes, in an order that decides that of the shared entries.
    pub fn collect(inodes: impl Iterator<Item = &'t Metadata>) -> Self {
        const LISTED: u32 = u32::MAX;
        let mut shared = SharedAttributes::default();
        for metadata in inodes {
            // Counted as `xattr::bound` does, whose room the body must not outgrow.
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

    /// Bytes of [`SharedAttributes::body`].
    pub fn body_size(&self, metadata: &Metadata) -> usize {
        let mut out = Vec::new();
        self.body(metadata, &mut out, |_, _| {});
        out.len()
    }
}
