//! Who a thread is. The order matters: each step needs a privilege that a later one may take away.

use cryopod_image::criu::CredsEntry;

use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::proc::status::Status;
use crate::remote::puppet::Puppet;

/// securebits: setuid(2) leaves capabilities alone. See capabilities(7).
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE).
const AMBIENT_RAISE: u64 = 2;
/// prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL).
const AMBIENT_CLEAR: u64 = 4;

/// A set of capabilities from the words of an image.
fn mask(words: &[u32]) -> u64 {
    words
        .iter()
        .take(2)
        .rev()
        .fold(0, |mask, &word| mask << 32 | u64::from(word))
}

/// Makes a thread what the entry says.
pub fn restore(puppet: &Puppet, mem: &Mem, wanted: &CredsEntry) -> Result<()> {
    let status = Status::read(puppet.pid, puppet.tid)?;
    if !is_already(&status, wanted)? {
        become_it(puppet, mem, &status, wanted)?;
    }
    if wanted.no_new_privs == Some(1) {
        puppet.must(
            "prctl (no new privileges)",
            libc::SYS_prctl,
            [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0],
        )?;
    }
    Ok(())
}

/// Whether a thread belongs to these users and groups.
fn is_user(status: &Status, wanted: &CredsEntry) -> bool {
    let uids = [wanted.uid, wanted.euid, wanted.suid, wanted.fsuid];
    let gids = [wanted.gid, wanted.egid, wanted.sgid, wanted.fsgid];
    status.numbers("Uid") == uids
        && status.numbers("Gid") == gids
        && status.numbers("Groups") == wanted.groups
}

fn is_already(status: &Status, wanted: &CredsEntry) -> Result<bool> {
    Ok(is_user(status, wanted)
        && wanted.secbits == 0
        && status.mask("CapInh")? == mask(&wanted.cap_inh)
        && status.mask("CapPrm")? == mask(&wanted.cap_prm)
        && status.mask("CapEff")? == mask(&wanted.cap_eff)
        && status.mask("CapBnd")? == mask(&wanted.cap_bnd)
        && status.mask("CapAmb")? == mask(&wanted.cap_amb))
}

/// setresgid(2), setresuid(2) and their like for file systems.
pub fn restore_ids(puppet: &Puppet, wanted: &CredsEntry) -> Result<()> {
    let ids = |real: u32, effective: u32, saved: u32| {
        [real.into(), effective.into(), saved.into(), 0, 0, 0]
    };
    puppet.must(
        "setresgid",
        libc::SYS_setresgid,
        ids(wanted.gid, wanted.egid, wanted.sgid),
    )?;
    puppet.must(
        "setfsgid",
        libc::SYS_setfsgid,
        [wanted.fsgid.into(), 0, 0, 0, 0, 0],
    )?;
    puppet.must(
        "setresuid",
        libc::SYS_setresuid,
        ids(wanted.uid, wanted.euid, wanted.suid),
    )?;
    puppet.must(
        "setfsuid",
        libc::SYS_setfsuid,
        [wanted.fsuid.into(), 0, 0, 0, 0, 0],
    )?;
    Ok(())
}

fn become_it(puppet: &Puppet, mem: &Mem, status: &Status, wanted: &CredsEntry) -> Result<()> {
    let prctl = |call, option: i32, a: u64, b: u64| {
        puppet
            .must(call, libc::SYS_prctl, [option as u64, a, b, 0, 0, 0])
            .map(drop)
    };
    let is_user = is_user(status, wanted);
    // What is right already is left alone: an ordinary user may not even set it to what it is.
    if !is_user {
        change_user(puppet, mem, wanted)?;
    }
    let dropped = status.mask("CapBnd")? & !mask(&wanted.cap_bnd);
    for capability in (0..64u64).filter(|capability| dropped & 1 << capability != 0) {
        prctl("prctl (bounding set)", libc::PR_CAPBSET_DROP, capability, 0)?;
    }
    // Ambient capabilities must be inheritable and permitted when they are raised, and the securebits may forbid
    // raising them, so they come between a first capset and the final securebits.
    let permitted = status.mask("CapPrm")?;
    let ambient = mask(&wanted.cap_amb);
    if status.mask("CapAmb")? & !ambient != 0 {
        prctl(
            "prctl (ambient set)",
            libc::PR_CAP_AMBIENT,
            AMBIENT_CLEAR,
            0,
        )?;
    }
    capset(puppet, mem, permitted, permitted, mask(&wanted.cap_inh))?;
    for capability in (0..64u64).filter(|capability| ambient & 1 << capability != 0) {
        prctl(
            "prctl (ambient set)",
            libc::PR_CAP_AMBIENT,
            AMBIENT_RAISE,
            capability,
        )?;
    }
    if !is_user || wanted.secbits != secure_bits(puppet)? {
        prctl(
            "prctl (securebits)",
            libc::PR_SET_SECUREBITS,
            u64::from(wanted.secbits),
            0,
        )?;
    }
    capset(
        puppet,
        mem,
        mask(&wanted.cap_eff),
        mask(&wanted.cap_prm),
        mask(&wanted.cap_inh),
    )
}

fn secure_bits(puppet: &Puppet) -> Result<u32> {
    let args = [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0];
    puppet
        .must("prctl (securebits)", libc::SYS_prctl, args)
        .map(|bits| bits as u32)
}

/// Users and groups, with the capabilities kept for what follows.
fn change_user(puppet: &Puppet, mem: &Mem, wanted: &CredsEntry) -> Result<()> {
    let bits = u64::from(SECBIT_NO_SETUID_FIXUP);
    let args = [libc::PR_SET_SECUREBITS as u64, bits, 0, 0, 0, 0];
    puppet.must("prctl (securebits)", libc::SYS_prctl, args)?;
    let groups: Vec<u8> = wanted
        .groups
        .iter()
        .flat_map(|group| group.to_ne_bytes())
        .collect();
    if groups.len() > Puppet::data_bytes() {
        return Err(Error::inconsistent(
            format!("core-{}", puppet.tid),
            "too many groups",
        ));
    }
    let at = puppet.put(mem, &groups)?;
    puppet.must(
        "setgroups",
        libc::SYS_setgroups,
        [wanted.groups.len() as u64, at, 0, 0, 0, 0],
    )?;
    restore_ids(puppet, wanted)
}

/// capset(2) of the calling thread.
fn capset(
    puppet: &Puppet,
    mem: &Mem,
    effective: u64,
    permitted: u64,
    inheritable: u64,
) -> Result<()> {
    let low = [effective as u32, permitted as u32, inheritable as u32];
    let high = [effective, permitted, inheritable].map(|set| (set >> 32) as u32);
    let words = [[LINUX_CAPABILITY_VERSION_3, 0].as_slice(), &low, &high].concat();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let at = puppet.put(mem, &bytes)?;
    puppet
        .must("capset", libc::SYS_capset, [at, at + 8, 0, 0, 0, 0])
        .map(drop)
}
