//! A decoded layer in the place of a blob: its entries from the table, its contents from the data file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::reader::Table;
use crate::batch::StoredEntry;
use crate::contents::{Content, LayerStore, Store};
use crate::entry::{Entry, Metadata};
use crate::error::{Code, Error, Result};
use crate::limits::Limits;

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;

/// A run of so many bytes is left to the system to copy, or to share: smaller ones are read together.
const COPIED: u64 = 256 << 10;

/// A decoded layer.
pub struct DecodedLayer<'a> {
    /// Its table.
    pub table: &'a Table,
    /// Its data.
    pub data: &'a Arc<File>,
}

impl DecodedLayer<'_> {
    /// Hands the layer to `store` as layer `index` of an image, and its entries on, with contents as the store has them.
    ///
    /// # Errors
    /// As [`Table::entries`]; what `store` or `entries` returns.
    pub fn adopt(
        &self,
        index: u32,
        limits: &Limits,
        store: &dyn Store,
        entries: &mut dyn FnMut(Vec<StoredEntry>) -> Result<()>,
    ) -> Result<()> {
        let DecodedLayer { table, data } = self;
        let length = data.metadata().map_err(|error| failed(&error))?.len();
        if length < table.data_end() {
            return Err(Error::new(Code::Io, "the data of a kept layer are too short"));
        }
        if store.shares() {
            store.share(index, data, table.data_end())?;
            for batch in table.entries(index, limits) {
                entries(with_contents(batch?, |_, content| store.shared(content))?)?;
            }
            return Ok(());
        }
        let mut contents = table.entries(index, limits).flat_map(|batch| match batch {
            Ok(batch) => batch.into_iter().filter_map(of_file).map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        store.expect(index, &mut contents)?;
        let mut layer = store.layer(index)?;
        let mut window = Window { file: data, buffer: vec![0; WINDOW], start: 0, length: 0, end: table.data_end() };
        for batch in table.entries(index, limits) {
            entries(with_contents(batch?, |entry, content| replay(&mut *layer, entry, &content, &mut window))?)?;
        }
        layer.finish()
    }
}

fn of_file(ingested: StoredEntry) -> Option<(Metadata, Content)> {
    Some((ingested.entry.metadata, ingested.content?))
}

fn with_contents(
    mut batch: Vec<StoredEntry>,
    mut change: impl FnMut(&Entry, Content) -> Result<Content>,
) -> Result<Vec<StoredEntry>> {
    for StoredEntry { entry, content } in &mut batch {
        if let Some(found) = content.take() {
            *content = Some(change(entry, found).map_err(|error| error.at_entry(&entry.path, entry.offset))?);
        }
    }
    Ok(batch)
}

/// Gives a content to a store as the archive would have.
fn replay(layer: &mut dyn LayerStore, entry: &Entry, content: &Content, window: &mut Window<'_>) -> Result<Content> {
    layer.called(&entry.path);
    layer.begin(&entry.metadata, content.size)?;
    let mut at = 0;
    for run in content.runs() {
        if run.offset > at {
            layer.hole(run.offset - at)?;
        }
        let (mut from, to) = (content.position + run.stored, content.position + run.stored + run.length);
        if run.length >= COPIED {
            layer.take(window.file, from, run.length)?;
            from = to;
        }
        while from < to {
            let part = window.read(from, to)?;
            layer.data(part)?;
            from += part.len() as u64;
        }
        at = run.offset + run.length;
    }
    if content.size > at {
        layer.hole(content.size - at)?;
    }
    layer.end()
}

/// A file that is read mostly from its beginning to its end.
struct Window<'f> {
    file: &'f File,
    buffer: Vec<u8>,
    start: u64,
    length: usize,
    /// Nothing is read from here on.
    end: u64,
}

impl Window<'_> {
    /// Some bytes from `from` on, at least one and none from `to` on.
    fn read(&mut self, from: u64, to: u64) -> Result<&[u8]> {
        if from < self.start || from >= self.start + self.length as u64 {
            let wanted = (self.end - from).min(self.buffer.len() as u64) as usize;
            self.length = 0;
            self.file.read_exact_at(&mut self.buffer[..wanted], from).map_err(|error| failed(&error))?;
            (self.start, self.length) = (from, wanted);
        }
        let skipped = (from - self.start) as usize;
        let length = (self.length - skipped).min((to - from) as usize);
        Ok(&self.buffer[skipped..skipped + length])
    }
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("cannot read the data of a kept layer", error)
}
