//! The core that a layer decompresses with is given back exactly as often as it was got, also when the work is called
//! off at any moment.

use std::sync::Mutex;

use ocifast_core::batch::StoredEntry;
use ocifast_core::contents::{Content, LayerStore};
use ocifast_core::digest::{Algorithm, Digest, Hasher};
use ocifast_core::entry::Metadata;
use ocifast_core::error::{Code, Error, Result};
use ocifast_core::layer::{Cores, LayerInput, Progress, blob_channel, ingest};
use ocifast_core::limits::Limits;

/// Cores for one layer, of which so many more are given before the work is called off.
struct Counted(Mutex<(u32, i64)>);

impl Counted {
    fn new(acquires: u32) -> Self {
        Counted(Mutex::new((acquires, 0)))
    }

    fn held(&self) -> i64 {
        self.0.lock().expect("no panic").1
    }
}

impl Cores for Counted {
    fn acquire(&self) -> Result<()> {
        let (left, held) = &mut *self.0.lock().expect("no panic");
        *left = left.checked_sub(1).ok_or_else(|| Error::new(Code::Cancelled, "called off"))?;
        *held += 1;
        assert_eq!(*held, 1, "a layer has one core at most");
        Ok(())
    }

    fn release(&self) {
        let (_, held) = &mut *self.0.lock().expect("no panic");
        *held -= 1;
        assert_eq!(*held, 0, "a core is given back that nobody had");
    }
}

/// The same, for a layer that nobody wants a core of.
struct Kept(Counted);

impl Cores for Kept {
    fn acquire(&self) -> Result<()> {
        self.0.acquire()
    }

    fn release(&self) {
        self.0.release();
    }

    fn must_yield(&self) -> bool {
        false
    }
}

struct Nothing;

impl LayerStore for Nothing {
    fn begin(&mut self, _: &Metadata, _: u64) -> Result<()> {
        Ok(())
    }
    fn data(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
    fn hole(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
    fn end(&mut self) -> Result<Content> {
        Ok(Content { layer: 0, position: 0, size: 0, extents: None })
    }
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(bytes);
    hasher.finish()
}

/// Decodes a layer of zeros whose blob comes in pieces; returns how it ended.
fn decode(turn: &dyn Cores, complete: bool) -> Result<()> {
    let blob = vec![0; 1 << 20];
    let input = LayerInput {
        digest: digest(&blob),
        size: blob.len() as u64,
        diff_id: digest(&blob),
        added: false,
        erofs: None,
    };
    let (mut sender, receiver) = blob_channel(&input);
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let progress = &progress;
        let feeding = scope.spawn(move || {
            for piece in blob.chunks(100_000) {
                sender.write(piece, progress)?;
                std::thread::yield_now();
            }
            if complete { sender.close() } else { Ok(()) }
        });
        let entries = &mut |_: Vec<StoredEntry>| Ok(());
        let ended = ingest(receiver, &input, &Limits::default(), turn, &mut Nothing, progress, entries);
        feeding.join().expect("no panic")?;
        ended.map(|_| ())
    })
}

#[test]
fn a_core_is_given_back_once_whenever_the_work_is_called_off() {
    for acquires in 0..12 {
        for complete in [true, false] {
            let turn = Counted::new(acquires);
            let ended = decode(&turn, complete).map_err(|error| error.code);
            assert!(matches!(ended, Ok(()) | Err(Code::Cancelled)), "{acquires}: {ended:?}");
            assert_eq!(turn.held(), 0, "{acquires}");
        }
    }
    let turn = Counted::new(u32::MAX);
    assert!(decode(&turn, true).is_ok());
    assert_eq!(turn.held(), 0);
}

#[test]
fn a_core_that_nobody_else_wants_is_kept_and_given_back_at_the_end() {
    for acquires in 0..3 {
        let turn = Kept(Counted::new(acquires));
        let ended = decode(&turn, true).map_err(|error| error.code);
        assert!(matches!(ended, Ok(()) | Err(Code::Cancelled)), "{acquires}: {ended:?}");
        assert_eq!(turn.0.held(), 0, "{acquires}");
    }
    let turn = Kept(Counted::new(u32::MAX));
    assert!(decode(&turn, true).is_ok());
    assert_eq!(turn.0.held(), 0);
}
