//! A tree deeper than the process may have files open, as a directory. Alone here: the limit is the whole process's.

#[path = "support/trees.rs"]
#[expect(dead_code, reason = "folders are all that is needed here")]
mod trees;

use std::path::Path;
use std::sync::Arc;

use ocifast_core::error::Result;
use ocifast_core::output::{DirectoryStore, Source, Target, WriteRequest, directory};
use ocifast_core::tree::Tree;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use trees::Maker;

/// Makes the tree in an empty folder.
fn make(tree: &Tree, store: &DirectoryStore, target: &Path, owners: bool) -> Result<()> {
    let options = directory::Options { owners, record: false };
    directory::write(WriteRequest::new(Source::new(tree, store), Target::Path(target), options)).map(drop)
}

/// Makes a chain of `depth` folders; returns how deep it is on disk.
fn depth_made(depth: usize) -> Result<usize> {
    let mut maker = Maker::new();
    maker.with(0o755, 0, 0, 0, 0).directory("d/".repeat(depth));
    let (tree, _) = maker.finish()?;
    let place = tempfile::tempdir().expect("a temporary folder");
    let (staging, target) = (place.path().join("staging"), place.path().join("target"));
    std::fs::create_dir(&staging).expect("a folder");
    std::fs::create_dir(&target).expect("a folder");
    let store = Arc::new(DirectoryStore::new(&staging, 2)?);
    make(&tree, &store, &target, false)?;
    let mut folder = target;
    Ok(std::iter::from_fn(|| {
        folder.push("d");
        folder.is_dir().then_some(())
    })
    .count())
}

#[test]
fn the_limit_of_open_files_is_as_it_was() -> Result<()> {
    let before = getrlimit(Resource::Nofile);
    let low = Rlimit { current: Some(64), maximum: before.maximum };
    setrlimit(Resource::Nofile, low).expect("a lower limit");
    for depth in [10, 200] {
        assert_eq!(depth_made(depth)?, depth);
        assert_eq!(getrlimit(Resource::Nofile).current, Some(64), "{depth} folders deep");
    }
    // Where it may not be raised, the error names the folder, and nothing is changed either.
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).expect("a lower limit");
    let error = depth_made(200).expect_err("refused");
    assert!(error.message.contains("cannot make"), "{error}");
    Ok(())
}
