//! The stage that decompresses a layer's blob, with a core of its own and, where they are left over, those of others.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender};

use super::blob::{BUFFER, BlobMessage, BlobReceiver, Points};
use super::buffers::Buffers;
use super::cores::{Cores, Helpers, Permit};
use crate::decompress::{Ahead, Decompressor};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

pub(super) fn inflate(
    blob: BlobReceiver,
    limits: &Limits,
    cores: &dyn Cores,
    sender: &SyncSender<Vec<u8>>,
    recycled: &Receiver<Vec<u8>>,
) -> Result<Points> {
    let BlobReceiver { receiver, recycle, mut points } = blob;
    let (core, cancelled) = (Permit::new(cores), Cell::new(false));
    let polled = RefCell::new(None);
    let next = || {
        let fed = polled.take().map_or_else(|| receiver.try_recv(), Ok).or_else(|_| {
            core.park();
            let fed = receiver.recv();
            core.take().map_err(|_| RecvError).and(fed)
        });
        cancelled.set(fed.is_err());
        fed.ok().map(|fed| match fed {
            BlobMessage::Chunk(chunk) => chunk,
            BlobMessage::End => Vec::new(),
        })
    };
    let poll = || {
        let mut polled = polled.borrow_mut();
        if polled.is_none() {
            *polled = receiver.try_recv().ok();
        }
        polled.is_some()
    };
    let compressed = Buffers::new(recycle, next, poll);
    let Some(room) = cores.room() else {
        let mut decompressor = Decompressor::new(compressed, limits);
        points.recorder.take().into_iter().for_each(|recorder| decompressor.note_points(recorder));
        inflate_all(&mut decompressor, &core, &cancelled, None, sender, recycled)?;
        return Ok(Points { recorder: decompressor.take_points(), ..Points::default() });
    };
    let ahead = Arc::new(Ahead::new(room));
    std::thread::scope(|scope| {
        let helpers = Helpers::new(scope, cores, &ahead);
        let mut decompressor = Decompressor::with_ahead(compressed, |blob| blob.is_ready(), limits, Arc::clone(&ahead));
        points.recorder.take().into_iter().for_each(|recorder| decompressor.note_points(recorder));
        points.known.take().into_iter().for_each(|known| decompressor.use_points(known));
        inflate_all(&mut decompressor, &core, &cancelled, Some(&helpers), sender, recycled)?;
        Ok(Points { known: None, recorder: decompressor.take_points(), wrong: ahead.is_wrong() })
    })
}

fn inflate_all<R: Read>(
    decompressor: &mut Decompressor<R>,
    core: &Permit<'_>,
    cancelled: &Cell<bool>,
    helpers: Option<&Helpers<'_, '_>>,
    sender: &SyncSender<Vec<u8>>,
    recycled: &Receiver<Vec<u8>>,
) -> Result<()> {
    loop {
        let mut buffer: Vec<u8> = recycled.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        core.take()?;
        if let Some(helpers) = helpers {
            helpers.tell();
        }
        let read = decompressor.read_chunk(&mut buffer);
        if let Some(helpers) = helpers {
            helpers.engage();
        }
        let length = *read.as_ref().unwrap_or(&0);
        buffer.truncate(length);
        // An empty buffer says that the stream ended well; a dropped sender that it did not. The turn is kept while the
        // next stage is busy: that stage is what holds this layer up, and needs the core.
        let sent = read.is_err() || sender.send(buffer).is_ok();
        if length == 0 {
            core.park()
        } else {
            core.rest()
        }
        match read {
            Err(_) if cancelled.get() => return Err(Error::new(Code::Cancelled, "the layer is not wanted any more")),
            Err(error) => return Err(error),
            Ok(_) if !sent => return Err(Error::new(Code::Cancelled, "the layer is not wanted any more")),
            Ok(_) => {}
        }
        if length == 0 {
            return Ok(());
        }
    }
}
