//! Flattens layers that stand in files, lowest first, into one tar: `flatten OUT.tar LAYER.tar.gz…`.
//!
//! Each layer is hashed, decompressed and parsed in a thread of its own, and merged in the order of the image. A program
//! that fetches would hand on bytes as they come; here they are read from disk, twice: what an image's manifest and
//! config say of a layer has to be worked out first.

use std::error::Error;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use ocifast_core::contents::Store;
use ocifast_core::decompress::decompress;
use ocifast_core::digest::Digest;
use ocifast_core::flatten::Flattener;
use ocifast_core::layer::LayerInput;
use ocifast_core::limits::Limits;
use ocifast_core::output::{Source, Target, WriteRequest, tar};
use ocifast_core::spool::SpoolStore;

/// Digest and size of the blob, digest of what is in it.
fn describe(blob: &[u8], limits: &Limits) -> Result<LayerInput, Box<dyn Error>> {
    let (diff_id, _) = decompress(blob, std::io::sink(), limits)?;
    Ok(LayerInput { digest: Digest::of(blob), size: blob.len() as u64, diff_id, added: false, erofs: None })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [output, layers @ ..] = &arguments[..] else { return Err("flatten OUT.tar LAYER.tar.gz…".into()) };
    let limits = Limits::default();
    let blobs = layers.iter().map(fs::read).collect::<Result<Vec<_>, _>>()?;
    let inputs = blobs.iter().map(|blob| describe(blob, &limits)).collect::<Result<Vec<_>, _>>()?;

    // Contents of files wait here, beside the output, until the tree is complete.
    let waiting = Path::new(output).parent().filter(|folder| folder.as_os_str() != "").unwrap_or(Path::new("."));
    let store = Arc::new(SpoolStore::new(waiting, blobs.len()));
    let flattener = Flattener::new(inputs, Arc::new(Arc::clone(&store)) as Arc<dyn Store>, limits, 2)?;
    std::thread::scope(|scope| {
        for (index, blob) in blobs.iter().enumerate() {
            let flattener = &flattener;
            scope.spawn(move || {
                // What fails here is told by `finish`, with the layer's name.
                let fed = blob.chunks(64 << 10).try_for_each(|chunk| flattener.write(index, chunk));
                let _ = fed.and_then(|()| flattener.close_layer(index));
            });
        }
    });
    let (tree, notices) = flattener.finish()?;
    println!("{} names, dropped: {notices:?}", tree.names());
    let target = Target::Open(File::create(output)?);
    tar::write(WriteRequest::new(Source::new(&tree, &*store), target, tar::Options::default()))?;
    Ok(())
}
