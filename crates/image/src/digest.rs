//! BLAKE3 digests of image files.
//!
//! A small file has one digest. A pages file has one per block of 1 MiB, so that blocks can be checked in any order
//! by several threads, and one over all of these. Digests are computed while files are written ([`SetWriter`]) and
//! checked while they are read ([`SetReader`]); where they are kept in between is somebody else's business.
//!
//! [`SetWriter`]: crate::set::SetWriter
//! [`SetReader`]: crate::set::SetReader

use std::path::Path;

use crate::error::Error;

/// Size of the blocks of a pages file; the last one may be shorter.
pub const BLOCK_SIZE_BYTES: u64 = 1 << 20;

/// The same as a length in memory.
pub(crate) const BLOCK_LEN: usize = 1 << 20;

/// Name, size and digest of one file of an image set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Name within the directory of the set.
    pub name: String,
    /// Size of the file.
    pub size_bytes: u64,
    /// BLAKE3 of the file; of a pages file, BLAKE3 of its block digests one after the other.
    pub blake3: [u8; 32],
    /// BLAKE3 of every block of a pages file, empty for other files.
    pub blocks: Vec<[u8; 32]>,
}

impl FileDigest {
    /// The digest of a pages file with these blocks.
    pub(crate) fn of_blocks(name: String, size_bytes: u64, blocks: Vec<[u8; 32]>) -> Self {
        Self {
            name,
            size_bytes,
            blake3: of_block_digests(&blocks),
            blocks,
        }
    }

    /// Checks that the digests of a pages file agree with each other and with its size; `path` is for the message.
    pub(crate) fn check_blocks(&self, path: &Path) -> Result<(), Error> {
        let bad = |what| {
            Err(Error::BadDigestList {
                path: path.to_owned(),
                what,
            })
        };
        if self.blocks.len() as u64 != self.size_bytes.div_ceil(BLOCK_SIZE_BYTES) {
            return bad("the number of block digests does not fit its size");
        }
        if self.blake3 != of_block_digests(&self.blocks) {
            return bad("the digest is not that of the block digests");
        }
        Ok(())
    }
}

fn of_block_digests(blocks: &[[u8; 32]]) -> [u8; 32] {
    *blake3::hash(blocks.as_flattened()).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(size_bytes: u64, blocks: usize) -> FileDigest {
        FileDigest::of_blocks("pages-1.img".to_owned(), size_bytes, vec![[7; 32]; blocks])
    }

    #[test]
    fn block_digests_must_fit_the_size() {
        let check = |size_bytes, blocks| {
            digest(size_bytes, blocks)
                .check_blocks(Path::new("x"))
                .is_ok()
        };
        assert!(check(0, 0));
        assert!(check(1, 1));
        assert!(check(BLOCK_SIZE_BYTES, 1));
        assert!(check(BLOCK_SIZE_BYTES + 1, 2));
        assert!(!check(0, 1));
        assert!(!check(BLOCK_SIZE_BYTES, 2));
        assert!(!check(u64::MAX, 3));
    }

    #[test]
    fn block_digests_must_fit_the_digest() {
        let mut digest = digest(5, 1);
        digest.blocks[0][3] ^= 1;
        assert!(matches!(
            digest.check_blocks(Path::new("x")),
            Err(Error::BadDigestList { .. })
        ));
    }
}
