//! Container image layers to filesystem trees and images.
//!
//! Modules stand on numbered floors and import only from lower ones; `tests/test_floors.py` holds that.

pub mod digest;
pub mod entry;
pub mod error;
pub mod limits;
mod open_files;
pub mod path;
pub mod whiteout;

pub mod batch;
pub mod blocks;
pub mod budget;
pub mod contents;
pub mod decompress;
pub mod edit;
pub mod merge;
pub mod tar;
pub mod tree;

pub mod decoded;
pub mod flatten;
pub mod layer;
mod turns;

pub mod output;

#[cfg(feature = "python")]
mod bindings;
