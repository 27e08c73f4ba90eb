//! Image sets as directories: what is written is read, and nothing else is touched.

use std::os::unix::fs::{PermissionsExt, symlink};

use cryopod_image::criu::{
    DumpStatsEntry, FileEntry, GhostChunkEntry, GhostFileEntry, InventoryEntry, MmEntry,
    PipeDataEntry, PstreeEntry, SeccompEntry, StatsEntry, TcpStreamEntry, VmaEntry,
};
use cryopod_image::framing::MAX_ENTRY_BYTES;
use cryopod_image::set::MAX_PARENTS;
use cryopod_image::{Error, ErrorKind, FileDigest, Kind, SetReader, SetWriter};
use proptest::prelude::*;

use crate::support::{Scratch, failure, image, process};

/// A set of one file, `pstree.img`, with its digests.
fn small_set(scratch: &Scratch) -> Vec<FileDigest> {
    let set = scratch.writer();
    set.write_one(Kind::Pstree, None, &process(2)).unwrap();
    set.finish().unwrap()
}

fn read_pstree(set: &SetReader) -> Result<PstreeEntry, Error> {
    set.read_one(Kind::Pstree, None)
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        pids in prop::collection::vec(any::<u32>(), 0..20),
        pipes in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..5),
    ) {
        let scratch = Scratch::new();
        let set = scratch.writer();
        let processes: Vec<_> = pids.into_iter().map(process).collect();
        let mut file = set.entries(Kind::Pstree, None).unwrap();
        for process in &processes {
            file.push(process).unwrap();
        }
        file.finish().unwrap();
        let entry = |bytes: &Vec<u8>| PipeDataEntry { pipe_id: 7, bytes: bytes.len() as u32, size: Some(65536), cryopod_packets: Vec::new() };
        let mut file = set.entries(Kind::PipesData, None).unwrap();
        for bytes in &pipes {
            file.push_with_payload(&entry(bytes), bytes).unwrap();
        }
        file.finish().unwrap();

        let set = scratch.verifying_reader(set.finish().unwrap());
        prop_assert_eq!(set.read_all::<PstreeEntry>(Kind::Pstree, None).unwrap(), processes);
        let mut reader = set.entries(Kind::PipesData, None).unwrap();
        for bytes in &pipes {
            prop_assert_eq!(reader.next_with_payload().unwrap(), Some((entry(bytes), bytes.clone())));
        }
        prop_assert!(reader.next_with_payload::<PipeDataEntry>().unwrap().is_none());
        reader.expect_end().unwrap();
    }
}

#[test]
fn digests_list_every_file_by_name() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    set.write_one(Kind::Seccomp, None, &SeccompEntry::default())
        .unwrap();
    set.write_one(Kind::Mm, Some(12), &MmEntry::default())
        .unwrap();
    set.pages(1).unwrap().finish().unwrap();
    set.write_one(Kind::StatsDump, None, &StatsEntry::default())
        .unwrap();
    let digests = set.finish().unwrap();
    let names: Vec<_> = digests.iter().map(|digest| digest.name.as_str()).collect();
    assert_eq!(
        names,
        ["mm-12.img", "pages-1.img", "seccomp.img", "stats-dump"]
    );
    for digest in &digests {
        let bytes = std::fs::read(scratch.path(&digest.name)).unwrap();
        assert_eq!(digest.size_bytes, bytes.len() as u64);
        assert_eq!(digest.blake3, *blake3::hash(&bytes).as_bytes());
        assert!(digest.blocks.is_empty());
    }
}

#[test]
fn files_are_private_and_never_replaced() {
    let scratch = Scratch::new();
    scratch.write("mm-1.img", b"somebody else's");
    let set = scratch.writer();
    let (error, _) = failure(
        set.write_one(Kind::Mm, Some(1), &MmEntry::default()),
        "mm-1.img",
    );
    assert!(matches!(error, Error::Create { .. }));
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(
        std::fs::read(scratch.path("mm-1.img")).unwrap(),
        b"somebody else's"
    );

    set.write_one(Kind::Mm, Some(2), &MmEntry::default())
        .unwrap();
    let mode = std::fs::metadata(scratch.path("mm-2.img"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7177, 0, "{mode:o}");
}

#[test]
fn a_set_with_an_unfinished_file_is_not_finished() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    drop(set.entries(Kind::Files, None).unwrap());
    let (error, _) = failure(set.finish(), "files.img");
    assert!(matches!(error, Error::Unfinished { .. }));
}

#[test]
fn several_threads_write_different_files() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    let scratch = Scratch::new();
    let set = scratch.writer();
    assert_shared(&set);
    std::thread::scope(|scope| {
        for pid in 0..8_u64 {
            let set = &set;
            scope.spawn(move || {
                set.write_one(Kind::Mm, Some(pid), &MmEntry::default())
                    .unwrap()
            });
        }
    });
    assert_eq!(set.finish().unwrap().len(), 8);
}

#[test]
fn statistics_are_service_files() {
    let scratch = Scratch::new();
    let stats = StatsEntry {
        dump: Some(DumpStatsEntry {
            pages_written: 5,
            ..Default::default()
        }),
        restore: None,
    };
    scratch
        .writer()
        .write_one(Kind::StatsDump, None, &stats)
        .unwrap();
    assert_eq!(
        &std::fs::read(scratch.path("stats-dump")).unwrap()[..4],
        [0x40, 0x59, 0x10, 0x55]
    );
    assert_eq!(
        scratch
            .reader()
            .read_one::<StatsEntry>(Kind::StatsDump, None)
            .unwrap(),
        stats
    );
}

#[test]
fn large_payloads_pass_through() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let contents: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let ghost = GhostFileEntry {
        chunks: Some(true),
        size: Some(2_000_000),
        ..Default::default()
    };
    let mut file = set.entries(Kind::GhostFile, Some(0xa)).unwrap();
    file.push(&ghost).unwrap();
    for off in [0, 1_000_000] {
        file.push(&GhostChunkEntry {
            len: contents.len() as u64,
            off,
        })
        .unwrap();
        file.payload_from(&mut contents.as_slice(), contents.len() as u64)
            .unwrap();
    }
    file.finish().unwrap();

    let set = scratch.verifying_reader(set.finish().unwrap());
    let mut file = set.entries(Kind::GhostFile, Some(0xa)).unwrap();
    assert_eq!(file.expect_entry::<GhostFileEntry>().unwrap(), ghost);
    for off in [0, 1_000_000] {
        let chunk: GhostChunkEntry = file.expect_entry().unwrap();
        assert_eq!(chunk.off, off);
        let mut copy = Vec::new();
        file.copy_payload(chunk.len, &mut copy).unwrap();
        assert!(copy == contents);
    }
    file.expect_end().unwrap();
}

#[test]
fn a_writer_of_payloads_checks_their_size() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let mut file = set.entries(Kind::TcpStream, Some(1)).unwrap();
    let entry = TcpStreamEntry {
        inq_len: 2,
        outq_len: 3,
        ..Default::default()
    };
    let (error, _) = failure(file.push_with_payload(&entry, b"four"), "tcp-stream-1.img");
    assert!(matches!(
        error,
        Error::PayloadSize {
            found_bytes: 4,
            expected_bytes: 5,
            ..
        }
    ));
    let (error, _) = failure(
        file.payload_from(&mut b"four".as_slice(), 5),
        "tcp-stream-1.img",
    );
    assert!(matches!(error, Error::CopyIn { .. }));
}

#[test]
fn an_entry_no_reader_would_accept_is_not_written() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let vma = VmaEntry {
        start: u64::MAX,
        end: u64::MAX,
        ..Default::default()
    };
    let mm = MmEntry {
        vmas: vec![vma; MAX_ENTRY_BYTES as usize / 32],
        ..Default::default()
    };
    let (error, _) = failure(set.write_one(Kind::Mm, Some(1), &mm), "mm-1.img");
    assert!(matches!(error, Error::WriteTooLarge { .. }));
}

#[test]
fn one_entry_means_one() {
    let scratch = Scratch::new();
    scratch.write(
        "pstree.img",
        &image(Kind::Pstree, &[process(1), process(2)]),
    );
    let (error, _) = failure(read_pstree(&scratch.reader()), "pstree.img");
    assert!(matches!(error, Error::TrailingData { .. }));
    scratch.write("pstree.img", &image::<PstreeEntry>(Kind::Pstree, &[]));
    let (error, _) = failure(read_pstree(&scratch.reader()), "pstree.img");
    assert!(matches!(error, Error::NoEntry { offset: 8, .. }));
}

#[test]
fn a_changed_file_is_found_and_named() {
    let scratch = Scratch::new();
    let digests = small_set(&scratch);
    read_pstree(&scratch.verifying_reader(digests.clone())).unwrap();

    let mut bytes = std::fs::read(scratch.path("pstree.img")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    scratch.write("pstree.img", &bytes);
    read_pstree(&scratch.reader()).unwrap();
    let (error, _) = failure(
        read_pstree(&scratch.verifying_reader(digests.clone())),
        "pstree.img",
    );
    assert!(matches!(error, Error::FileDigest { .. }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);

    bytes.push(0);
    scratch.write("pstree.img", &bytes);
    let (error, _) = failure(
        read_pstree(&scratch.verifying_reader(digests)),
        "pstree.img",
    );
    assert!(matches!(error, Error::FileSize { .. }));
}

#[test]
fn a_file_that_is_not_listed_is_not_there() {
    let scratch = Scratch::new();
    let digests = small_set(&scratch);
    scratch.write(
        "inventory.img",
        &image(Kind::Inventory, &[InventoryEntry::default()]),
    );
    let plain = scratch.reader();
    assert!(plain.exists(Kind::Inventory, None) && plain.exists(Kind::Pstree, None));
    assert!(
        !plain.exists(Kind::Files, None)
            && !plain.exists(Kind::Mm, Some(1))
            && !plain.exists(Kind::Mm, None)
    );

    let set = scratch.verifying_reader(digests);
    assert!(set.exists(Kind::Pstree, None) && !set.exists(Kind::Inventory, None));
    let (error, _) = failure(
        set.read_one::<InventoryEntry>(Kind::Inventory, None),
        "inventory.img",
    );
    assert!(matches!(error, Error::NotListed { .. }));
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_listed_file_that_is_gone_is_missed() {
    let scratch = Scratch::new();
    let digests = small_set(&scratch);
    std::fs::remove_file(scratch.path("pstree.img")).unwrap();
    let set = scratch.verifying_reader(digests);
    assert!(set.exists(Kind::Pstree, None));
    let (error, _) = failure(read_pstree(&set), "pstree.img");
    assert!(matches!(error, Error::Missing { .. }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_list_of_digests_that_contradicts_itself_is_refused() {
    let scratch = Scratch::new();
    let mut digests = small_set(&scratch);
    digests[0].blocks.push([0; 32]);
    let (error, _) = failure(
        read_pstree(&scratch.verifying_reader(digests.clone())),
        "pstree.img",
    );
    assert!(matches!(error, Error::BadDigestList { .. }));
    digests.push(digests[0].clone());
    let (error, _) = failure(
        SetReader::open(&scratch.path(""), Some(digests)).map(drop),
        "pstree.img",
    );
    assert!(matches!(error, Error::BadDigestList { .. }));
}

#[test]
fn links_are_not_followed() {
    let scratch = Scratch::new();
    scratch.write("elsewhere", &image(Kind::Pstree, &[process(1)]));
    symlink(scratch.path("elsewhere"), scratch.path("pstree.img")).unwrap();
    symlink(scratch.path("elsewhere"), scratch.path("pages-1.img")).unwrap();
    let (error, _) = failure(read_pstree(&scratch.reader()), "pstree.img");
    assert!(matches!(error, Error::Open { .. }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    failure(scratch.reader().pages(1).map(drop), "pages-1.img");

    symlink(scratch.path("new"), scratch.path("mm-1.img")).unwrap();
    failure(
        scratch
            .writer()
            .write_one(Kind::Mm, Some(1), &MmEntry::default()),
        "mm-1.img",
    );
    assert!(!scratch.path("new").exists());
}

#[test]
fn only_regular_files_are_read() {
    let scratch = Scratch::new();
    // A named pipe without a writer would block an ordinary open for ever.
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, scratch.path("pstree.img"), mode).unwrap();
    let (error, _) = failure(read_pstree(&scratch.reader()), "pstree.img");
    assert!(matches!(error, Error::NotRegular { .. }));
    std::fs::create_dir(scratch.path("pages-1.img")).unwrap();
    let (error, _) = failure(scratch.reader().pages(1).map(drop), "pages-1.img");
    assert!(matches!(error, Error::NotRegular { .. }));
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing");
    let (error, _) = failure(SetReader::open(&missing, None).map(drop), "missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    failure(SetWriter::create(&missing).map(drop), "missing");
    scratch.write("file", b"");
    let (error, _) = failure(
        SetReader::open(&scratch.path("file"), None).map(drop),
        "file",
    );
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_parent_is_where_the_link_leads() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("first")).unwrap();
    std::fs::create_dir(scratch.path("second")).unwrap();
    scratch.write("first/pstree.img", &image(Kind::Pstree, &[process(4)]));
    symlink("../first", scratch.path("second/parent")).unwrap();

    let second = SetReader::open(&scratch.path("second"), None).unwrap();
    let first = second.parent().unwrap().unwrap();
    assert_eq!(read_pstree(first).unwrap(), process(4));
    assert!(first.parent().unwrap().is_none());
}

#[test]
fn a_parent_that_is_missing_or_endless_is_an_error() {
    let scratch = Scratch::new();
    symlink("nowhere", scratch.path("parent")).unwrap();
    let (error, _) = failure(scratch.reader().parent().map(drop), "parent");
    assert_eq!(error.kind(), ErrorKind::NotFound);

    std::fs::remove_file(scratch.path("parent")).unwrap();
    symlink(".", scratch.path("parent")).unwrap();
    let reader = scratch.reader();
    let mut set = &reader;
    for _ in 0..MAX_PARENTS {
        set = set.parent().unwrap().unwrap();
    }
    let (error, _) = failure(set.parent().map(drop), "parent");
    assert!(matches!(error, Error::TooManyParents { .. }));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn kinds_without_entries_and_wrong_numbers_are_refused() {
    let scratch = Scratch::new();
    let set = scratch.reader();
    assert!(matches!(
        set.entries(Kind::Pages, Some(1)).map(drop),
        Err(Error::WrongKind { .. })
    ));
    assert!(matches!(
        set.read_all::<FileEntry>(Kind::Files, Some(1)),
        Err(Error::Id {
            needs_id: false,
            ..
        })
    ));
    let set = scratch.writer();
    assert!(matches!(
        set.entries(Kind::Pages, Some(1)).map(drop),
        Err(Error::WrongKind { .. })
    ));
    assert!(matches!(
        set.entries(Kind::Core, None).map(drop),
        Err(Error::Id { needs_id: true, .. })
    ));
    assert!(set.finish().unwrap().is_empty());
}
