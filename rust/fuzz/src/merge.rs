//! Any layers merged, and any edit of what comes of it.

use std::collections::HashMap;
use std::sync::Arc;

use ocifast_core::batch::{Batch, StoredEntry};
use ocifast_core::contents::Content;
use ocifast_core::edit::Edit;
use ocifast_core::entry::{Kind, Mtime};
use ocifast_core::error::{Code, Result};
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::path::check_name;
use ocifast_core::tree::Tree;

use super::items::Item;
use super::layers::Choices;

const PATTERNS: [&str; 8] = ["a", "/b", "**/c", "a/**", "!a", "[", "*", "d d/"];

/// Merges, edits, and looks at what is there.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let edit = edit(&mut choices);
    let layers = choices.layers();
    let (once, again) = (merged(&layers), merged(&layers));
    match (once, again) {
        (Ok(once), Ok(again)) => {
            sound(&once);
            assert_eq!(names(&once), names(&again), "the merge is a function of the entries");
            match edit.apply(once) {
                Ok(edited) => sound(&edited.tree),
                Err(error) => {
                    assert!(matches!(error.code, Code::Usage | Code::PathNotFound | Code::EntryRefused), "{error}")
                }
            }
        }
        (Err(once), Err(again)) => {
            assert_eq!(once.to_string(), again.to_string());
            assert!(matches!(once.code, Code::EntryRefused | Code::LimitExceeded), "{once}");
        }
        _ => panic!("merged and refused"),
    }
}

fn edit(choices: &mut Choices<'_>) -> Edit {
    let count = choices.next() % 4;
    let exclude = (0..count).map(|_| choices.of(&PATTERNS).to_owned()).collect();
    let subtree = (choices.next() % 4 == 1).then(|| choices.path(true).into_bytes());
    let mount_points = (choices.next() % 4 == 1).then(Mtime::default);
    let owner = (choices.next() % 4 == 1).then(|| (choices.next().into(), u32::MAX - 1));
    let id_offset = u32::from(choices.next() % 3) * 0x7fff_ffff;
    Edit { exclude, subtree, mount_points, owner, id_offset }
}

fn merged(layers: &[Vec<Item>]) -> Result<Tree> {
    let mut merge = Merge::new(Limits { depth: 30, ..Limits::default() });
    let mut serial = 0;
    for (index, layer) in layers.iter().enumerate() {
        let entries: Vec<StoredEntry> = layer
            .iter()
            .map(|item| {
                serial += 1;
                let size = match item.entry.kind {
                    Kind::File { size } => Some(size),
                    _ => None,
                };
                let content = size.map(|size| Content { layer: index as u32, position: serial, size, extents: None });
                StoredEntry { entry: item.entry.clone(), content }
            })
            .collect();
        if index == 0 { merge.lowest_layer([Ok(entries)])? } else { merge.upper_layer(vec![Batch::new(entries)])? }
    }
    Ok(merge.finish().0)
}

fn names(tree: &Tree) -> Vec<(Vec<u8>, usize)> {
    tree.walk().map(|step| (step.path, step.inode.index())).collect()
}

/// What holds of every tree: counts are right, names are names, nothing stands twice.
fn sound(tree: &Tree) {
    let mut counts: HashMap<usize, u32> = HashMap::new();
    let mut last: Option<Arc<[u8]>> = None;
    let mut all = 0;
    for step in tree.walk() {
        all += 1;
        *counts.entry(step.inode.index()).or_default() += 1;
        assert_eq!(step.first, counts[&step.inode.index()] == 1);
        if all > 1 {
            step.path.split(|&byte| byte == b'/').for_each(|name| check_name(name).expect("a name"));
        }
        let before = last.replace(step.path.clone().into());
        assert!(
            before.is_none_or(|before| before.split(|&byte| byte == b'/').lt(step.path.split(|&byte| byte == b'/'))
                || before.is_empty())
        );
    }
    assert_eq!(tree.names(), all);
    for step in tree.walk() {
        let inode = tree.inode(step.inode);
        assert_eq!(inode.nlink, counts[&step.inode.index()], "names of {}", step.path.escape_ascii());
        assert!(inode.children().is_none() || inode.nlink == 1, "a directory has one name");
    }
}
