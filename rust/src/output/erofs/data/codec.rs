//! Compression of one piece of a file into clusters that the kernel reads back one by one.

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::error::{Code, Error, Result};
use crate::output::erofs::format::numbers::{BLOCK, blocks};
use crate::output::erofs::format::superblock::Coding;

/// Largest physical cluster of the format.
const CLUSTER_MAX: usize = 1 << 20;

/// Least bytes of a file that are compressed together.
const PIECE_MIN: usize = 16 << 10;

/// How contents are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// LZ4, read since Linux 5.17 as it is used here: large clusters, and the last one behind its inode.
    Lz4,
    /// Zstandard, read since Linux 6.10.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
}

/// What is to be compressed how.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    /// With what.
    pub algorithm: Algorithm,
    /// Most bytes of a physical cluster: a power of two from 4096 to 1 MiB.
    pub cluster: usize,
}

impl Compression {
    /// By name: `lz4` (which has no levels) and `zstd`.
    ///
    /// # Errors
    /// `internal_error` for another name, and for a level or size of clusters that there is not.
    pub fn parse(name: &str, level: Option<i32>, cluster: usize) -> Result<Self> {
        let algorithm = match (name, level) {
            ("lz4", None) => Algorithm::Lz4,
            ("zstd", None) => Algorithm::Zstd { level: 3 },
            ("zstd", Some(level @ 1..=22)) => Algorithm::Zstd { level },
            _ => {
                let level = level.map(|level| format!(" of level {level}")).unwrap_or_default();
                return Err(Error::new(Code::Internal, format!("erofs has no compression {name}{level}")));
            }
        };
        if !(BLOCK..=CLUSTER_MAX).contains(&cluster) || !cluster.is_power_of_two() {
            let message = "a physical cluster of erofs has 4096 to 1048576 bytes, a power of two";
            return Err(Error::new(Code::Internal, message));
        }
        Ok(Compression { algorithm, cluster })
    }

    /// Bytes of a file that are compressed together: what compresses to half its size or better makes one cluster.
    pub fn piece(&self) -> usize {
        (2 * self.cluster).clamp(PIECE_MIN, CLUSTER_MAX)
    }

    /// The format's number of the algorithm.
    pub fn number(&self) -> u8 {
        match self.algorithm {
            Algorithm::Lz4 => 0,
            Algorithm::Zstd { .. } => 3,
        }
    }

    /// What the superblock says of it.
    pub fn coding(&self) -> Coding {
        let settings = match self.algorithm {
            Algorithm::Lz4 => {
                let mut settings = vec![0xff, 0xff];
                settings.extend_from_slice(&((self.cluster / BLOCK) as u16).to_le_bytes());
                settings.resize(14, 0);
                settings
            }
            Algorithm::Zstd { .. } => vec![0, (self.window_log() - 10) as u8, 0, 0, 0, 0],
        };
        Coding { number: self.number(), settings }
    }

    fn window_log(&self) -> u32 {
        self.piece().trailing_zeros()
    }
}

/// Part of a file: whole blocks of it, or its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Bytes of the file.
    pub length: usize,
    /// The same compressed; `None` where that saves nothing.
    pub compressed: Option<Vec<u8>>,
}

/// Compresses; one for each thread.
pub struct ClusterCodec {
    limit: usize,
    zstd: Option<Compressor<'static>>,
    out: Vec<u8>,
}

impl ClusterCodec {
    /// A codec for `compression`.
    ///
    /// # Errors
    /// `output_unsupported` when the library refuses the settings.
    pub fn new(compression: &Compression) -> Result<Self> {
        let refused = |error: std::io::Error| Error::new(Code::OutputUnsupported, format!("zstd: {error}"));
        let (zstd, bound) = match compression.algorithm {
            Algorithm::Lz4 => (None, lz4_flex::block::get_maximum_output_size(compression.piece())),
            Algorithm::Zstd { level } => {
                let mut zstd = Compressor::new(level).map_err(refused)?;
                zstd.set_parameter(CParameter::WindowLog(compression.window_log())).map_err(refused)?;
                (Some(zstd), zstd::zstd_safe::compress_bound(compression.piece()))
            }
        };
        Ok(ClusterCodec { limit: compression.cluster, zstd, out: vec![0; bound] })
    }

    /// Compresses a piece. `room` is how many bytes of its end can stand behind the inode: 0 unless it ends the file.
    ///
    /// # Errors
    /// `output_unsupported` when the library fails, which it does for no data.
    pub fn squeeze(&mut self, piece: &[u8], room: usize, clusters: &mut Vec<Cluster>) -> Result<()> {
        let length = self.compress(piece)?;
        let fits = length <= room && length < piece.len();
        let saves = blocks(length as u64) < blocks(piece.len() as u64);
        if fits || saves && length.next_multiple_of(BLOCK) <= self.limit {
            clusters.push(Cluster { length: piece.len(), compressed: Some(self.out[..length].to_vec()) });
            return Ok(());
        }
        // What does not fit into one cluster may in two. What is small, or hardly compresses, stays as it is.
        if saves && piece.len() > self.limit.max(BLOCK) {
            let middle = (piece.len() / 2).next_multiple_of(BLOCK);
            self.squeeze(&piece[..middle], 0, clusters)?;
            return self.squeeze(&piece[middle..], room, clusters);
        }
        clusters.push(Cluster { length: piece.len(), compressed: None });
        Ok(())
    }

    fn compress(&mut self, piece: &[u8]) -> Result<usize> {
        let failed = |why: String| Error::new(Code::OutputUnsupported, format!("compression failed: {why}"));
        match &mut self.zstd {
            None => lz4_flex::block::compress_into(piece, &mut self.out).map_err(|error| failed(error.to_string())),
            Some(zstd) => zstd.compress_to_buffer(piece, &mut self.out[..]).map_err(|error| failed(error.to_string())),
        }
    }
}
