//! Pagemaps: written, read, checked.

use cryopod_image::criu::{PagemapEntry, PagemapHead};
use cryopod_image::pagemap::{
    PAGE_SIZE_BYTES, PageRun, Pagemap, PagemapFault, PagemapWriter, page_flags,
};
use cryopod_image::{Error, ErrorKind, Kind};
use proptest::prelude::*;
use prost::Message;

use crate::support::{Scratch, failure, frame, image};

/// Writes a pagemap as criu would and reads it.
fn read(entries: &[PagemapEntry]) -> Result<Pagemap, Error> {
    let scratch = Scratch::new();
    let mut bytes = image(Kind::Pagemap, &[PagemapHead { pages_id: 3 }]);
    bytes.extend(
        entries
            .iter()
            .flat_map(|entry| frame(&entry.encode_to_vec())),
    );
    scratch.write("pagemap-7.img", &bytes);
    Pagemap::read(&scratch.reader(), Kind::Pagemap, 7)
}

#[track_caller]
fn check_fault(entries: &[PagemapEntry], expected: PagemapFault) {
    let (error, text) = failure(read(entries), "pagemap-7.img");
    let Error::Pagemap {
        entry,
        fault,
        offset,
        ..
    } = error
    else {
        panic!("{text}")
    };
    assert_eq!((entry, fault), (entries.len() as u64, expected));
    assert!(offset > 8);
}

fn entry(vaddr: u64, nr_pages: u64, flags: u32) -> PagemapEntry {
    PagemapEntry {
        vaddr,
        compat_nr_pages: 0,
        in_parent: None,
        flags: Some(flags),
        nr_pages: Some(nr_pages),
    }
}

fn present(vaddr: u64, nr_pages: u64) -> PagemapEntry {
    entry(vaddr, nr_pages, page_flags::PRESENT)
}

fn any_flags() -> impl Strategy<Value = u32> {
    use page_flags::{LAZY, PARENT, PRESENT};
    prop::sample::select(vec![PRESENT, PRESENT | LAZY, LAZY, PARENT, PARENT | LAZY])
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        pages_id in any::<u32>(),
        runs in prop::collection::vec((0..1000_u64, 1..1_000_000_u64, any_flags()), 0..50),
    ) {
        let scratch = Scratch::new();
        let set = scratch.writer();
        let mut writer = PagemapWriter::create(&set, Kind::Pagemap, 7, pages_id).unwrap();
        let (mut vaddr, mut pages_offset_bytes) = (0, 0);
        let mut expected = Vec::new();
        for (gap_pages, nr_pages, flags) in runs {
            vaddr += gap_pages * PAGE_SIZE_BYTES;
            writer.push(vaddr, nr_pages, flags).unwrap();
            expected.push(PageRun { vaddr, nr_pages, flags, pages_offset_bytes });
            vaddr += nr_pages * PAGE_SIZE_BYTES;
            if flags & page_flags::PRESENT != 0 {
                pages_offset_bytes += nr_pages * PAGE_SIZE_BYTES;
            }
        }
        prop_assert_eq!(writer.finish().unwrap(), pages_offset_bytes);

        let digests = set.finish().unwrap();
        let pagemap = Pagemap::read(&scratch.verifying_reader(digests), Kind::Pagemap, 7).unwrap();
        prop_assert_eq!(pagemap.pages_bytes(), pages_offset_bytes);
        prop_assert_eq!(pagemap, Pagemap { pages_id, runs: expected });
    }

    #[test]
    fn whatever_is_accepted_is_in_order_and_ends_somewhere(
        entries in prop::collection::vec((any::<u64>(), 0..u64::MAX, 0..9_u32), 0..6),
        shift in 0..60_u32,
    ) {
        let entries: Vec<_> = entries
            .iter()
            .map(|&(vaddr, nr_pages, flags)| entry((vaddr >> shift) & !0xfff, nr_pages >> shift, flags))
            .collect();
        if let Ok(pagemap) = read(&entries) {
            for pair in pagemap.runs.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].vaddr);
            }
            for run in &pagemap.runs {
                prop_assert!(run.vaddr < run.end());
                prop_assert!(!(run.is_present() && run.in_parent()));
            }
            prop_assert!(pagemap.runs.last().is_none_or(|last| pagemap.pages_bytes() <= last.end()));
        }
    }
}

#[test]
fn entries_of_older_criu_have_no_flags_and_a_narrow_count() {
    let old = |vaddr, compat_nr_pages, in_parent| PagemapEntry {
        vaddr,
        compat_nr_pages,
        in_parent,
        flags: None,
        nr_pages: None,
    };
    let pagemap = read(&[
        old(0x1000, 2, None),
        old(0x5000, 3, Some(true)),
        old(0x9000, 1, Some(false)),
    ])
    .unwrap();
    assert_eq!(pagemap.pages_id, 3);
    let run = |vaddr, nr_pages, flags, pages_offset_bytes| PageRun {
        vaddr,
        nr_pages,
        flags,
        pages_offset_bytes,
    };
    assert_eq!(
        pagemap.runs,
        [
            run(0x1000, 2, page_flags::PRESENT, 0),
            run(0x5000, 3, page_flags::PARENT, 0x2000),
            run(0x9000, 1, page_flags::PRESENT, 0x2000),
        ]
    );
}

#[test]
fn both_forms_of_count_and_flag_are_written() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let mut writer = PagemapWriter::create(&set, Kind::PagemapShmem, 9, 1).unwrap();
    writer.push(0x1000, 2, page_flags::PARENT).unwrap();
    writer.finish().unwrap();
    let mut entries = scratch
        .reader()
        .entries(Kind::PagemapShmem, Some(9))
        .unwrap();
    entries.expect_entry::<PagemapHead>().unwrap();
    let entry: PagemapEntry = entries.expect_entry().unwrap();
    let expected = PagemapEntry {
        vaddr: 0x1000,
        compat_nr_pages: 2,
        in_parent: Some(true),
        flags: Some(1),
        nr_pages: Some(2),
    };
    assert_eq!(entry, expected);
}

#[test]
fn a_run_that_exceeds_the_narrow_count_is_split() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let mut writer = PagemapWriter::create(&set, Kind::Pagemap, 7, 1).unwrap();
    let nr_pages = u64::from(u32::MAX) + 5;
    writer.push(0x1000, nr_pages, page_flags::PRESENT).unwrap();
    assert_eq!(writer.finish().unwrap(), nr_pages * PAGE_SIZE_BYTES);
    let runs = Pagemap::read(&scratch.reader(), Kind::Pagemap, 7)
        .unwrap()
        .runs;
    assert_eq!(
        runs.iter().map(|run| run.nr_pages).collect::<Vec<_>>(),
        [u64::from(u32::MAX), 5]
    );
    assert_eq!(runs[0].end(), runs[1].vaddr);
}

#[test]
fn a_huge_run_is_one_run() {
    let pagemap = read(&[present(0, 1 << 51)]).unwrap();
    assert_eq!((pagemap.runs.len(), pagemap.pages_bytes()), (1, 1 << 63));
}

#[test]
fn faults_are_found_and_named() {
    check_fault(&[present(0x1001, 1)], PagemapFault::Unaligned);
    check_fault(&[present(0x1000, 0)], PagemapFault::Empty);
    check_fault(&[present(0x1000, u64::MAX)], PagemapFault::Overflow);
    check_fault(
        &[present(0u64.wrapping_sub(0x1000), 1)],
        PagemapFault::Overflow,
    );
    check_fault(
        &[present(0x1000, 2), present(0x2000, 1)],
        PagemapFault::OutOfOrder,
    );
    check_fault(
        &[present(0x2000, 1), present(0x1000, 1)],
        PagemapFault::OutOfOrder,
    );
    check_fault(&[entry(0x1000, 1, 0)], PagemapFault::Flags);
    check_fault(
        &[entry(0x1000, 1, 8 | page_flags::PRESENT)],
        PagemapFault::Flags,
    );
    check_fault(
        &[entry(0x1000, 1, page_flags::PRESENT | page_flags::PARENT)],
        PagemapFault::Flags,
    );
    let contradictory = PagemapEntry {
        in_parent: Some(true),
        ..present(0x1000, 1)
    };
    check_fault(&[contradictory], PagemapFault::Flags);
}

#[test]
fn the_writer_refuses_what_a_reader_would() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    let mut writer = PagemapWriter::create(&set, Kind::Pagemap, 7, 1).unwrap();
    writer.push(0x2000, 1, page_flags::PRESENT).unwrap();
    let (error, _) = failure(writer.push(0x1000, 1, page_flags::PRESENT), "pagemap-7.img");
    assert!(matches!(
        error,
        Error::Pagemap {
            fault: PagemapFault::OutOfOrder,
            entry: 2,
            ..
        }
    ));
}

#[test]
fn a_pagemap_needs_a_head() {
    let scratch = Scratch::new();
    scratch.write("pagemap-7.img", &image::<PagemapHead>(Kind::Pagemap, &[]));
    let (error, _) = failure(
        Pagemap::read(&scratch.reader(), Kind::Pagemap, 7),
        "pagemap-7.img",
    );
    assert!(matches!(error, Error::NoEntry { offset: 8, .. }));
}

#[test]
fn several_pagemaps_may_name_the_same_pages_and_must_not_need_more_than_there_are() {
    let scratch = Scratch::new();
    let set = scratch.writer();
    for (pid, nr_pages) in [(7, 2), (8, 1), (9, 3)] {
        let mut writer = PagemapWriter::create(&set, Kind::Pagemap, pid, 1).unwrap();
        writer.push(0x1000, nr_pages, page_flags::PRESENT).unwrap();
        writer.finish().unwrap();
    }
    let pages = set.pages(1).unwrap();
    pages
        .write_block(0, &[5; 2 * PAGE_SIZE_BYTES as usize])
        .unwrap();
    pages.finish().unwrap();

    let set = scratch.verifying_reader(set.finish().unwrap());
    let check = |pid| {
        let pagemap = Pagemap::read(&set, Kind::Pagemap, pid).unwrap();
        pagemap.check_pages(&set.pages(pagemap.pages_id).unwrap())
    };
    check(7).unwrap();
    check(8).unwrap();
    let (error, _) = failure(check(9), "pages-1.img");
    assert!(matches!(
        error,
        Error::PagesTooShort {
            found_bytes: 0x2000,
            expected_bytes: 0x3000,
            ..
        }
    ));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
