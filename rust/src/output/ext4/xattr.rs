//! Extended attributes: in the inode while they fit, then in one block, then big values in inodes of their own.
//!
//! Kernel documentation, ext4, "Extended Attributes".

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::checksum::crc;
use super::inode::{ATTRIBUTES, Fields};
use super::layout::BLOCK;

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;
/// Four zero bytes end the entries.
const END: usize = 4;
/// Longest value that Linux reads or writes (xattr(7)).
const VALUE_MAX: usize = 64 << 10;
/// Most inodes that may share an attribute block.
pub(super) const SHARED_MAX: u32 = 1024;

/// Prefixes of names, with the number that stands for each.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const ACL_ACCESS: (&[u8], u8) = (b"system.posix_acl_access", 2);
const ACL_DEFAULT: (&[u8], u8) = (b"system.posix_acl_default", 3);

/// One attribute as ext4 has it.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    /// The name as Linux has it.
    full: &'a [u8],
    /// Number of the name's prefix.
    prefix: u8,
    /// The rest of the name.
    name: &'a [u8],
    pub value: Cow<'a, [u8]>,
    /// Whether the value is in an inode of its own.
    pub outside: bool,
}

/// Where the attributes of one inode go.
#[derive(Debug, Default)]
pub(super) struct XattrPlan<'a> {
    inside: Vec<Attribute<'a>>,
    block: Vec<Attribute<'a>>,
    /// Full names of those that cannot be held, and why.
    pub lost: Vec<(&'a [u8], &'static str)>,
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

impl Attribute<'_> {
    fn space(&self) -> usize {
        #[cfg(test)]
        tests::MEASURED.set(tests::MEASURED.get() + 1);
        let value = if self.outside { 0 } else { padded(self.value.len()) };
        ENTRY + padded(self.name.len()) + value
    }

    fn order(&self) -> (u8, usize, &[u8]) {
        (self.prefix, self.name.len(), self.name)
    }
}

/// From the form that tar and Linux's calls have to the shorter one of ext4; `None` when it is no access list.
fn access_list(value: &[u8]) -> Option<Vec<u8>> {
    const NAMED: [u16; 2] = [0x02, 0x08];
    const UNNAMED: [u16; 4] = [0x01, 0x04, 0x10, 0x20];
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut list = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks(8) {
        let &[tag_low, tag_high, permissions_low, permissions_high, ref id @ ..] = entry.first_chunk::<8>()?;
        list.extend([tag_low, tag_high, permissions_low, permissions_high]);
        match u16::from_le_bytes([tag_low, tag_high]) {
            tag if NAMED.contains(&tag) => list.extend(id),
            tag if UNNAMED.contains(&tag) => {}
            _ => return None,
        }
    }
    Some(list)
}

fn attribute<'a>(full: &'a [u8], value: &'a [u8]) -> Result<Attribute<'a>, &'static str> {
    if value.len() > VALUE_MAX {
        return Err("its value is longer than 65536 bytes");
    }
    for (name, prefix) in [ACL_ACCESS, ACL_DEFAULT] {
        if full == name {
            let value = access_list(value).ok_or("its value is no access control list")?;
            return Ok(Attribute { full, prefix, name: b"", value: value.into(), outside: false });
        }
    }
    for (text, prefix) in PREFIXES {
        match full.strip_prefix(text) {
            Some(name @ [_, ..]) if name.len() <= 255 => {
                return Ok(Attribute { full, prefix, name, value: value.into(), outside: false });
            }
            Some(_) => return Err("its name is empty or longer than 255 bytes"),
            None => {}
        }
    }
    Err("ext4 knows no such class of attributes")
}

impl<'a> XattrPlan<'a> {
    /// Finds a place for each attribute.
    pub fn new(attributes: &'a BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut plan = XattrPlan::default();
        let mut space = ATTRIBUTES - 4 - END;
        for (full, value) in attributes {
            match attribute(full, value) {
                Ok(attribute) if attribute.space() <= space => {
                    space -= attribute.space();
                    plan.inside.push(attribute);
                }
                Ok(attribute) => plan.block.push(attribute),
                Err(why) => plan.lost.push((full, why)),
            }
        }
        plan.relieve();
        plan.inside.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        plan.block.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        plan
    }

    /// Moves values out of the block, biggest first, until the rest fits; then drops names, longest first.
    fn relieve(&mut self) {
        const ROOM: usize = BLOCK - BLOCK_HEADER - END;
        let mut space: usize = self.block.iter().map(Attribute::space).sum();
        let mut biggest: Vec<usize> = (0..self.block.len()).filter(|&at| !self.block[at].value.is_empty()).collect();
        biggest.sort_unstable_by_key(|&at| Reverse((self.block[at].value.len(), at)));
        for at in biggest {
            if space <= ROOM {
                return;
            }
            space -= padded(self.block[at].value.len());
            self.block[at].outside = true;
        }
        let mut longest: Vec<usize> = (0..self.block.len()).collect();
        longest.sort_unstable_by_key(|&at| Reverse((self.block[at].name.len(), at)));
        let dropped = longest.iter().take_while(|&&at| {
            let fits = space <= ROOM;
            space -= if fits { 0 } else { self.block[at].space() };
            !fits
        });
        let mut dropped: Vec<usize> = dropped.copied().collect();
        dropped.sort_unstable();
        let mut dropped = dropped.into_iter().peekable();
        for (at, attribute) in std::mem::take(&mut self.block).into_iter().enumerate() {
            match dropped.next_if_eq(&at) {
                Some(_) => self.lost.push((attribute.full, "the names of all attributes do not fit in one block")),
                None => self.block.push(attribute),
            }
        }
    }

    /// Whether there is a block.
    pub fn has_block(&self) -> bool {
        !self.block.is_empty()
    }

    /// The values that need an inode each, in the order in which [`XattrPlan::block`] wants their numbers.
    pub fn outside(&self) -> impl Iterator<Item = &[u8]> {
        self.block.iter().filter(|it| it.outside).map(|it| &*it.value)
    }

    /// The bytes at the end of the inode.
    pub fn inside(&self) -> [u8; ATTRIBUTES] {
        let mut bytes = [0; ATTRIBUTES];
        if !self.inside.is_empty() {
            Fields(&mut bytes).u32(0, MAGIC);
            entries(&mut bytes[4..], 0, &self.inside, None);
        }
        bytes
    }

    /// The block, for as many inodes as share it. `numbers` are the inodes of the values outside.
    pub fn block(&self, file_system_seed: u32, at: u64, shared_by: u32, numbers: &[u32]) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        let hash = entries(&mut bytes, BLOCK_HEADER, &self.block, Some((file_system_seed, numbers)));
        Fields(&mut bytes).u32(0, MAGIC).u32(4, shared_by).u32(8, 1).u32(12, hash);
        let sum = crc(crc(file_system_seed, &at.to_le_bytes()), &bytes);
        Fields(&mut bytes).u32(16, sum);
        bytes
    }
}

/// The sum over a value outside, which its inode and its entry carry.
pub(super) fn value_hash(file_system_seed: u32, value: &[u8]) -> u32 {
    crc(file_system_seed, value)
}

fn entry_hash(name: &[u8], words: impl Iterator<Item = u32>) -> u32 {
    let of_name = name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    words.fold(of_name, |hash, word| hash.rotate_left(16) ^ word)
}

fn words(value: &[u8]) -> impl Iterator<Item = u32> {
    value.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    })
}

/// Writes entries from `first` on and values from the end backwards. In a block entries carry hashes, and the hash over
/// those is returned.
fn entries(bytes: &mut [u8], first: usize, attributes: &[Attribute], block: Option<(u32, &[u32])>) -> u32 {
    let (mut at, mut values, mut of_block) = (first, bytes.len(), 0u32);
    let mut numbers = block.map_or(&[][..], |(_, numbers)| numbers).iter();
    for attribute in attributes {
        let (name, value) = (attribute.name, &*attribute.value);
        let mut fields = Fields(bytes);
        fields.bytes(at, &[name.len() as u8, attribute.prefix]).u32(at + 8, value.len() as u32).bytes(at + ENTRY, name);
        let mut hash = entry_hash(name, words(value));
        if let (true, Some((seed, _))) = (attribute.outside, block) {
            fields.u32(at + 4, numbers.next().copied().unwrap_or_default());
            hash = entry_hash(name, std::iter::once(value_hash(seed, value)));
        } else if !value.is_empty() {
            values -= padded(value.len());
            fields.u16(at + 2, values as u16).bytes(values, value);
        }
        if block.is_some() {
            fields.u32(at + 12, hash);
        }
        of_block = of_block.rotate_left(16) ^ hash;
        at += ENTRY + padded(name.len());
    }
    of_block
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// How often an attribute was measured.
        pub(super) static MEASURED: Cell<usize> = const { Cell::new(0) };
    }

    fn planned(count: usize, value: usize) -> (usize, usize, usize, usize) {
        let set: BTreeMap<_, _> = (0..count).map(|at| (format!("user.{at}").into_bytes(), vec![b'v'; value])).collect();
        MEASURED.set(0);
        let plan = XattrPlan::new(&set);
        (plan.inside.len(), plan.block.len(), plan.lost.len(), MEASURED.get())
    }

    #[test]
    fn the_work_for_attributes_grows_with_their_number_alone() {
        for count in [1000, 10_000, 60_000] {
            for value in [0, 1, 15] {
                let (inside, block, lost, measured) = planned(count, value);
                assert_eq!(inside + block + lost, count);
                assert!(block > 150, "{block} names are in the block");
                assert!(measured <= 4 * count, "{measured} measures of {count} attributes");
            }
        }
    }

    #[test]
    fn the_biggest_values_go_first_and_the_rest_stays() {
        let value = |length: usize| vec![b'v'; length];
        let set = BTreeMap::from([
            (b"user.a".to_vec(), value(1000)),
            (b"user.b".to_vec(), value(3000)),
            (b"user.c".to_vec(), value(3001)),
            (b"user.d".to_vec(), value(1001)),
        ]);
        let plan = XattrPlan::new(&set);
        let outside: Vec<_> = plan.outside().map(<[u8]>::len).collect();
        assert_eq!(outside, [3000, 3001]);
        assert_eq!((plan.block.len(), plan.lost.len()), (4, 0));
    }
}
