//! The first walk over the tree: inode numbers, how many blocks everything needs, and what cannot be held.
//!
//! Nothing is written before this walk is through, so a tree that ext4 cannot hold leaves no image.

use std::collections::HashMap;

use super::directory::Shape;
use super::extent::{EXTENT_BLOCKS, data_blocks, tree_blocks};
use super::inode::{SECONDS, Type};
use super::layout::{BLOCK, GROUP_BLOCKS};
use super::options::Identity;
use super::superblock::FIRST_INODE;
use super::xattr::{SHARED_MAX, XattrPlan};
use crate::entry::{Mtime, Xattrs};
use crate::error::{Code, Error, Result};
use crate::output::Losses;
use crate::tree::{Inode, InodeKind, Step, Tree};

/// The inode of the root directory.
pub(super) const ROOT_INODE: u32 = 2;
/// Longest target inside the inode.
pub(super) const TARGET_INSIDE: usize = 59;
/// Most names of a file, and most subdirectories that a directory counts.
pub(super) const LINKS_MAX: u32 = 65_000;
/// Most blocks of a file.
const FILE_BLOCKS: u64 = u32::MAX as u64;

/// Identifies a set of attributes that inodes may share.
pub(super) type SetId = usize;

/// What the first walk found out.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Inode number by the index of the tree's id.
    pub numbers: Vec<u32>,
    /// The highest inode number in use.
    pub last_inode: u32,
    /// Blocks of directories, attributes and long link targets.
    pub metadata_blocks: u64,
    /// Blocks of contents, values of attributes and, at most, extent trees.
    pub data_blocks: u64,
    /// How many inodes share an attribute block of each set.
    pub sharers: HashMap<SetId, u32>,
    /// Whether any attribute's value has an inode of its own.
    pub outside_values: bool,
    pub losses: Losses,
}

/// Which set of attributes it is, when it can be shared at all.
pub(super) fn shared_set(xattrs: &Xattrs, plan: &XattrPlan) -> Option<SetId> {
    let set = xattrs.as_ref()?;
    (plan.has_block() && plan.outside().next().is_none()).then_some(std::sync::Arc::as_ptr(set) as SetId)
}

/// The type of an inode.
pub(super) fn type_of(inode: &Inode) -> Type {
    match inode.kind {
        InodeKind::File(_) => Type::File,
        InodeKind::Directory(_) => Type::Directory,
        InodeKind::Symlink(_) => Type::Symlink,
        InodeKind::CharDevice { .. } => Type::CharDevice,
        InodeKind::BlockDevice { .. } => Type::BlockDevice,
        InodeKind::Fifo => Type::Fifo,
    }
}

/// The nearest time that an inode can hold.
pub(super) fn holdable(mtime: Mtime) -> Mtime {
    match mtime.seconds {
        early if early < *SECONDS.start() => Mtime { seconds: *SECONDS.start(), nanoseconds: 0 },
        late if late > *SECONDS.end() => Mtime { seconds: *SECONDS.end(), nanoseconds: 999_999_999 },
        _ => mtime,
    }
}

fn refuse<T>(step: &Step, why: String) -> Result<T> {
    let mut error = Error::new(Code::OutputUnsupported, format!("ext4 cannot hold {why}"));
    error.context.path = Some(step.path.clone());
    Err(error)
}

impl Survey {
    /// Walks the tree.
    ///
    /// # Errors
    /// `output_unsupported` with the path of what ext4 cannot hold.
    pub fn new(tree: &Tree, identity: &Identity) -> Result<Survey> {
        let mut survey = Survey { numbers: vec![0; tree.inode_bound()], ..Survey::default() };
        let mut next = FIRST_INODE;
        for step in tree.walk().filter(|step| step.first) {
            let number = if step.inode == tree.root() { ROOT_INODE } else { next };
            survey.numbers[step.inode.index()] = number;
            let values = survey.inode(tree.inode(step.inode), &step, identity)?;
            let numbers = values + u32::from(number != ROOT_INODE);
            let Some(following) = next.checked_add(numbers) else {
                return refuse(&step, "more than 4,294,967,295 inodes".to_owned());
            };
            next = following;
        }
        survey.last_inode = next - 1;
        survey.metadata_blocks +=
            survey.sharers.values().map(|&uses| u64::from(uses.div_ceil(SHARED_MAX))).sum::<u64>();
        Ok(survey)
    }

    /// Counts one inode; returns how many inodes of attributes it needs.
    fn inode(&mut self, inode: &Inode, step: &Step, identity: &Identity) -> Result<u32> {
        let metadata = &inode.metadata;
        let mtime = crate::output::clamped(metadata.mtime, identity.clamp_mtime);
        if holdable(mtime) != mtime {
            self.losses.add("mtime", &step.path, "ext4 has the years 1901 to 2446");
        }
        if type_of(inode) != Type::Directory && inode.nlink > LINKS_MAX {
            return refuse(step, format!("a file with {} names, more than {LINKS_MAX}", inode.nlink));
        }
        match &inode.kind {
            InodeKind::File(content) => {
                if content.size > FILE_BLOCKS * BLOCK as u64 {
                    return refuse(step, format!("a file of {} bytes, more than 16 TiB", content.size));
                }
                let (mut blocks, mut extents) = (0, 0);
                for (_, count) in data_blocks(content) {
                    blocks += count;
                    extents += count.div_ceil(EXTENT_BLOCKS);
                }
                // Every group that a file crosses may split an extent; short files that do are counted by `size`.
                self.data_blocks += blocks + tree_blocks(extents + 2 * (blocks / GROUP_BLOCKS));
            }
            InodeKind::Directory(children) => match Shape::new(children, &identity.hash_seed()) {
                Some(shape) => self.metadata_blocks += shape.blocks(),
                None => return refuse(step, format!("a directory of {} names", children.len())),
            },
            InodeKind::Symlink(target) => match target.len() {
                0 => return refuse(step, "a symbolic link without a target".to_owned()),
                1..=TARGET_INSIDE => {}
                // One is enough: targets of a block and more are refused.
                _ => self.metadata_blocks += 1,
            },
            InodeKind::CharDevice { major, minor } | InodeKind::BlockDevice { major, minor } => {
                if *major > 0xFFF || *minor > 0xF_FFFF {
                    return refuse(step, format!("the device number {major}:{minor}, beyond 4095:1048575"));
                }
            }
            InodeKind::Fifo => {}
        }
        self.attributes(inode, step)
    }

    fn attributes(&mut self, inode: &Inode, step: &Step) -> Result<u32> {
        let Some(set) = &inode.metadata.xattrs else {
            return Ok(0);
        };
        let plan = XattrPlan::new(set);
        for (name, why) in &plan.lost {
            self.losses.add("xattr", &step.path, format!("{}: {why}", name.escape_ascii()));
        }
        match shared_set(&inode.metadata.xattrs, &plan) {
            Some(set) => *self.sharers.entry(set).or_default() += 1,
            None => self.metadata_blocks += u64::from(plan.has_block()),
        }
        let mut values = 0;
        for value in plan.outside() {
            values += 1;
            self.outside_values = true;
            self.data_blocks += value.len().div_ceil(BLOCK) as u64;
        }
        Ok(values)
    }
}
