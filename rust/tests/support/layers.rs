//! Layers as lines, their archives, what is kept of them, and flattening with or without what was kept.
//!
//! A line is `PATH` of a directory (with its slash), `PATH SIZE`, `PATH -> TARGET`, `PATH = TARGET` (a hard link),
//! `PATH c MAJOR MINOR`, `PATH p`, or `PATH SIZE @ OFFSET LENGTH` (a sparse file); ` +NAME` at its end is an attribute.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use ocifast_core::contents::Store;
use ocifast_core::decoded::{Keep, KeptLayer, Table};
use ocifast_core::digest::{Algorithm, Digest, Hasher};
use ocifast_core::entry::{Metadata, Mtime};
use ocifast_core::error::Result;
use ocifast_core::flatten::Flattener;
use ocifast_core::layer::LayerInput;
use ocifast_core::limits::Limits;
use ocifast_core::output::erofs::{self, ErofsStore, complete_kept, seal};
use ocifast_core::output::{Source, Target, WriteRequest, dump};
use ocifast_core::spool::SpoolStore;
use ocifast_core::tar::{Member, MemberKind, Writer};
use ocifast_core::tree::Tree;
use proptest::prelude::*;
use tempfile::TempDir;

/// A layer's archive, not compressed.
#[derive(Clone, Debug)]
pub struct Archive(pub Vec<u8>);

/// Bytes that differ from file to file.
fn content(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (seed.wrapping_mul(31) + at / 7 + at) as u8 | 1).collect()
}

fn sparse_header(path: &str, stored: usize, extents: &[(u64, u64)], size: u64) -> Vec<u8> {
    let mut header = vec![0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    for (at, text) in [(100, "0000644"), (108, "0000000"), (116, "0000000")] {
        put(at, text);
    }
    put(124, &format!("{stored:011o}"));
    put(136, &format!("{:011o}", 7));
    put(148, "        ");
    put(156, "S");
    put(257, "ustar  ");
    for (index, (offset, length)) in extents.iter().enumerate() {
        put(386 + 24 * index, &format!("{offset:011o}"));
        put(398 + 24 * index, &format!("{length:011o}"));
    }
    put(483, &format!("{size:011o}"));
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn member(line: &str, serial: usize) -> Vec<u8> {
    let (line, attribute) = line.split_once(" +").map_or((line, None), |(line, name)| (line, Some(name)));
    let mut metadata =
        Metadata { mode: 0o644, mtime: Mtime { seconds: serial as i64, nanoseconds: 5 }, ..Metadata::default() };
    if let Some(name) = attribute {
        metadata.xattrs = Some(Arc::new(BTreeMap::from([(name.as_bytes().to_vec(), b"value".to_vec())])));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let path = words[0].as_bytes();
    let mut data = Vec::new();
    let kind = match (words.get(1).copied(), words.len()) {
        (None, _) => MemberKind::Directory,
        (Some("->"), _) => MemberKind::Symlink(words[2].as_bytes()),
        (Some("="), _) => MemberKind::HardLink(words[2].as_bytes()),
        (Some("c"), _) => MemberKind::CharDevice { major: number(2) as u32, minor: number(3) as u32 },
        (Some("p"), _) => MemberKind::Fifo,
        (_, 2) => {
            data = content(serial, number(1) as usize);
            MemberKind::File { size: number(1) }
        }
        _ => {
            let stored = content(serial, number(4) as usize);
            let mut bytes = sparse_header(words[0], stored.len(), &[(number(3), number(4))], number(1));
            bytes.extend_from_slice(&stored);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            return bytes;
        }
    };
    let mut writer = Writer::new(Vec::new());
    writer.append(&Member { path, metadata: &metadata, kind }).expect("appended");
    writer.write_data(&data).expect("written");
    let mut bytes = writer.finish().expect("finished");
    bytes.truncate(bytes.len() - 1024);
    bytes
}

impl Archive {
    pub fn of(lines: &[&str]) -> Self {
        let mut bytes: Vec<u8> = lines.iter().enumerate().flat_map(|(at, line)| member(line, at + 1)).collect();
        bytes.resize(bytes.len() + 1024, 0);
        Archive(bytes)
    }

    pub fn input(&self) -> LayerInput {
        let digest = Digest::of(&self.0);
        LayerInput { digest: digest.clone(), size: self.0.len() as u64, diff_id: digest, added: false, erofs: None }
    }
}

fn line() -> impl Strategy<Value = String> {
    let path = || prop::collection::vec(prop::sample::select(&["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"));
    let target = prop::sample::select(&["a", "b/c", "/", "../c", "."]);
    let size = prop::sample::select(&[0u32, 1, 100, 3900, 4096, 5000, 20_000, 300_000]);
    let place = (0u32..3, prop::sample::select(&[0u32, 1, 4095, 4096, 9000]));
    let entry = prop_oneof![
        5 => path().prop_map(|path| path + "/"),
        5 => (path(), size.clone()).prop_map(|(path, size)| format!("{path} {size}")),
        2 => (path(), target).prop_map(|(path, target)| format!("{path} -> {target}")),
        2 => (path(), path()).prop_map(|(path, target)| format!("{path} = {target}")),
        1 => (path(), size, place).prop_map(|(path, size, (tail, offset))| {
            format!("{path} {} @ {offset} {}", offset + size + tail * 3000 + 1, size)
        }),
        1 => (path(), 0u32..2).prop_map(|(path, minor)| format!("{path} c 0 {minor}")),
        3 => (path(), prop::sample::select(&["a", "b", "c"])).prop_map(|(path, name)| format!("{path}/.wh.{name} 0")),
        1 => path().prop_map(|path| format!("{path}/.wh..wh..opq 0")),
        1 => Just("./".to_owned()),
    ];
    let attribute = prop::sample::select(&["", "", "", " +user.a", " +user.b", " +trusted.overlay.opaque"]);
    (entry, attribute).prop_map(
        |(line, attribute)| {
            if line.contains('@') || line.contains('=') { line } else { line + attribute }
        },
    )
}

/// Images of some layers, whatever becomes of them.
pub fn random() -> impl Strategy<Value = Vec<Archive>> {
    let layer = prop::collection::vec(line(), 0..8)
        .prop_map(|lines| Archive::of(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    prop::collection::vec(layer, 1..4)
}

/// What is kept of a layer.
pub struct Kept {
    folder: TempDir,
    pub digest: String,
}

fn created(folder: &TempDir, name: &str) -> File {
    File::options().read(true).write(true).create_new(true).open(folder.path().join(name)).expect("a file")
}

impl Kept {
    /// Nothing when the layer cannot be applied on its own.
    pub fn of(archive: &Archive) -> Option<Self> {
        Kept::of_kind(archive, true)
    }

    pub fn of_kind(archive: &Archive, always: bool) -> Option<Self> {
        let (folder, mut kept) = Kept::decoded(archive, always)?;
        let completed = complete_kept(&mut kept, &Limits::default()).ok()?;
        seal(&mut kept, completed.reason.as_ref(), b"a note").expect("sealed");
        Some(Kept { folder, digest: completed.digest })
    }

    /// The same without an image of its own, which merging needs not.
    pub fn for_merging(archive: &Archive) -> Option<Self> {
        let (folder, mut kept) = Kept::decoded(archive, true)?;
        // An image would have more blocks behind the data.
        kept.data.file.set_len(kept.data.end).expect("as long as its data");
        seal(&mut kept, None, b"a note").expect("sealed");
        Some(Kept { folder, digest: kept.diff_id.to_string() })
    }

    fn decoded(archive: &Archive, always: bool) -> Option<(TempDir, KeptLayer)> {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(SpoolStore::new(folder.path(), 1));
        let flattener = Flattener::new(vec![archive.input()], Arc::new(store), Limits::default(), 1);
        let flattener = flattener.expect("started");
        let keep = Keep { table: created(&folder, "entries"), data: created(&folder, "erofs"), always };
        flattener.keep(0, keep);
        flattener.write(0, &archive.0).and_then(|()| flattener.close_layer(0)).ok()?;
        // What only the merge refuses is verified all the same, and kept.
        let _ = flattener.finish();
        flattener.take_kept(0).map(|kept| (folder, kept))
    }

    pub fn table(&self) -> Table {
        let table = Table::open(File::open(self.folder.path().join("entries")).expect("opened")).expect("a table");
        assert_eq!(table.note(), b"a note");
        table
    }

    pub fn table_bytes(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("entries")).expect("read")
    }

    pub fn image_path(&self) -> PathBuf {
        self.folder.path().join("erofs")
    }

    pub fn reason(&self) -> Option<String> {
        self.table().reason().map(|(code, path)| format!("{code} {}", path.escape_ascii()))
    }

    /// The table with other entries, and a checksum that fits.
    pub fn forged(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = self.table_bytes();
        let body = u64::from_le_bytes(bytes[40..48].try_into().expect("eight bytes")) as usize;
        change(&mut bytes[96..96 + body]);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&bytes[..64]);
        hasher.update(&bytes[96..]);
        let digest = hasher.finish();
        let hex = digest.as_str().trim_start_matches("sha256:");
        for (index, byte) in bytes[64..96].iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).expect("hex");
        }
        bytes
    }
}

struct Run {
    flattener: Flattener,
    folder: TempDir,
}

/// Feeds the layers from one thread, those in `decoded` as what was kept of them.
fn feed(flattener: &Flattener, archives: &[Archive], decoded: &[Option<Kept>]) -> Result<()> {
    for (index, archive) in archives.iter().enumerate() {
        match decoded.get(index).and_then(Option::as_ref) {
            Some(kept) => {
                let data = File::open(kept.image_path()).expect("opened");
                flattener.adopt(index, &kept.table(), data)?;
            }
            None => {
                flattener.write(index, &archive.0)?;
                flattener.close_layer(index)?;
            }
        }
    }
    Ok(())
}

fn start(archives: &[Archive], limits: Limits, make: impl FnOnce(&TempDir) -> Arc<dyn Store>) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let inputs = archives.iter().map(Archive::input).collect();
    let flattener = Flattener::new(inputs, make(&folder), limits, 2).expect("started");
    Run { flattener, folder }
}

/// The canonical text of a run that keeps its layer in two files that there are, and whether it was kept.
pub fn onto(archive: &Archive, table: &str, data: &str) -> (String, bool) {
    let mut spool = None;
    let run = start(std::slice::from_ref(archive), Limits::default(), |folder| {
        let store = Arc::new(SpoolStore::new(folder.path(), 1));
        spool = Some(Arc::clone(&store));
        Arc::new(store)
    });
    let open = |path: &str| File::options().read(true).write(true).open(path).expect("opened");
    // What `/dev/null` takes is gone: a file stands for a disk that works.
    let open = |path: &str| if path == "/dev/null" { tempfile::tempfile().expect("a file") } else { open(path) };
    run.flattener.keep(0, Keep { table: open(table), data: open(data), always: true });
    feed(&run.flattener, std::slice::from_ref(archive), &[]).expect("fed");
    let (tree, notices) = run.flattener.finish().expect("finished");
    let mut text = format!("{notices:?}\n");
    dump(&tree, &*spool.expect("a store"), |line| {
        text.push_str(line);
        Ok(())
    })
    .expect("a dump");
    let kept = run.flattener.take_kept(0).and_then(|mut kept| complete_kept(&mut kept, &Limits::default()).ok());
    (text, kept.is_some())
}

/// The canonical text of the tree and what was dropped, or the failure.
pub fn dumped(archives: &[Archive], decoded: &[Option<Kept>]) -> String {
    let mut spool = None;
    let run = start(archives, Limits::default(), |folder| {
        let store = Arc::new(SpoolStore::new(folder.path(), archives.len()));
        spool = Some(Arc::clone(&store));
        Arc::new(store)
    });
    let fed = feed(&run.flattener, archives, decoded);
    let (tree, notices) = match run.flattener.finish() {
        Ok(done) => done,
        Err(error) => return error.to_string(),
    };
    fed.expect("fed");
    let mut text = format!("{notices:?}\n");
    dump(&tree, &*spool.expect("a store"), |line| {
        text.push_str(line);
        Ok(())
    })
    .expect("a dump");
    text
}

fn written(
    tree: &Tree,
    store: &ErofsStore,
    folder: &TempDir,
    whole_blocks: bool,
) -> std::result::Result<Vec<u8>, String> {
    let path = folder.path().join("published");
    let options = erofs::Options { compression: None, whole_blocks };
    let request = WriteRequest::new(Source::new(tree, store), Target::Path(&path), options);
    erofs::write(WriteRequest { uuid: [7; 16], ..request }).map_err(|error| error.to_string())?;
    Ok(std::fs::read(&path).expect("read"))
}

fn image(archives: &[Archive], decoded: &[Option<Kept>], inline: bool) -> std::result::Result<Vec<u8>, String> {
    let mut made = None;
    let run = start(archives, Limits::default(), |folder| {
        let store = ErofsStore::create(folder.path(), archives.len()).expect("a store");
        let store = Arc::new(if inline { store } else { store.of_whole_blocks() });
        made = Some(Arc::clone(&store));
        Arc::new(store)
    });
    let _ = feed(&run.flattener, archives, decoded);
    let (tree, _) = run.flattener.finish().map_err(|error| error.to_string())?;
    let store = made.expect("a store");
    written(&tree, &store, &run.folder, !inline)
}

/// The flat image, or the failure.
pub fn erofs(archives: &[Archive], decoded: &[Option<Kept>]) -> std::result::Result<Vec<u8>, String> {
    image(archives, decoded, true)
}

/// The flat image without tails behind inodes, or the failure.
pub fn whole_blocks(archives: &[Archive], decoded: &[Option<Kept>]) -> std::result::Result<Vec<u8>, String> {
    image(archives, decoded, false)
}

/// The flat image of a run that keeps its layers or not.
pub fn flatten(archives: &[Archive], keep: bool) -> std::result::Result<Vec<u8>, String> {
    let mut made = None;
    let run = start(archives, Limits::default(), |folder| {
        let store = Arc::new(ErofsStore::create(folder.path(), archives.len()).expect("a store"));
        made = Some(Arc::clone(&store));
        Arc::new(store)
    });
    for index in 0..archives.len() {
        if keep {
            let name = |kind: &str| format!("{kind}-{index}");
            let (table, data) = (created(&run.folder, &name("table")), created(&run.folder, &name("data")));
            run.flattener.keep(index, Keep { table, data, always: true });
        }
    }
    let _ = feed(&run.flattener, archives, &[]);
    let (tree, _) = run.flattener.finish().map_err(|error| error.to_string())?;
    let store = made.expect("a store");
    written(&tree, &store, &run.folder, false)
}

/// What becomes of a kept layer in the place of an archive, held to `limits`.
pub fn limited(archive: &Archive, kept: &Kept, limits: Limits) -> Result<()> {
    let count = 1;
    let run = start(std::slice::from_ref(archive), limits, |folder| {
        Arc::new(Arc::new(SpoolStore::new(folder.path(), count)))
    });
    let data = File::open(kept.image_path()).expect("opened");
    let adopted = run.flattener.adopt(0, &kept.table(), data);
    run.flattener.finish()?;
    adopted
}
