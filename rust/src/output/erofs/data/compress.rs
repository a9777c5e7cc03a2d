//! Compressed contents of an image: read from any store, compressed by several threads, written in the tree's order.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::codec::{Cluster, ClusterCodec, Compression};
use super::file_data::{DataPlace, FileData, whole_blocks};
use crate::contents::{self, Content, Contents};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::output::erofs::format::clusters::{ClusterExtent, Clusters, table_size};
use crate::output::erofs::format::numbers::{BLOCK, EXTENDED, blocks};
use crate::output::erofs::format::xattr;
use crate::output::request;
use crate::spool::unnamed_file;
use crate::tree::{InodeId, InodeKind, Tree};

/// Pieces that one thread has before it: one in work, one to go on with.
const AHEAD: usize = 2;

/// Bytes collected before they are written.
const BUFFER: usize = 1 << 20;

/// Bytes of contents between two reports of progress.
const REPORT: u64 = 4 << 20;

/// No file.
const NONE: u32 = u32::MAX;

/// What became of a file.
#[derive(Clone, Copy, Debug)]
struct Kept {
    start: u32,
    /// Its clusters among all.
    first: u32,
    count: u32,
    tail_offset: u64,
    tail: u16,
    flat: bool,
}

/// The contents of an image.
pub struct CompressedFiles {
    algorithm: u8,
    /// By inode: its file.
    numbers: Vec<u32>,
    files: Vec<Kept>,
    extents: Vec<ClusterExtent>,
    tails: File,
    end: u64,
}

impl CompressedFiles {
    /// Compresses the contents of a tree into `image`, from block 1 on, by so many threads. An unnamed file is made beside `path`.
    ///
    /// # Errors
    /// `io_error`; `output_unsupported` for an image beyond the format's bounds; what `progress` returns.
    pub fn write(
        source: request::Source<'_>,
        image: &File,
        path: &Path,
        (compression, threads): (&Compression, usize),
        progress: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<Self> {
        let request::Source { tree, contents, .. } = source;
        let folder = path.parent().unwrap_or(path);
        let files = CompressedFiles {
            algorithm: compression.number(),
            numbers: vec![NONE; tree.inode_bound()],
            files: Vec::new(),
            extents: Vec::new(),
            tails: unnamed_file(folder)?,
            end: 1,
        };
        let mut writer = ClusterWriter {
            image,
            files,
            pending: Vec::new(),
            tail_pending: Vec::new(),
            tail_written: 0,
            current: None,
            report: Report { done: 0, told: 0, total: bytes_of(tree), progress },
        };
        writer.report.now()?;
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for _ in 0..threads.max(1) {
                let (jobs, todo) = sync_channel(AHEAD);
                let (results, done) = sync_channel(AHEAD);
                let codec = ClusterCodec::new(compression)?;
                std::thread::Builder::new()
                    .name("compress".to_owned())
                    .spawn_scoped(scope, move || work(codec, &todo, &results))
                    .map_err(|error| Error::thread(&error))?;
                workers.push(Worker { jobs, done });
            }
            let mut pipeline = Pipeline { workers, sent: 0, received: 0 };
            for step in tree.walk().filter(|step| step.first) {
                let inode = tree.inode(step.inode);
                if let InodeKind::File(content) = &inode.kind {
                    let file = FileToCompress { id: step.inode, content, metadata: &inode.metadata };
                    feed(&file, contents, compression, &mut pipeline, &mut writer)
                        .map_err(|error| error.at_entry(&step.path, 0))?;
                }
            }
            while pipeline.receive(&mut writer)? {}
            writer.report.now()
        })?;
        writer.finish()
    }

    /// First block after the data.
    pub fn end(&self) -> u64 {
        self.end
    }

    fn kept(&self, id: InodeId) -> Option<&Kept> {
        self.files.get(self.numbers[id.index()] as usize)
    }
}

impl FileData for CompressedFiles {
    fn place<'a>(&'a self, id: InodeId, content: &'a Content) -> DataPlace<'a> {
        let kept = self.kept(id);
        if let Some(content) = whole_blocks(content) {
            return DataPlace::Sparse { start: kept.map_or(0, |kept| kept.start), content: Cow::Owned(content) };
        }
        match kept {
            // An empty file.
            None => DataPlace::Flat { start: 0, tail: 0 },
            Some(kept) if kept.flat => DataPlace::Flat { start: kept.start, tail: usize::from(kept.tail) },
            Some(kept) => DataPlace::Compressed(Clusters {
                start: kept.start,
                extents: &self.extents[kept.first as usize..(kept.first + kept.count) as usize],
                tail: usize::from(kept.tail),
                algorithm: self.algorithm,
            }),
        }
    }

    fn read_tail(&self, id: InodeId, _: &Content, buffer: &mut [u8]) -> Result<()> {
        let offset = self.kept(id).map_or(0, |kept| kept.tail_offset);
        self.tails.read_exact_at(buffer, offset).map_err(|error| Error::io("cannot read the spool file", &error))
    }
}

/// What there is to compress: the data of all files, with the blocks that they fill in sparse ones.
fn bytes_of(tree: &Tree) -> u64 {
    let length = |id| match &tree.inode(id).kind {
        InodeKind::File(content) => runs_of(content).iter().map(|run| run.length).sum(),
        _ => 0,
    };
    tree.walk().filter(|step| step.first).map(|step| length(step.inode)).sum()
}

/// The runs of a content that are in the image.
fn runs_of(content: &Content) -> Vec<contents::Extent> {
    match whole_blocks(content) {
        Some(sparse) => sparse.runs().collect(),
        None => vec![contents::Extent { offset: 0, length: content.size, stored: 0 }],
    }
}

/// A file on its way.
struct FileToCompress<'a> {
    id: InodeId,
    content: &'a Content,
    metadata: &'a Metadata,
}

/// A piece of a file, for a thread to compress.
struct PieceToCompress {
    file: PieceInfo,
    bytes: Vec<u8>,
    /// Whether it may be compressed at all.
    compress: bool,
}

/// What the writer must know of a piece.
#[derive(Clone, Copy)]
struct PieceInfo {
    id: InodeId,
    first: bool,
    last: bool,
    /// Bytes of its end that can stand behind the inode when they are compressed, and when the file is not.
    room: usize,
    flat_room: usize,
}

struct Done {
    file: PieceInfo,
    bytes: Vec<u8>,
    clusters: Vec<Cluster>,
}

fn work(mut codec: ClusterCodec, todo: &Receiver<PieceToCompress>, results: &SyncSender<Result<Done>>) {
    while let Ok(PieceToCompress { file, bytes, compress }) = todo.recv() {
        let mut clusters = Vec::new();
        let result = if compress {
            codec.squeeze(&bytes, file.room, &mut clusters)
        } else {
            clusters.push(Cluster { length: bytes.len(), compressed: None });
            Ok(())
        };
        if results.send(result.map(|()| Done { file, bytes, clusters })).is_err() {
            return;
        }
    }
}

struct Worker {
    jobs: SyncSender<PieceToCompress>,
    done: Receiver<Result<Done>>,
}

/// Hands pieces out in turn, and takes them back in the same order.
struct Pipeline {
    workers: Vec<Worker>,
    sent: usize,
    received: usize,
}

impl Pipeline {
    fn send(&mut self, job: PieceToCompress, writer: &mut ClusterWriter<'_>) -> Result<()> {
        if self.sent - self.received >= AHEAD * self.workers.len() {
            self.receive(writer)?;
        }
        let worker = &self.workers[self.sent % self.workers.len()];
        self.sent += 1;
        worker.jobs.send(job).map_err(|_| Error::new(Code::Io, "a thread that compresses has ended"))
    }

    /// Writes the next result; whether there was one.
    fn receive(&mut self, writer: &mut ClusterWriter<'_>) -> Result<bool> {
        if self.received == self.sent {
            return Ok(false);
        }
        let worker = &self.workers[self.received % self.workers.len()];
        self.received += 1;
        let done = worker.done.recv().map_err(|_| Error::new(Code::Io, "a thread that compresses has ended"))??;
        writer.take(done)?;
        Ok(true)
    }
}

/// Sends a file, piece by piece.
fn feed(
    file: &FileToCompress<'_>,
    contents: &dyn Contents,
    compression: &Compression,
    pipeline: &mut Pipeline,
    writer: &mut ClusterWriter<'_>,
) -> Result<()> {
    let content = file.content;
    let behind = EXTENDED + xattr::bound(file.metadata);
    // A sparse file is a table of holes and data, and these are not compressed.
    let runs = runs_of(content);
    let sparse = whole_blocks(content).is_some();
    let length: u64 = runs.iter().map(|run| run.length).sum();
    if length == 0 {
        return Ok(());
    }
    let room = BLOCK.saturating_sub(behind + table_size(behind, content.size));
    let mut left = length;
    for run in runs {
        let (mut offset, end) = (run.offset, run.offset + run.length);
        while offset < end {
            let mut bytes = vec![0; (compression.piece() as u64).min(end - offset) as usize];
            let read = contents.read_at(content, offset, &mut bytes)?;
            if read < bytes.len() {
                return Err(Error::new(Code::Io, "the content is shorter than it should be"));
            }
            offset += read as u64;
            let last = left == read as u64;
            let part = PieceInfo {
                id: file.id,
                first: left == length,
                last,
                room: if last { room } else { 0 },
                flat_room: if last && !sparse { BLOCK.saturating_sub(behind) } else { 0 },
            };
            left -= read as u64;
            pipeline.send(PieceToCompress { file: part, bytes, compress: !sparse }, writer)?;
        }
    }
    Ok(())
}

/// Puts what comes back into the image.
struct ClusterWriter<'a> {
    image: &'a File,
    files: CompressedFiles,
    pending: Vec<u8>,
    tail_pending: Vec<u8>,
    tail_written: u64,
    current: Option<Kept>,
    report: Report<'a>,
}

/// How far the work is, told every few MiB.
struct Report<'a> {
    done: u64,
    told: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64) -> Result<()>,
}

impl Report<'_> {
    fn add(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        if self.done - self.told < REPORT { Ok(()) } else { self.now() }
    }

    fn now(&mut self) -> Result<()> {
        self.told = self.done;
        (self.progress)(self.done, self.total)
    }
}

impl ClusterWriter<'_> {
    fn take(&mut self, done: Done) -> Result<()> {
        let Done { file, bytes, clusters } = done;
        self.report.add(bytes.len() as u64)?;
        if file.first {
            let start = u32::try_from(self.files.end).map_err(|_| too_large())?;
            let first = u32::try_from(self.files.extents.len()).map_err(|_| too_large())?;
            self.current = Some(Kept { start, first, count: 0, tail_offset: 0, tail: 0, flat: true });
        }
        let Some(mut kept) = self.current.take() else {
            unreachable!("a piece of a file that has not begun");
        };
        let mut at = 0;
        for Cluster { length, compressed } in clusters {
            let plain = &bytes[at..at + length];
            at += length;
            // Only the last cluster of the last piece can stand behind the inode.
            let (room, flat_room) = if at == bytes.len() { (file.room, file.flat_room) } else { (0, 0) };
            match compressed {
                Some(compressed) if worthwhile(&kept, plain, &compressed, flat_room) => {
                    self.compressed(&mut kept, length, &compressed, room)?;
                }
                _ => self.plain(&mut kept, plain, flat_room)?,
            }
        }
        if !file.last {
            self.current = Some(kept);
            return Ok(());
        }
        if kept.flat {
            self.files.extents.truncate(kept.first as usize);
        }
        kept.count = self.files.extents.len() as u32 - kept.first;
        self.files.numbers[file.id.index()] = self.files.files.len() as u32;
        self.files.files.push(kept);
        Ok(())
    }

    fn compressed(&mut self, kept: &mut Kept, length: usize, data: &[u8], room: usize) -> Result<()> {
        let physical = if data.len() <= room {
            self.set_tail_aside(kept, data)?;
            0
        } else {
            // The kernel looks for the data at the end of the cluster.
            let padding = data.len().next_multiple_of(BLOCK) - data.len();
            self.pending.resize(self.pending.len() + padding, 0);
            self.append(data)?
        };
        kept.flat = false;
        self.files.extents.push(ClusterExtent { logical: blocks(length as u64) as u16, physical, compressed: true });
        Ok(())
    }

    fn plain(&mut self, kept: &mut Kept, data: &[u8], flat_room: usize) -> Result<()> {
        let tail = data.len() % BLOCK;
        let aside = if kept.flat && 0 < tail && tail <= flat_room { tail } else { 0 };
        let (whole, rest) = data.split_at(data.len() - aside);
        if !rest.is_empty() {
            self.set_tail_aside(kept, rest)?;
        }
        let physical = self.append(whole)?;
        self.files.extents.push(ClusterExtent {
            logical: blocks(data.len() as u64) as u16,
            physical,
            compressed: false,
        });
        Ok(())
    }

    /// Adds data to the blocks, the last of which it fills with zeros; how many blocks that were.
    fn append(&mut self, data: &[u8]) -> Result<u16> {
        let before = self.pending.len() / BLOCK;
        self.pending.extend_from_slice(data);
        self.pending.resize(self.pending.len().next_multiple_of(BLOCK), 0);
        let count = self.pending.len() / BLOCK - before;
        self.files.end += count as u64;
        if self.pending.len() >= BUFFER {
            self.flush()?;
        }
        Ok(count as u16)
    }

    fn flush(&mut self) -> Result<()> {
        let offset = self.files.end * BLOCK as u64 - self.pending.len() as u64;
        self.image.write_all_at(&self.pending, offset).map_err(|error| Error::io("cannot write the image", &error))?;
        self.pending.clear();
        Ok(())
    }

    fn set_tail_aside(&mut self, kept: &mut Kept, data: &[u8]) -> Result<()> {
        kept.tail_offset = self.tail_written + self.tail_pending.len() as u64;
        kept.tail = data.len() as u16;
        self.tail_pending.extend_from_slice(data);
        if self.tail_pending.len() >= BUFFER { self.flush_tails() } else { Ok(()) }
    }

    fn flush_tails(&mut self) -> Result<()> {
        self.files
            .tails
            .write_all_at(&self.tail_pending, self.tail_written)
            .map_err(|error| Error::io("cannot write the spool file", &error))?;
        self.tail_written += self.tail_pending.len() as u64;
        self.tail_pending.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<CompressedFiles> {
        self.flush()?;
        self.flush_tails()?;
        Ok(self.files)
    }
}

/// A small file that stands behind its inode anyway is compressed only when that saves an eighth of it.
fn worthwhile(kept: &Kept, plain: &[u8], compressed: &[u8], flat_room: usize) -> bool {
    let behind_anyway = kept.flat && plain.len() <= flat_room;
    !behind_anyway || compressed.len() + table_size(0, plain.len() as u64) < plain.len() / 8 * 7
}

fn too_large() -> Error {
    Error::new(Code::OutputUnsupported, "an erofs image cannot be larger than 16 TiB")
}
