//! Container image layers to filesystem trees and images.
//!
//! The way of the data: bytes of a layer's blob go into a [`flatten::Flattener`] as they come. Each layer is hashed,
//! decompressed ([`decompress`]) and parsed ([`tar`]) in threads of its own; contents of files go into a
//! [`contents::Store`] at once, and entries into the tree ([`merge`], [`tree`]) in the order of the layers. The finished
//! [`tree::Tree`] is changed by an [`edit::Edit`] where that is wanted, and written by one of [`output`], which all take
//! an [`output::WriteRequest`] and return what was [`output::Written`]; [`read`] reads images and archives back.
//! `examples/flatten.rs` flattens layers in fifty lines.
//!
//! No path of a layer reaches a system call before the tree is complete, and none at all in an output that is one file.
//! What a layer may ask for is bounded by [`limits::Limits`]. Nothing here speaks to a network or runs a program.
//!
//! Modules have numbered floors and import only from lower ones; `tests/test_floors.py` checks that.

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
pub mod file_digest;
pub mod frames;
pub mod merge;
pub mod same;
pub mod spool;
pub mod tar;
pub mod tree;

pub mod read;

pub mod decoded;
pub mod flatten;
pub mod layer;
mod scheduler;

pub mod output;

pub mod compare;
pub mod compare_layers;
pub mod usage;
pub mod verify;
pub mod verity;

#[cfg(feature = "python")]
mod bindings;
