//! Any bytes as the table of a decoded layer, with a checksum that fits.

use std::io::Write;

use ocifast_core::decoded::Table;
use ocifast_core::digest::{Algorithm, Hasher};
use ocifast_core::error::{Code, Error};
use ocifast_core::limits::Limits;
use ocifast_core::merge::Merge;

/// Where the checksum stands.
const CHECKSUM: std::ops::Range<usize> = 64..96;

/// Reads the table and merges what is in it.
pub fn check(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= CHECKSUM.end {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(&bytes[..CHECKSUM.start]);
        hasher.update(&bytes[CHECKSUM.end..]);
        let digest = hasher.finish();
        let hex = digest.as_str().trim_start_matches("sha256:");
        for (index, byte) in bytes[CHECKSUM].iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).expect("hexadecimal");
        }
    }
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(&bytes).expect("written");
    let limits = Limits { entries: 1000, metadata_bytes: 1 << 20, ..Limits::default() };
    let known = |error: &Error| {
        let known = [Code::Io, Code::LimitExceeded, Code::EntryRefused, Code::TarInvalid];
        assert!(known.contains(&error.code), "{error}");
    };
    match Table::open(file) {
        Err(error) => known(&error),
        Ok(table) => {
            let merged = Merge::new(limits.clone()).lowest_layer(table.entries(0, &limits));
            if let Err(error) = merged {
                known(&error);
            }
        }
    }
}
