//! A tree as the tar stream that squashfs packers read: nothing in it that squashfs cannot hold.
//!
//! squashfs has unsigned 32-bit seconds, and attributes of three namespaces alone (Linux, fs/squashfs/xattr.c). Packers
//! differ in what they make of the rest: one gives up, one drops the attribute, one drops the file.

use std::io::Write;

use super::squashfs::fit;
use super::tar::{Holes, write_fitted};
use super::{Loss, Losses};
use crate::contents::Contents;
use crate::error::Result;
use crate::tar::Writer;
use crate::tree::Tree;

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
        fit(path, metadata, clamp, &mut losses);
    })?;
    Ok((out, losses.into_vec()))
}

/// What squashfs cannot hold of the tree, without writing it.
pub fn squashfs_losses(tree: &Tree, clamp: Option<i64>) -> Vec<Loss> {
    let mut losses = Losses::default();
    for step in tree.walk().filter(|step| step.first) {
        let mut metadata = tree.inode(step.inode).metadata.clone();
        fit(&step.path, &mut metadata, clamp, &mut losses);
    }
    losses.into_vec()
}
