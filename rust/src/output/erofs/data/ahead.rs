//! Data of a layer that were decoded before their place in the image was known, and wait in a file of their own.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::block_map::{BlockRange, Move};
use crate::error::{Error, Result};
use crate::output::erofs::format::numbers::BLOCK;
use crate::output::file_range::copy_fresh;

/// The file of a layer. It has a name, so that a layer that is finished has no file open.
pub struct AheadFile(PathBuf);

impl AheadFile {
    /// The one of layer `index`, whether it is there or not.
    pub fn new(folder: &Path, index: u32) -> Self {
        AheadFile(folder.join(format!("ahead-{index}")))
    }

    /// Makes it.
    ///
    /// # Errors
    /// `io_error`, here and below.
    pub fn create(&self) -> Result<File> {
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&self.0);
        file.map_err(|error| Error::io(format_args!("cannot write {}", self.0.display()), &error))
    }

    /// Opens it to be read.
    pub fn open(&self) -> Result<File> {
        File::open(&self.0).map_err(|error| Error::io("cannot read the spool file", &error))
    }

    /// Copies its first `count` blocks to block `base` of the image, whether they are still wanted or not.
    pub fn copy_all(&self, image: &File, base: u64, count: u64) -> Result<()> {
        self.copy(image, [(0, base, count)])
    }

    /// Copies what is `wanted` of it, as blocks of the file, of the image and their number.
    fn copy(&self, image: &File, wanted: impl IntoIterator<Item = (u64, u64, u64)>) -> Result<()> {
        let (file, block) = (self.open()?, BLOCK as u64);
        for (from, to, count) in wanted {
            copy_fresh(&file, from * block, image, to * block, count * block)
                .map_err(|error| Error::io("cannot write the image", &error))?;
        }
        Ok(())
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        std::fs::remove_file(&self.0).map_err(|error| Error::io("cannot remove the spool file", &error))
    }
}

/// A finished layer whose place is known, and whose data still wait.
pub struct WaitingLayer {
    /// Where they wait.
    pub file: AheadFile,
    /// First block of its place in the image.
    pub base: u64,
    /// Blocks of it.
    pub count: u64,
}

impl WaitingLayer {
    /// Whether a block of the image belongs to it.
    pub fn has(&self, block: u32) -> bool {
        (self.base..self.base + self.count).contains(&u64::from(block))
    }

    /// Copies what is still wanted of it to where it will stay, and nothing else, and removes its file. `live` are the
    /// extents of all contents before anything moves, `moves` what moves, both in the order of their first blocks.
    pub fn arrive(&self, image: &File, live: &[BlockRange], moves: &[Move]) -> Result<()> {
        let mut wanted: Vec<(u64, u64, u64)> = Vec::new();
        for extent in live.iter().filter(|extent| self.has(extent.start)) {
            let moved = moves.binary_search_by_key(&extent.start, |step| step.from);
            let to = u64::from(moved.map_or(extent.start, |index| moves[index].to));
            let (from, count) = (u64::from(extent.start) - self.base, u64::from(extent.length));
            match wanted.last_mut() {
                Some(last) if last.0 + last.2 == from && last.1 + last.2 == to => last.2 += count,
                _ => wanted.push((from, to, count)),
            }
        }
        self.file.copy(image, wanted)?;
        self.file.remove()
    }
}
