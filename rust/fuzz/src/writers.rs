//! Any layers, written in every form and read back.

use ocifast_core::verify::{Expected, verify};

use super::layers::Choices;
use super::written::{FORMS, Made, write};

/// Writes and reads back; the first byte says how.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let form = choices.of(&FORMS);
    // What a merge refuses, a writer may not get.
    let Some(made) = write(&choices.layers(), form) else { return };
    let Made { tree, contents, path, losses, folder, .. } = &made;
    let expected = Expected { tree, contents: &**contents, losses, clamp: None };
    verify(&expected, path, form.format, folder.path(), 1).unwrap_or_else(|error| panic!("{form:?}: {error}"));
}
