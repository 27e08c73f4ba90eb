//! Digests of image files, as a checkpoint's description carries them.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Error;

/// A BLAKE3 digest; 64 lower-case hexadecimal digits in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The bytes of it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits, upper or lower case.
    ///
    /// # Errors
    ///
    /// [`Error::BadDigest`], which says whether the length or a character is wrong.
    pub fn parse(value: &str) -> Result<Self, Error> {
        let refused = |problem: String| Error::BadDigest {
            value: value.chars().take(80).collect(),
            problem,
        };
        let digits = value.as_bytes();
        if digits.len() != 64 {
            return Err(refused(format!(
                "{} bytes long instead of 64",
                digits.len()
            )));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(refused("not all of it is hexadecimal".to_owned()));
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// The value of one hexadecimal digit.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<Digest> for [u8; 32] {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        Self::parse(value)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            write!(text, "{byte:02x}")?;
        }
        out.pad(&text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One image file of a checkpoint: what it is called under `images/` and what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileDigest {
    /// A plain file name: never empty, no slash, not `.` or `..`.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its digest; for a file with `blocks`, the digest of the concatenated digests of the blocks.
    pub blake3: Digest,
    /// For files that are verified piecewise: one digest per 1 MiB block, the last of which may be short.
    pub blocks: Vec<Digest>,
    /// Fields of later minor revisions, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl FileDigest {
    /// Describes a file.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        size_bytes: u64,
        blake3: [u8; 32],
        blocks: &[[u8; 32]],
    ) -> Self {
        Self {
            name: name.into(),
            size_bytes,
            blake3: blake3.into(),
            blocks: blocks.iter().copied().map(Digest::from).collect(),
            other: Map::new(),
        }
    }

    /// The digests of the blocks as plain bytes.
    #[must_use]
    pub fn block_bytes(&self) -> Vec<[u8; 32]> {
        self.blocks
            .iter()
            .map(|digest| *digest.as_bytes())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bad_digest_says_what_is_wrong() {
        let short = Digest::parse("abc").unwrap_err();
        assert_eq!(
            short.to_string(),
            "\"abc\" is not a BLAKE3 digest: 3 bytes long instead of 64"
        );
        let odd = Digest::parse(&"g".repeat(64)).unwrap_err();
        assert!(
            odd.to_string().ends_with("not all of it is hexadecimal"),
            "{odd}"
        );
        assert!(odd.hint().is_some());
        // 64 bytes, but not 64 characters.
        assert!(Digest::parse(&"é".repeat(32)).is_err());
    }

    proptest! {
        #[test]
        fn digests_round_trip(bytes in any::<[u8; 32]>()) {
            let digest = Digest::from(bytes);
            prop_assert_eq!(Digest::parse(&digest.to_string()).unwrap(), digest);
            prop_assert_eq!(Digest::parse(&digest.to_string().to_uppercase()).unwrap(), digest);
            prop_assert_eq!(serde_json::from_str::<Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
            prop_assert_eq!(<[u8; 32]>::from(digest), bytes);
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = Digest::parse(&text);
        }
    }
}
