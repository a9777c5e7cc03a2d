//! Our decoder of DEFLATE beside zlib-rs: the same bytes, and the same streams refused.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use ocifast_core::decompress::Decompressor;
use ocifast_core::error::{Code, Result};
use ocifast_core::limits::Limits;

/// Bytes that are unpacked at most.
const MOST: usize = 1 << 18;

/// Any bytes as a stream of DEFLATE.
pub fn compare(stream: &[u8]) {
    let mut other = Decompress::new(false);
    let mut out = vec![0; MOST];
    let status = other.decompress(stream, &mut out, FlushDecompress::Finish);
    let (read, written) = (other.total_in() as usize, other.total_out() as usize);
    match status {
        Ok(Status::StreamEnd) => {
            let expected = &out[..written];
            let found = ours(&member(&stream[..read], expected));
            assert!(found.expect("what zlib-rs unpacks is sound") == expected, "other bytes than those of zlib-rs");
        }
        // More than fits is no answer.
        Ok(_) if written == MOST => {}
        Ok(_) | Err(_) => {
            let error = ours(&member(stream, &out[..written])).expect_err("what zlib-rs refuses");
            assert_eq!(error.code, Code::CompressionInvalid, "{error}");
        }
    }
}

/// A member of gzip around a stream of DEFLATE.
fn member(stream: &[u8], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(data);
    let header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
    [&header[..], stream, &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()].concat()
}

fn ours(blob: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Decompressor::new(blob, &Limits::default());
    let (mut all, mut out) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match layer.read_chunk(&mut out)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&out[..count]),
        }
    }
}
