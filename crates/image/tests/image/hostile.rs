//! No file, however made, does more than fail with an error that says where.

use cryopod_image::criu::{
    BpfmapDataEntry, GhostChunkEntry, GhostFileEntry, PagemapEntry, PagemapHead, PipeDataEntry,
    SkPacketEntry, TcpStreamEntry,
};
use cryopod_image::framing::{self, MAX_ENTRY_BYTES};
use cryopod_image::kind::Framing;
use cryopod_image::set::{EntryReader, MAX_PAYLOAD_BYTES, Parsed, parse_bytes};
use cryopod_image::{Error, ErrorKind, Kind};
use proptest::prelude::*;
use prost::Message;

use crate::support::{Scratch, failure, frame, image, process};

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL)
}

/// Whatever comes out, it is an answer about the file.
fn check_answer(result: Result<Parsed, Error>) {
    if let Err(error) = result {
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported),
            "{error}: {kind:?}"
        );
    }
}

/// One file of every sort that has something of its own.
fn samples() -> Vec<(Kind, Vec<u8>)> {
    let pipe = image(
        Kind::PipesData,
        &[PipeDataEntry {
            pipe_id: 1,
            bytes: 5,
            size: None,
            cryopod_packets: Vec::new(),
        }],
    );
    let queue = image(
        Kind::SkQueues,
        &[SkPacketEntry {
            id_for: 1,
            length: 3,
            scm: vec![],
            ..SkPacketEntry::default()
        }],
    );
    let stream = image(
        Kind::TcpStream,
        &[TcpStreamEntry {
            inq_len: 2,
            outq_len: 4,
            ..Default::default()
        }],
    );
    let map = image(
        Kind::BpfmapData,
        &[BpfmapDataEntry {
            map_id: 1,
            keys_bytes: 2,
            values_bytes: 4,
            count: 1,
        }],
    );
    let plain_ghost = image(
        Kind::GhostFile,
        &[GhostFileEntry {
            mode: 0o100_600,
            ..Default::default()
        }],
    );
    let ghost = image(
        Kind::GhostFile,
        &[GhostFileEntry {
            chunks: Some(true),
            ..Default::default()
        }],
    );
    let chunk = frame(&GhostChunkEntry { len: 3, off: 4096 }.encode_to_vec());
    let pagemap = image(Kind::Pagemap, &[PagemapHead { pages_id: 1 }]);
    let run = frame(
        &PagemapEntry {
            vaddr: 4096,
            compat_nr_pages: 2,
            ..Default::default()
        }
        .encode_to_vec(),
    );
    vec![
        (Kind::Pstree, image(Kind::Pstree, &[process(2), process(9)])),
        (Kind::PipesData, [pipe, b"hello".to_vec()].concat()),
        (Kind::SkQueues, [queue, b"abc".to_vec()].concat()),
        (Kind::TcpStream, [stream, b"inouts".to_vec()].concat()),
        (Kind::BpfmapData, [map, b"kkvvvv".to_vec()].concat()),
        (
            Kind::GhostFile,
            [plain_ghost, b"contents".to_vec()].concat(),
        ),
        (Kind::GhostFile, [ghost, chunk, b"abc".to_vec()].concat()),
        (Kind::Pagemap, [pagemap, run].concat()),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_answered(kind in any_kind(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_answer(parse_bytes(kind, &bytes));
    }

    #[test]
    fn arbitrary_bytes_behind_the_magic_are_answered(
        kind in any_kind(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        check_answer(parse_bytes(kind, &[framing::header(kind), bytes].concat()));
    }

    #[test]
    fn arbitrary_entries_are_answered(
        kind in any_kind(),
        entries in prop::collection::vec(prop::collection::vec(0..130_u8, 0..40), 0..8),
    ) {
        let frames: Vec<u8> = entries.iter().flat_map(|entry| frame(entry)).collect();
        check_answer(parse_bytes(kind, &[framing::header(kind), frames].concat()));
    }

    #[test]
    fn damaged_files_are_answered(
        (kind, bytes) in prop::sample::select(samples()),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_answer(parse_bytes(kind, &bytes));
    }
}

#[test]
fn whole_samples_are_read_and_cut_ones_are_truncated_or_shorter() {
    for (kind, bytes) in samples() {
        let whole = parse_bytes(kind, &bytes).unwrap();
        for end in 0..bytes.len() {
            match parse_bytes(kind, &bytes[..end]) {
                Ok(parsed) => assert_ne!(parsed, whole, "{kind} cut at {end}"),
                Err(Error::Truncated { .. } | Error::NoEntry { .. }) => {}
                Err(error) => panic!("{kind} cut at {end}: {error}"),
            }
        }
    }
}

#[test]
fn truncation_names_file_and_offset() {
    let scratch = Scratch::new();
    let whole = image(Kind::Pstree, &[process(2)]);

    scratch.write("pstree.img", &whole[..whole.len() - 1]);
    let result = scratch
        .reader()
        .read_all::<cryopod_image::criu::PstreeEntry>(Kind::Pstree, None);
    let (error, text) = failure(result, "pstree.img");
    assert!(
        matches!(error, Error::Truncated { offset: 12, .. }),
        "{text}"
    );
    assert!(text.contains("offset 12"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    scratch.write("pstree.img", &whole[..5]);
    let (error, text) = failure(
        scratch.reader().entries(Kind::Pstree, None).map(drop),
        "pstree.img",
    );
    assert!(
        matches!(
            error,
            Error::Truncated {
                offset: 0,
                wanted_bytes: 8,
                available_bytes: 5,
                ..
            }
        ),
        "{text}"
    );

    scratch.write("pstree.img", &[whole.as_slice(), &[1, 0, 0]].concat());
    let result = scratch
        .reader()
        .read_all::<cryopod_image::criu::PstreeEntry>(Kind::Pstree, None);
    let (error, text) = failure(result, "pstree.img");
    assert!(
        matches!(
            error,
            Error::Truncated {
                wanted_bytes: 4,
                available_bytes: 3,
                ..
            }
        ),
        "{text}"
    );
}

#[test]
fn a_length_is_checked_before_memory_is_set_aside() {
    let mut bytes = framing::header(Kind::Mm);
    bytes.extend((MAX_ENTRY_BYTES as u32 + 1).to_le_bytes());
    let (error, text) = failure(parse_bytes(Kind::Mm, &bytes), "mm image");
    assert!(
        matches!(error, Error::EntryTooLarge { offset: 8, .. }),
        "{text}"
    );

    let mut bytes = framing::header(Kind::Mm);
    bytes.extend((MAX_ENTRY_BYTES as u32).to_le_bytes());
    let (error, text) = failure(parse_bytes(Kind::Mm, &bytes), "mm image");
    assert!(
        matches!(error, Error::Truncated { offset: 12, .. }),
        "{text}"
    );
}

#[test]
fn a_payload_cannot_be_larger_than_the_file() {
    let entry = PipeDataEntry {
        pipe_id: 1,
        bytes: u32::MAX,
        size: None,
        cryopod_packets: Vec::new(),
    };
    let mut bytes = image(Kind::PipesData, &[entry]);
    bytes.extend(b"a few bytes");
    let (error, text) = failure(parse_bytes(Kind::PipesData, &bytes), "pipes-data image");
    assert!(
        matches!(
            error,
            Error::Truncated {
                available_bytes: 11,
                ..
            }
        ),
        "{text}"
    );

    let mut bytes = image(
        Kind::GhostFile,
        &[GhostFileEntry {
            chunks: Some(true),
            ..Default::default()
        }],
    );
    bytes.extend(frame(
        &GhostChunkEntry {
            len: u64::MAX,
            off: 0,
        }
        .encode_to_vec(),
    ));
    let (error, text) = failure(parse_bytes(Kind::GhostFile, &bytes), "ghost-file image");
    assert!(
        matches!(
            error,
            Error::Truncated {
                available_bytes: 0,
                ..
            }
        ),
        "{text}"
    );
}

#[test]
fn a_large_payload_is_not_read_into_memory_even_if_the_file_has_it() {
    let scratch = Scratch::new();
    let size_bytes = MAX_PAYLOAD_BYTES + 1;
    let entry = PipeDataEntry {
        pipe_id: 1,
        bytes: size_bytes as u32,
        size: None,
        cryopod_packets: Vec::new(),
    };
    let bytes = image(Kind::PipesData, &[entry]);
    scratch.write("pipes-data.img", &bytes);
    // A hole: nothing is written.
    let file = std::fs::File::options()
        .write(true)
        .open(scratch.path("pipes-data.img"))
        .unwrap();
    file.set_len(bytes.len() as u64 + size_bytes).unwrap();

    let mut reader = scratch.reader().entries(Kind::PipesData, None).unwrap();
    let (error, text) = failure(
        reader.next_with_payload::<PipeDataEntry>(),
        "pipes-data.img",
    );
    assert!(matches!(error, Error::PayloadTooLarge { .. }), "{text}");
    reader.skip_payload(size_bytes).unwrap();
    reader.expect_end().unwrap();
}

#[test]
fn nonsense_in_an_entry_names_its_offset() {
    let mut bytes = image(Kind::Pstree, &[process(2)]);
    let offset = bytes.len() as u64 + 4;
    bytes.extend(frame(&[0xff; 4]));
    let (error, text) = failure(parse_bytes(Kind::Pstree, &bytes), "pstree image");
    assert!(
        matches!(error, Error::Decode { offset: at, .. } if at == offset),
        "{text}"
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_file_of_one_kind_is_not_taken_for_another() {
    for &kind in Kind::ALL {
        for &other in Kind::ALL {
            if kind.framing() == Framing::Raw || framing::header(kind) == framing::header(other) {
                continue;
            }
            let result = EntryReader::from_bytes(kind, &framing::header(other)).map(drop);
            let text = failure(result, &kind.to_string()).1;
            assert!(
                text.contains("does not begin like") || text.contains("truncated"),
                "{text}"
            );
        }
    }
}
