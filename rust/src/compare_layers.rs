//! Two layers beside each other, as they stand: what each holds itself, whiteouts included, whatever is below them.

use std::collections::BTreeMap;

use crate::batch::StoredEntry;
use crate::contents::{Content, Contents};
use crate::digest::Digest;
use crate::entry::{Entry, Kind};
use crate::error::Result;
use crate::merge::stated;
use crate::output::CHUNK;
use crate::same::content_digest;

/// A name that differs, or a mark of what lower layers have.
#[derive(Debug)]
pub struct EntryChange {
    /// Path without a leading slash; of a whiteout what it hides.
    pub path: Vec<u8>,
    /// The entry in the first layer, if it has the name.
    pub first: Option<StoredEntry>,
    /// The entry in the second layer, if it has the name.
    pub second: Option<StoredEntry>,
    /// What differs, where both have it, named and ordered as in [`crate::compare::Change::fields`]. Of a hard link that is
    /// its target: mode, owner, attributes and time are those of its file.
    pub fields: Vec<&'static str>,
}

/// What a name stands for: its path with a zero for each slash, so that a directory comes before what is in it, which
/// comes before all others; and what it says of lower layers.
type ComparedName = (Vec<u8>, Option<&'static str>);

/// What differs between two layers, by path. Contents are read of files alone that both have in one size.
///
/// # Arguments
/// `first` and `second` are entries in the order of their archives, of which the last of a name counts; `contents` has those
/// of both layers; `times` says that modification times count.
///
/// # Errors
/// What reading the contents returns; as the merge, for a path that no tree takes.
pub fn compare_layers(
    first: impl Iterator<Item = StoredEntry>,
    second: impl Iterator<Item = StoredEntry>,
    contents: &dyn Contents,
    times: bool,
) -> Result<Vec<EntryChange>> {
    let mut reader = ContentReader { contents, buffer: Vec::new() };
    let mut pairs: BTreeMap<ComparedName, [Option<StoredEntry>; 2]> = BTreeMap::new();
    for (side, entries) in [by_name(first)?, by_name(second)?].into_iter().enumerate() {
        for (name, entry) in entries {
            pairs.entry(name).or_default()[side] = Some(entry);
        }
    }
    let mut changes = Vec::new();
    for ((mut path, mark), [first, second]) in pairs {
        replace(&mut path, 0, b'/');
        let fields = match (&first, &second) {
            // A mark has nothing of its own.
            (Some(_), Some(_)) if mark.is_some() => continue,
            (Some(one), Some(other)) => {
                let fields = reader.fields(one, other, times)?;
                if fields.is_empty() {
                    continue;
                }
                fields
            }
            _ => Vec::new(),
        };
        changes.push(EntryChange { path, first, second, fields });
    }
    Ok(changes)
}

fn by_name(entries: impl Iterator<Item = StoredEntry>) -> Result<BTreeMap<ComparedName, StoredEntry>> {
    entries
        .map(|ingested| {
            let (mut name, mark) = stated(&ingested.entry.path)?;
            replace(&mut name, b'/', 0);
            Ok(((name, mark), ingested))
        })
        .collect()
}

fn replace(bytes: &mut [u8], one: u8, other: u8) {
    bytes.iter_mut().filter(|byte| **byte == one).for_each(|byte| *byte = other);
}

struct ContentReader<'a> {
    contents: &'a dyn Contents,
    buffer: Vec<u8>,
}

impl ContentReader<'_> {
    fn fields(&mut self, first: &StoredEntry, second: &StoredEntry, times: bool) -> Result<Vec<&'static str>> {
        let (Entry { kind: before, metadata: old, .. }, Entry { kind: after, metadata: new, .. }) =
            (&first.entry, &second.entry);
        let own = !matches!((before, after), (Kind::HardLink { .. }, _) | (_, Kind::HardLink { .. }));
        let mut fields = Vec::new();
        let mut note = |differs: bool, field| {
            if differs {
                fields.push(field);
            }
        };
        note(std::mem::discriminant(before) != std::mem::discriminant(after), "type");
        note(own && old.mode != new.mode, "mode");
        note(own && (old.uid, old.gid) != (new.uid, new.gid), "owner");
        if let (Some(left), Some(right)) = (&first.content, &second.content) {
            note(left.size != right.size, "size");
            note(left.size != right.size || self.digest(left)? != self.digest(right)?, "content");
        }
        match (before, after) {
            (Kind::Symlink { target: left }, Kind::Symlink { target: right })
            | (Kind::HardLink { target: left }, Kind::HardLink { target: right }) => note(left != right, "target"),
            (Kind::CharDevice { .. }, Kind::CharDevice { .. })
            | (Kind::BlockDevice { .. }, Kind::BlockDevice { .. }) => {
                note(before != after, "device");
            }
            _ => {}
        }
        note(own && old.xattrs != new.xattrs, "xattrs");
        note(own && times && old.mtime != new.mtime, "mtime");
        Ok(fields)
    }

    fn digest(&mut self, content: &Content) -> Result<Digest> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; CHUNK];
        }
        content_digest(self.contents, content, &mut self.buffer)
    }
}
