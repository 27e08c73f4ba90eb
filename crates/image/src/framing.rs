//! How an image file begins, and how entries follow each other in it.
//!
//! All numbers are little-endian `u32`. A file begins with one or two magic numbers (see [`Framing`]); then come
//! entries: the length of a message, the message. Behind some messages come raw bytes, as many as the message says.
//! See <https://criu.org/Images>; this is what criu calls version 1.1, which it has written since 2014.

use std::path::Path;

use crate::error::Error;
use crate::kind::{Framing, Kind};

/// First number of most files.
pub const COMMON_MAGIC: u32 = 0x5456_4319;

/// First number of service files, which are not needed to restore.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

/// Largest entry that is read or written. The largest there are, mm entries, take about 50 bytes per mapping.
pub const MAX_ENTRY_BYTES: u64 = 16 << 20;

/// Size of the length in front of each entry.
pub const LENGTH_BYTES: u64 = 4;

/// The bytes a file of this kind begins with.
#[must_use]
pub fn header(kind: Kind) -> Vec<u8> {
    magics(kind)
        .iter()
        .flat_map(|magic| magic.to_le_bytes())
        .collect()
}

/// Checks the first bytes of a file, of which there must be as many as [`header`] has.
///
/// # Errors
///
/// [`Error::OldFormat`] when the file begins with its second magic at once, else [`Error::BadMagic`]; `path` is for
/// the message only.
pub fn check_header(kind: Kind, found: &[u8], path: &Path) -> Result<(), Error> {
    let expected = magics(kind);
    for (index, (&expected, found)) in expected.iter().zip(found.chunks_exact(4)).enumerate() {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(found);
        let found = u32::from_le_bytes(bytes);
        if found == expected {
            continue;
        }
        if index == 0 && found == kind.magic() {
            return Err(Error::OldFormat {
                path: path.to_owned(),
            });
        }
        return Err(Error::BadMagic {
            path: path.to_owned(),
            kind,
            offset: index as u64 * 4,
            found,
            expected,
        });
    }
    debug_assert_eq!(found.len(), expected.len() * 4);
    Ok(())
}

fn magics(kind: Kind) -> Vec<u32> {
    match kind.framing() {
        Framing::Inventory => vec![kind.magic()],
        Framing::Common => vec![COMMON_MAGIC, kind.magic()],
        Framing::Service => vec![SERVICE_MAGIC, kind.magic()],
        Framing::Raw => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_criu() {
        assert_eq!(header(Kind::Inventory), [0x16, 0x31, 0x31, 0x58]);
        assert_eq!(
            header(Kind::Pstree),
            [0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50]
        );
        assert_eq!(
            header(Kind::StatsDump),
            [0x40, 0x59, 0x10, 0x55, 0x06, 0x33, 0x09, 0x57]
        );
        assert_eq!(header(Kind::Pages), []);
    }

    #[test]
    fn every_kind_accepts_its_own_header() {
        for &kind in Kind::ALL {
            check_header(kind, &header(kind), Path::new("x")).unwrap();
        }
    }

    #[test]
    fn version_1_is_told_from_nonsense() {
        let mut old = header(Kind::Mm).split_off(4);
        old.extend([0; 4]);
        assert!(matches!(
            check_header(Kind::Mm, &old, Path::new("x")),
            Err(Error::OldFormat { .. })
        ));
        let other = header(Kind::Core);
        assert!(matches!(
            check_header(Kind::Mm, &other, Path::new("x")),
            Err(Error::BadMagic { offset: 4, .. })
        ));
        let other = header(Kind::StatsDump);
        assert!(matches!(
            check_header(Kind::Mm, &other, Path::new("x")),
            Err(Error::BadMagic { offset: 0, .. })
        ));
    }
}
