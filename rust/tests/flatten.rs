//! All layers of an image together: verification, which failure is told, and that nobody is left waiting.

use std::io::Write;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use ocifast_core::contents::{Content, Covers, LayerStore, Store};
use ocifast_core::digest::Digest;
use ocifast_core::entry::Metadata;
use ocifast_core::error::{Code, Error};
use ocifast_core::flatten::Flattener;
use ocifast_core::layer::LayerInput;
use ocifast_core::limits::Limits;
use ocifast_core::output::dump;
use ocifast_core::spool::SpoolStore;
use ocifast_core::tar::{Member, MemberKind, Writer};

/// Files by name and content as an archive.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let metadata = Metadata { mode: 0o644, ..Metadata::default() };
    for (path, content) in files {
        let kind = MemberKind::File { size: content.len() as u64 };
        writer.append(&Member { path: path.as_bytes(), metadata: &metadata, kind }).expect("appended");
        writer.write_data(content).expect("written");
    }
    writer.finish().expect("finished")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

/// Bytes that do not compress, so that a blob is longer than all queues together.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

struct Layer {
    blob: Vec<u8>,
    descriptor: LayerInput,
}

fn layer(archive: &[u8]) -> Layer {
    let blob = gzip(archive);
    let descriptor = LayerInput {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        diff_id: Digest::of(archive),
        added: false,
        erofs: None,
    };
    Layer { blob, descriptor }
}

struct Run {
    flattener: Arc<Flattener>,
    store: Arc<SpoolStore>,
    _folder: tempfile::TempDir,
}

fn start(layers: &[Layer], decoders: usize) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(SpoolStore::new(folder.path(), layers.len()));
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let flattener = Flattener::new(descriptors, Arc::new(Arc::clone(&store)), Limits::default(), decoders);
    Run { flattener: Arc::new(flattener.expect("started")), store, _folder: folder }
}

/// Feeds every layer from a thread of its own in pieces of `piece` bytes, then finishes. Fails instead of hanging.
fn run(layers: &[Layer], decoders: usize, piece: usize) -> Result<String, Error> {
    let run = start(layers, decoders);
    let (done, finished) = channel();
    let blobs: Vec<Vec<u8>> = layers.iter().map(|layer| layer.blob.clone()).collect();
    std::thread::spawn(move || {
        std::thread::scope(|scope| {
            for (index, blob) in blobs.iter().enumerate() {
                let flattener = &run.flattener;
                scope.spawn(move || {
                    let fed = blob.chunks(piece).try_for_each(|chunk| flattener.write(index, chunk));
                    // What stopped it is what `finish` tells.
                    let _ = fed.and_then(|()| flattener.close_layer(index));
                });
            }
        });
        let text = run.flattener.finish().and_then(|(tree, _)| {
            let mut text = String::new();
            dump(&tree, &*run.store, |line| {
                text.push_str(line);
                Ok(())
            })?;
            Ok(text)
        });
        // The receiver waits below.
        let _ = done.send(text);
    });
    finished.recv_timeout(Duration::from_secs(120)).expect("nobody is left waiting")
}

fn code(layers: &[Layer]) -> (Code, Option<String>) {
    let error = run(layers, 2, 64 << 10).expect_err("refused");
    (error.code, error.context.layer)
}

fn three() -> Vec<Layer> {
    let big = noise(3 << 20);
    vec![
        layer(&archive(&[("a", b"lower"), ("big", &big)])),
        layer(&archive(&[("a", b"upper"), ("b", &big)])),
        layer(&archive(&[(".wh.big", b""), ("c", b"top")])),
    ]
}

#[test]
fn layers_come_together_whatever_the_pieces_and_the_decoders() {
    let layers = three();
    let expected = run(&layers, 1, 1 << 20).expect("flattened");
    assert_eq!(expected.lines().count(), 4);
    for (decoders, piece) in [(1, 997), (2, 4096), (8, 64 << 10), (3, usize::MAX)] {
        assert_eq!(run(&layers, decoders, piece).expect("flattened"), expected, "{decoders} {piece}");
    }
}

#[test]
fn a_higher_layer_does_not_wait_for_one_that_has_nothing_yet() {
    // More than all queues hold, one layer after the other, the highest first.
    let big = noise(8 << 20);
    let layers = ["a", "b", "c"].map(|name| layer(&archive(&[(name, &big)])));
    let (said, heard) = channel();
    std::thread::spawn(move || {
        let run = start(&layers, 1);
        for (index, layer) in layers.iter().enumerate().rev() {
            for piece in layer.blob.chunks(64 << 10) {
                run.flattener.write(index, piece).expect("taken");
            }
            run.flattener.close_layer(index).expect("complete");
        }
        said.send(run.flattener.finish().is_ok()).expect("heard");
    });
    assert_eq!(heard.recv_timeout(Duration::from_secs(120)), Ok(true));
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    assert_eq!(run(&[], 1, 1).expect("flattened"), "/ directory 0755 0 0 0.000000000 - - - -\n");
}

#[test]
fn a_flipped_byte_is_a_wrong_digest_wherever_it_stands() {
    for at in [0, 5, 1000, 2 << 20] {
        let mut layers = three();
        layers[1].blob[at] ^= 1;
        let digest = layers[1].descriptor.digest.to_string();
        assert_eq!(code(&layers), (Code::DigestMismatch, Some(digest)), "byte {at}");
    }
}

#[test]
fn a_blob_that_is_too_short_or_too_long() {
    let mut layers = three();
    layers[0].blob.pop();
    assert_eq!(code(&layers).0, Code::SizeMismatch);
    let mut layers = three();
    layers[0].blob.push(0);
    assert_eq!(code(&layers).0, Code::SizeMismatch);
}

#[test]
fn a_layer_that_is_not_its_diff_id() {
    let mut layers = three();
    layers[2].descriptor.diff_id = Digest::of(b"something else");
    let digest = layers[2].descriptor.digest.to_string();
    assert_eq!(code(&layers), (Code::DiffIdMismatch, Some(digest)));
}

#[test]
fn bytes_after_the_archive_count_for_the_diff_id() {
    let mut bytes = archive(&[("a", b"a")]);
    let honest = Digest::of(&bytes);
    bytes.extend(vec![0; 100 << 10]);
    assert!(run(&[layer(&bytes)], 1, 100).is_ok());
    let mut short = layer(&bytes);
    short.descriptor.diff_id = honest;
    assert_eq!(code(&[short]).0, Code::DiffIdMismatch);
}

#[test]
fn a_stream_that_breaks_off_is_told_as_such_when_the_blob_is_the_right_one() {
    let whole = gzip(&archive(&[("a", &noise(1 << 20))]));
    let blob = whole[..whole.len() / 2].to_vec();
    let descriptor = LayerInput {
        digest: Digest::of(&blob),
        size: blob.len() as u64,
        diff_id: Digest::of(b""),
        added: false,
        erofs: None,
    };
    assert_eq!(code(&[Layer { blob, descriptor }]).0, Code::CompressionInvalid);
}

#[test]
fn the_first_layer_that_fails_is_named_and_the_others_stop() {
    for broken in 0..3 {
        let mut layers = three();
        layers[broken] = layer(&archive(&[("../out", b"")]));
        let digest = layers[broken].descriptor.digest.to_string();
        let error = run(&layers, 2, 4096).expect_err("refused");
        assert_eq!((error.code, error.context.layer), (Code::EntryRefused, Some(digest)));
        assert_eq!(error.context.path.as_deref(), Some(&b"../out"[..]));
    }
}

#[test]
fn a_layer_that_never_comes_is_no_tree() {
    let layers = three();
    let run = start(&layers, 2);
    run.flattener.write(0, &layers[0].blob).expect("taken");
    run.flattener.close_layer(0).expect("closed");
    assert_eq!(run.flattener.finish().expect_err("incomplete").code, Code::Cancelled);
}

/// A store so slow that everything before it has to wait.
struct Slow;

impl Store for Slow {
    fn layer(&self, _: u32) -> Result<Box<dyn LayerStore>, Error> {
        Ok(Box::new(Slow))
    }
}

impl LayerStore for Slow {
    fn begin(&mut self, _: &Metadata, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn data(&mut self, _: &[u8]) -> Result<(), Error> {
        std::thread::sleep(Duration::from_millis(100));
        Ok(())
    }
    fn hole(&mut self, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn end(&mut self) -> Result<Content, Error> {
        Ok(Content { layer: 0, position: 0, size: 0, extents: None })
    }
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[test]
fn abort_frees_a_writer_that_waits() {
    let layers = [layer(&archive(&[("big", &noise(32 << 20))]))];
    let descriptors = vec![layers[0].descriptor.clone()];
    let flattener = Flattener::new(descriptors, Arc::new(Slow), Limits::default(), 1).expect("started");
    let (told, hears) = mpsc::channel();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            layers[0].blob.chunks(256 << 10).try_for_each(|chunk| {
                // Nobody listens after the writer has stopped for the first time.
                let _ = told.send(());
                flattener.write(0, chunk)
            })
        });
        while hears.recv_timeout(Duration::from_millis(50)).is_ok() {}
        assert!(!writer.is_finished(), "the writer waits");
        flattener.abort();
        assert_eq!(writer.join().expect("no panic").expect_err("called off").code, Code::Cancelled);
    });
    assert_eq!(flattener.finish().expect_err("called off").code, Code::Cancelled);
}

#[test]
fn entries_are_counted_before_they_wait() {
    let many: Vec<String> = (0..3000).map(|index| format!("f{index}")).collect();
    let files: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let layers = [layer(&archive(&[("a", b"")])), layer(&archive(&files))];
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Arc::new(SpoolStore::new(folder.path(), 2)));
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let limits = Limits { entries: 1000, ..Limits::default() };
    let flattener = Flattener::new(descriptors, store, limits, 2).expect("started");
    flattener.write(1, &layers[1].blob).expect("taken");
    // Whether this end still hears of it depends on how far the decoder is.
    let _ = flattener.close_layer(1);
    // Nothing of the lower layer has come, and nothing is wanted once the other one has failed.
    let began = std::time::Instant::now();
    while flattener.write(0, b"").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "the entries are counted");
        std::thread::sleep(Duration::from_millis(1));
    }
    let error = flattener.finish().expect_err("limited");
    assert_eq!(error.code, Code::LimitExceeded);
}

#[test]
fn a_layer_that_is_begun_and_not_closed_breaks_off() {
    let layers = three();
    let run = start(&layers, 2);
    run.flattener.write(0, &layers[0].blob[..10]).expect("taken");
    assert_eq!(run.flattener.finish().expect_err("incomplete").code, Code::Cancelled);
}

/// A spool that keeps what it is told of upper layers.
struct Watching {
    spool: Arc<SpoolStore>,
    covers: Arc<OnceLock<Arc<Covers>>>,
}

impl Store for Watching {
    fn layer(&self, index: u32) -> ocifast_core::error::Result<Box<dyn LayerStore>> {
        self.spool.layer(index)
    }

    fn watch(&self, covers: &Arc<Covers>) -> bool {
        self.covers.set(Arc::clone(covers)).is_ok()
    }
}

#[test]
fn a_store_that_watches_is_told_what_upper_layers_hide() {
    let layers = [
        layer(&archive(&[("replaced", b"1"), ("hidden", b"2"), ("kept", b"3")])),
        layer(&archive(&[("replaced", b"4"), (".wh.hidden", b"")])),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Arc::new(SpoolStore::new(folder.path(), layers.len()));
    let covers = Arc::new(OnceLock::new());
    let store = Watching { spool, covers: Arc::clone(&covers) };
    let descriptors = layers.iter().map(|layer| layer.descriptor.clone()).collect();
    let flattener = Flattener::new(descriptors, Arc::new(store), Limits::default(), 1).expect("started");
    let covers = Arc::clone(covers.get().expect("told"));
    let seen = |layer| ["replaced", "hidden", "kept"].map(|name| covers(layer, name.as_bytes()));
    assert_eq!(seen(0), [false; 3]);
    for index in [1, 0] {
        flattener.write(index, &layers[index].blob).expect("taken");
        flattener.close_layer(index).expect("closed");
    }
    flattener.finish().expect("a tree");
    assert_eq!((seen(0), seen(1)), ([true, true, false], [false; 3]));
}
