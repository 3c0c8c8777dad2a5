//! One shard of slots: fixed chunks, a free list inside them, and the index by digest.

use super::slot::Slot;
use super::tags::Tags;

/// Slots in a chunk: small, so that the last chunk of every region wastes little, and just under 16 KiB, a size that
/// allocators have: 256 slots took a fifth more than they need.
const CHUNK_SLOTS: usize = 240;
const CHUNK_BYTES: u64 = (CHUNK_SLOTS * size_of::<Slot>()) as u64;
/// The end of the free list.
const NONE: u32 = u32::MAX;

/// Slots under one lock. Ids are local to the region.
pub(super) struct Region {
    chunks: Vec<Box<[Slot; CHUNK_SLOTS]>>,
    used: u32,
    free: u32,
    /// Finds blobs by digest; holds global ids.
    pub(super) digests: Tags,
}

impl Region {
    pub(super) fn new(phase: f64) -> Region {
        Region { chunks: Vec::new(), used: 0, free: NONE, digests: Tags::new(phase) }
    }

    pub(super) fn slot(&self, local: u32) -> &Slot {
        &self.chunks[local as usize / CHUNK_SLOTS][local as usize % CHUNK_SLOTS]
    }

    pub(super) fn slot_mut(&mut self, local: u32) -> &mut Slot {
        &mut self.chunks[local as usize / CHUNK_SLOTS][local as usize % CHUNK_SLOTS]
    }

    pub(super) fn bytes(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_BYTES + self.digests.bytes()
    }

    /// Takes a free slot and returns its local id.
    pub(super) fn add(&mut self, slot: Slot) -> u32 {
        let local = if self.free == NONE { self.append() } else { self.reuse() };
        *self.slot_mut(local) = slot;
        local
    }

    fn reuse(&mut self) -> u32 {
        let local = self.free;
        self.free = self.slot(local).next_free();
        local
    }

    fn append(&mut self) -> u32 {
        let local = self.used;
        if local as usize == self.chunks.len() * CHUNK_SLOTS {
            self.chunks.push(Box::new([const { Slot::free() }; CHUNK_SLOTS]));
        }
        self.used += 1;
        local
    }

    pub(super) fn release(&mut self, local: u32) {
        let next = self.free;
        self.slot_mut(local).set_free(next);
        self.free = local;
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.used as usize)
    }
}
