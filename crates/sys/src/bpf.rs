//! BPF maps as their users see them; bpf(2), linux/bpf.h.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_GET_NEXT_KEY: i32 = 4;
const PROG_GET_NEXT_ID: i32 = 11;
const PROG_GET_FD_BY_ID: i32 = 13;
const MAP_GET_FD_BY_ID: i32 = 14;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_FREEZE: i32 = 22;

/// `BPF_MAP_TYPE_HASH`.
pub const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`.
pub const ARRAY: u32 = 2;

/// `BPF_OBJ_NAME_LEN`, with its zero byte.
pub const NAME_BYTES: usize = 16;

/// `union bpf_attr`, of which each command uses the first bytes.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn pointer<T>(self, at: usize, to: *const T) -> Self {
        self.u64(at, to as u64)
    }

    fn get(&self, at: usize) -> u32 {
        u32::from_ne_bytes(std::array::from_fn(|index| self.0[at + index]))
    }
}

/// Makes the call. What `attr` points to must be live, and long enough for the command.
///
/// # Safety
///
/// Every pointer in `attr` leads to memory that the command may use as it does.
unsafe fn bpf(command: i32, attr: &mut Attr) -> Result<i64> {
    // SAFETY: the attribute is live and as long as said; the rest is the caller's promise.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            std::mem::size_of::<Attr>(),
        )
    })
}

/// # Safety
///
/// As [`bpf`], of a command that makes a descriptor.
unsafe fn bpf_descriptor(command: i32, attr: &mut Attr) -> Result<OwnedFd> {
    // SAFETY: the caller's promise; the kernel just made the descriptor for us, and nobody else owns it.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attr)? as i32)) }
}

/// What a map is: `struct bpf_map_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapInfo {
    /// `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// The kernel's number of it.
    pub id: u32,
    /// Of one key.
    pub key_bytes: u32,
    /// Of one value.
    pub value_bytes: u32,
    /// Most pairs in it.
    pub max_entries: u32,
    /// `BPF_F_*` it was made with.
    pub flags: u32,
    /// Filled up with zeroes.
    pub name: [u8; NAME_BYTES],
    /// Of the network interface that has it; 0 for none.
    pub ifindex: u32,
    /// Whether the kernel knows types of its keys or values.
    pub has_types: bool,
    /// `map_extra`.
    pub extra: u64,
}

/// `struct bpf_map_info` as far as it is looked at.
const MAP_INFO_BYTES: usize = 88;

/// BPF_OBJ_GET_INFO_BY_FD of a map.
pub fn map_info(map: BorrowedFd<'_>) -> Result<MapInfo> {
    let mut info = [0u8; MAP_INFO_BYTES];
    let mut attr = Attr::new()
        .u32(0, map.as_raw_fd() as u32)
        .u32(4, info.len() as u32)
        .pointer(8, info.as_mut_ptr());
    // SAFETY: `info` is live and as long as said.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr)? };
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| info[at + index]));
    Ok(MapInfo {
        kind: word(0),
        id: word(4),
        key_bytes: word(8),
        value_bytes: word(12),
        max_entries: word(16),
        flags: word(20),
        name: std::array::from_fn(|index| info[24 + index]),
        ifindex: word(40),
        has_types: [44, 64, 68, 72].into_iter().any(|at| word(at) != 0),
        extra: u64::from(word(80)) | u64::from(word(84)) << 32,
    })
}

/// BPF_MAP_CREATE: a map like `info`, but for its number.
pub fn make_map(info: &MapInfo) -> Result<OwnedFd> {
    let mut attr = Attr::new()
        .u32(0, info.kind)
        .u32(4, info.key_bytes)
        .u32(8, info.value_bytes)
        .u32(12, info.max_entries)
        .u32(16, info.flags)
        .u64(64, info.extra);
    attr.0[28..28 + NAME_BYTES - 1].copy_from_slice(&info.name[..NAME_BYTES - 1]);
    // SAFETY: there are no pointers in it.
    unsafe { bpf_descriptor(MAP_CREATE, &mut attr) }
}

/// BPF_MAP_GET_FD_BY_ID: another description of a map; `flags` are `BPF_F_RDONLY`, `BPF_F_WRONLY` or 0.
pub fn map_by_id(id: u32, flags: u32) -> Result<OwnedFd> {
    let mut attr = Attr::new().u32(0, id).u32(8, flags);
    // SAFETY: there are no pointers in it.
    unsafe { bpf_descriptor(MAP_GET_FD_BY_ID, &mut attr) }
}

/// BPF_MAP_FREEZE: nobody can write to it by a descriptor any more.
pub fn freeze_map(map: BorrowedFd<'_>) -> Result<()> {
    let mut attr = Attr::new().u32(0, map.as_raw_fd() as u32);
    // SAFETY: there are no pointers in it.
    unsafe { bpf(MAP_FREEZE, &mut attr) }.map(drop)
}

/// All keys and all values of a map, one behind the other, while nobody changes it.
///
/// # Errors
///
/// Those of bpf(2); EFBIG when they are more than `most_bytes`.
pub fn pairs(map: BorrowedFd<'_>, most_bytes: usize) -> Result<(Vec<u8>, Vec<u8>)> {
    let info = map_info(map)?;
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    let mut key = vec![0u8; info.key_bytes as usize];
    let mut next = key.clone();
    // The kernel rounds up what it writes of arrays' values in places of its own only.
    let mut value = vec![0u8; (info.value_bytes as usize).next_multiple_of(8)];
    let file = map.as_raw_fd() as u32;
    let mut first = true;
    loop {
        let from = if first {
            std::ptr::null()
        } else {
            key.as_ptr()
        };
        first = false;
        let mut attr = Attr::new()
            .u32(0, file)
            .pointer(8, from)
            .pointer(16, next.as_mut_ptr());
        // SAFETY: both keys are as long as those of the map.
        match unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) } {
            Err(Errno::NOENT) => return Ok((keys, values)),
            moved => moved?,
        };
        std::mem::swap(&mut key, &mut next);
        let mut attr = Attr::new()
            .u32(0, file)
            .pointer(8, key.as_ptr())
            .pointer(16, value.as_mut_ptr());
        // SAFETY: the key is as long as those of the map, and the value at least so.
        unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr)? };
        if keys.len() + values.len() > most_bytes {
            return Err(Errno::FBIG);
        }
        keys.extend(&key);
        values.extend(&value[..info.value_bytes as usize]);
    }
}

/// BPF_MAP_UPDATE_ELEM: puts a pair into a map.
///
/// # Errors
///
/// Those of bpf(2); EINVAL when they are not as long as the map's.
pub fn put_pair(map: BorrowedFd<'_>, info: &MapInfo, key: &[u8], value: &[u8]) -> Result<()> {
    if key.len() != info.key_bytes as usize || value.len() != info.value_bytes as usize {
        return Err(Errno::INVAL);
    }
    let mut attr = Attr::new()
        .u32(0, map.as_raw_fd() as u32)
        .pointer(8, key.as_ptr())
        .pointer(16, value.as_ptr());
    // SAFETY: key and value are as long as those of the map, which are only read.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// A loaded program that uses a map, by the kernel's numbers of both; needs CAP_SYS_ADMIN.
pub fn program_with(map_id: u32) -> Result<Option<u32>> {
    let mut id = 0;
    loop {
        let mut attr = Attr::new().u32(0, id);
        // SAFETY: there are no pointers in it.
        match unsafe { bpf(PROG_GET_NEXT_ID, &mut attr) } {
            Err(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        id = attr.get(4);
        let mut attr = Attr::new().u32(0, id);
        // SAFETY: there are no pointers in it.
        let program = match unsafe { bpf_descriptor(PROG_GET_FD_BY_ID, &mut attr) } {
            // It went away.
            Err(Errno::NOENT) => continue,
            program => program?,
        };
        if maps_of(&program)?.contains(&map_id) {
            return Ok(Some(id));
        }
    }
}

/// The maps that a program uses: `map_ids` of `struct bpf_prog_info`.
fn maps_of(program: &OwnedFd) -> Result<Vec<u32>> {
    const INFO_BYTES: usize = 64;
    const COUNT: usize = 52;
    const IDS: usize = 56;
    /// The verifier's limit (MAX_USED_MAPS).
    const MOST: usize = 64;
    let mut ids = vec![0u32; MOST];
    let mut info = [0u8; INFO_BYTES];
    info[COUNT..COUNT + 4].copy_from_slice(&(MOST as u32).to_ne_bytes());
    info[IDS..IDS + 8].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
    let mut attr = Attr::new()
        .u32(0, program.as_raw_fd() as u32)
        .u32(4, INFO_BYTES as u32)
        .pointer(8, info.as_mut_ptr());
    // SAFETY: `info` is live and as long as said, and there is room for as many numbers as it says.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr)? };
    let count = u32::from_ne_bytes(std::array::from_fn(|index| info[COUNT + index]));
    ids.truncate(count as usize);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_map_gives_back_what_was_put_in() {
        let mut name = [0; NAME_BYTES];
        name[..4].copy_from_slice(b"test");
        let wanted = MapInfo {
            kind: HASH,
            key_bytes: 4,
            value_bytes: 6,
            max_entries: 8,
            name,
            ..MapInfo::default()
        };
        let Ok(map) = make_map(&wanted) else {
            return;
        };
        let info = map_info(map.as_fd()).unwrap();
        assert_eq!(MapInfo { id: 0, ..info }, wanted);
        for number in 0..5u8 {
            put_pair(map.as_fd(), &info, &[number; 4], &[number + 1; 6]).unwrap();
        }
        assert_eq!(
            put_pair(map.as_fd(), &info, &[0; 3], &[0; 6]),
            Err(Errno::INVAL)
        );
        assert_eq!(pairs(map.as_fd(), 8), Err(Errno::FBIG));
        let (keys, values) = pairs(map.as_fd(), 4096).unwrap();
        assert_eq!((keys.len(), values.len()), (20, 30));
        for (key, value) in keys.chunks(4).zip(values.chunks(6)) {
            assert_eq!(value, [key[0] + 1; 6]);
        }
        assert_eq!(program_with(info.id), Ok(None));
        freeze_map(map.as_fd()).unwrap();
        let again = map_by_id(info.id, 0).unwrap();
        let put = put_pair(again.as_fd(), &info, &[0; 4], &[0; 6]);
        assert_eq!(put, Err(Errno::PERM));
    }
}
