//! How the records of pax headers are written (POSIX.1-2001, pax, "pax Extended Header"; attributes as libarchive has them).

use crate::entry::Mtime;

/// Splits the first `LENGTH KEY=VALUE\n` off, and returns key, value and the rest; LENGTH counts itself and the newline.
pub(crate) fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|&byte| byte == b' ')?;
    let length = digits_of(&bytes[..space]).and_then(|length| usize::try_from(length).ok())?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// The number that decimal digits and nothing else say, up to some value over 2^64.
pub(crate) fn digits_of(text: &[u8]) -> Option<i128> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = text.iter().take_while(|&&digit| digit == b'0').count();
    let digits = &text[zeros..];
    let fold = |digits: &[u8]| digits.iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    (digits.len() <= 20).then(|| fold(digits))
}

/// A decimal number of seconds, maybe negative, maybe with a fraction; what is finer than nanoseconds rounds down.
pub(crate) fn time(value: &[u8]) -> Option<Mtime> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let point = digits.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = point.map_or((digits, &b""[..]), |point| (&digits[..point], &digits[point + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Wide enough for both signs.
    let whole = digits_of(whole)?;
    let place = |index: usize| u32::from(fraction.get(index).map_or(0, |digit| digit - b'0'));
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + place(index));
    let finer = fraction.iter().skip(9).any(|&digit| digit != b'0');
    // Nanoseconds count forward: -1.5 is half a second after -2.
    let below = nanoseconds + u32::from(finer);
    let (seconds, nanoseconds) = match (negative, below) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - below),
    };
    Some(Mtime { seconds: i64::try_from(seconds).ok()?, nanoseconds })
}

/// Names of attributes as libarchive encodes them, like those of a URL.
pub(crate) fn percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|&byte| char::from(byte).to_digit(16));
        out.push((digit()? << 4 | digit()?) as u8);
    }
    Some(out)
}

/// Standard alphabet, the padding optional (libarchive leaves it out).
pub(crate) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut text = text;
    while let Some(rest) = text.strip_suffix(b"=") {
        text = rest;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        match group.len() {
            4 => out.extend(&bytes[1..4]),
            3 => out.extend(&bytes[1..3]),
            2 => out.push(bytes[1]),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        type Row<'a> = (&'a [u8], Option<(i64, u32)>);
        let table: &[Row<'_>] = &[
            (b"0", Some((0, 0))),
            (b"1.5", Some((1, 500_000_000))),
            (b"1.", Some((1, 0))),
            (b"1.0000000019", Some((1, 1))),
            (b"-1", Some((-1, 0))),
            (b"-1.5", Some((-2, 500_000_000))),
            (b"-0.000000001", Some((-1, 999_999_999))),
            (b"-0.0000000001", Some((-1, 999_999_999))),
            (b"-1.999999999999", Some((-2, 0))),
            (b"9223372036854775807.999999999", Some((i64::MAX, 999_999_999))),
            (b"-9223372036854775807.9", Some((i64::MIN, 100_000_000))),
            (b"-9223372036854775808", Some((i64::MIN, 0))),
            (b"-9223372036854775808.1", None),
            (b"00000000000000000000000000012.5", Some((12, 500_000_000))),
            (b"-0000000000000000000000000001", Some((-1, 0))),
            (b"9223372036854775808", None),
            (b"", None),
            (b"-", None),
            (b".5", None),
            (b"+1", None),
            (b"1e9", None),
            (b"1.5.5", None),
            (b"1.-5", None),
            (b" 1", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(seconds, nanoseconds)| Mtime { seconds, nanoseconds });
            assert_eq!(time(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn encodings_of_libarchive() {
        assert_eq!(percent(b"user.a%3Db%25"), Some(b"user.a=b%".to_vec()));
        assert_eq!(percent(b"user.%4"), None);
        assert_eq!(percent(b"user.%zz"), None);
        let table: &[(&[u8], Option<&[u8]>)] = &[
            (b"", Some(b"")),
            (b"AA", Some(b"\0")),
            (b"AA==", Some(b"\0")),
            (b"AAEC", Some(b"\0\x01\x02")),
            (b"+/8", Some(b"\xfb\xff")),
            (b"AAECA", None),
            (b"A*EC", None),
        ];
        for (text, expected) in table {
            assert_eq!(base64(text).as_deref(), *expected, "{}", text.escape_ascii());
        }
    }
}
