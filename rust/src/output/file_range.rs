//! Bytes from one file, or one place of a file, to another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

#[cfg(target_os = "linux")]
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
#[cfg(target_os = "linux")]
use rustix::io::Errno;

/// Copies `length` bytes. Source and destination may be the same `File`, and overlap when the destination is lower.
pub fn copy_range(source: &File, from: u64, destination: &File, to: u64, length: u64) -> io::Result<()> {
    let overlap = std::ptr::eq(source, destination) && from < to + length && to < from + length;
    if overlap {
        return copy_by_hand(source, from, destination, to, length);
    }
    copy_in_kernel(source, from, destination, to, length)
}

/// Other systems have no such call.
#[cfg(not(target_os = "linux"))]
use copy_by_hand as copy_in_kernel;

#[cfg(target_os = "linux")]
fn copy_in_kernel(source: &File, mut from: u64, destination: &File, mut to: u64, mut left: u64) -> io::Result<()> {
    while left > 0 {
        let part = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
        match copy_file_range(source, Some(&mut from), destination, Some(&mut to), part) {
            Ok(copied) if copied > 0 => left -= copied as u64,
            Err(Errno::INTR) => {}
            // Not every file system, nor every pair of them, can do it, and they say so in many ways. A disk that fails
            // says so itself when it is done by hand.
            Ok(_) | Err(_) => return copy_by_hand(source, from, destination, to, left),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, mut from: u64, destination: &File, mut to: u64, mut left: u64) -> io::Result<()> {
    let mut buffer = vec![0; left.min(1 << 20) as usize];
    while left > 0 {
        let part = left.min(buffer.len() as u64);
        let buffer = &mut buffer[..part as usize];
        source.read_exact_at(buffer, from)?;
        destination.write_all_at(buffer, to)?;
        (from, to, left) = (from + part, to + part, left - part);
    }
    Ok(())
}

/// Makes `length` bytes read as zeros, without space on the disk where the file system can.
pub fn clear_range(file: &File, from: u64, length: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, length).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; length.min(1 << 20) as usize];
    let (mut from, mut left) = (from, length);
    while left > 0 {
        let part = left.min(zeros.len() as u64);
        file.write_all_at(&zeros[..part as usize], from)?;
        (from, left) = (from + part, left - part);
    }
    Ok(())
}
