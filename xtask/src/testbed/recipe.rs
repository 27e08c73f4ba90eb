//! What the testbed is made of.

/// Debian release.
pub const SUITE: &str = "trixie";

/// The script whose rules fit [`SUITE`] when debootstrap is too old to know it.
pub const FALLBACK_SCRIPT: &str = "sid";

/// What is installed besides Debian's minimal base.
///
/// criu is the peer, crit (python3-pycriu) shows images of either side; then come tools of the tests, and the programs
/// that are checkpointed under load. The Java runtime has a compiler in it.
pub const PACKAGES: &[&str] = &[
    "criu",
    "python3",
    "python3-pycriu",
    "python3-protobuf",
    "xz-utils",
    "procps",
    "iproute2",
    "golang-go",
    "memcached",
    "nginx",
    "nodejs",
    "openjdk-21-jre-headless",
    "postgresql-17",
    "redis-server",
    "redis-tools",
    "tmux",
];

/// A file that lies in the root before any package is configured.
pub struct Prepared {
    /// Relative to the root.
    pub path: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub contents: &'static str,
}

/// The files that packages find when they are configured.
pub const PREPARED: &[Prepared] = &[
    // 101 means "not allowed": no package starts its services (invoke-rc.d(8)).
    Prepared {
        path: "usr/sbin/policy-rc.d",
        mode: 0o755,
        contents: "#!/bin/sh\nexit 101\n",
    },
    // Nobody reads manuals in there. `force-confold` keeps the next file (dpkg(1)).
    Prepared {
        path: "etc/dpkg/dpkg.cfg.d/testbed",
        mode: 0o644,
        contents: "force-confold\n\
                   path-exclude=/usr/share/doc/*\n\
                   path-exclude=/usr/share/info/*\n\
                   path-exclude=/usr/share/locale/*\n\
                   path-exclude=/usr/share/man/*\n",
    },
    // The tests make clusters of their own.
    Prepared {
        path: "etc/postgresql-common/createcluster.conf",
        mode: 0o644,
        contents: "create_main_cluster = false\n",
    },
];

/// Raised when the way the root is built changes and old ones must not be reused.
const REVISION: u32 = 2;

/// A number that changes with everything above.
pub fn hash() -> u64 {
    let revision = REVISION.to_string();
    let parts = [SUITE, revision.as_str()]
        .into_iter()
        .chain(PACKAGES.iter().copied())
        .chain(PREPARED.iter().flat_map(|file| [file.path, file.contents]));
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
