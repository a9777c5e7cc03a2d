//! What has to hold for any bytes, target by target. `rust/tests/fuzz_corpus.rs` changes the corpora at random and runs
//! them: a little in every test run, for long by `make fuzz`.
#![allow(dead_code, missing_docs, reason = "each user needs a part")]

#[path = "../../tests/support/items.rs"]
pub mod items;
#[path = "../../tests/support/written.rs"]
pub mod written;

pub mod archives;
pub mod inflate;
#[path = "../invariants.rs"]
pub mod invariants;
pub mod layers;
pub mod merge;
pub mod readers;
pub mod table;
pub mod writers;

/// A target: any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 11] = [
    ("archives", archives::compare),
    ("cpio", readers::cpio),
    ("decompress", invariants::decompress),
    ("erofs", readers::erofs),
    ("ext4", readers::ext4),
    ("inflate", inflate::compare),
    ("merge", merge::check),
    ("squashfs", readers::squashfs),
    ("table", table::check),
    ("tar", invariants::tar),
    ("writers", writers::check),
];
