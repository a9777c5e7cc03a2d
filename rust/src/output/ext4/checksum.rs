//! CRC32C in the forms that ext4's `metadata_csum` uses (kernel documentation, ext4, "Checksums").
//!
//! ext4 never inverts the register, neither before nor after: a sum goes on where the one before it ended.

/// Goes on with `seed` over `bytes`.
pub(super) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The sum over the UUID, with which all metadata of one file system begin.
pub(super) fn file_system_seed(uuid: &[u8; 16]) -> u32 {
    crc(!0, uuid)
}

/// What the inode and its own blocks (directory, extents) begin with; the generation is always 0 here.
pub(super) fn inode_seed(file_system: u32, number: u32) -> u32 {
    crc(crc(file_system, &number.to_le_bytes()), &[0; 4])
}
