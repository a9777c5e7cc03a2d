use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::decoded::{KeptLayer, LayerTable};
use super::edit::Edit;
use super::fd::duplicate;
use super::output::SquashfsCompression;
use super::tree::Tree;
use crate::batch::StoredEntry;
use crate::compare_layers::compare_layers;
use crate::contents::{Contents, Store};
use crate::decoded::Keep;
use crate::edit::Edited;
use crate::entry::{Entry, Kind, Metadata};
use crate::error::{Code, Error, Result};
use crate::flatten::{self as core, Branch, Making};
use crate::layer::{BUFFER, LayerInput};
use crate::merge::{Question, stated};
use crate::output::DirectoryStore;
use crate::output::erofs::ErofsStore;
use crate::output::squashfs::SquashfsStore;
use crate::spool::SpoolStore;

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Limits(pub(super) crate::limits::Limits);

#[pymethods]
impl Limits {
    #[new]
    #[pyo3(signature = (*, entries = None, layer_bytes = None, image_bytes = None, ratio = None, metadata_bytes = None))]
    fn new(
        entries: Option<u64>,
        layer_bytes: Option<u64>,
        image_bytes: Option<u64>,
        ratio: Option<u64>,
        metadata_bytes: Option<u64>,
    ) -> Self {
        let mut limits = crate::limits::Limits::default();
        limits.entries = entries.unwrap_or(limits.entries);
        limits.layer_bytes = layer_bytes.unwrap_or(limits.layer_bytes);
        limits.image_bytes = image_bytes.unwrap_or(limits.image_bytes);
        limits.ratio = ratio.unwrap_or(limits.ratio);
        limits.metadata_bytes = metadata_bytes.unwrap_or(limits.metadata_bytes);
        Limits(limits)
    }
}

#[pyclass(frozen, module = "ocifast._core")]
pub(super) struct Flattener {
    inner: core::Flattener,
    contents: Arc<dyn Contents>,
    folder: PathBuf,
}

/// Where contents wait: a name, or a squashfs image that is compressed so.
#[derive(FromPyObject)]
enum StoreChoice {
    Squashfs(SquashfsCompression),
    Named(String),
}

impl StoreChoice {
    fn make(&self, folder: &Path, layers: usize, threads: usize) -> Result<(Arc<dyn Contents>, Arc<dyn Store>)> {
        let name = match self {
            StoreChoice::Named(name) => name,
            StoreChoice::Squashfs(compression) => {
                let store = Arc::new(SquashfsStore::new(&compression.0, folder, layers)?);
                return Ok((Arc::clone(&store) as Arc<dyn Contents>, Arc::new(store)));
            }
        };
        Ok(match name.as_str() {
            "spool" => {
                let store = Arc::new(SpoolStore::new(folder, layers));
                (Arc::clone(&store) as Arc<dyn Contents>, Arc::new(store))
            }
            "directory" => {
                let store = Arc::new(DirectoryStore::new(folder, threads)?);
                (Arc::clone(&store) as Arc<dyn Contents>, Arc::new(store))
            }
            "erofs" | "erofs-blocks" => {
                let made = ErofsStore::create(folder, layers)?;
                let store = Arc::new(if name == "erofs" { made } else { made.of_whole_blocks() });
                (Arc::clone(&store) as Arc<dyn Contents>, Arc::new(store))
            }
            _ => return Err(Error::new(Code::Internal, format!("no store is called \"{name}\""))),
        })
    }
}

/// Digest, size, diff ID.
type LayerRow = (String, u64, String);

fn input((digest, size, diff_id): LayerRow, added: bool, erofs: Option<PathBuf>) -> Result<LayerInput> {
    Ok(LayerInput { digest: digest.parse()?, size, diff_id: diff_id.parse()?, added, erofs })
}

/// Path, what it is, mode, uid, gid, mtime seconds, nanoseconds, target, size.
type EntryRow = (Py<PyBytes>, &'static str, u16, u32, u32, i64, u32, Py<PyBytes>, u64);

/// Path, the entry in the first layer, the one in the second, what differs.
type LayerChangeRow = (Py<PyBytes>, Option<EntryRow>, Option<EntryRow>, Vec<&'static str>);

/// An entry as it stands in a layer.
fn entry_row(py: Python<'_>, ingested: StoredEntry) -> PyResult<EntryRow> {
    let Entry { path, kind, metadata, .. } = ingested.entry;
    let (path, marked) = stated(&path)?;
    let (kind, target, size): (_, &[u8], _) = match &kind {
        _ if marked.is_some() => (marked.unwrap_or_default(), b"", 0),
        Kind::File { size } => ("file", b"", *size),
        Kind::Directory => ("directory", b"", 0),
        Kind::Symlink { target } => ("symlink", target, target.len() as u64),
        Kind::HardLink { target } => ("hardlink", target, 0),
        Kind::CharDevice { .. } => ("char", b"", 0),
        Kind::BlockDevice { .. } => ("block", b"", 0),
        Kind::Fifo => ("fifo", b"", 0),
    };
    let Metadata { mode, uid, gid, mtime, .. } = metadata;
    let (path, target) = (PyBytes::new(py, &path).unbind(), PyBytes::new(py, target).unbind());
    Ok((path, kind, mode, uid, gid, mtime.seconds, mtime.nanoseconds, target, size))
}

impl Flattener {
    fn make(
        layers: Vec<LayerRow>,
        store: &StoreChoice,
        folder: &Path,
        limits: Option<&Limits>,
        decoders: Option<usize>,
        (added, erofs): (&[usize], &[usize]),
        making: Making,
    ) -> Result<Self> {
        let layers = layers.into_iter().enumerate();
        let layers = layers.map(|(index, layer)| {
            let waiting = erofs.contains(&index).then(|| folder.to_owned());
            input(layer, added.contains(&index), waiting)
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let decoders = decoders.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
        let (contents, store) = store.make(folder, layers.len(), decoders)?;
        let limits = limits.map(|limits| limits.0.clone()).unwrap_or_default();
        let inner = core::Flattener::making(layers, store, limits, decoders, making)?;
        Ok(Flattener { inner, contents, folder: folder.to_owned() })
    }

    fn check(&self, layer: usize) -> Result<()> {
        if layer < self.inner.layers() {
            return Ok(());
        }
        Err(Error::new(Code::Internal, format!("there is no layer {layer}")))
    }

    fn read(&self, layer: usize, path: &Path, offset: u64, length: u64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        self.check(layer)?;
        let failed = |error| Error::io(format_args!("cannot read {}", path.display()), &error);
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut buffer = vec![0; BUFFER];
        let mut done = 0;
        while done < length {
            let wanted = (length - done).min(BUFFER as u64) as usize;
            let read = file.read_at(&mut buffer[..wanted], offset + done).map_err(failed)?;
            if read == 0 {
                break;
            }
            self.inner.write(layer, &buffer[..read])?;
            done += read as u64;
        }
        self.inner.close_layer(layer)
    }
}

#[pymethods]
impl Flattener {
    #[new]
    #[pyo3(signature = (
        layers, *, store, folder, limits = None, decoders = None, added = None, branch = None, keep_removed = false,
        from_top = false, erofs = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the names of Python's keyword arguments")]
    fn new(
        py: Python<'_>,
        layers: Vec<LayerRow>,
        store: StoreChoice,
        folder: PathBuf,
        limits: Option<&Limits>,
        decoders: Option<usize>,
        added: Option<Vec<usize>>,
        branch: Option<(usize, usize)>,
        keep_removed: bool,
        from_top: bool,
        erofs: Option<Vec<usize>>,
    ) -> PyResult<Self> {
        let branch = branch.map(|(base, at)| Branch { base, at });
        let making = Making { branch, removed: keep_removed, from_top };
        let (added, erofs) = (added.unwrap_or_default(), erofs.unwrap_or_default());
        Ok(py.detach(|| Flattener::make(layers, &store, &folder, limits, decoders, (&added, &erofs), making))?)
    }

    #[pyo3(signature = (layer, chunk, /))]
    fn write(&self, py: Python<'_>, layer: usize, chunk: PyBackedBytes) -> PyResult<()> {
        Ok(py.detach(|| self.check(layer).and_then(|()| self.inner.write(layer, &chunk)))?)
    }

    #[pyo3(signature = (layer, /))]
    fn close_layer(&self, py: Python<'_>, layer: usize) -> PyResult<()> {
        Ok(py.detach(|| self.check(layer).and_then(|()| self.inner.close_layer(layer)))?)
    }

    #[pyo3(signature = (layer, path, offset, length, /))]
    fn read_file(&self, py: Python<'_>, layer: usize, path: PathBuf, offset: u64, length: u64) -> PyResult<()> {
        Ok(py.detach(|| self.read(layer, &path, offset, length))?)
    }

    #[pyo3(signature = (layer, table, fd, /))]
    fn adopt(&self, py: Python<'_>, layer: usize, table: &LayerTable, fd: i32) -> PyResult<()> {
        py.detach(|| {
            self.check(layer)?;
            self.inner.adopt(layer, &table.0, duplicate(fd)?)
        })?;
        Ok(())
    }

    #[pyo3(signature = (layer, table, data, /, *, always))]
    fn keep(&self, layer: usize, table: i32, data: i32, always: bool) -> PyResult<()> {
        self.check(layer)?;
        self.inner.keep(layer, Keep { table: duplicate(table)?, data: duplicate(data)?, always });
        Ok(())
    }

    #[pyo3(signature = (layer, /))]
    fn kept(&self, layer: usize) -> PyResult<Option<KeptLayer>> {
        self.check(layer)?;
        Ok(self.inner.take_kept(layer).map(|kept| KeptLayer::new(kept, self.inner.limits().clone())))
    }

    #[pyo3(signature = (layer, fd, /))]
    fn use_points(&self, py: Python<'_>, layer: usize, fd: i32) -> PyResult<()> {
        py.detach(|| {
            self.check(layer)?;
            self.inner.points(layer).use_known(duplicate(fd)?)
        })?;
        Ok(())
    }

    #[pyo3(signature = (layer, points, entries, /))]
    fn note_points(&self, layer: usize, points: i32, entries: i32) -> PyResult<()> {
        self.check(layer)?;
        self.inner.points(layer).note(duplicate(points)?, duplicate(entries)?);
        Ok(())
    }

    #[pyo3(signature = (layer, table, points, blob, offset, /))]
    fn adopt_later(
        &self,
        py: Python<'_>,
        layer: usize,
        table: &LayerTable,
        points: i32,
        blob: PathBuf,
        offset: u64,
    ) -> PyResult<()> {
        py.detach(|| {
            self.check(layer)?;
            let failed = |error| Error::io(format_args!("cannot read {}", blob.display()), &error);
            let file = std::fs::File::open(&blob).map_err(failed)?;
            let (folder, limits) = (self.folder.clone(), self.inner.limits().clone());
            let later = self.inner.points(layer).later(duplicate(points)?, (file, offset), folder, limits)?;
            self.inner.adopt_later(layer, &table.0, later)
        })?;
        Ok(())
    }

    #[pyo3(signature = (layer, /))]
    fn noted(&self, layer: usize) -> PyResult<(bool, bool, bool)> {
        self.check(layer)?;
        let noted = self.inner.points(layer).noted();
        Ok((noted.complete, noted.entries, noted.wrong))
    }

    fn progress(&self) -> Vec<(u64, u64, bool)> {
        self.inner.progress()
    }

    #[pyo3(signature = (edit = None, /))]
    fn finish(&self, py: Python<'_>, edit: Option<&Edit>) -> PyResult<Tree> {
        let finished = py.detach(|| {
            let (tree, notices) = self.inner.finish()?;
            let edited = match edit {
                Some(edit) => edit.0.apply(tree)?,
                None => Edited { tree, unmatched: Vec::new() },
            };
            Ok::<_, Error>((edited, notices))
        });
        let (Edited { tree, unmatched }, notices) = finished?;
        Ok(Tree::new(tree, notices, unmatched, Arc::clone(&self.contents)))
    }

    fn finish_all(&self, py: Python<'_>) -> PyResult<Vec<Tree>> {
        let finished = py.detach(|| self.inner.finish_all())?;
        let trees = finished.into_iter();
        Ok(trees.map(|(tree, notices)| Tree::new(tree, notices, Vec::new(), Arc::clone(&self.contents))).collect())
    }

    #[pyo3(signature = (layer, /))]
    fn wait_for(&self, py: Python<'_>, layer: usize) -> PyResult<()> {
        Ok(py.detach(|| self.check(layer).and_then(|()| self.inner.wait_for(layer)))?)
    }

    #[pyo3(signature = (path, question, /, *, follow = true))]
    fn settles(&self, py: Python<'_>, path: Vec<u8>, question: &str, follow: bool) -> PyResult<bool> {
        let question = match question {
            "entry" => Question::Entry,
            "path" => Question::Path,
            "children" => Question::Children,
            "all" => Question::All,
            _ => Err(Error::new(Code::Internal, format!("no question is called \"{question}\"")))?,
        };
        Ok(py.detach(|| self.inner.above().settles(&path, follow, question)))
    }

    #[pyo3(signature = (layer, /))]
    fn entries_of(&self, py: Python<'_>, layer: usize) -> PyResult<Vec<EntryRow>> {
        let batches = self.inner.above().layer(layer);
        batches.iter().cloned().flatten().map(|ingested| entry_row(py, ingested)).collect()
    }

    #[pyo3(signature = (first, second, /, *, times))]
    fn compare_layers(
        &self,
        py: Python<'_>,
        first: Option<usize>,
        second: Option<usize>,
        times: bool,
    ) -> PyResult<Vec<LayerChangeRow>> {
        let changes = py.detach(|| {
            let layer = |layer: Option<usize>| layer.map(|layer| self.inner.above().layer(layer)).unwrap_or_default();
            let (one, other) = (layer(first), layer(second));
            let (first, second) = (one.iter().cloned().flatten(), other.iter().cloned().flatten());
            compare_layers(first, second, &*self.contents, times)
        })?;
        let rows = changes.into_iter().map(|change| {
            let row = |ingested: Option<StoredEntry>| ingested.map(|ingested| entry_row(py, ingested)).transpose();
            Ok((PyBytes::new(py, &change.path).unbind(), row(change.first)?, row(change.second)?, change.fields))
        });
        rows.collect()
    }

    fn tree_so_far(&self, py: Python<'_>) -> PyResult<Tree> {
        let (tree, notices) = py.detach(|| self.inner.above().tree())?;
        Ok(Tree::new(tree, notices, Vec::new(), Arc::clone(&self.contents)))
    }

    fn abort(&self, py: Python<'_>) {
        py.detach(|| self.inner.abort());
    }
}
