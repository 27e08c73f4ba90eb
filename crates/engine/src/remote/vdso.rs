//! Room in a vdso.

use super::way::ROOM_BYTES;

/// Finds [`ROOM_BYTES`] in a vdso that nobody needs at run time: behind the end of its ELF image, else over its section
/// headers (which only debuggers read, from a copy of their own). Gives the offset in the vdso.
///
/// The answer follows from the ELF header alone, so that what a killed cryopod left there does not matter to the next.
pub fn find_room(vdso: &[u8]) -> Option<usize> {
    const ALIGN: usize = 16;
    let image = Elf(vdso);
    let (segments, sections) = (image.segments_end()?, image.section_headers()?);
    let fits = |at: usize| {
        vdso.len()
            .checked_sub(at)
            .is_some_and(|left| left >= ROOM_BYTES)
    };
    let behind = segments.max(sections.end).checked_next_multiple_of(ALIGN)?;
    let over = sections.start.checked_next_multiple_of(ALIGN)?;
    [Some(behind), (over >= segments && over > 0).then_some(over)]
        .into_iter()
        .flatten()
        .find(|&at| fits(at))
}

/// As much of a 64-bit ELF image as is needed here; see elf(5).
struct Elf<'a>(&'a [u8]);

impl Elf<'_> {
    fn long(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn half(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(u16::from_le_bytes(bytes).into())
    }

    /// End of the last byte that a program header speaks of.
    fn segments_end(&self) -> Option<usize> {
        let (start, size, count) = (self.long(0x20)?, self.half(0x36)?, self.half(0x38)?);
        (0..count).try_fold(0, |end: usize, index| {
            let header = start.checked_add(index * size)?;
            let segment = self
                .long(header.checked_add(8)?)?
                .checked_add(self.long(header.checked_add(32)?)?)?;
            Some(end.max(segment))
        })
    }

    fn section_headers(&self) -> Option<std::ops::Range<usize>> {
        let (start, size, count) = (self.long(0x28)?, self.half(0x3a)?, self.half(0x3c)?);
        Some(start..start.checked_add(size * count)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF image of 8 KiB with one segment and sections as told.
    fn vdso(segment_end: u64, sections_at: u64, sections: u16) -> Vec<u8> {
        let mut image = vec![0xaa; 8192];
        for (at, value) in [
            (0x20, 0x40),
            (0x28, sections_at),
            (0x48, 0),
            (0x60, segment_end),
        ] {
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in [(0x36, 56u16), (0x38, 1), (0x3a, 64), (0x3c, sections)] {
            image[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        image
    }

    #[test]
    fn room_is_behind_the_image_whatever_lies_there() {
        assert_eq!(find_room(&vdso(5000, 5600, 16)), Some(6624));
        // No room behind, but the section headers may be covered.
        assert_eq!(find_room(&vdso(6000, 7000, 16)), Some(7008));
        assert_eq!(find_room(&vdso(8000, 7000, 16)), None);
        assert_eq!(find_room(&[]), None);
    }

    #[test]
    fn any_bytes_are_taken() {
        for length in 0..200 {
            let _no_panic = find_room(&vec![0xff; length]);
        }
    }
}
