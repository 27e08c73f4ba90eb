//! This machine, as a checkpoint describes the one it was made on.

use std::collections::BTreeSet;

use cryopod_store::Host;

use crate::error::{Error, Result};

/// Flags of /proc/cpuinfo that a program can be using at the moment it is checkpointed, apart from those that begin with
/// one of [`RELEVANT_PREFIXES`]. What the kernel alone uses (`pti`, `smep`) or what only describes the machine
/// (`constant_tsc`) is no reason to refuse a restore.
const RELEVANT: &[&str] = &[
    "3dnow",
    "3dnowext",
    "adx",
    "aes",
    "bmi1",
    "bmi2",
    "cldemote",
    "clflushopt",
    "clwb",
    "clzero",
    "cmov",
    "cx16",
    "cx8",
    "enqcmd",
    "erms",
    "f16c",
    "fma",
    "fma4",
    "fsgsbase",
    "fsrm",
    "fxsr",
    "fxsr_opt",
    "gfni",
    "hle",
    "invpcid",
    "lahf_lm",
    "lwp",
    "mmx",
    "mmxext",
    "monitorx",
    "movbe",
    "movdir64b",
    "movdiri",
    "ospke",
    "pclmulqdq",
    "pku",
    "popcnt",
    "ptwrite",
    "rdpid",
    "rdrand",
    "rdseed",
    "rdtscp",
    "rtm",
    "serialize",
    "sha_ni",
    "sha512",
    "shstk",
    "sm3",
    "sm4",
    "tbm",
    "tsc",
    "tsxldtrk",
    "umip",
    "user_shstk",
    "vaes",
    "vpclmulqdq",
    "waitpkg",
    "wbnoinvd",
    "xop",
];

/// Families of such flags. `xsave*` decides about the layout of saved registers.
const RELEVANT_PREFIXES: &[&str] = &["amx", "avx", "sse", "ssse", "pni", "xsave", "xgetbv"];

/// Kernel, architecture and name of this machine.
pub(crate) fn describe() -> Host {
    let uname = rustix::system::uname();
    Host {
        kernel: uname.release().to_string_lossy().into_owned(),
        arch: uname.machine().to_string_lossy().into_owned(),
        hostname: uname.nodename().to_string_lossy().into_owned(),
        other: serde_json::Map::new(),
    }
}

/// What the processor offers to programs, sorted, as far as it matters to one that moves.
pub(crate) fn cpu_features() -> Result<Vec<String>> {
    const PATH: &str = "/proc/cpuinfo";
    let cpuinfo = std::fs::read_to_string(PATH).map_err(Error::path("read", PATH))?;
    Ok(relevant_flags(&cpuinfo))
}

fn relevant_flags(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "flags")
        .map_or("", |(_, flags)| flags);
    let sorted: BTreeSet<&str> = flags
        .split_ascii_whitespace()
        .filter(|flag| is_relevant(flag))
        .collect();
    sorted.into_iter().map(str::to_owned).collect()
}

fn is_relevant(flag: &str) -> bool {
    RELEVANT.contains(&flag)
        || RELEVANT_PREFIXES
            .iter()
            .any(|prefix| flag.starts_with(prefix))
}

/// Checks that what was checkpointed on a machine like that can run on this one.
///
/// # Errors
///
/// [`Error::OtherArchitecture`], [`Error::MissingCpuFeatures`].
pub(crate) fn check(host: &Host, wanted: &[String]) -> Result<()> {
    let own = std::env::consts::ARCH;
    if host.arch != own {
        return Err(Error::OtherArchitecture {
            found: host.arch.clone(),
            own,
        });
    }
    let have = cpu_features()?;
    let missing: Vec<String> = wanted
        .iter()
        .filter(|feature| !have.contains(feature))
        .cloned()
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::MissingCpuFeatures { missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn flags_that_programs_use_are_kept() {
        let cpuinfo = "processor\t: 0\nflags\t\t: fpu xsave avx2 pti avx512f constant_tsc sse4_1 ibrs pku amx_tile\n\
                       bugs\t\t: spectre_v1\nflags\t\t: never_read\n";
        assert_eq!(
            relevant_flags(cpuinfo),
            ["amx_tile", "avx2", "avx512f", "pku", "sse4_1", "xsave"]
        );
        assert!(relevant_flags("").is_empty());
    }

    #[test]
    fn this_machine_can_restore_its_own() {
        check(&describe(), &cpu_features().unwrap()).unwrap();
    }

    #[test]
    fn a_feature_that_is_missing_is_named() {
        let error = check(&describe(), &["avx2048".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("avx2048"), "{error}");
        let host = Host {
            arch: "riscv64".to_owned(),
            ..describe()
        };
        assert!(matches!(
            check(&host, &[]),
            Err(Error::OtherArchitecture { .. })
        ));
    }
}
