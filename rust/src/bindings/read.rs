use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use super::flatten::Limits;
use super::tree::Tree;
use crate::error::{Code, Error, Result};
use crate::merge::Notices;
use crate::output::Loss;
use crate::read::{self as core, FileSource, Format};
use crate::verify as proof;

fn format(name: &str) -> Result<Format> {
    Format::parse(name).ok_or_else(|| Error::new(Code::Internal, format!("there is no reader of {name}")))
}

#[pyfunction]
#[pyo3(signature = (path, form, /, *, limits = None))]
pub(super) fn read_image(py: Python<'_>, path: PathBuf, form: &str, limits: Option<&Limits>) -> PyResult<Tree> {
    let format = format(form)?;
    let limits = limits.map_or_else(Default::default, |limits| limits.0.clone());
    let image = py.detach(|| -> Result<_> {
        let what = format!("cannot read {}", path.display());
        let file = File::open(&path).map_err(|error| Error::io(what, &error))?;
        core::read(Arc::new(FileSource::new(file)?), format, &limits)
    })?;
    Ok(Tree::new(image.tree, Notices::default(), Vec::new(), image.contents))
}

/// The kinds of losses that may explain a difference; what was said of others explains none.
const KINDS: [&str; 8] = ["device", "fifo", "hardlink", "mode", "mtime", "owner", "xattr", "path"];

#[pyfunction]
#[pyo3(signature = (tree, path, form, /, *, losses, clamp_mtime, folder, threads))]
#[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
pub(super) fn verify(
    py: Python<'_>,
    tree: &Tree,
    path: PathBuf,
    form: &str,
    losses: Vec<(String, u64)>,
    clamp_mtime: Option<i64>,
    folder: PathBuf,
    threads: usize,
) -> PyResult<()> {
    let format = format(form)?;
    let losses: Vec<Loss> = losses
        .into_iter()
        .filter_map(|(kind, count)| {
            let kind = KINDS.into_iter().find(|known| **known == kind)?;
            Some(Loss { kind, detail: String::new(), count, paths: Vec::new() })
        })
        .collect();
    py.detach(|| {
        let contents = &*tree.contents;
        let expected = proof::Expected { tree: &tree.tree, contents, losses: &losses, clamp: clamp_mtime };
        proof::verify(&expected, &path, format, &folder, threads)
    })?;
    Ok(())
}
