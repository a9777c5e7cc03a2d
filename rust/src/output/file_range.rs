//! Bytes from one file, or one place of a file, to another.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

#[cfg(target_os = "linux")]
use rustix::fs::{FallocateFlags, copy_file_range, fallocate, fstatfs};
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

/// The same for bytes that were written just now, and so are in memory. File systems that would share them, or have them
/// copied elsewhere, bring them to the disk first, and what reads the copy fetches them from there again.
pub fn copy_fresh(source: &File, from: u64, destination: &File, to: u64, length: u64) -> io::Result<()> {
    if is_in_memory(destination) {
        return copy_range(source, from, destination, to, length);
    }
    copy_by_hand(source, from, destination, to, length)
}

/// Whether a file is on a tmpfs, where the kernel copies pages faster than we can, and nothing is ever shared.
fn is_in_memory(file: &File) -> bool {
    #[cfg(target_os = "linux")]
    return fstatfs(file).is_ok_and(|found| found.f_type == TMPFS);
    #[cfg(not(target_os = "linux"))]
    false
}

/// `TMPFS_MAGIC` of statfs(2).
#[cfg(target_os = "linux")]
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_bytes_arrive_whatever_the_file_system() {
        let bytes: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
        // Some systems have a tmpfs among these, and some another file system.
        let places = [std::env::current_dir().expect("a folder"), "/dev/shm".into(), "/tmp".into()];
        for place in places.iter().filter(|place| place.is_dir()) {
            let file = || tempfile::tempfile_in(place).expect("a file");
            let (source, destination) = (file(), file());
            source.write_all_at(&bytes, 0).expect("written");
            copy_fresh(&source, 4096, &destination, 100, 2 << 20).expect("copied");
            let mut found = vec![0; 2 << 20];
            destination.read_exact_at(&mut found, 100).expect("read");
            assert_eq!(destination.metadata().expect("there").len(), 100 + (2 << 20));
            assert!(found == bytes[4096..4096 + (2 << 20)]);
        }
    }
}
