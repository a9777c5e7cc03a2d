//! The same archive as other readers see it.

use std::path::Path;
use std::process::Command;

use super::Seen;

/// Runs a tool that has to succeed and to say nothing; returns what it wrote.
pub fn output(command: &mut Command) -> Vec<u8> {
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}: {}\n{said}", output.status);
    output.stdout
}

/// Takes the backslashes away: `\377` is a byte, `\\` a backslash.
pub fn octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits = after.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        if digits == 3 {
            out.push(after[..3].iter().fold(0, |value: u8, digit| value << 3 | (digit - b'0')));
            rest = &after[3..];
        } else {
            out.extend(after.first());
            rest = &after[1..];
        }
    }
    out
}

const PYTHON: &str = r"
import hashlib, sys, tarfile
from decimal import Decimal, ROUND_FLOOR

def hexed(text):
    return text.encode('utf-8', 'surrogateescape').hex() or '-'

kinds = {tarfile.DIRTYPE: 'directory', tarfile.SYMTYPE: 'symlink', tarfile.LNKTYPE: 'link', tarfile.CHRTYPE: 'char',
         tarfile.BLKTYPE: 'block', tarfile.FIFOTYPE: 'fifo'}
with tarfile.open(sys.argv[1], encoding='utf-8', errors='surrogateescape') as archive:
    for member in archive:
        kind = 'file' if member.isreg() else kinds[member.type]
        content = 'sha256:' + hashlib.sha256(archive.extractfile(member).read()).hexdigest() if kind == 'file' else '-'
        mtime = Decimal(member.pax_headers.get('mtime', member.mtime))
        seconds = mtime.to_integral_value(ROUND_FLOOR)
        nanoseconds = int((mtime - seconds) * 10**9)
        link = member.linkname if kind in ('link', 'symlink') else ''
        device = (member.devmajor, member.devminor) if kind in ('char', 'block') else (0, 0)
        prefix = 'SCHILY.xattr.'
        xattrs = [f'{hexed(key[len(prefix):])}={hexed(value)}' for key, value in member.pax_headers.items()
                  if key.startswith(prefix)]
        size = member.size if kind == 'file' else 0
        # tarfile takes this or 'path', whichever stands last; GNU tar and Go take this.
        name = member.pax_headers.get('GNU.sparse.name', member.name)
        print(hexed(name), kind, member.mode & 0o7777, member.uid, member.gid, seconds, nanoseconds, size,
              hexed(link), *device, content, ','.join(xattrs))
";

/// As Python's tarfile sees it.
pub fn python(archive: &Path) -> Vec<Seen> {
    let listing = output(Command::new("python3").arg("-c").arg(PYTHON).arg(archive));
    let listing = String::from_utf8(listing).expect("ASCII");
    listing.lines().map(python_line).collect()
}

fn python_line(line: &str) -> Seen {
    let [path, kind, mode, uid, gid, seconds, nanoseconds, size, link, major, minor, content, xattrs] =
        line.split(' ').collect::<Vec<_>>()[..]
    else {
        panic!("{line}")
    };
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (unhex(name), unhex(value)));
    Seen {
        path: unhex(path),
        kind: kind.to_owned(),
        mode: number(mode),
        owner: (number(uid), number(gid)),
        mtime: (number(seconds), number(nanoseconds)),
        size: number(size),
        link: unhex(link),
        device: (number(major), number(minor)),
        xattrs: xattrs.split(',').filter_map(pair).collect(),
        content: content.trim_matches('-').to_owned(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim_matches('-').as_bytes();
    digits.chunks(2).map(|pair| number_of(std::str::from_utf8(pair).expect("ASCII"), 16) as u8).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("\"{text}\" is no number"))
}

fn number_of(text: &str, radix: u32) -> i64 {
    i64::from_str_radix(text, radix).unwrap_or_else(|_| panic!("\"{text}\" is no number"))
}

/// As GNU tar lists it: no attributes, no contents.
pub fn gnu(archive: &Path) -> Vec<Seen> {
    // It warns of `hdrcharset`, which it has no need of.
    let options = ["--numeric-owner", "--full-time", "--quoting-style=escape", "--warning=no-unknown-keyword", "-tvf"];
    let listing = output(Command::new("tar").args(options).arg(archive));
    listing.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(gnu_line).collect()
}

fn gnu_line(line: &[u8]) -> Seen {
    let text = String::from_utf8(line.to_vec()).expect("ASCII");
    let mut rest = &text[..];
    let mut field = || {
        let (field, after) = rest.trim_start().split_once(' ').expect("five fields and a name");
        rest = after;
        field.to_owned()
    };
    let (mode, owner, size, date, time) = (field(), field(), field(), field(), field());
    // The time is padded to the longest seen so far.
    let name = rest.trim_start();
    let (kind, arrow) = match &mode[..1] {
        "-" | "C" => ("file", ""),
        "d" => ("directory", ""),
        "l" => ("symlink", " -> "),
        "h" => ("link", " link to "),
        "c" => ("char", ""),
        "b" => ("block", ""),
        "p" => ("fifo", ""),
        other => panic!("unknown type {other}"),
    };
    let (path, link) = if arrow.is_empty() { (name, "") } else { name.split_once(arrow).expect("a target") };
    let (uid, gid) = owner.split_once('/').expect("two ids");
    let (size, device) = match size.split_once(',') {
        Some((major, minor)) => (0, (number(major), number(minor))),
        None => (number(&size), (0, 0)),
    };
    Seen {
        path: octal(path.strip_suffix('/').unwrap_or(path).as_bytes()),
        kind: kind.to_owned(),
        mode: permissions(&mode.as_bytes()[1..]),
        owner: (number(uid), number(gid)),
        mtime: instant(&date, &time),
        size,
        link: octal(link.as_bytes()),
        device,
        ..Seen::default()
    }
}

/// `rwsr-xr-t` as a number.
fn permissions(text: &[u8]) -> u32 {
    let plain = text.iter().fold(0, |mode, &byte| mode << 1 | u32::from(!matches!(byte, b'-' | b'S' | b'T')));
    let special = [(2, 0o4000), (5, 0o2000), (8, 0o1000)];
    let set = special.iter().filter(|(at, _)| matches!(text[*at], b's' | b'S' | b't' | b'T'));
    set.fold(plain, |mode, (_, bit)| mode | bit)
}

/// Seconds and nanoseconds of `YYYY-MM-DD` and `HH:MM:SS[.FRACTION]`.
fn instant(date: &str, time: &str) -> (i64, u32) {
    let parts: Vec<i64> = date.split('-').map(number).collect();
    let (year, month, day) = (parts[0], parts[1], parts[2]);
    // Days of the years before, counted from March so that the leap day is the last.
    let shifted = if month > 2 { year } else { year - 1 };
    let in_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400 + in_year - 719_468;
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let seconds = days * 86_400 + time.split(':').fold(0, |seconds, part| seconds * 60 + number::<i64>(part));
    let nanoseconds = number(&format!("{fraction:0<9}"));
    // What GNU tar extracts as -1.75 it lists as second -1 with the fraction .75, which is to be taken away.
    if seconds < 0 && nanoseconds > 0 { (seconds - 1, 1_000_000_000 - nanoseconds) } else { (seconds, nanoseconds) }
}

/// As bsdtar sees it, told as an mtree: no attributes, no hard links.
pub fn bsdtar(archive: &Path) -> Vec<Seen> {
    let options = "--options=!all,type,mode,uid,gid,time,size,link,device,sha256";
    let from = format!("@{}", archive.display());
    let listing = output(Command::new("bsdtar").args(["-cf", "-", "--format=mtree", options, &from]));
    let listing = String::from_utf8(listing).expect("ASCII");
    listing.lines().filter(|line| !line.starts_with('#')).map(mtree_line).collect()
}

fn mtree_line(line: &str) -> Seen {
    let mut words = line.split(' ');
    let path = octal(words.next().expect("a path").as_bytes());
    // The root is `/.`, everything else begins with `./`.
    let path = if path == b"/." { b".".to_vec() } else { path.strip_prefix(b"./").expect("below").to_vec() };
    let mut seen = Seen { path, ..Seen::default() };
    for word in words {
        let (key, value) = word.split_once('=').expect("KEY=VALUE");
        match key {
            "type" => seen.kind = if value == "dir" { "directory".into() } else { value.replace("link", "symlink") },
            "mode" => seen.mode = number_of(value, 8) as u32,
            "uid" => seen.owner.0 = number(value),
            "gid" => seen.owner.1 = number(value),
            "size" => seen.size = number(value),
            "link" => seen.link = octal(value.as_bytes()),
            "sha256digest" => seen.content = format!("sha256:{value}"),
            "time" => {
                let (seconds, nanoseconds) = value.split_once('.').expect("a fraction");
                seen.mtime = (number(seconds), number(nanoseconds));
            }
            "device" => {
                let numbers: Vec<u32> = value.split(',').skip(1).map(number).collect();
                seen.device = (numbers[0], numbers[1]);
            }
            _ => panic!("unknown word {word}"),
        }
    }
    seen
}
