//! The archives of all rows, damaged at random: the checks of the fuzz targets in every test run.

#[path = "../../fuzz/invariants.rs"]
mod invariants;

use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{END, rows};

/// A damage: somewhere, something.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    /// A whole field of eight bytes.
    Field(Index, [u8; 8]),
    Cut(Index),
    /// A block taken out, or put in a second time.
    Drop(Index),
    Double(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<Index>;
    prop_oneof![
        6 => (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (index(), prop::sample::select(&b"01234567xLKgS2 \0\x80\xff\n=,"[..])).prop_map(|(at, byte)| Damage::Set(at, byte)),
        2 => (index(), any::<[u8; 8]>()).prop_map(|(at, bytes)| Damage::Field(at, bytes)),
        1 => index().prop_map(Damage::Cut),
        1 => index().prop_map(Damage::Drop),
        1 => index().prop_map(Damage::Double),
    ]
}

fn apply(archive: &mut Vec<u8>, damage: &Damage) {
    if archive.len() < 512 {
        return;
    }
    let blocks = archive.len() / 512;
    match damage {
        Damage::Set(at, byte) => *at.get_mut(archive) = *byte,
        Damage::Field(at, bytes) => {
            let at = at.index(archive.len() - 8);
            archive[at..at + 8].copy_from_slice(bytes);
        }
        Damage::Cut(at) => archive.truncate(at.index(archive.len())),
        Damage::Drop(at) => {
            let at = at.index(blocks) * 512;
            archive.drain(at..at + 512);
        }
        Damage::Double(at) => {
            let at = at.index(blocks) * 512;
            let block = archive[at..at + 512].to_vec();
            archive.splice(at..at, block);
        }
    }
}

/// Makes the sums right again, or else few damages would be seen by more than the check of the sums.
fn repair(archive: &mut [u8]) {
    for block in archive.chunks_exact_mut(512) {
        // Headers alone have digits and then these two where the sum stands.
        if block[154..156] == *b"\0 " && block[148..154].iter().all(u8::is_ascii_digit) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn damaged_archives_break_nothing(
        row in any::<Index>(),
        second in any::<Index>(),
        damages in prop::collection::vec(damage(), 0..8),
        repaired in prop::bool::weighted(0.9),
    ) {
        thread_local! {
            static ARCHIVES: Vec<Vec<u8>> = rows().into_iter().map(|row| row.archive).collect();
        }
        let mut archive = ARCHIVES.with(|archives| {
            let first: &Vec<u8> = row.get(archives);
            let second: &Vec<u8> = second.get(archives);
            // Without its end blocks: or else the second would not be read.
            [first.strip_suffix(&END).unwrap_or(first), second].concat()
        });
        for damage in &damages {
            apply(&mut archive, damage);
        }
        if repaired {
            repair(&mut archive);
        }
        invariants::tar(&archive);
    }

    #[test]
    fn damaged_blobs_break_nothing(
        data in prop::collection::vec(prop::sample::select(&b"abcd\0"[..]), 0..2000),
        gzip in any::<bool>(),
        damages in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut blob = if gzip {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&data).expect("in memory");
            encoder.finish().expect("in memory")
        } else {
            zstd::encode_all(&data[..], 1).expect("in memory")
        };
        for (at, byte) in damages {
            *at.get_mut(&mut blob) = byte;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        invariants::decompress(&blob);
    }
}
