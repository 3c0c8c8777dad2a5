//! Random histories, restarts among them, against a plain map of what must be there.

use proptest::prelude::*;

use super::super::layout::CHUNK;
use super::super::{SealedBlob, Store};
use super::{Bed, get, noise, try_put};
use crate::model::place::{Class, TierName};
use crate::model::range::ByteRange;

#[derive(Clone, Debug)]
enum Step {
    Put { seed: u64, len: usize, class: Class },
    Read { which: usize, from: u16, to: u16 },
    Sync { which: usize },
    Remove { which: usize },
    Remember { which: usize },
    Move { which: usize },
    RetireDead,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![0..5000_usize, 60_000..70_000_usize, Just(CHUNK), (CHUNK - 3)..(3 * CHUNK)];
    let class = prop::sample::select(Class::ALL.to_vec());
    let step = prop_oneof![
        6 => (0..20_u64, len, class).prop_map(|(seed, len, class)| Step::Put { seed, len, class }),
        6 => (any::<usize>(), any::<u16>(), any::<u16>()).prop_map(|(which, from, to)| Step::Read { which, from, to }),
        3 => any::<usize>().prop_map(|which| Step::Sync { which }),
        2 => any::<usize>().prop_map(|which| Step::Remove { which }),
        1 => any::<usize>().prop_map(|which| Step::Remember { which }),
        1 => any::<usize>().prop_map(|which| Step::Move { which }),
        1 => Just(Step::RetireDead),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

/// A blob that must be there.
struct Known {
    blob: SealedBlob,
    class: Class,
    bytes: Vec<u8>,
    synced: bool,
}

struct World {
    bed: Bed,
    store: Store,
    known: Vec<Known>,
}

impl World {
    async fn run(&mut self, step: Step) {
        let which = |which: usize, known: &Vec<Known>| (!known.is_empty()).then(|| which % known.len());
        match step {
            Step::Put { seed, len, class } => {
                let bytes = noise(seed, len);
                let blob = try_put(&self.store, &bytes, class).await.expect("room");
                self.known.push(Known { blob, class, bytes, synced: false });
            }
            Step::Read { which: at, from, to } => {
                let Some(at) = which(at, &self.known) else { return };
                let known = &self.known[at];
                let point = |share: u16| known.blob.len * u64::from(share) / u64::from(u16::MAX);
                let range = ByteRange { start: point(from.min(to)), end: point(from.max(to)) };
                let found = get(&self.store, &known.blob.digest, &known.blob.place, range).await.expect("readable");
                assert!(found == known.bytes[range.start as usize..range.end as usize]);
            }
            Step::Sync { which: at } => {
                let Some(at) = which(at, &self.known) else { return };
                self.known[at].blob.dirty.sync().expect("synced");
                self.known[at].synced = true;
            }
            Step::Remove { which: at } => {
                let Some(at) = which(at, &self.known) else { return };
                let known = self.known.swap_remove(at);
                self.store.remove(&known.blob.digest, &known.blob.place);
            }
            Step::Remember { which: at } => {
                let Some(at) = which(at, &self.known) else { return };
                let known = &self.known[at];
                self.store.remember(&known.blob.digest, known.bytes.clone().into());
            }
            Step::Move { which: at } => {
                let Some(at) = which(at, &self.known) else { return };
                let known = &mut self.known[at];
                if known.blob.place.tier == TierName::Segment {
                    let moved = self.store.copy_forward(&known.blob.digest, &known.blob.place).expect("room");
                    self.store.remove(&known.blob.digest, &known.blob.place);
                    known.blob = moved;
                }
            }
            Step::RetireDead => self.retire_dead(),
            Step::Restart => self.restart(),
        }
    }

    fn retire_dead(&self) {
        for segment in self.store.segments() {
            let in_it = |known: &&Known| {
                known.blob.place.tier == TierName::Segment && known.blob.place.object == segment.number
            };
            assert_eq!(segment.live_blobs, self.known.iter().filter(in_it).count() as u64);
            if segment.live_blobs == 0 {
                self.store.retire_segment(segment.number).expect("retired");
            }
        }
    }

    fn restart(&mut self) {
        // Files that nobody synced are not to be named by anybody.
        self.known.retain(|known| known.synced || known.blob.place.tier == TierName::Segment);
        self.store = self.bed.open();
        self.store.adopt(self.known.iter().map(|known| (known.blob.place, known.class)));
    }

    async fn check(&self) {
        for known in &self.known {
            let (digest, place) = (&known.blob.digest, &known.blob.place);
            let found = get(&self.store, digest, place, place.whole()).await.expect("readable");
            assert!(found == known.bytes);
            if let Some(bytes) = self.store.recall(digest) {
                assert!(bytes == known.bytes);
            }
            self.store.verify_blob(digest, place).expect("good");
        }
        let (used, disk) = (self.store.usage().disk_bytes(), self.bed.disk_bytes());
        let blocks = 4096 * self.store.segments().len() as u64;
        assert!(used.abs_diff(disk) <= disk / 100 + blocks, "counted {used}, on disk {disk}");
        let blobs: u64 = self.store.usage().classes.iter().map(|class| class.segment_blobs + class.file_blobs).sum();
        assert_eq!(blobs, self.known.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_end_as_the_map_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let bed = Bed::new();
            let store = bed.open();
            let mut world = World { bed, store, known: Vec::new() };
            for step in steps {
                world.run(step).await;
            }
            world.check().await;
        });
    }
}
