//! Pages files: written in any order, read in any pieces, damage found.

use cryopod_image::set::BlockBuffer;
use cryopod_image::{BLOCK_SIZE_BYTES, Error, ErrorKind, FileDigest};
use proptest::prelude::*;

use crate::support::{Scratch, failure};

const BLOCK: usize = BLOCK_SIZE_BYTES as usize;

/// Bytes that differ from block to block and from place to place.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(b"noise")
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn write_pages(scratch: &Scratch, bytes: &[u8]) -> Vec<FileDigest> {
    let set = scratch.writer();
    let pages = set.pages(1).unwrap();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        pages.write_block(index as u64, block).unwrap();
    }
    assert_eq!(pages.finish().unwrap(), bytes.len() as u64);
    set.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_blocks_does_not_matter(
        length in prop_oneof![0..3 * BLOCK, Just(0), Just(BLOCK), Just(2 * BLOCK), Just(BLOCK + 1)],
        turn in any::<prop::sample::Index>(),
        reads in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        cached in any::<bool>(),
    ) {
        let bytes = noise(length);
        let scratch = Scratch::new();
        let set = if cached { scratch.writer().cached() } else { scratch.writer() };
        let pages = set.pages(1).unwrap();
        let mut indexes: Vec<usize> = (0..length.div_ceil(BLOCK)).collect();
        let count = indexes.len().max(1);
        indexes.rotate_left(turn.index(count));
        std::thread::scope(|scope| {
            for own in indexes.chunks(2) {
                let (pages, bytes) = (&pages, &bytes);
                scope.spawn(move || {
                    let mut buffer = BlockBuffer::new();
                    for &index in own {
                        let end = bytes.len().min((index + 1) * BLOCK);
                        buffer.set_len(0);
                        assert!(buffer.fill_from(&bytes[index * BLOCK..end]).is_empty());
                        pages.write_block(index as u64, &buffer).unwrap();
                    }
                });
            }
        });
        prop_assert_eq!(pages.finish().unwrap(), length as u64);
        prop_assert!(std::fs::read(scratch.path("pages-1.img")).unwrap() == bytes);

        let digests = set.finish().unwrap();
        let blocks: Vec<[u8; 32]> = bytes.chunks(BLOCK).map(|block| *blake3::hash(block).as_bytes()).collect();
        let whole = *blake3::hash(blocks.as_flattened()).as_bytes();
        let expected =
            FileDigest { name: "pages-1.img".to_owned(), size_bytes: length as u64, blake3: whole, blocks };
        prop_assert_eq!(&digests, &[expected]);

        for set in [scratch.verifying_reader(digests), scratch.reader()] {
            let pages = set.pages(1).unwrap();
            for (start, end) in &reads {
                let (start, end) = (start.index(length + 1), end.index(length + 1));
                let range = start.min(end)..start.max(end);
                let mut buffer = vec![0; range.len()];
                pages.read_exact_at(range.start as u64, &mut buffer).unwrap();
                prop_assert!(buffer == bytes[range]);
            }
        }
    }
}

#[test]
fn blocks_are_read_by_several_threads_at_once() {
    let bytes = noise(5 * BLOCK + 100);
    let scratch = Scratch::new();
    let digests = write_pages(&scratch, &bytes);
    let set = scratch.verifying_reader(digests);
    let pages = set.pages(1).unwrap();
    assert!(pages.is_verified());
    assert_eq!(
        (pages.size_bytes(), pages.block_count()),
        (bytes.len() as u64, 6)
    );
    std::thread::scope(|scope| {
        for first in 0..3 {
            let (pages, bytes) = (&pages, &bytes);
            scope.spawn(move || {
                let mut buffer = BlockBuffer::new();
                for index in (first..6).step_by(3) {
                    pages.read_block(index as u64, &mut buffer).unwrap();
                    assert!(Some(&*buffer) == bytes.chunks(BLOCK).nth(index));
                }
            });
        }
    });
}

#[test]
fn damage_names_file_and_block_and_spares_the_others() {
    let mut bytes = noise(2 * BLOCK + 100);
    let scratch = Scratch::new();
    let digests = write_pages(&scratch, &bytes);
    bytes[BLOCK + 17] ^= 4;
    scratch.write("pages-1.img", &bytes);

    let pages = scratch.verifying_reader(digests).pages(1).unwrap();
    let mut buffer = BlockBuffer::new();
    pages.read_block(0, &mut buffer).unwrap();
    pages.read_block(2, &mut buffer).unwrap();
    let (error, text) = failure(pages.read_block(1, &mut buffer), "pages-1.img");
    assert!(
        matches!(
            error,
            Error::BlockDigest {
                block: 1,
                offset: BLOCK_SIZE_BYTES,
                ..
            }
        ),
        "{text}"
    );
    assert!(text.contains("block 1"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    // Also when what is wanted of the block is not what is damaged.
    let mut few = [0; 16];
    assert!(
        pages
            .read_exact_at(BLOCK_SIZE_BYTES + 4096, &mut few)
            .is_err()
    );
    assert!(pages.read_exact_at(BLOCK_SIZE_BYTES - 8, &mut few).is_err());
    pages
        .read_exact_at(BLOCK_SIZE_BYTES - 16, &mut few)
        .unwrap();

    // Without digests nothing is checked.
    scratch
        .reader()
        .pages(1)
        .unwrap()
        .read_block(1, &mut buffer)
        .unwrap();
}

#[test]
fn a_file_of_another_size_is_refused_when_opened() {
    let bytes = noise(100);
    let scratch = Scratch::new();
    let digests = write_pages(&scratch, &bytes);
    scratch.write("pages-1.img", &bytes[..99]);
    let (error, _) = failure(
        scratch.verifying_reader(digests).pages(1).map(drop),
        "pages-1.img",
    );
    assert!(matches!(
        error,
        Error::FileSize {
            found_bytes: 99,
            expected_bytes: 100,
            ..
        }
    ));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_truncated() {
    let scratch = Scratch::new();
    write_pages(&scratch, &noise(100));
    let pages = scratch.reader().pages(1).unwrap();
    scratch.write("pages-1.img", &[1, 2, 3]);
    let (error, _) = failure(pages.read_exact_at(0, &mut [0; 100]), "pages-1.img");
    assert!(matches!(
        error,
        Error::Truncated {
            offset: 3,
            wanted_bytes: 97,
            ..
        }
    ));
}

#[test]
fn nothing_is_read_beyond_the_end() {
    let scratch = Scratch::new();
    write_pages(&scratch, &noise(100));
    let pages = scratch.reader().pages(1).unwrap();
    let check = |offset, length| {
        let (error, _) = failure(
            pages.read_exact_at(offset, &mut vec![0; length]),
            "pages-1.img",
        );
        assert!(matches!(error, Error::OutOfRange { .. }));
    };
    check(0, 101);
    check(100, 1);
    check(u64::MAX, 1);
    pages.read_exact_at(100, &mut []).unwrap();
    for block in [1, u64::MAX] {
        let (error, _) = failure(
            pages.read_block(block, &mut BlockBuffer::new()),
            "pages-1.img",
        );
        assert!(matches!(error, Error::OutOfRange { .. }));
    }
}

#[test]
fn block_digests_that_contradict_each_other_are_refused() {
    let scratch = Scratch::new();
    let mut digests = write_pages(&scratch, &noise(100));
    digests[0].blocks.push([0; 32]);
    let (error, _) = failure(
        scratch.verifying_reader(digests).pages(1).map(drop),
        "pages-1.img",
    );
    assert!(matches!(error, Error::BadDigestList { .. }));
}

#[test]
fn a_file_with_a_gap_is_not_finished() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let pages = set.pages(1).unwrap();
    pages.write_block(1, &noise(100)).unwrap();
    let (error, _) = failure(pages.finish(), "pages-1.img");
    assert!(matches!(error, Error::Unfinished { .. }));

    let pages = set.pages(2).unwrap();
    pages.write_block(0, &noise(100)).unwrap();
    pages.write_block(1, &noise(BLOCK)).unwrap();
    assert!(pages.finish().is_err());
    let pages = set.pages(3).unwrap();
    assert!(pages.write_block(0, &noise(BLOCK + 1)).is_err());
}
