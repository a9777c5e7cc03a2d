//! Any bytes as an image: an error, or a tree that is what it is.

use std::sync::Arc;

use ocifast_core::error::{Code, Result};
use ocifast_core::limits::Limits;
use ocifast_core::output::dump;
use ocifast_core::read::{Format, read};

/// Bounds under which anything is read in a moment.
fn limits() -> Limits {
    Limits { entries: 1000, metadata_bytes: 1 << 20, image_bytes: 1 << 20, ..Limits::default() }
}

/// Names, bytes of text, and digests of contents, or why not.
pub fn text(bytes: Vec<u8>, format: Format) -> Result<String> {
    let image = read(Arc::new(bytes), format, &limits())?;
    let mut text = String::new();
    dump(&image.tree, &*image.contents, |line| {
        text.push_str(line);
        Ok(())
    })?;
    Ok(text)
}

fn check(bytes: Vec<u8>, format: Format) {
    match (text(bytes.clone(), format), text(bytes, format)) {
        (Ok(once), Ok(again)) => assert_eq!(once, again),
        (Err(once), Err(again)) => {
            assert_eq!(once.to_string(), again.to_string());
            assert!(matches!(once.code, Code::FilesystemInvalid | Code::LimitExceeded), "{once}");
        }
        _ => panic!("read and refused"),
    }
}

/// Any bytes as an erofs image, whose checksum is made to fit: few would come past it.
pub fn erofs(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(bits) = bytes.get(1024 + 12).filter(|bits| (9..=16).contains(*bits)) {
        let block = 1usize << bits;
        let length = if block > 1024 { block - 1024 } else { block };
        if bytes.len() >= 1024 + length {
            bytes[1028..1032].fill(0);
            let sum = !crc32c(&bytes[1024..1024 + length]);
            bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        }
    }
    check(bytes, Format::Erofs);
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

/// Any bytes as a squashfs image.
pub fn squashfs(bytes: &[u8]) {
    check(bytes.to_vec(), Format::Squashfs);
}

/// Any bytes as an ext4 image.
pub fn ext4(bytes: &[u8]) {
    check(bytes.to_vec(), Format::Ext4);
}

/// Any bytes as a cpio archive.
pub fn cpio(bytes: &[u8]) {
    check(bytes.to_vec(), Format::Cpio);
}
