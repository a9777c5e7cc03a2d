//! Two readers of tar beside each other: that of layers, and that of finished archives. Where both take an archive, they
//! say the same.

use std::sync::Arc;

use ocifast_core::batch::StoredEntry;
use ocifast_core::contents::{LayerStore, Store};
use ocifast_core::entry::{Entry, Kind};
use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;
use ocifast_core::output::dump;
use ocifast_core::read::Format;
use ocifast_core::spool::SpoolStore;
use ocifast_core::tar::{Data, Reader};

use super::readers::text;

/// Any bytes as an archive.
pub fn compare(bytes: &[u8]) {
    let Ok(finished) = text(bytes.to_vec(), Format::Tar) else { return };
    // Whiteouts and marks of overlays mean something in layers alone, as does what comes before an archive's end twice.
    if finished.contains("/.wh.") || finished.contains("trusted.overlay.") {
        return;
    }
    if let Ok(layer) = layer(bytes) {
        assert_eq!(layer, finished, "two readers, two trees");
    }
}

fn layer(bytes: &[u8]) -> Result<String> {
    let limits = Limits { image_bytes: 1 << 20, layer_bytes: 1 << 20, ..Limits::default() };
    let folder = std::env::temp_dir();
    let store = Arc::new(SpoolStore::new(&folder, 1));
    let mut taking = store.layer(0)?;
    let mut reader = Reader::new(bytes, limits.clone());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let content = if let Kind::File { size } = entry.kind {
            take(&entry, size, &mut *taking, &mut reader)?;
            Some(taking.end()?)
        } else {
            None
        };
        entries.push(StoredEntry { entry, content });
    }
    taking.finish()?;
    let mut merge = Merge::new(limits);
    merge.lowest_layer([Ok(entries)])?;
    let mut text = String::new();
    dump(&merge.finish().0, &*store, |line| {
        text.push_str(line);
        Ok(())
    })?;
    Ok(text)
}

fn take(entry: &Entry, size: u64, layer: &mut dyn LayerStore, reader: &mut Reader<&[u8]>) -> Result<()> {
    layer.begin(&entry.metadata, size)?;
    while let Some(piece) = reader.next_data()? {
        match piece {
            Data::Bytes(bytes) => layer.data(bytes)?,
            Data::Hole(hole) => layer.hole(hole)?,
        }
    }
    Ok(())
}
