//! The files of one layer on their way into blocks.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::Crc;

use super::pool::{PackedBlocks, Queue};
use super::store::{BlockRun, FileRecord, FinishedLayer, SquashfsStore};
use crate::contents::{Content, Covers, LayerStore, Store};
use crate::entry::Metadata;
use crate::error::{Code, Error, Result};
use crate::output::tails::Tails;
use crate::spool::{Spool, SpoolPart};

impl Store for Arc<SquashfsStore> {
    fn watch(&self, covers: &Arc<Covers>) -> bool {
        self.set_covers(covers);
        true
    }

    fn layer(&self, index: u32) -> Result<Box<dyn LayerStore>> {
        let mut queue = self.pool().queue();
        Ok(Box::new(SquashfsLayer {
            store: Arc::clone(self),
            index,
            block: self.compression().block,
            piece: queue.buffer(),
            queue,
            data: None,
            tails: Tails::default(),
            part: FinishedLayer::default(),
            checksums: Vec::new(),
            first: 0,
            size: 0,
            waits: false,
            waiting: None,
        }))
    }
}

/// Takes the contents of one layer.
struct SquashfsLayer {
    store: Arc<SquashfsStore>,
    index: u32,
    block: usize,
    queue: Queue,
    /// The last bytes of the current file.
    piece: Vec<u8>,
    /// From the first block that is written to the end of the layer.
    data: Option<Spool>,
    tails: Tails,
    part: FinishedLayer,
    /// Of the runs that are complete.
    checksums: Vec<u32>,
    /// First run of the current file.
    first: usize,
    /// Bytes of the current file.
    size: u64,
    /// Whether the current file is left for later, and what takes such files, from the first one on.
    waits: bool,
    waiting: Option<Box<dyn LayerStore>>,
}

impl SquashfsLayer {
    /// Adds bytes of the file, which `fill` puts into memory.
    fn add(&mut self, mut length: u64, mut fill: impl FnMut(&mut Vec<u8>, usize) -> Result<()>) -> Result<()> {
        self.size += length;
        while length > 0 {
            let now = (self.queue.piece() - self.piece.len()).min(length.min(usize::MAX as u64) as usize);
            fill(&mut self.piece, now)?;
            length -= now as u64;
            if self.piece.len() == self.queue.piece() {
                self.send_all()?;
            }
        }
        Ok(())
    }

    fn add_zeros(&mut self, length: u64) -> Result<()> {
        self.add(length, |piece, length| {
            piece.resize(piece.len() + length, 0);
            Ok(())
        })
    }

    /// Hands what was collected over.
    fn send_all(&mut self) -> Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let next = self.queue.buffer();
        let piece = std::mem::replace(&mut self.piece, next);
        self.send(piece)
    }

    /// Hands bytes over as blocks, of which the last may be one that is not full.
    fn send(&mut self, piece: Vec<u8>) -> Result<()> {
        if !piece.chunks(self.block).any(is_zero) {
            return self.send_data(piece);
        }
        let mut data = self.queue.buffer();
        for block in piece.chunks(self.block) {
            if !is_zero(block) {
                data.extend_from_slice(block);
                continue;
            }
            let next = self.queue.buffer();
            self.send_data(std::mem::replace(&mut data, next))?;
            self.add_holes(1);
        }
        self.send_data(data)
    }

    fn send_data(&mut self, piece: Vec<u8>) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.part.runs.extend(piece.chunks(self.block).map(|_| BlockRun::AWAITED));
        match self.queue.send(piece)? {
            Some(blocks) => self.settle(blocks),
            None => Ok(()),
        }
    }

    /// Blocks of zeros, together with those before them.
    fn add_holes(&mut self, mut count: u64) {
        if let Some(last) = self.part.runs[self.first..].last_mut()
            && let Some(zeros) = last.zeros()
        {
            let all = BlockRun::holes(zeros + count);
            count -= all.count() - zeros;
            *last = all;
        }
        while count > 0 {
            let run = BlockRun::holes(count);
            self.part.runs.push(run);
            count -= run.count();
        }
    }

    /// Compressed blocks have come back: the first that are awaited.
    fn settle(&mut self, blocks: PackedBlocks) -> Result<()> {
        let data = match &mut self.data {
            Some(data) => data,
            None => self.data.insert(self.store.spool()?),
        };
        if self.part.data.is_none() {
            self.part.data = Some(data.part());
        }
        data.write(&blocks.stored)?;
        for &(length, checksum) in &blocks.lengths {
            while self.part.runs[self.checksums.len()].zeros().is_some() {
                self.checksums.push(0);
            }
            self.part.runs[self.checksums.len()] = BlockRun::data(length);
            self.checksums.push(checksum);
        }
        self.queue.recycle(blocks);
        Ok(())
    }

    /// What takes the current file, if it is left for later.
    fn waiting(&mut self) -> Option<&mut Box<dyn LayerStore>> {
        self.waiting.as_mut().filter(|_| self.waits)
    }
}

impl LayerStore for SquashfsLayer {
    fn called(&mut self, path: &[u8]) {
        self.waits = self.store.covers(self.index, path);
    }

    fn begin(&mut self, metadata: &Metadata, size: u64) -> Result<()> {
        if self.waits {
            let waiting = match &mut self.waiting {
                Some(waiting) => waiting,
                None => self.waiting.insert(self.store.waiting_part(self.index)?),
            };
            return waiting.begin(metadata, size);
        }
        (self.first, self.size) = (self.part.runs.len(), 0);
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(waiting) = self.waiting() {
            return waiting.data(bytes);
        }
        let mut rest = bytes;
        self.add(bytes.len() as u64, |piece, length| {
            let (now, later) = rest.split_at(length);
            piece.extend_from_slice(now);
            rest = later;
            Ok(())
        })
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        if let Some(waiting) = self.waiting() {
            return waiting.hole(length);
        }
        let block = self.block as u64;
        let open = self.size % block;
        let before = if open > 0 { (block - open).min(length) } else { 0 };
        self.add_zeros(before)?;
        let whole = (length - before) / block;
        if whole > 0 {
            self.send_all()?;
            self.add_holes(whole);
            self.size += whole * block;
        }
        self.add_zeros(length - before - whole * block)
    }

    fn take(&mut self, source: &File, mut offset: u64, length: u64) -> Result<()> {
        if let Some(waiting) = self.waiting() {
            return waiting.take(source, offset, length);
        }
        self.add(length, |piece, length| {
            let from = piece.len();
            piece.resize(from + length, 0);
            let read = source.read_exact_at(&mut piece[from..], offset);
            offset += length as u64;
            read.map_err(|error| Error::io("cannot read stored data", &error))
        })
    }

    fn end(&mut self) -> Result<Content> {
        if let Some(waiting) = self.waiting() {
            let content = waiting.end()?;
            self.waits = false;
            return Ok(SquashfsStore::waits(content));
        }
        let mut checksum = Crc::new();
        let open = if self.store.compression().packs_tails { self.piece.len() % self.block } else { 0 };
        let mut tail = 0;
        let whole = self.piece.len() - open;
        if whole > 0 {
            let mut rest = self.queue.buffer();
            rest.extend_from_slice(&self.piece[whole..]);
            let mut piece = std::mem::replace(&mut self.piece, rest);
            piece.truncate(whole);
            self.send(piece)?;
        }
        if open > 0 {
            checksum.update(&self.piece);
            // They wait as they are.
            tail = self.tails.add(&self.piece, 1, || begin_tails(&self.store, &mut self.part.tails))?;
            self.piece.clear();
        }
        let narrow = |number: usize| {
            u32::try_from(number).map_err(|_| Error::new(Code::OutputUnsupported, "the layer has too many blocks"))
        };
        let (first, runs) = (narrow(self.first)?, narrow(self.part.runs.len() - self.first)?);
        let position = self.part.records.len() as u64;
        self.part.records.push(FileRecord { start: 0, tail, first, runs, checksum: checksum.sum() });
        Ok(Content { layer: self.index, position, size: self.size, extents: None })
    }

    fn finish(&mut self) -> Result<()> {
        while let Some(blocks) = self.queue.next()? {
            self.settle(blocks)?;
        }
        let tails = self.tails.finish(|| begin_tails(&self.store, &mut self.part.tails))?;
        if let Some(mut waiting) = self.waiting.take() {
            waiting.finish()?;
        }
        for spool in [self.data.take(), tails].into_iter().flatten() {
            self.store.give_back(spool);
        }
        self.checksums.resize(self.part.runs.len(), 0);
        let mut start = 0;
        for record in &mut self.part.records {
            let range = record.first as usize..(record.first + record.runs) as usize;
            record.start = start;
            let mut checksum = Crc::new();
            checksum.update(&record.checksum.to_le_bytes());
            for (run, sum) in self.part.runs[range.clone()].iter().zip(&self.checksums[range]) {
                start += run.stored();
                checksum.update(&sum.to_le_bytes());
            }
            record.checksum = checksum.sum();
        }
        (self.piece, self.checksums) = (Vec::new(), Vec::new());
        let mut part = std::mem::take(&mut self.part);
        part.records.shrink_to_fit();
        part.runs.shrink_to_fit();
        self.store.set_part(self.index, part);
        Ok(())
    }
}

/// Takes a spool, and notes where a layer's tails begin in it.
fn begin_tails(store: &SquashfsStore, part: &mut Option<SpoolPart>) -> Result<Spool> {
    let spool = store.spool()?;
    *part = Some(spool.part());
    Ok(spool)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}
