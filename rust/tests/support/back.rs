//! Images and archives read back by the library's own readers.
#![allow(dead_code, reason = "each test needs a part")]

use std::sync::Arc;

use ocifast_core::error::Result;
use ocifast_core::limits::Limits;
use ocifast_core::output::dump;
use ocifast_core::read::{Format, Image, read};

/// The image, held to the usual limits.
pub fn image(bytes: &[u8], format: Format) -> Result<Image> {
    read(Arc::new(bytes.to_vec()), format, &Limits::default())
}

/// The canonical text of what an image holds, or why it is refused.
pub fn text(bytes: &[u8], format: Format) -> String {
    let text = image(bytes, format).and_then(|image| {
        let mut text = String::new();
        dump(&image.tree, &*image.contents, |line| {
            text.push_str(line);
            Ok(())
        })?;
        Ok(text)
    });
    text.unwrap_or_else(|error| error.to_string())
}

/// The same tree as that of this text, with the first line that differs.
pub fn same(bytes: &[u8], format: Format, expected: &str) {
    let found = text(bytes, format);
    for (expected, found) in expected.lines().zip(found.lines()) {
        assert_eq!(found, expected, "{format:?}");
    }
    assert_eq!(found.len(), expected.len(), "{format:?}: {found:.200}");
}
