//! Numbers that are never used twice, also over restarts: file generations and segment numbers. A block of them is
//! set aside durably before the first is used, so start-up needs no look at the files.

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{Access, write_all};
use super::home::Home;
use super::sum::xxh3_64;
use crate::model::place::Class;
use crate::runtime::clock::random_bytes;

/// Generations set aside at once. A restart loses what is left of them.
const GENERATIONS: u32 = 4096;
const SEGMENTS: u32 = 16;
/// The upper bits count, the lower two hold the class, so that a removal knows whose bytes it frees.
const CLASS_BITS: u32 = 2;
const MAX_BYTES: usize = 256;

pub(super) struct Marks {
    home: Arc<Home>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    generation: Numbers,
    segment: Numbers,
    /// First generation of this run.
    first: u32,
}

#[derive(Clone, Copy)]
struct Numbers {
    next: u32,
    /// Set aside up to here.
    end: u32,
}

impl Marks {
    /// Reads what earlier runs used; `segments` is past the last segment that exists. Writes nothing, so that a full
    /// disk can be read.
    pub fn open(home: Arc<Home>, segments: u32) -> io::Result<Marks> {
        let (generation, segment) = match read(&home)? {
            Some(found) => found,
            // Lost or never written: a random start meets an old generation of one digest once in a billion.
            None => (u32::from_le_bytes(random_bytes()) >> CLASS_BITS, 1),
        };
        let start = |next| Numbers { next, end: next };
        let state = State { generation: start(generation), segment: start(segment.max(segments)), first: generation };
        Ok(Marks { home, state: Mutex::new(state) })
    }

    /// A generation for a new file of `class`. May block.
    pub fn next_generation(&self, class: Class) -> io::Result<u32> {
        let mut state = self.state.lock();
        if state.generation.next == state.generation.end {
            let mut more = *state;
            more.generation.end = state.generation.next.wrapping_add(GENERATIONS) & (u32::MAX >> CLASS_BITS);
            self.write(&more)?;
            *state = more;
        }
        let number = state.generation.next;
        state.generation.next = number.wrapping_add(1) & (u32::MAX >> CLASS_BITS);
        Ok(number << CLASS_BITS | class as u32)
    }

    /// A number for a new segment. May block.
    pub fn next_segment(&self) -> io::Result<u32> {
        let mut state = self.state.lock();
        if state.segment.next == state.segment.end {
            let mut more = *state;
            let end = state.segment.next.checked_add(SEGMENTS);
            more.segment.end = end.ok_or_else(|| io::Error::other("segment numbers are used up"))?;
            self.write(&more)?;
            *state = more;
        }
        let number = state.segment.next;
        state.segment.next += 1;
        Ok(number)
    }

    /// Whether a file of this generation was begun by this run.
    pub fn is_of_this_run(&self, generation: u32) -> bool {
        let state = self.state.lock();
        let since = |number: u32| number.wrapping_sub(state.first) & (u32::MAX >> CLASS_BITS);
        since(generation >> CLASS_BITS) < since(state.generation.next)
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let text = encode(state.generation.end, state.segment.end);
        let temporary = self.home.temporary();
        let file = self.home.files.create(&temporary)?;
        let written = write_all(&*file, &mut [IoSlice::new(text.as_bytes())], 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.home.files.rename(&temporary, &self.home.marks()));
        if written.is_err() {
            // The sweep at the next start takes what this cannot.
            let _ = self.home.files.remove(&temporary);
        }
        written.and_then(|()| self.home.files.sync_dir(self.home.dir()))
    }
}

/// The class in a generation.
pub(super) fn class_of(generation: u32) -> Option<Class> {
    Class::from_code((generation & ((1 << CLASS_BITS) - 1)) as u8)
}

fn encode(generation: u32, segment: u32) -> String {
    let numbers = format!("larder-marks 1 {generation} {segment}");
    let sum = xxh3_64(numbers.as_bytes());
    format!("{numbers} {sum:016x}\n")
}

fn decode(text: &str) -> Option<(u32, u32)> {
    let mut words = text.split_ascii_whitespace().skip(2);
    let found = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    (encode(found.0, found.1) == text).then_some(found)
}

/// None when there are none, or they cannot be believed.
fn read(home: &Home) -> io::Result<Option<(u32, u32)>> {
    let file = match home.files.open(&home.marks(), Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; MAX_BYTES];
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..], len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    let found = std::str::from_utf8(&bytes[..len]).ok().and_then(decode);
    if found.is_none() {
        tracing::warn!("the store's marks are damaged; generations start at random");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::files::SystemFiles;

    fn open(dir: &std::path::Path) -> Marks {
        let home = Arc::new(Home::new(dir, SystemFiles::shared()));
        home.files.make_dir(&home.temporaries()).expect("a directory");
        Marks::open(home, 1).expect("readable")
    }

    #[test]
    fn no_number_is_used_twice_over_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5 {
            let marks = open(dir.path());
            for _ in 0..GENERATIONS + 3 {
                let generation = marks.next_generation(Class::Document).expect("room");
                assert!(seen.insert(generation));
                assert_eq!(class_of(generation), Some(Class::Document));
                assert!(marks.is_of_this_run(generation));
            }
            let segments: Vec<u32> = (0..40).map(|_| marks.next_segment().expect("room")).collect();
            assert!(segments.windows(2).all(|pair| pair[0] < pair[1]));
        }
        let next = open(dir.path());
        assert!(seen.iter().all(|generation| !next.is_of_this_run(*generation)));
        assert!(next.next_segment().expect("room") > 200);
    }

    #[test]
    fn damaged_marks_are_not_believed() {
        assert_eq!(decode(&encode(5, 6)), Some((5, 6)));
        assert_eq!(decode(&encode(5, 6).replace(" 5 ", " 4 ")), None);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("store.marks"), b"\xff\xff").expect("written");
        open(dir.path()).next_generation(Class::Trusted).expect("a random start");
    }
}
