//! What is chosen about an image beside its compression.

/// What an image says that its tree does not.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When the image was made, in seconds since 1970.
    pub created: i64,
    /// Later mtimes become this, in seconds since 1970.
    pub clamp_mtime: Option<i64>,
}
