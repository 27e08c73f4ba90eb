//! What the testbed is made of.

/// Debian release.
pub const SUITE: &str = "trixie";

/// The script whose rules fit [`SUITE`] when debootstrap is too old to know it.
pub const FALLBACK_SCRIPT: &str = "sid";

/// What is installed besides Debian's minimal base.
///
/// criu is the peer, crit (python3-pycriu) shows images of either side, the rest is for tests.
pub const PACKAGES: &[&str] = &[
    "criu",
    "python3",
    "python3-pycriu",
    "python3-protobuf",
    "xz-utils",
    "procps",
    "iproute2",
];

/// Raised when the way the root is built changes and old ones must not be reused.
const REVISION: u32 = 1;

/// A number that changes with everything above.
pub fn hash() -> u64 {
    let revision = REVISION.to_string();
    let parts = [SUITE, revision.as_str()]
        .into_iter()
        .chain(PACKAGES.iter().copied());
    fnv1a(parts)
}

/// FNV-1a over the parts, each ended by a zero byte. Not a cryptographic hash: it names a cache.
fn fnv1a<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash ^= u64::from(byte);
            hash = hash.wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::fnv1a;

    #[test]
    fn hash_tells_parts_apart() {
        assert_ne!(
            fnv1a(["ab", "c"].into_iter()),
            fnv1a(["a", "bc"].into_iter())
        );
        assert_eq!(fnv1a(["ab"].into_iter()), fnv1a(["ab"].into_iter()));
    }
}
