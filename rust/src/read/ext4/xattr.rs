//! Extended attributes (kernel documentation, ext4, "Extended Attributes").

use std::collections::BTreeMap;

use super::image::Image;
use super::records::Inode;
use crate::entry::is_attribute_name;
use crate::error::Result;
use crate::read::common::invalid;
use crate::read::source::Fields;

const MAGIC: u32 = 0xEA02_0000;
/// Bytes before the first entry in an inode and in a block, and of an entry.
const INODE_HEADER: usize = 4;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Most bytes of a value that Linux takes.
const VALUE_MAX: u64 = 65536;
/// Marks an inode that holds a value.
const VALUE_INODE: u32 = 0x20_0000;

impl Image {
    /// The extended attributes of an inode.
    pub(super) fn attributes(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut found = BTreeMap::new();
        if inode.attributes.len() > INODE_HEADER && inode.attributes.u32(0)? == MAGIC {
            let area = &inode.attributes[INODE_HEADER..];
            self.entries(area, area, &mut found)?;
        }
        if inode.attribute_block != 0 {
            let block = self.block(inode.attribute_block)?;
            if block.u32(0)? != MAGIC {
                return Err(invalid(format!("the block of attributes of inode {} is none", inode.number)));
            }
            self.entries(&block, &block[BLOCK_HEADER..], &mut found)?;
        }
        Ok(found)
    }

    /// Entries up to four zero bytes; values count from `base`.
    fn entries(&self, base: &[u8], mut entries: &[u8], found: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
        while entries.len() >= 4 && entries.u32(0)? != 0 {
            let length = usize::from(entries.u8(0)?);
            let prefix: &[u8] = match entries.u8(1)? {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                other => return Err(invalid(format!("an attribute of the unknown class {other}"))),
            };
            let name = [prefix, entries.part(ENTRY, length)?].concat();
            let (inode, size) = (entries.u32(4)?, u64::from(entries.u32(8)?));
            if size > VALUE_MAX {
                return Err(invalid(format!("an attribute of {size} bytes")));
            }
            let value = if inode == 0 {
                base.part(entries.u16(2)?.into(), size as usize)?.to_vec()
            } else {
                self.value(inode, size)?
            };
            let value = if name.starts_with(b"system.") { access_list(&value)? } else { value };
            if !is_attribute_name(&name) || found.insert(name, value).is_some() {
                return Err(invalid("an attribute stands twice, or has a name that is none"));
            }
            entries = entries.get(ENTRY + length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(())
    }

    /// A value that has an inode of its own.
    fn value(&self, number: u32, size: u64) -> Result<Vec<u8>> {
        let inode = self.inode(number)?;
        if inode.flags & VALUE_INODE == 0 || inode.size != size {
            return Err(invalid(format!("inode {number} does not hold an attribute's {size} bytes")));
        }
        let mut value = vec![0; size as usize];
        self.fill(&self.runs(&inode)?, 0, &mut value)?;
        Ok(value)
    }
}

/// From ext4's form of an access control list to the one that Linux's calls have (linux/posix_acl_xattr.h).
fn access_list(stored: &[u8]) -> Result<Vec<u8>> {
    let wrong = || invalid("an access control list is none");
    if stored.len() < 4 || stored.u32(0)? != 1 {
        return Err(wrong());
    }
    let (mut list, mut rest) = (2u32.to_le_bytes().to_vec(), &stored[4..]);
    while !rest.is_empty() {
        list.extend_from_slice(rest.part(0, 4)?);
        // Only named users and groups have a number.
        let named = matches!(rest.u16(0)?, 0x02 | 0x08);
        if named {
            list.extend_from_slice(rest.part(4, 4)?);
        } else {
            list.extend_from_slice(&[0xff; 4]);
        }
        rest = &rest[if named { 8 } else { 4 }..];
    }
    Ok(list)
}
