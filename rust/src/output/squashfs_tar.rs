//! A tree as the tar stream that squashfs packers read: nothing in it that squashfs cannot hold.
//!
//! squashfs has unsigned 32-bit seconds, and attributes of three namespaces alone (Linux, fs/squashfs/xattr.c). Packers
//! differ in what they make of the rest: one gives up, one drops the attribute, one drops the file.

use std::io::Write;

use super::tar::{Holes, write_fitted};
use super::{Loss, Losses, clamped};
use crate::contents::Contents;
use crate::entry::{Metadata, Mtime};
use crate::error::Result;
use crate::tar::Writer;
use crate::tree::Tree;

const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Writes the tree to `out` as [`super::write_tar`] does, with what squashfs cannot hold left out and reported.
///
/// # Errors
/// `output_unsupported` for a link target over 4095 bytes; what reading the contents or writing returns.
pub fn write_squashfs_tar<W: Write>(
    tree: &Tree,
    contents: &dyn Contents,
    out: W,
    clamp: Option<i64>,
) -> Result<(W, Vec<Loss>)> {
    let mut losses = Losses::default();
    let out = write_fitted(tree, contents, Writer::new(out).with_gnu_links(), Holes::AsZeros, |path, metadata| {
        metadata.mtime = clamped(metadata.mtime, clamp);
        fit(path, metadata, &mut losses);
    })?;
    Ok((out, losses.into_vec()))
}

/// What squashfs cannot hold of the tree, without writing it.
pub fn squashfs_losses(tree: &Tree, clamp: Option<i64>) -> Vec<Loss> {
    let mut losses = Losses::default();
    for step in tree.walk().filter(|step| step.first) {
        let mut metadata = tree.inode(step.inode).metadata.clone();
        metadata.mtime = clamped(metadata.mtime, clamp);
        fit(&step.path, &mut metadata, &mut losses);
    }
    losses.into_vec()
}

fn fit(path: &[u8], metadata: &mut Metadata, losses: &mut Losses) {
    let mut lose = |kind, detail: String| losses.add(kind, path, detail);
    let Mtime { seconds, nanoseconds } = metadata.mtime;
    let held = seconds.clamp(0, i64::from(u32::MAX));
    if held != seconds {
        lose("mtime", "squashfs holds times from 1970 to 2106".into());
    } else if nanoseconds != 0 {
        lose("mtime", "squashfs holds times in whole seconds".into());
    }
    metadata.mtime = Mtime { seconds: held, nanoseconds: 0 };
    let Some(xattrs) = &metadata.xattrs else { return };
    let holds = |name: &[u8]| NAMESPACES.iter().any(|namespace| name.starts_with(namespace));
    if xattrs.keys().all(|name| holds(name)) {
        return;
    }
    for name in xattrs.keys().filter(|name| !holds(name)) {
        lose("xattr", format!("squashfs has no attribute {}", name.escape_ascii()));
    }
    let kept = xattrs.iter().filter(|(name, _)| holds(name));
    let kept: std::collections::BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    metadata.xattrs = if kept.is_empty() { None } else { Some(kept.into()) };
}
