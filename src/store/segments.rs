//! The segment tier: blobs up to the border, appended. One open segment for each class; whole segments are evicted.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::DefaultHashBuilder;
use parking_lot::{Mutex, RwLock};
use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;

use super::budget::{Budget, Kind};
use super::error::{StoreError, out_of_descriptors};
use super::files::{Access, Descriptor, Mode, read_exact, write_all};
use super::home::{Home, segment_number};
use super::layout::{Magic, SEAL, Seal, record_bytes, segment_seal};
use super::marks::Marks;
use super::record::OpenSegment;
use super::segment::{Segment, Slot};
use super::sum::xxh3_64;
use crate::model::digest::Digest;
use crate::model::place::{Class, Place, TierName};
use crate::runtime::durable::Dirty;

/// Old segments that are looked at, newest first, for one that can be gone on with.
const REUSABLE: usize = 8;

pub(super) struct Segments {
    home: Arc<Home>,
    budget: Arc<Budget>,
    limit: u64,
    table: RwLock<HashMap<u32, Arc<Segment>>>,
    /// By class: where appends go.
    active: [Mutex<Option<Arc<Segment>>>; Class::ALL.len()],
    reusable: Mutex<Vec<u32>>,
    opened: Cache<u32, Arc<OpenSegment>, UnitWeighter, DefaultHashBuilder>,
}

/// What evicting whole segments needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    pub number: u32,
    /// None: none of its blobs has been adopted or read yet.
    pub class: Option<Class>,
    /// Size of the file.
    pub bytes: u64,
    /// What named blobs take of it. Too low while the index is still telling.
    pub live_bytes: u64,
    pub live_blobs: u64,
    pub phase: SegmentPhase,
    /// Reads under way that wait for the disk.
    pub reading: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentPhase {
    /// Takes more blobs.
    Open,
    Sealed,
}

impl Segments {
    /// Looks at names and sizes of the segments alone.
    pub fn open(home: Arc<Home>, budget: Arc<Budget>, limit: u64, descriptors: usize) -> io::Result<Segments> {
        let mut table = HashMap::new();
        let mut small = Vec::new();
        for name in home.files.list(&home.segments())? {
            let Some(number) = segment_number(&name) else { continue };
            let bytes = home.files.len(&home.segment(number))?;
            table.insert(number, Arc::new(Segment::old(number, bytes, home.clone())));
            // Until its class is known it counts as trusted.
            budget.count(Class::Trusted, Kind::Segment, signed(bytes), 0);
            if bytes < limit / 2 {
                small.push(number);
            }
        }
        small.sort_unstable();
        small.drain(..small.len().saturating_sub(REUSABLE));
        let opened = Cache::with(
            descriptors,
            descriptors as u64,
            UnitWeighter,
            DefaultHashBuilder::default(),
            Default::default(),
        );
        Ok(Segments {
            home,
            budget,
            limit,
            table: RwLock::new(table),
            active: Default::default(),
            reusable: Mutex::new(small),
            opened,
        })
    }

    /// The first number that no segment has.
    pub fn next_number(&self) -> u32 {
        self.table.read().keys().max().map_or(1, |last| last.saturating_add(1))
    }

    /// Appends a blob. Blocks.
    pub fn append(
        &self,
        marks: &Marks,
        class: Class,
        digest: &Digest,
        data: &[u8],
    ) -> Result<(Place, Dirty), StoreError> {
        let bytes = record_bytes(data.len() as u64);
        let Slot { append, offset, descriptor } = self.slot(marks, class, bytes)?;
        let segment = append.segment();
        self.budget.count(class, Kind::Segment, signed(bytes), 1);
        let seal = Seal { class, digest: *digest, len: data.len() as u64, sum: xxh3_64(data) }.encode(Magic::Record);
        if let Err(error) = write_all(&*descriptor, &mut [IoSlice::new(&seal), IoSlice::new(data)], offset) {
            let back = if segment.not_written(offset, bytes) { -signed(bytes) } else { 0 };
            self.budget.count(class, Kind::Segment, back, -1);
            let error = StoreError::io("appending to a segment")(error);
            if !matches!(error, StoreError::Full { .. }) {
                segment.close();
            }
            return Err(error);
        }
        segment.written(offset);
        segment.live_bytes.fetch_add(signed(bytes), Ordering::Relaxed);
        segment.live_blobs.fetch_add(1, Ordering::Relaxed);
        let offset = u32::try_from(offset).expect("a segment is at most 1 GiB");
        let place = Place { tier: TierName::Segment, object: segment.number, offset, len: data.len() as u64 };
        Ok((place, Arc::new(append)))
    }

    fn slot(&self, marks: &Marks, class: Class, bytes: u64) -> Result<Slot, StoreError> {
        let mut active = self.active[class as usize].lock();
        if let Some(segment) = &*active {
            if let Some(slot) = segment.take_slot(bytes, self.limit) {
                return Ok(slot);
            }
            segment.close();
            *active = None;
        }
        let segment = match self.reopen(class, bytes) {
            Some(segment) => segment,
            None => self.create(marks, class)?,
        };
        *active = Some(segment.clone());
        segment.take_slot(bytes, self.limit).ok_or(StoreError::Full { why: "a segment cannot take the blob" })
    }

    /// Goes on with a small segment of an earlier run, at its real end: places name exact offsets, so what a crash
    /// tore before it harms nobody.
    fn reopen(&self, class: Class, bytes: u64) -> Option<Arc<Segment>> {
        let mut reusable = self.reusable.lock();
        for at in (0..reusable.len()).rev() {
            let number = reusable[at];
            let Some(old) = self.table.read().get(&number).cloned() else {
                reusable.remove(at);
                continue;
            };
            let Ok((descriptor, end, found)) = self.inspect(number) else {
                reusable.remove(at);
                continue;
            };
            if found == class && end + bytes <= self.limit {
                reusable.remove(at);
                return self.replace(&old, class, end, descriptor);
            }
        }
        None
    }

    fn inspect(&self, number: u32) -> Result<(Arc<dyn Descriptor>, u64, Class), StoreError> {
        let failed = StoreError::io("opening a segment");
        let descriptor = self.home.files.open(&self.home.segment(number), Access::ReadWrite).map_err(&failed)?;
        let mut seal = [0; SEAL];
        read_exact(&*descriptor, &mut seal, &mut [], 0, Mode::Wait).map_err(&failed)?;
        let seal = Seal::decode(Magic::Segment, &seal, &Digest::from_bytes([0; 32]))?;
        if seal.len != u64::from(number) {
            return Err(StoreError::Gone);
        }
        let end = descriptor.size().map_err(&failed)?;
        Ok((descriptor, end, seal.class))
    }

    /// Takes the place of an old segment that is now appended to; what was counted of it moves along.
    fn replace(&self, old: &Arc<Segment>, class: Class, end: u64, file: Arc<dyn Descriptor>) -> Option<Arc<Segment>> {
        self.learn_class(old, class);
        old.reopen(end, file).then(|| old.clone())
    }

    fn create(&self, marks: &Marks, class: Class) -> Result<Arc<Segment>, StoreError> {
        let failed = StoreError::io("creating a segment");
        let number = marks.next_segment().map_err(&failed)?;
        let path = self.home.segment(number);
        let descriptor = self.home.files.create(&path).map_err(&failed)?;
        let seal = segment_seal(number, class).encode(Magic::Segment);
        if let Err(error) = write_all(&*descriptor, &mut [IoSlice::new(&seal)], 0) {
            // An empty segment that stays harms nobody.
            let _ = self.home.files.remove(&path);
            return Err(failed(error));
        }
        let segment = Segment::fresh(number, class, SEAL as u64, self.home.clone(), descriptor.clone());
        let segment = Arc::new(segment);
        self.budget.count(class, Kind::Segment, SEAL as i64, 0);
        self.table.write().insert(number, segment.clone());
        self.opened.insert(number, Arc::new(OpenSegment { segment: segment.clone(), descriptor }));
        Ok(segment)
    }

    /// The segment of a place, open.
    ///
    /// *Errors*: `Gone` when there is no such segment, or a failed sync condemned what the place names.
    pub fn opened(&self, place: &Place) -> Result<Arc<OpenSegment>, StoreError> {
        let open = match self.opened.get(&place.object) {
            Some(open) => open,
            None => self.open_segment(place.object)?,
        };
        if open.segment.is_condemned(u64::from(place.offset)) {
            return Err(StoreError::Gone);
        }
        Ok(open)
    }

    fn open_segment(&self, number: u32) -> Result<Arc<OpenSegment>, StoreError> {
        let segment = self.table.read().get(&number).cloned().ok_or(StoreError::Gone)?;
        let path = self.home.segment(number);
        let mut opened = self.home.files.open(&path, Access::Read);
        if opened.as_ref().is_err_and(out_of_descriptors) {
            self.opened.clear();
            opened = self.home.files.open(&path, Access::Read);
        }
        let descriptor = match opened {
            Ok(descriptor) => descriptor,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Gone),
            Err(error) => return Err(StoreError::io("opening a segment")(error)),
        };
        let open = Arc::new(OpenSegment { segment, descriptor });
        self.opened.insert(number, open.clone());
        // It may have been retired meanwhile: then nothing would take the descriptor out again.
        if !self.table.read().contains_key(&number) {
            self.opened.remove(&number);
            return Err(StoreError::Gone);
        }
        Ok(open)
    }

    /// Counts a blob that the index knows from an earlier run.
    pub fn adopt(&self, place: &Place, class: Class) {
        let Some(segment) = self.table.read().get(&place.object).cloned() else { return };
        self.learn_class(&segment, class);
        if u64::from(place.offset) >= segment.inherited {
            return;
        }
        segment.live_bytes.fetch_add(signed(record_bytes(place.len)), Ordering::Relaxed);
        segment.live_blobs.fetch_add(1, Ordering::Relaxed);
        self.budget.count(class, Kind::Segment, 0, 1);
    }

    fn learn_class(&self, segment: &Segment, class: Class) {
        if segment.learn_class(class) {
            let bytes = signed(segment.inherited);
            self.budget.count(Class::Trusted, Kind::Segment, -bytes, 0);
            self.budget.count(class, Kind::Segment, bytes, 0);
        }
    }

    pub fn class(&self, number: u32) -> Option<Class> {
        self.table.read().get(&number).and_then(|segment| segment.class())
    }

    /// Counts a blob as dead. Its bytes go with its segment.
    pub fn remove(&self, place: &Place) {
        let Some(segment) = self.table.read().get(&place.object).cloned() else { return };
        segment.live_bytes.fetch_sub(signed(record_bytes(place.len)), Ordering::Relaxed);
        segment.live_blobs.fetch_sub(1, Ordering::Relaxed);
        self.budget.count(segment.class().unwrap_or(Class::Trusted), Kind::Segment, 0, -1);
    }

    /// Lets a segment take no more blobs, so that it can be emptied. Its class, if there is such a segment.
    pub fn close(&self, number: u32) -> Option<Option<Class>> {
        let segment = self.table.read().get(&number).cloned()?;
        self.reusable.lock().retain(|reusable| *reusable != number);
        for class in Class::ALL {
            let mut active = self.active[class as usize].lock();
            if active.as_ref().is_some_and(|active| active.number == number) {
                *active = None;
            }
        }
        segment.close();
        Some(segment.class())
    }

    /// Whether every append to a segment has been recorded or given up.
    pub fn is_told(&self, number: u32) -> bool {
        self.table.read().get(&number).is_none_or(|segment| segment.is_told())
    }

    /// Unlinks a segment. Who reads it goes on. Blocks.
    ///
    /// *Errors*: `Gone` when there is no such segment; after `Io` it still is there.
    pub fn retire(&self, number: u32) -> Result<(), StoreError> {
        let class = self.close(number).ok_or(StoreError::Gone)?.unwrap_or(Class::Trusted);
        match self.home.files.remove(&self.home.segment(number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("removing a segment")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let Some(segment) = self.table.write().remove(&number) else { return Ok(()) };
        segment.retire();
        self.opened.remove(&number);
        let live = segment.live_blobs.load(Ordering::Relaxed).max(0);
        self.budget.count(class, Kind::Segment, -signed(segment.end()), -live);
        Ok(())
    }

    pub fn list(&self) -> Vec<SegmentUse> {
        let amount = |count: i64| u64::try_from(count).unwrap_or(0);
        let table = self.table.read();
        let of = |segment: &Arc<Segment>| SegmentUse {
            number: segment.number,
            class: segment.class(),
            bytes: segment.end(),
            live_bytes: amount(segment.live_bytes.load(Ordering::Relaxed)),
            live_blobs: amount(segment.live_blobs.load(Ordering::Relaxed)),
            phase: if segment.is_open() { SegmentPhase::Open } else { SegmentPhase::Sealed },
            reading: segment.reading.load(Ordering::Relaxed),
        };
        let mut all: Vec<SegmentUse> = table.values().map(of).collect();
        all.sort_unstable_by_key(|segment| segment.number);
        all
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
