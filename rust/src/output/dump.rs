//! The canonical text of a tree: one line a name, the currency of all comparisons. `docs/dump.md` fixes the format.

use std::collections::HashMap;
use std::fmt::Write;

use super::{CHUNK, copy_content};
use crate::contents::Contents;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::entry::Xattrs;
use crate::error::Result;
use crate::tree::{InodeId, InodeKind, Tree};

/// Printable ASCII as it is; spaces, backslashes, `,`, `=` and all other bytes as `\xHH`.
fn escape(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        match byte {
            0x21..=0x7e if !matches!(byte, b'\\' | b',' | b'=') => out.push(char::from(byte)),
            _ => {
                // Writing to a String cannot fail, here and below.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

fn xattrs(set: &Xattrs, out: &mut String) {
    let Some(set) = set else {
        out.push('-');
        return;
    };
    for (index, (name, value)) in set.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        escape(name, out);
        out.push('=');
        for byte in value {
            let _ = write!(out, "{byte:02x}");
        }
    }
}

/// Hands the text on, line by line; each ends with a newline.
///
/// # Errors
/// What reading the contents or `take` returns.
pub fn dump(tree: &Tree, contents: &dyn Contents, mut take: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut first_names: HashMap<InodeId, (Vec<u8>, String)> = HashMap::default();
    let mut buffer = vec![0; CHUNK];
    let mut line = String::new();
    for step in tree.walk() {
        let inode = tree.inode(step.inode);
        line.clear();
        line.push('/');
        escape(&step.path, &mut line);
        let kind = inode.kind.name();
        let metadata = &inode.metadata;
        let _ = write!(line, " {kind} {:04o} {} {} ", metadata.mode, metadata.uid, metadata.gid);
        let _ = write!(line, "{}.{:09} ", metadata.mtime.seconds, metadata.mtime.nanoseconds);
        let known = first_names.get(&step.inode);
        match known {
            Some((first, _)) => {
                line.push('/');
                escape(first, &mut line);
            }
            None => line.push('-'),
        }
        line.push(' ');
        match &inode.kind {
            InodeKind::Symlink(target) => escape(target, &mut line),
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                let _ = write!(line, "{major}:{minor}");
            }
            _ => line.push('-'),
        }
        line.push(' ');
        xattrs(&metadata.xattrs, &mut line);
        line.push(' ');
        let digest = match (&inode.kind, known) {
            (_, Some((_, digest))) => digest.clone(),
            (InodeKind::File(content), None) => {
                let mut hasher = Hasher::new(Algorithm::Sha256);
                copy_content(contents, content, &mut buffer, |bytes| {
                    hasher.update(bytes);
                    Ok(())
                })?;
                hasher.finish().as_str()["sha256:".len()..].to_owned()
            }
            _ => "-".to_owned(),
        };
        line.push_str(&digest);
        line.push('\n');
        take(&line)?;
        if inode.nlink > 1 && step.first {
            first_names.insert(step.inode, (step.path, digest));
        }
    }
    Ok(())
}

/// SHA-256 of the canonical text: the tree digest, the same for every format that the tree is written as.
///
/// # Errors
/// What reading the contents returns.
pub fn tree_digest(tree: &Tree, contents: &dyn Contents) -> Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    dump(tree, contents, |line| {
        hasher.update(line.as_bytes());
        Ok(())
    })?;
    Ok(hasher.finish())
}
