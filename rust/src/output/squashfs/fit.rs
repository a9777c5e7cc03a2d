//! What squashfs cannot hold of an inode's metadata: whoever writes one, this program or another.

use super::xattr::NAMESPACES;
use crate::entry::{Metadata, Mtime};
use crate::output::{Losses, clamped};

/// Longest name and value that Linux takes.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 65536;

/// Takes from metadata what squashfs cannot hold, and counts it; later mtimes become `clamp`.
pub fn fit(path: &[u8], metadata: &mut Metadata, clamp: Option<i64>, losses: &mut Losses) {
    let mut lose = |kind, detail: String| losses.add(kind, path, detail);
    let Mtime { seconds, nanoseconds } = clamped(metadata.mtime, clamp);
    let held = seconds.clamp(0, i64::from(u32::MAX));
    if held != seconds {
        lose("mtime", "squashfs holds times from 1970 to 2106".into());
    } else if nanoseconds != 0 {
        lose("mtime", "squashfs holds times in whole seconds".into());
    }
    metadata.mtime = Mtime { seconds: held, nanoseconds: 0 };
    let Some(xattrs) = &metadata.xattrs else { return };
    let mut lost = false;
    for (name, value) in xattrs.iter() {
        if let Some(why) = refusal(name, value) {
            lose("xattr", format!("{}: {why}", name.escape_ascii()));
            lost = true;
        }
    }
    if lost {
        let kept = xattrs.iter().filter(|(name, value)| refusal(name, value).is_none());
        let kept: std::collections::BTreeMap<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        metadata.xattrs = if kept.is_empty() { None } else { Some(kept.into()) };
    }
}

/// Why squashfs, or Linux, cannot hold an attribute.
fn refusal(name: &[u8], value: &[u8]) -> Option<&'static str> {
    if !NAMESPACES.iter().any(|space| name.len() > space.len() && name.starts_with(space)) {
        return Some("squashfs knows no such class of attributes");
    }
    if name.len() > NAME_MAX {
        return Some("its name is longer than 255 bytes");
    }
    (value.len() > VALUE_MAX).then_some("its value is longer than 65536 bytes")
}
