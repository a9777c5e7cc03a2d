//! A tree as the tar stream that squashfs packers read: nothing in it that squashfs cannot hold.
//!
//! squashfs has unsigned 32-bit seconds, and attributes of three namespaces alone (Linux, fs/squashfs/xattr.c). Packers
//! differ in what they make of the rest: one gives up, one drops the attribute, one drops the file.

use super::compress::StreamCompression;
use super::request::{WriteRequest, Written, write_stream};
use super::squashfs::fit;
use super::tar::{Holes, write_fitted};
use super::{Loss, Losses};
use crate::error::Result;
use crate::tar::Writer;
use crate::tree::Tree;

/// Writes the tree as [`super::tar::write`] does, with what squashfs cannot hold left out and reported.
///
/// # Errors
/// `output_unsupported` for a link target over 4095 bytes; what reading the contents or writing returns.
pub fn write(request: WriteRequest<'_, ()>) -> Result<Written> {
    let WriteRequest { source, target, clamp_mtime, .. } = request;
    write_stream(target, StreamCompression::None, |out| {
        let mut losses = Losses::default();
        let writer = Writer::new(out).with_gnu_links();
        let out = write_fitted(source.tree, &source.metered(), writer, Holes::AsZeros, |path, metadata| {
            fit(path, metadata, clamp_mtime, &mut losses);
        })?;
        Ok((out, losses.into_vec()))
    })
}

/// What squashfs cannot hold of the tree, without writing it.
pub fn losses(tree: &Tree, clamp: Option<i64>) -> Vec<Loss> {
    let mut losses = Losses::default();
    for step in tree.walk().filter(|step| step.first) {
        let mut metadata = tree.inode(step.inode).metadata.clone();
        fit(&step.path, &mut metadata, clamp, &mut losses);
    }
    losses.into_vec()
}
