//! What the tests of the erofs output share.
#![allow(dead_code, missing_docs)]

#[path = "../support/back.rs"]
pub mod back;
pub mod build;
#[path = "../support/items.rs"]
pub mod items;
pub mod read;

use std::path::Path;
use std::process::Command;

/// Debian's fsck.erofs finds nothing wrong.
pub fn fsck(image: &Path) {
    let out = Command::new("fsck.erofs").arg(image).output().expect("fsck.erofs, of Debian's erofs-utils");
    let said = [out.stdout, out.stderr].concat();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&said));
}
