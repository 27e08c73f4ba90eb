//! Pagemaps that build on others.

use cryopod_image::layers::LayeredPagemap;
use cryopod_image::pagemap::{PAGE_SIZE_BYTES, PagemapWriter, page_flags};
use cryopod_image::{BLOCK_SIZE_BYTES, Error, ErrorKind, Kind, SetReader, SetWriter};
use proptest::prelude::*;

const PAGE: u64 = PAGE_SIZE_BYTES;

/// What a set says about one page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Nothing,
    Parent,
    Present,
}

/// A set whose pages hold their own number and that of the set.
fn set(dir: &std::path::Path, number: u8, pages: &[Says]) -> SetReader {
    std::fs::create_dir(dir).unwrap();
    let set = SetWriter::create(dir).unwrap();
    let mut map = PagemapWriter::create(&set, Kind::Pagemap, 5, 1).unwrap();
    let mut bytes = Vec::new();
    for (page, says) in pages.iter().enumerate() {
        let flags = match says {
            Says::Nothing => continue,
            Says::Parent => page_flags::PARENT,
            Says::Present => page_flags::PRESENT,
        };
        map.push(page as u64 * PAGE, 1, flags).unwrap();
        if *says == Says::Present {
            bytes.extend([number, page as u8].repeat(PAGE as usize / 2));
        }
    }
    map.finish().unwrap();
    let file = set.pages(1).unwrap();
    for (index, block) in bytes.chunks(BLOCK_SIZE_BYTES as usize).enumerate() {
        file.write_block(index as u64, block).unwrap();
    }
    file.finish().unwrap();
    SetReader::open(dir, Some(set.finish().unwrap())).unwrap()
}

/// Builds a line, the set without a parent first, and gives the last.
fn line(dir: &std::path::Path, layers: &[Vec<Says>]) -> SetReader {
    let mut below: Option<SetReader> = None;
    for (number, pages) in layers.iter().enumerate() {
        let own = set(&dir.join(number.to_string()), number as u8, pages);
        below = Some(match below {
            None => own,
            Some(parent) => own.on(parent).unwrap(),
        });
    }
    below.unwrap()
}

/// Where a page comes from: the number of the set, or nowhere, or an error.
fn expected(layers: &[Vec<Says>], page: usize) -> Result<Option<u8>, ()> {
    for (number, layer) in layers.iter().enumerate().rev() {
        match layer[page] {
            Says::Present => return Ok(Some(number as u8)),
            Says::Parent => {}
            Says::Nothing if number + 1 == layers.len() => return Ok(None),
            Says::Nothing => return Err(()),
        }
    }
    Err(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_is_that_of_the_nearest_set_that_has_it(
        layers in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![Just(Says::Nothing), Just(Says::Parent), Just(Says::Present)],
                24,
            ),
            1..5,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let set = line(dir.path(), &layers);
        let wanted: Vec<_> = (0..24).map(|page| expected(&layers, page)).collect();
        let map = LayeredPagemap::read(&set, Kind::Pagemap, 5);
        if wanted.iter().any(Result::is_err) {
            let error = map.unwrap_err();
            let fits = matches!(error, Error::NoParent { .. } | Error::NotInParent { .. });
            prop_assert!(fits, "{error}");
            prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
            return Ok(());
        }
        let map = map.unwrap();
        let pages = map.open(&set).unwrap();
        let mut found = vec![None; 24];
        for run in &map.runs {
            for index in 0..run.nr_pages {
                let mut bytes = vec![0; PAGE as usize];
                pages.read_exact_at(run.pages_offset_bytes + index * PAGE, &mut bytes).unwrap();
                let page = run.vaddr / PAGE + index;
                prop_assert_eq!(u64::from(bytes[1]), page);
                found[page as usize] = Some(bytes[0]);
            }
        }
        let wanted: Vec<_> = wanted.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(map.pages_bytes() % PAGE, 0);
    }
}

#[test]
fn a_set_with_digests_has_no_parent_but_the_one_it_was_put_on() {
    let dir = tempfile::tempdir().unwrap();
    let _first = set(&dir.path().join("0"), 0, &[Says::Present]);
    let second = set(&dir.path().join("1"), 1, &[Says::Parent]);
    std::os::unix::fs::symlink("../0", dir.path().join("1/parent")).unwrap();
    assert!(second.parent().unwrap().is_none());
    let error = LayeredPagemap::read(&second, Kind::Pagemap, 5).unwrap_err();
    assert!(matches!(error, Error::NoParent { .. }), "{error}");
    let by_link = SetReader::open(&dir.path().join("1"), None).unwrap();
    assert_eq!(
        LayeredPagemap::read(&by_link, Kind::Pagemap, 5)
            .unwrap()
            .pages_bytes(),
        PAGE
    );
}
