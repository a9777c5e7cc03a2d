//! What an image may take: one bound for the entries of all layers, one for the bytes of their metadata and one for those
//! of their files.
//!
//! Paths, link targets, attributes and the maps of sparse files compress a thousandfold, so what a layer weighs says
//! nothing of what its entries take. Layers are decoded side by side and all of them count here.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::{StoredEntry, shared_prefix};
use crate::contents::{Content, Extent, LayerStore};
use crate::entry::{Kind, Metadata, XattrSet, Xattrs};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// What a set of attributes takes beside its bytes, and each attribute of it.
const SET: u64 = 512;
const ATTRIBUTE: u64 = 112;

/// What is left of an image's bounds. Shared by all who read its layers.
#[derive(Debug, Default)]
pub struct Budget {
    limits: Limits,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Bytes of files, holes included.
    file_bytes: AtomicU64,
    /// Every set of attributes once.
    sets: Mutex<HashSet<XattrSet>>,
}

impl Budget {
    /// Nothing is spent yet.
    pub fn new(limits: Limits) -> Self {
        Budget { limits, ..Budget::default() }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counts entries of a layer that will wait together, and lets equal sets of attributes be one.
    ///
    /// # Errors
    /// `limit_exceeded`; it names the entry when the bytes are too many.
    pub fn take(&self, entries: &mut [StoredEntry]) -> Result<()> {
        let count = entries.len() as u64;
        if self.entries.fetch_add(count, Ordering::Relaxed) + count > self.limits.entries {
            let message = format!("the image has more than {} entries", self.limits.entries);
            return Err(Error::new(Code::LimitExceeded, message));
        }
        let mut before: (&[u8], Xattrs) = (b"", None);
        for StoredEntry { entry, content } in entries {
            let target = match &entry.kind {
                Kind::Symlink { target } | Kind::HardLink { target } => target.len(),
                _ => 0,
            };
            let extents = content.as_ref().and_then(|content| content.extents.as_deref()).unwrap_or_default();
            let path = entry.path.len() - shared_prefix(before.0, &entry.path);
            let spent = self.spend((path + target + size_of_val::<[Extent]>(extents)) as u64).and_then(|()| {
                let set = entry.metadata.xattrs.take();
                entry.metadata.xattrs = if set == before.1 { before.1.clone() } else { self.attributes(set)? };
                Ok(())
            });
            spent.map_err(|error| error.at_entry(&entry.path, entry.offset))?;
            before = (&entry.path, entry.metadata.xattrs.clone());
        }
        Ok(())
    }

    /// The set of attributes that is equal to `set`; one that is new counts.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn attributes(&self, set: Xattrs) -> Result<Xattrs> {
        let Some(set) = set else { return Ok(None) };
        // A panic while holding the lock leaves nothing half-done behind it.
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&set) {
            return Ok(Some(Arc::clone(known)));
        }
        let bytes = set.iter().map(|(name, value)| ATTRIBUTE + (name.len() + value.len()) as u64);
        self.spend(SET + bytes.sum::<u64>())?;
        sets.insert(Arc::clone(&set));
        Ok(Some(set))
    }

    /// Counts bytes of metadata that are kept, or looked at again.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn spend(&self, bytes: u64) -> Result<()> {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.limits.metadata_bytes {
            let message = format!(
                "the paths, link targets, attributes and sparse maps of the image take more than {} bytes; \
                 for an image that is to be trusted, compile --max-metadata (metadata_bytes) raises the bound",
                self.limits.metadata_bytes
            );
            return Err(Error::new(Code::LimitExceeded, message));
        }
        Ok(())
    }
}

impl Budget {
    /// Counts bytes of a file, or a hole.
    ///
    /// # Errors
    /// `limit_exceeded`.
    pub fn take_file_bytes(&self, bytes: u64) -> Result<()> {
        if self.file_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > self.limits.image_bytes {
            let message = format!(
                "the files of the image, holes included, are larger than {} bytes together; for an image that is to be \
                 trusted, compile --max-image-size (image_bytes) raises the bound",
                self.limits.image_bytes
            );
            return Err(Error::new(Code::LimitExceeded, message));
        }
        Ok(())
    }
}

/// A layer's store that counts what it takes. A hole costs nothing here, and is zeros in an output without holes.
pub struct Bounded<'a> {
    inner: Box<dyn LayerStore>,
    budget: &'a Budget,
}

impl<'a> Bounded<'a> {
    /// A store that spends of `budget`.
    pub fn new(inner: Box<dyn LayerStore>, budget: &'a Budget) -> Self {
        Bounded { inner, budget }
    }
}

impl LayerStore for Bounded<'_> {
    fn called(&mut self, path: &[u8]) {
        self.inner.called(path);
    }

    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        self.inner.begin(metadata, size)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.budget.take_file_bytes(bytes.len() as u64)?;
        self.inner.data(bytes)
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        self.budget.take_file_bytes(length)?;
        self.inner.hole(length)
    }

    fn end(&mut self) -> Result<Content> {
        self.inner.end()
    }

    fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::entry::Entry;

    fn ingested(path: &str, kind: Kind, xattrs: Xattrs) -> StoredEntry {
        let metadata = Metadata { xattrs, ..Metadata::default() };
        StoredEntry { entry: Entry { path: path.into(), kind, metadata, offset: 0 }, content: None }
    }

    fn spent(mut entries: Vec<StoredEntry>) -> u64 {
        let budget = Budget::default();
        budget.take(&mut entries).expect("little");
        budget.bytes.load(Ordering::Relaxed)
    }

    #[test]
    fn what_counts() {
        let set = |value: &[u8]| Some(Arc::new(BTreeMap::from([(b"user.a".to_vec(), value.to_vec())])));
        let file = |path: &str, set| ingested(path, Kind::Fifo, set);
        assert_eq!(spent(vec![file("a/bc", None)]), 4);
        assert_eq!(spent(vec![file("a/bc", None), file("a/bd", None), file("b", None)]), 4 + 1 + 1);
        assert_eq!(spent(vec![ingested("l", Kind::Symlink { target: b"to".to_vec() }, None)]), 3);
        assert_eq!(spent(vec![ingested("l", Kind::HardLink { target: b"to".to_vec() }, None)]), 3);
        let one = SET + ATTRIBUTE + 6 + 1;
        assert_eq!(spent(vec![file("a", set(b"1")), file("b", set(b"1"))]), 2 + one);
        assert_eq!(spent(vec![file("a", set(b"1")), file("b", set(b"2")), file("c", set(b"1"))]), 3 + 2 * one);
        let mut sparse = file("s", None);
        let extents = vec![Extent { offset: 0, length: 1, stored: 0 }; 3];
        sparse.content = Some(Content { layer: 0, position: 0, size: 9, extents: Some(extents.into()) });
        assert_eq!(spent(vec![sparse]), 1 + 3 * 24);
    }

    #[test]
    fn equal_sets_are_one_across_layers() {
        let budget = Budget::default();
        let set = || Some(Arc::new(BTreeMap::from([(b"user.a".to_vec(), b"1".to_vec())])));
        let mut layers = [vec![ingested("a", Kind::Fifo, set())], vec![ingested("b", Kind::Fifo, set())]];
        for layer in &mut layers {
            budget.take(layer).expect("little");
        }
        let sets: Vec<_> = layers.iter().flatten().filter_map(|it| it.entry.metadata.xattrs.as_ref()).collect();
        assert!(Arc::ptr_eq(sets[0], sets[1]));
    }

    #[test]
    fn the_entry_that_is_too_much_is_named() {
        let budget = Budget::new(Limits { metadata_bytes: 10, ..Limits::default() });
        let mut entries = vec![ingested("12345", Kind::Fifo, None), ingested("678901", Kind::Fifo, None)];
        let error = budget.take(&mut entries).expect_err("too much");
        assert_eq!(error.code, Code::LimitExceeded);
        assert!(error.message.contains("more than 10 bytes"), "{error}");
        assert_eq!(error.context.path.as_deref(), Some(&b"678901"[..]));
    }

    #[test]
    fn files_count_with_their_holes() {
        let budget = Budget::new(Limits { image_bytes: 10, ..Limits::default() });
        budget.take_file_bytes(4).expect("little");
        budget.take_file_bytes(6).expect("just enough");
        assert_eq!(budget.take_file_bytes(1).expect_err("too much").code, Code::LimitExceeded);
        let budget = Budget::default();
        assert_eq!(budget.take_file_bytes(u64::MAX).expect_err("too much").code, Code::LimitExceeded);
    }
}
