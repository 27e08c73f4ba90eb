//! Folding a checkpoint into those that build on it, so that it can be removed.

use std::os::unix::fs::symlink;

use cryopod_image::criu::InventoryEntry;
use cryopod_image::pagemap::{PAGE_SIZE_BYTES, PageRun, Pagemap, PagemapWriter, page_flags};
use cryopod_image::set::{BlockBuffer, PARENT_LINK, PagesReader, PagesWriter};
use cryopod_image::{BLOCK_SIZE_BYTES, FileDigest, Kind, SetReader, SetWriter};
use cryopod_store::{Ref, Removed, Replace, Store};

use crate::error::{Error, Result};
use crate::line::Line;
use crate::meta;

/// Removes a checkpoint, after it was folded into each of those that build on it: their pages are whole then, or their
/// parent's parent has them. Each of them is replaced in one step and keeps its id.
///
/// # Errors
///
/// Those of [`Store::remove`]; those of reading and writing images. What was folded by then stays so, and nothing is lost.
pub fn remove_merging(store: &Store, reference: &Ref) -> Result<Removed> {
    let stored = store.get(reference)?;
    for child in store.dependents(&stored.label, &stored.name)? {
        fold_into(store, &child)?;
    }
    Ok(store.remove(&stored.reference())?)
}

/// Puts what a checkpoint takes from its parent into it, and makes its parent's parent its own.
fn fold_into(store: &Store, child: &Ref) -> Result<()> {
    let line = Line::open(store, &store.get(child)?)?;
    let stored = line.first();
    let Some((parent, above)) = line.members.get(1).zip(line.set.parent()?) else {
        return Ok(());
    };
    let staging = store.stage()?;
    let images = staging.images();
    let set = SetWriter::create(&images)?;
    let old = meta::digests(&stored.meta);
    let mut rewritten = Vec::new();
    for file in &old {
        if let Some((kind @ (Kind::Pagemap | Kind::PagemapShmem), Some(id))) =
            Kind::of_file_name(&file.name)
        {
            let map = Pagemap::read(&line.set, kind, id)?;
            if map.runs.iter().any(PageRun::in_parent) {
                Joiner::new(&line.set, above, &set, kind, id, &map)?.join(&map, kind, id)?;
                rewritten.push(file.name.clone());
                rewritten.push(Kind::Pages.file_name(Some(map.pages_id.into()))?);
            }
        }
    }
    let mut inventory: InventoryEntry = line.set.read_one(Kind::Inventory, None)?;
    let parents: InventoryEntry = above.read_one(Kind::Inventory, None)?;
    inventory.cryopod_parent_id = parents.cryopod_parent_id;
    set.write_one(Kind::Inventory, None, &inventory)?;
    rewritten.push(Kind::Inventory.file_name(None)?);
    // Whatever stays as it is need not be there twice while both are.
    let kept: Vec<FileDigest> = old
        .into_iter()
        .filter(|file| !rewritten.contains(&file.name))
        .collect();
    for file in &kept {
        let (from, to) = (stored.images().join(&file.name), images.join(&file.name));
        std::fs::hard_link(&from, &to).map_err(Error::path("link", from))?;
    }
    if let Some(grandparent) = line.members.get(2) {
        let link = images.join(PARENT_LINK);
        symlink(grandparent.images_from_sibling(), &link).map_err(Error::path("make", link))?;
    }
    let mut files = set.finish()?;
    files.extend(kept);
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let mut described = stored.meta.clone();
    described.parent = parent.meta.parent.clone();
    meta::set_files(&mut described, &files);
    staging.publish(&described, &stored.label, &stored.name, Replace::Yes)?;
    Ok(())
}

/// Writes one pagemap and its pages anew, with what the parent has.
struct Joiner<'a> {
    set: &'a SetWriter,
    above: Pagemap,
    /// Pages of the set itself and of its parent, where they have any.
    pages: [Option<PagesReader>; 2],
    out: PagesWriter<'a>,
    block: BlockBuffer,
    blocks: u64,
}

impl<'a> Joiner<'a> {
    fn new(
        own: &SetReader,
        above: &SetReader,
        set: &'a SetWriter,
        kind: Kind,
        id: u64,
        map: &Pagemap,
    ) -> Result<Self> {
        let open = |set: &SetReader, map: &Pagemap| -> Result<Option<PagesReader>> {
            if map.pages_bytes() == 0 {
                return Ok(None);
            }
            let pages = set.pages(map.pages_id)?;
            map.check_pages(&pages)?;
            Ok(Some(pages))
        };
        let above_map = Pagemap::read(above, kind, id)?;
        let mut block = BlockBuffer::new();
        block.set_len(0);
        Ok(Self {
            set,
            pages: [open(own, map)?, open(above, &above_map)?],
            above: above_map,
            out: set.pages(map.pages_id)?,
            block,
            blocks: 0,
        })
    }

    fn join(mut self, map: &Pagemap, kind: Kind, id: u64) -> Result<()> {
        let mut joined = PagemapWriter::create(self.set, kind, id, map.pages_id)?;
        let above = std::mem::take(&mut self.above.runs);
        let mut above = above.iter().peekable();
        for run in &map.runs {
            if !run.in_parent() {
                self.copy(0, run, run.vaddr, run.end())?;
                joined.push(run.vaddr, run.nr_pages, run.flags)?;
                continue;
            }
            let mut at = run.vaddr;
            while at < run.end() {
                while above.next_if(|one| one.end() <= at).is_some() {}
                let Some(one) = above.peek().filter(|one| one.vaddr <= at) else {
                    return Err(cryopod_image::Error::NotInParent {
                        path: kind.file_name(Some(id))?.into(),
                        address: at,
                    }
                    .into());
                };
                let end = one.end().min(run.end());
                self.copy(1, one, at, end)?;
                joined.push(at, (end - at) / PAGE_SIZE_BYTES, one.flags)?;
                at = end;
            }
        }
        joined.finish()?;
        if !self.block.is_empty() {
            self.out.write_block(self.blocks, &self.block)?;
        }
        self.out.finish()?;
        Ok(())
    }

    /// Adds the bytes of a part of a run, if it has any, of the set itself (0) or its parent (1).
    fn copy(&mut self, which: usize, run: &PageRun, start: u64, end: u64) -> Result<()> {
        if run.flags & page_flags::PRESENT == 0 {
            return Ok(());
        }
        let mut offset = run.pages_offset_bytes + (start - run.vaddr);
        let mut left = end - start;
        let mut bytes = Vec::new();
        while left > 0 {
            // Up to the end of a block, so that each is read and verified once for each run in it.
            let len = left.min(BLOCK_SIZE_BYTES - offset % BLOCK_SIZE_BYTES);
            bytes.resize(len as usize, 0);
            if let Some(pages) = &self.pages[which] {
                pages.read_exact_at(offset, &mut bytes)?;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                rest = self.block.fill_from(rest);
                if self.block.room() == 0 {
                    self.out.write_block(self.blocks, &self.block)?;
                    self.blocks += 1;
                    self.block.set_len(0);
                }
            }
            offset += len;
            left -= len;
        }
        Ok(())
    }
}
