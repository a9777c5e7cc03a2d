//! Whether two files hold the same bytes, by a digest that does not depend on how their holes are told.

use crate::contents::{Content, Contents};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::Result;

/// What is zero is left out in pieces of so many bytes.
const BLOCK: u64 = 512;

/// SHA-256 of the blocks of a content that are not all zero, each after its offset. Contents of one size are equal when
/// their digests are, whether their zeros are data or holes. The work is that of reading the data; holes cost nothing.
///
/// # Errors
/// What reading returns.
pub fn content_digest(contents: &dyn Contents, content: &Content, buffer: &mut [u8]) -> Result<Digest> {
    let room = buffer.len() as u64 / BLOCK * BLOCK;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut done = 0;
    for run in content.runs() {
        // A block that two runs share is read once.
        let mut offset = done.max(run.offset - run.offset % BLOCK);
        let end = (run.offset + run.length).next_multiple_of(BLOCK).min(content.size);
        while offset < end {
            let wanted = (end - offset).min(room) as usize;
            let read = contents.read_at(content, offset, &mut buffer[..wanted])?;
            for (index, block) in buffer[..read].chunks(BLOCK as usize).enumerate() {
                if block.iter().any(|&byte| byte != 0) {
                    hasher.update(&(offset + index as u64 * BLOCK).to_le_bytes());
                    hasher.update(block);
                }
            }
            offset += wanted as u64;
        }
        done = done.max(end);
    }
    Ok(hasher.finish())
}
