//! What tells one build of a program or library from another: the note that the linker leaves in it (elf(5),
//! NT_GNU_BUILD_ID).

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How files that programs execute are compared with what they were at the checkpoint, besides by size and mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileValidation {
    /// By nothing else.
    Size,
    /// By their build id, where they have one.
    #[default]
    BuildId,
}

/// Program headers that are looked at; real files have about a dozen.
const MOST_HEADERS: u16 = 256;
/// Bytes of notes that are looked at; real files have a few hundred.
const MOST_NOTE_BYTES: u64 = 1 << 16;
/// No linker makes longer ones (SHA-512).
const LONGEST_ID_BYTES: usize = 64;

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// The two layouts, of which only places and widths differ.
struct Class {
    header_bytes: usize,
    /// In the file's header: offset of the program headers, size of each, how many.
    headers: (usize, usize, usize),
    /// In a program header: offset and size of what it describes.
    place: (usize, usize),
    wide: bool,
}

const CLASS_32: Class = Class {
    header_bytes: 52,
    headers: (28, 42, 44),
    place: (4, 16),
    wide: false,
};
const CLASS_64: Class = Class {
    header_bytes: 64,
    headers: (32, 54, 56),
    place: (8, 32),
    wide: true,
};

impl Class {
    fn of(head: &[u8]) -> Option<&'static Self> {
        const LITTLE_ENDIAN: u8 = 1;
        if !head.starts_with(b"\x7fELF") || head.get(5) != Some(&LITTLE_ENDIAN) {
            return None;
        }
        match head.get(4)? {
            1 => Some(&CLASS_32),
            2 => Some(&CLASS_64),
            _ => None,
        }
    }

    fn word(&self, bytes: &[u8], at: usize) -> Option<u64> {
        if self.wide {
            Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
        } else {
            half(bytes, at).map(u64::from)
        }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn quarter(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The build id of a file, if it is an ELF file that has one. Its position stays.
pub fn build_id(file: &File) -> Option<Vec<u8>> {
    find(&|at, bytes| file.read_exact_at(bytes, at).ok())
}

/// The same, of whatever `read` reads at an offset.
fn find(read: &dyn Fn(u64, &mut [u8]) -> Option<()>) -> Option<Vec<u8>> {
    let mut head = [0; CLASS_64.header_bytes];
    read(0, &mut head[..CLASS_32.header_bytes])?;
    let class = Class::of(&head)?;
    read(0, &mut head[..class.header_bytes])?;
    let (table, size, count) = class.headers;
    let (table, size) = (class.word(&head, table)?, quarter(&head, size)?);
    let count = quarter(&head, count)?.min(MOST_HEADERS);
    let mut header = vec![0; size.into()];
    for number in 0..u64::from(count) {
        read(table.checked_add(number * u64::from(size))?, &mut header)?;
        if half(&header, 0)? != PT_NOTE {
            continue;
        }
        let (offset, bytes) = class.place;
        let bytes = class.word(&header, bytes)?.min(MOST_NOTE_BYTES);
        let mut notes = vec![0; bytes as usize];
        if read(class.word(&header, offset)?, &mut notes).is_some()
            && let Some(id) = in_notes(&notes)
        {
            return Some(id);
        }
    }
    None
}

/// Notes follow each other: length of the name, of the contents, kind; name; contents. Both are filled up to four bytes.
fn in_notes(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let (name_len, len) = (half(notes, 0)? as usize, half(notes, 4)? as usize);
        let kind = half(notes, 8)?;
        let rest = notes.get(12..)?;
        let name = rest.get(..name_len)?;
        let rest = rest.get(name_len.next_multiple_of(4)..)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            let id = rest.get(..len)?;
            return (1..=LONGEST_ID_BYTES).contains(&len).then(|| id.to_vec());
        }
        notes = rest.get(len.checked_next_multiple_of(4)?..)?;
    }
}

/// A build id as CRIU's images have it: words of four bytes, filled up with zeroes.
pub fn words(id: &[u8]) -> Vec<u32> {
    id.chunks(4)
        .map(|chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(word)
        })
        .collect()
}

/// A build id for people.
pub fn shown(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
        find(&|at, buffer| {
            let at = usize::try_from(at).ok()?;
            let from = bytes.get(at..at.checked_add(buffer.len())?)?;
            buffer.copy_from_slice(from);
            Some(())
        })
    }

    /// A 64-bit file that is nothing but a header, a program header, and these notes.
    fn file(notes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = PT_NOTE as u8;
        bytes[64 + 8] = 64 + 56;
        bytes[64 + 32] = notes.len() as u8;
        bytes.extend(notes);
        bytes
    }

    fn note(kind: u8, name: &[u8], contents: &[u8]) -> Vec<u8> {
        let mut note = vec![
            name.len() as u8,
            0,
            0,
            0,
            contents.len() as u8,
            0,
            0,
            0,
            kind,
            0,
            0,
            0,
        ];
        note.extend(name);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(contents);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn the_id_is_found_among_other_notes() {
        let notes = [
            note(1, b"Other\0", b"abc"),
            note(3, b"GNU\0", b"\x01\x02\x03\x04\x05"),
        ]
        .concat();
        let id = of_bytes(&file(&notes)).unwrap();
        assert_eq!(id, [1, 2, 3, 4, 5]);
        assert_eq!(words(&id), [0x0403_0201, 5]);
        assert_eq!(shown(&words(&id)), "0102030405000000");
        assert_eq!(of_bytes(&file(&note(3, b"GNU\0", b""))), None);
        assert_eq!(of_bytes(&file(&note(5, b"GNU\0", b"x"))), None);
        assert_eq!(of_bytes(b"#!/bin/sh"), None);
    }

    #[test]
    fn this_program_is_the_same_twice() {
        let own = File::open("/proc/self/exe").unwrap();
        assert_eq!(build_id(&own), build_id(&own));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = of_bytes(&bytes);
            let _ = in_notes(&bytes);
            let _ = of_bytes(&file(&bytes[..bytes.len().min(255)]));
        }

        #[test]
        fn any_header_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 64..400), wide: bool) {
            bytes[..6].copy_from_slice(if wide { b"\x7fELF\x02\x01" } else { b"\x7fELF\x01\x01" });
            let _ = of_bytes(&bytes);
        }
    }
}
