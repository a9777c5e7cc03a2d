//! What upper layers say of the files of lower ones, as far as they were read.
//!
//! A hint: links on the way are not followed, places are known by hashes, and a hard link may want the file all the same.
//! A store that works on data while layers arrive can leave for later what an upper layer seems to replace. What the image
//! has is the tree's to say.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::batch::StoredEntry;
use crate::contents::{Covers, Store};
use crate::entry::Kind;
use crate::limits::Limits;
use crate::merge::{Fate, fate};

/// Hashes of places, by the highest layer that speaks of them.
#[derive(Debug, Default)]
pub struct Covered {
    /// Keyed, as strangers choose the names.
    keys: RandomState,
    places: RwLock<HashMap<u64, u32>>,
    /// The highest layer of all.
    highest: AtomicU32,
    limits: Limits,
    watched: bool,
}

/// What is hidden of a place.
#[derive(Clone, Copy)]
enum What {
    /// What has the name, and all below it.
    Name,
    /// All below a directory.
    Inside,
}

impl Covered {
    /// For a store, which may make use of it or not; paths are held to `limits`.
    pub fn of(store: &dyn Store, limits: &Limits) -> Arc<Self> {
        Arc::new_cyclic(|covered: &Weak<Covered>| {
            let seen = Weak::clone(covered);
            let covers: Arc<Covers> =
                Arc::new(move |layer, path| seen.upgrade().is_some_and(|covered| covered.covers(layer, path)));
            Covered { watched: store.watch(&covers), limits: limits.clone(), ..Covered::default() }
        })
    }

    /// Whether the store makes use of it; else nothing is noted.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// Takes entries of a layer. A directory hides nothing that is worth a thought.
    pub fn note(&self, layer: u32, entries: &[StoredEntry]) {
        if !self.watched || layer == 0 || entries.is_empty() {
            return;
        }
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for StoredEntry { entry, .. } in entries {
            let (mut path, name, what) = match fate(&entry.path, &self.limits) {
                Ok(Fate::Kept(path)) if !matches!(entry.kind, Kind::Directory) => (path, None, What::Name),
                Ok(Fate::Whiteout { parent, name }) => (parent, Some(name), What::Name),
                Ok(Fate::Opaque { directory }) => (directory, None, What::Inside),
                // The merge says what is wrong with a path.
                Ok(Fate::Kept(_) | Fate::Bookkeeping) | Err(_) => continue,
            };
            path.extend(name);
            let mut hasher = self.keys.build_hasher();
            path.iter().for_each(|name| step(&mut hasher, name));
            let known = places.entry(place(&hasher, what)).or_default();
            *known = layer.max(*known);
        }
        self.highest.fetch_max(layer, Ordering::Relaxed);
    }

    /// Whether a layer above `layer` seems to hide the file that has this path there, or to have another in its place.
    pub fn covers(&self, layer: u32, path: &[u8]) -> bool {
        if self.highest.load(Ordering::Relaxed) <= layer {
            return false;
        }
        let Ok(Fate::Kept(path)) = fate(path, &self.limits) else { return false };
        let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
        let above = |place: u64| places.get(&place).is_some_and(|&by| by > layer);
        let mut hasher = self.keys.build_hasher();
        path.iter().any(|name| {
            let inside = above(place(&hasher, What::Inside));
            step(&mut hasher, name);
            inside || above(place(&hasher, What::Name))
        })
    }
}

fn step(hasher: &mut impl Hasher, name: &[u8]) {
    hasher.write(name);
    hasher.write_u8(b'/');
}

fn place(hasher: &(impl Hasher + Clone), what: What) -> u64 {
    let mut hasher = hasher.clone();
    hasher.write_u8(what as u8);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Metadata};

    fn entry(path: &str) -> StoredEntry {
        let kind = if path.ends_with('/') { Kind::Directory } else { Kind::File { size: 0 } };
        StoredEntry {
            entry: Entry { path: path.into(), kind, metadata: Metadata::default(), offset: 0 },
            content: None,
        }
    }

    #[test]
    fn what_is_hidden() {
        let covered = Covered { watched: true, ..Covered::default() };
        let told =
            ["./usr/bin/tool", "etc/", "usr/lib/.wh.old", "var/cache/.wh..wh..opq", "a/../.wh.b/c", ".wh..wh.aufs"];
        covered.note(2, &told.map(entry));
        covered.note(1, &["usr/bin/tool", "other"].map(entry));
        let table = [
            ("usr/bin/tool", 1, true),
            ("/usr//bin/./tool", 0, true),
            // Not by its own layer, nor by one below it.
            ("usr/bin/tool", 2, false),
            ("other", 0, true),
            ("other", 1, false),
            // A name that begins alike, and one below it.
            ("usr/bin/tool2", 0, false),
            ("usr/bin", 0, false),
            ("usr/bin/tool/below", 0, true),
            ("etc/passwd", 0, false),
            ("usr/lib/old", 1, true),
            ("usr/lib/old/deep/down", 1, true),
            ("usr/lib/older", 1, false),
            ("var/cache/a/b", 1, true),
            ("var/cache", 1, false),
            ("var/cache2", 1, false),
            ("b", 0, false),
        ];
        for (path, layer, expected) in table {
            assert_eq!(covered.covers(layer, path.as_bytes()), expected, "{path} in {layer}");
        }
    }

    #[test]
    fn the_lowest_layer_hides_nothing() {
        let covered = Covered { watched: true, ..Covered::default() };
        covered.note(0, &[entry("a")]);
        assert!(covered.places.read().expect("no panic").is_empty());
        assert!(!covered.covers(0, b"a"));
    }
}
