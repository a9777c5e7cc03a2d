//! Digests (OCI image-spec, descriptor.md, "Digests") and hashing with the CPU's own instructions.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as lc;

use crate::error::{Code, Error, Result};

/// A registered algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits.
    Sha256,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn lc(self) -> &'static lc::Algorithm {
        match self {
            Algorithm::Sha256 => &lc::SHA256,
            Algorithm::Sha512 => &lc::SHA512,
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(|| {
            Error::new(Code::DigestInvalid, format!("\"{}\" is no known digest algorithm", name.escape_default()))
        })
    }
}

/// A digest whose algorithm, length and alphabet are known to be right.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    text: Box<str>,
    algorithm: Algorithm,
}

impl Digest {
    /// The algorithm, to make a [`Hasher`] that can be compared with this digest.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [(Algorithm::Sha256, 64), (Algorithm::Sha512, 128)];
        for (algorithm, length) in known {
            let Some(hex) = text.strip_prefix(algorithm.name()).and_then(|rest| rest.strip_prefix(':')) else {
                continue;
            };
            if hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Ok(Digest { text: text.into(), algorithm });
            }
        }
        let shown: String = text.chars().take(150).collect();
        Err(Error::new(Code::DigestInvalid, format!("\"{}\" is not a sha256 or sha512 digest", shown.escape_default())))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A running digest.
#[derive(Clone)]
pub struct Hasher {
    inner: lc::Context,
    algorithm: Algorithm,
}

impl Hasher {
    /// A digest of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Hasher { inner: lc::Context::new(algorithm.lc()), algorithm }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        use fmt::Write;
        let mut text = format!("{}:", self.algorithm.name());
        for byte in self.inner.finish().as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Digest { text: text.into(), algorithm: self.algorithm }
    }

    /// The same as bytes, of a SHA-256.
    pub(crate) fn finish_bytes(self) -> [u8; 32] {
        let digest = self.inner.finish();
        std::array::from_fn(|index| digest.as_ref().get(index).copied().unwrap_or_default())
    }
}

/// A running digest of what is kept: BLAKE3, as `blake3:` and 64 hexadecimal digits. Nobody but us reads these digests, and
/// it hashes many pieces of one stream at a time, where SHA-256 is a chain.
#[derive(Clone, Default)]
pub struct KeptHasher(blake3::Hasher);

impl KeptHasher {
    /// Adds `bytes`; some 16 KiB and more at a time are hashed fastest.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(&self) -> String {
        format!("blake3:{}", self.0.finalize())
    }

    /// The same as bytes.
    pub(crate) fn finish_bytes(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_what_is_kept() {
        let mut hasher = KeptHasher::default();
        let empty = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(hasher.finish(), empty);
        let abc = "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        for byte in b"abc" {
            hasher.update(&[*byte]);
        }
        assert_eq!(hasher.finish(), abc);
    }

    #[test]
    fn known_answers() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for byte in b"abc" {
            hasher.update(&[*byte]);
        }
        assert_eq!(hasher.finish().as_str(), abc);
        let sha512 = Hasher::new(Algorithm::Sha512).finish();
        assert!(sha512.as_str().starts_with("sha512:cf83e1357eefb8bd"));
        assert_eq!(sha512.as_str().parse::<Digest>().expect("valid"), sha512);
    }

    #[test]
    fn only_registered_algorithms_right_length_lower_case() {
        let good = "a".repeat(64);
        for bad in [
            String::new(),
            "sha256".into(),
            "sha256:".into(),
            good.clone(),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha256:{}", "a".repeat(63)),
            format!("sha256:{}", "a".repeat(65)),
            format!("sha256:{}/", "a".repeat(63)),
            format!("sha256:../{}", "a".repeat(61)),
            format!("SHA256:{good}"),
            format!("md5:{}", "a".repeat(32)),
            format!("sha512:{good}"),
            format!(" sha256:{good}"),
            format!("sha256:{good}\n"),
        ] {
            assert_eq!(bad.parse::<Digest>().expect_err("refused").code, Code::DigestInvalid, "{bad:?}");
        }
    }
}
