//! Owners given anew or shifted, wherever an inode names them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::invalid;
use crate::entry::{Xattrs, permitted};
use crate::error::Result;
use crate::tree::{InodeId, Tree};

type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Sets of attributes that were shifted: they are shared between inodes, and stay so. The old set is kept, so that no
/// other takes its address.
type Shifted = HashMap<*const Attributes, (Arc<Attributes>, Arc<Attributes>)>;

/// Gives every inode the owner and group `owner`, and adds `offset` to all ids.
pub(super) fn change(tree: &mut Tree, owner: Option<(u32, u32)>, offset: u32) -> Result<()> {
    if owner.is_none() && offset == 0 {
        return Ok(());
    }
    let mut shifted = Shifted::new();
    let inodes: Vec<_> = tree.walk().filter(|step| step.first).map(|step| step.inode).collect();
    for id in inodes {
        let metadata = &mut tree.inode_mut(id).metadata;
        let before = (metadata.uid, metadata.gid);
        let (uid, gid) = owner.unwrap_or(before);
        metadata.mode = permitted(metadata.mode, (uid, gid) == before);
        let ids = uid.checked_add(offset).zip(gid.checked_add(offset));
        let Some(xattrs) = shift_shared(&mut shifted, &metadata.xattrs, offset) else {
            return Err(out_of_range(tree, id, "an id in its attributes", offset));
        };
        let Some(ids) = ids else {
            return Err(out_of_range(tree, id, &format!("the owner {uid}:{gid}"), offset));
        };
        metadata.xattrs = xattrs;
        (metadata.uid, metadata.gid) = ids;
    }
    Ok(())
}

fn out_of_range(tree: &Tree, id: InodeId, what: &str, offset: u32) -> crate::error::Error {
    let step = tree.walk().find(|step| step.inode == id);
    let path = step.map(|step| step.path).unwrap_or_default();
    invalid(format!("/{}: {what} and {offset} more is no id of 32 bits", path.escape_ascii()))
}

/// Nothing when an id would leave 32 bits.
fn shift_shared(shifted: &mut Shifted, xattrs: &Xattrs, offset: u32) -> Option<Xattrs> {
    let Some(set) = xattrs else { return Some(None) };
    if offset == 0 {
        return Some(xattrs.clone());
    }
    if let Some((_, new)) = shifted.get(&Arc::as_ptr(set)) {
        return Some(Some(Arc::clone(new)));
    }
    let mut new = Attributes::clone(set);
    for (name, value) in &mut new {
        match name.as_slice() {
            b"system.posix_acl_access" | b"system.posix_acl_default" => shift_acl(value, offset)?,
            b"security.capability" => shift_capability(value, offset)?,
            _ => {}
        }
    }
    let new = Arc::new(new);
    shifted.insert(Arc::as_ptr(set), (Arc::clone(set), Arc::clone(&new)));
    Some(Some(new))
}

/// Four bytes of little-endian number at `at`; nothing past the end.
fn number(value: &[u8], at: usize) -> Option<u32> {
    value.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Access control lists name users and groups (`struct posix_acl_xattr_header` and its entries, linux/posix_acl_xattr.h):
/// version 2, then tag and permissions of 16 bits each and an id of 32. A value of another form means nothing to the
/// kernel, and is left as it is.
fn shift_acl(value: &mut [u8], offset: u32) -> Option<()> {
    const VERSION: u32 = 2;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    if number(value, 0) != Some(VERSION) || value.len() % 8 != 4 {
        return Some(());
    }
    for entry in value[4..].chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if tag == USER || tag == GROUP {
            let id = number(entry, 4)?.checked_add(offset)?;
            entry[4..].copy_from_slice(&id.to_le_bytes());
        }
    }
    Some(())
}

/// File capabilities name the user that is root where they count (`struct vfs_ns_cap_data`, linux/capability.h): revision
/// 3 has a number for it, revision 2 means 0. Shifted, that root is `offset` and more.
fn shift_capability(value: &mut Vec<u8>, offset: u32) -> Option<()> {
    const REVISION: u32 = 0xFF00_0000;
    const REVISION_2: u32 = 0x0200_0000;
    const REVISION_3: u32 = 0x0300_0000;
    let Some(magic) = number(value, 0) else { return Some(()) };
    match (magic & REVISION, value.len()) {
        (REVISION_2, 20) => {
            value[..4].copy_from_slice(&(magic & !REVISION | REVISION_3).to_le_bytes());
            value.extend_from_slice(&offset.to_le_bytes());
        }
        (REVISION_3, 24) => {
            let root = number(value, 20)?.checked_add(offset)?;
            value[20..].copy_from_slice(&root.to_le_bytes());
        }
        _ => {}
    }
    Some(())
}
