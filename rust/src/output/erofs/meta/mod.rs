//! Inodes, directories, attributes and the superblock: planned, packed, placed among the data, written.

pub mod attributes;
pub mod build;
pub mod directory;
pub mod kept;
pub mod layered;
pub mod packer;
pub mod plan;
pub mod writer;
