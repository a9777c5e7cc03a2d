//! Somebody puts links to the outside in the place of folders and files while a directory is written: whatever comes of
//! the directory, nothing outside of it changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ocifast_core::batch::StoredEntry;
use ocifast_core::contents::Store;
use ocifast_core::entry::{Entry, Kind, Metadata, Mtime};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::output::{DirectoryStore, Source, Target, WriteRequest, directory};
use ocifast_core::tree::Tree;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::geteuid;

/// Folders of the tree: each has two files and a pipe.
const FOLDERS: [&str; 6] = ["a", "a/b", "a/b/c", "d", "d/e", "f"];

/// Makes the tree in an empty folder.
fn make(tree: &Tree, store: &DirectoryStore, target: &Path, owners: bool) -> Result<()> {
    let options = directory::Options { owners, record: false };
    directory::write(WriteRequest::new(Source::new(tree, store), Target::Path(target), options)).map(drop)
}

/// A place with the two folders that the writer works in, and one that is none of its business.
struct Scene {
    place: tempfile::TempDir,
    tree: Tree,
    store: Arc<DirectoryStore>,
}

impl Scene {
    fn new() -> Result<Self> {
        let place = tempfile::tempdir().expect("a folder");
        for folder in ["staging", "target", "outside"] {
            fs::create_dir(place.path().join(folder)).expect("a folder");
        }
        // All that the writer may ask for is outside as well, under the same name.
        let outside = place.path().join("outside");
        for folder in FOLDERS.iter().chain(&["empty"]) {
            fs::create_dir(outside.join(folder)).expect("a folder");
        }
        for folder in [""].iter().chain(&FOLDERS) {
            for name in ["one", "two", "0.0", "0.1", "0.2", "i3", "secret"] {
                let path = outside.join(folder).join(name);
                fs::write(&path, name).expect("a file");
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
            }
        }
        let store = Arc::new(DirectoryStore::new(&place.path().join("staging"), 2)?);
        let mut layer = store.layer(0)?;
        let mut entries = Vec::new();
        for folder in FOLDERS {
            let mut add = |path: String, kind: Kind| -> Result<()> {
                let mtime = Mtime { seconds: 1_000_000, nanoseconds: 5 };
                let metadata = Metadata { mode: 0o6755, uid: 7, gid: 8, mtime, xattrs: None };
                let mut content = None;
                if let Kind::File { size } = kind {
                    layer.begin(&metadata, size)?;
                    layer.data(&vec![b'x'; size as usize])?;
                    content = Some(layer.end()?);
                }
                let entry = Entry { path: path.into_bytes(), kind, metadata, offset: 0 };
                entries.push(StoredEntry { entry, content });
                Ok(())
            };
            add(folder.to_owned(), Kind::Directory)?;
            add(format!("{folder}/one"), Kind::File { size: 3 })?;
            add(format!("{folder}/pipe"), Kind::Fifo)?;
            add(format!("{folder}/two"), Kind::File { size: 5000 })?;
        }
        layer.finish()?;
        let mut merge = Merge::new(Limits::default());
        merge.lowest_layer([Ok(entries)])?;
        Ok(Scene { place, tree: merge.finish().0, store })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write(&self) -> Result<()> {
        make(&self.tree, &self.store, &self.path("target"), geteuid().is_root())
    }

    /// Everything outside: type and mode, owner, times, size and what is in it.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        look(&self.path("outside"), &mut found);
        found
    }
}

fn look(path: &Path, found: &mut BTreeMap<PathBuf, String>) {
    let status = fs::symlink_metadata(path).expect("it is there");
    let what = if status.is_file() { fs::read(path).expect("a file") } else { Vec::new() };
    let (seconds, fraction, changed) = (status.mtime(), status.mtime_nsec(), status.ctime_nsec());
    let owner = (status.uid(), status.gid());
    let line = format!("{:o} {owner:?} {seconds}.{fraction} {changed} {}", status.mode(), what.escape_ascii());
    found.insert(path.to_owned(), line);
    if status.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            look(&entry.expect("an entry").path(), found);
        }
    }
}

#[test]
fn links_that_are_there_before_are_not_followed() -> Result<()> {
    // What is replaced, and by a link to which path outside.
    let table = [
        ("target", "outside"),
        ("target", "outside/empty"),
        ("target/a", "outside"),
        ("target/a", "outside/a"),
        ("target/d", "outside/d"),
        ("staging/0.0", "outside/secret"),
        ("staging/0.3", "outside/a/b/one"),
    ];
    for (replaced, by) in table {
        let scene = Scene::new()?;
        let before = scene.outside();
        let path = scene.path(replaced);
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        symlink(scene.path(by), &path).expect("a link");
        assert!(scene.write().is_err(), "{replaced}");
        assert_eq!(scene.outside(), before, "{replaced} led to {by}");
    }
    // The staging folder is open by then: its name means nothing any more.
    let scene = Scene::new()?;
    let before = scene.outside();
    fs::rename(scene.path("staging"), scene.path("moved")).expect("a rename");
    symlink(scene.path("outside"), scene.path("staging")).expect("a link");
    scene.write()?;
    assert_eq!(scene.outside(), before);
    assert_eq!(fs::read(scene.path("target/a/b/one")).expect("a file"), b"xxx");
    Ok(())
}

#[test]
fn a_second_thread_that_swaps_folders_reaches_nothing_outside() -> Result<()> {
    let victims =
        ["target", "staging", "target/a", "target/a/b", "target/d/e", "target/f", "staging/0.5", "target/a/one"];
    for round in 0..400 {
        let scene = Scene::new()?;
        let before = scene.outside();
        let victim = victims[round % victims.len()];
        let (path, link) = (scene.path(victim), scene.path("link"));
        // To the same place outside, so that what is asked for next is there as well.
        let (_, below) = victim.split_once('/').unwrap_or(("", ""));
        let to = if victim.starts_with("staging/") { "outside/secret".into() } else { format!("outside/{below}") };
        symlink(scene.path(&to), &link).expect("a link");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Always an even number of exchanges in the end, unless the victim went away while it was swapped.
                while !done.load(Ordering::Relaxed) {
                    if renameat_with(CWD, &path, CWD, &link, RenameFlags::EXCHANGE).is_ok() {
                        std::hint::spin_loop();
                        let _ = renameat_with(CWD, &path, CWD, &link, RenameFlags::EXCHANGE);
                    }
                }
            });
            // Whether it succeeds depends on the moment; what it touches does not.
            let _ = scene.write();
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(scene.outside(), before, "{victim} was swapped in round {round}");
    }
    Ok(())
}
