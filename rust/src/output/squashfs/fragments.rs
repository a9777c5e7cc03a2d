//! Fragments: blocks of the ends of files, and of small files.
//!
//! They are packed in the order of the tree, where neighbours are alike and are read together.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::{Fields, PLAIN};
use super::placed::Placed;
use super::pool::{PackedBlocks, Queue};
use super::store::SquashfsStore;
use crate::contents::Content;
use crate::error::{Error, Result};
use crate::tree::{InodeId, InodeKind, Tree};

/// The fragment blocks of an image.
pub struct Fragments<'a> {
    image: &'a File,
    /// Where the next one goes.
    end: u64,
    /// Entries of the table.
    table: Vec<u8>,
    queue: Queue,
}

impl<'a> Fragments<'a> {
    /// Writes them behind the blocks of contents, and says in `placed` where each end is. `progress` is told the bytes
    /// of files that are done.
    ///
    /// # Errors
    /// `io_error`; what `progress` returns.
    pub fn write(
        tree: &Tree,
        store: &SquashfsStore,
        placed: &mut Placed,
        image: &'a File,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let block = store.compression().block;
        let mut fragments = Fragments { image, end: placed.end(), table: Vec::new(), queue: store.pool().queue() };
        let tails = placed.take_tails();
        let left: u64 = contents(tree, tails.iter().copied()).map(|content| store.tail(content) as u64).sum();
        let mut done = contents(tree, tree.walk().filter(|step| step.first).map(|step| step.inode))
            .map(|content| content.size)
            .sum::<u64>()
            - left;
        progress(done)?;
        let (mut open, mut sent) = (Vec::with_capacity(block), 0);
        for content in contents(tree, tails.iter().copied()) {
            let length = store.tail(content);
            if open.len() + length > block {
                progress(done)?;
                let next = fragments.queue.buffer();
                fragments.send(std::mem::replace(&mut open, next))?;
                sent += 1;
            }
            let from = open.len();
            open.resize(from + length, 0);
            store.read_tail(content, 0, &mut open[from..])?;
            placed.set_end(content, sent, from as u32);
            done += length as u64;
        }
        if !open.is_empty() {
            fragments.send(open)?;
        }
        while let Some(blocks) = fragments.queue.next()? {
            fragments.take(blocks)?;
        }
        progress(done)?;
        Ok(fragments)
    }

    fn send(&mut self, bytes: Vec<u8>) -> Result<()> {
        match self.queue.send(bytes)? {
            Some(blocks) => self.take(blocks),
            None => Ok(()),
        }
    }

    fn take(&mut self, blocks: PackedBlocks) -> Result<()> {
        self.image
            .write_all_at(&blocks.stored, self.end)
            .map_err(|error| Error::io("cannot write the image", &error))?;
        for &(length, _) in &blocks.lengths {
            self.table.extend(Fields::default().u64(self.end).u32(length).u32(0).0);
            self.end += u64::from(length & !PLAIN);
        }
        self.queue.recycle(blocks);
        Ok(())
    }

    /// Where they end.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The entries of their table, one after the other.
    pub fn table(&self) -> &[u8] {
        &self.table
    }
}

/// The contents of those inodes that are files.
fn contents(tree: &Tree, inodes: impl Iterator<Item = InodeId>) -> impl Iterator<Item = &Content> {
    inodes.filter_map(|id| match &tree.inode(id).kind {
        InodeKind::File(content) => Some(content),
        _ => None,
    })
}
