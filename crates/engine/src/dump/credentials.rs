//! Who a thread is: credentials(7), capabilities(7).

use cryopod_image::criu::CredsEntry;

use crate::error::Result;
use crate::proc::status::Status;
use crate::remote::visit::Visit;

/// The credentials of the visited thread; all but the securebits stand in its status.
pub fn dump(visit: &mut Visit<'_>, status: &Status) -> Result<CredsEntry> {
    let securebits = visit.must(
        "prctl (securebits)",
        libc::SYS_prctl,
        [libc::PR_GET_SECUREBITS as u64, 0, 0, 0, 0, 0],
    )?;
    Ok(CredsEntry {
        secbits: securebits as u32,
        ..of_status(status)?
    })
}

/// What the status of a thread tells of them: all but the securebits.
pub fn of_status(status: &Status) -> Result<CredsEntry> {
    let (uids, gids) = (status.numbers("Uid"), status.numbers("Gid"));
    let id = |ids: &[u32], index: usize| ids.get(index).copied().unwrap_or(0);
    let set = |key| {
        status
            .mask(key)
            .map(|mask| vec![mask as u32, (mask >> 32) as u32])
    };
    Ok(CredsEntry {
        uid: id(&uids, 0),
        euid: id(&uids, 1),
        suid: id(&uids, 2),
        fsuid: id(&uids, 3),
        gid: id(&gids, 0),
        egid: id(&gids, 1),
        sgid: id(&gids, 2),
        fsgid: id(&gids, 3),
        cap_inh: set("CapInh")?,
        cap_prm: set("CapPrm")?,
        cap_eff: set("CapEff")?,
        cap_bnd: set("CapBnd")?,
        cap_amb: set("CapAmb")?,
        groups: status.numbers("Groups"),
        no_new_privs: Some(status.number("NoNewPrivs")? as u32),
        ..CredsEntry::default()
    })
}
