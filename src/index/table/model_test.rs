//! The table against a plain map: whatever is done in whatever order, both say the same.

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::{Blob, ColdAsk, Known, Minutes, Seated, Table, Use, rank};
use crate::model::checksum::{Algorithm, Checksum};
use crate::model::digest::{Digest, Prefix};
use crate::model::place::{Class, Place, TierName};
use crate::model::realm::Realm;

#[derive(Clone, Debug)]
enum Op {
    Put {
        digest: u8,
        object: u32,
        class: usize,
        sum: bool,
    },
    Remove {
        digest: u8,
        object: u32,
    },
    Move {
        digest: u8,
        from: u32,
        to: u32,
    },
    Edge {
        digest: u8,
        realm: u8,
    },
    Name {
        key: u8,
        digest: Option<u8>,
    },
    Unname {
        key: u8,
    },
    /// Many blobs at once, so that shards grow.
    Fill {
        from: u16,
    },
}

#[derive(Default)]
struct Model {
    blobs: HashMap<Prefix, Row>,
    keys: BTreeSet<u8>,
}

struct Row {
    place: Place,
    class: Class,
    sum: Option<Checksum>,
    realms: BTreeSet<u8>,
}

fn digest(n: u32) -> Prefix {
    Digest::of(&n.to_le_bytes()).prefix()
}

fn key(n: u8) -> Prefix {
    Digest::of(&[b'k', n]).prefix()
}

fn sum(n: u32) -> Checksum {
    Checksum::new(Algorithm::Sha256, Digest::of(&(n ^ 0x5555_0000).to_le_bytes()).as_bytes()).expect("32 bytes")
}

fn realm(n: u8) -> Realm {
    Realm::named(&format!("realm {n}"))
}

/// Of the few that blobs are put to and moved between, the last is in the bucket.
fn place(object: u32) -> Place {
    let tier = if object == 3 { TierName::S3 } else { TierName::Segment };
    Place { tier, object, offset: object ^ 77, len: u64::from(object) << 8 }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..40_u8, 0..4_u32, 0..3_usize, any::<bool>())
            .prop_map(|(digest, object, class, sum)| Op::Put { digest, object, class, sum }),
        3 => (0..40_u8, 0..4_u32).prop_map(|(digest, object)| Op::Remove { digest, object }),
        2 => (0..40_u8, 0..4_u32, 0..4_u32).prop_map(|(digest, from, to)| Op::Move { digest, from, to }),
        3 => (0..40_u8, 0..3_u8).prop_map(|(digest, realm)| Op::Edge { digest, realm }),
        4 => (0..24_u8, proptest::option::of(0..40_u8)).prop_map(|(key, digest)| Op::Name { key, digest }),
        2 => (0..24_u8).prop_map(|key| Op::Unname { key }),
        1 => (0..40_u16).prop_map(|from| Op::Fill { from: 1000 + from * 500 }),
    ]
}

impl Model {
    fn put(&mut self, table: &Table, n: u32, object: u32, class: Class, with_sum: bool) {
        let (digest, place, sum) = (digest(n), place(object), sum(n));
        let sha256 = with_sum.then(|| sum.prefix());
        let seated = table.put(&Blob { digest, sha256, place, class, used: Use::default() });
        let Some(row) = self.blobs.get_mut(&digest) else {
            assert_eq!(seated, Seated::Here);
            let sum = with_sum.then_some(sum);
            self.blobs.insert(digest, Row { place, class, sum, realms: BTreeSet::new() });
            return;
        };
        row.sum = row.sum.or(with_sum.then_some(sum));
        let expected = match row.place {
            standing if standing == place => Seated::Here,
            standing if !place.tier.is_local() => Seated::Kept(standing),
            standing if !standing.tier.is_local() => Seated::Replaced(standing),
            standing if rank(class) > rank(row.class) => Seated::Replaced(standing),
            standing => Seated::Kept(standing),
        };
        assert_eq!(seated, expected);
        if matches!(expected, Seated::Replaced(_)) {
            (row.place, row.class) = (place, class);
        }
    }

    fn apply(&mut self, table: &Table, op: &Op) {
        match *op {
            Op::Put { digest, object, class, sum } => {
                self.put(table, u32::from(digest), object, Class::ALL[class], sum);
            }
            Op::Fill { from } => {
                (0..500).for_each(|n| self.put(table, u32::from(from) + n, 9, Class::Trusted, true));
            }
            Op::Remove { digest: n, object } => {
                let digest = digest(u32::from(n));
                let stands = self.blobs.get(&digest).is_some_and(|row| row.place == place(object));
                assert_eq!(table.remove_if(&digest, &place(object)), stands);
                if stands {
                    self.blobs.remove(&digest);
                }
            }
            Op::Move { digest: n, from, to } => {
                let digest = digest(u32::from(n));
                let row = self.blobs.get_mut(&digest).filter(|row| row.place == place(from));
                assert_eq!(table.move_if(&digest, &place(from), &place(to)), row.is_some());
                if let Some(row) = row {
                    row.place = place(to);
                }
            }
            Op::Edge { digest: n, realm: r } => {
                let digest = digest(u32::from(n));
                let row = self.blobs.get_mut(&digest);
                assert_eq!(table.add_realm(&digest, &realm(r)), row.is_some());
                if let Some(row) = row {
                    row.realms.insert(r);
                }
            }
            Op::Name { key: k, digest: n } => {
                assert!(table.name(&key(k), n.map(|n| digest(u32::from(n))).as_ref()));
                self.keys.insert(k);
            }
            Op::Unname { key: k } => assert_eq!(table.unname(&key(k)), self.keys.remove(&k)),
        }
    }

    fn check(&self, table: &Table) {
        assert_eq!(table.blobs(), self.blobs.len() as u64);
        assert_eq!(table.keys(), self.keys.len() as u64);
        for k in 0..24 {
            assert_eq!(table.has_key(&key(k)), self.keys.contains(&k), "key {k}");
        }
        for n in (0..40).chain(1000..1500) {
            let row = self.blobs.get(&digest(n));
            let seat = table.get(&digest(n));
            assert_eq!(seat.map(|seat| (seat.place, seat.class)), row.map(|row| (row.place, row.class)), "blob {n}");
        }
        let asks: Vec<Checksum> = (0..40).map(sum).collect();
        for r in 0..3 {
            let mut found = Vec::new();
            table.find_sums(&[realm(r), realm(99)], &asks, Minutes::default(), &mut found);
            for (n, found) in (0..40).zip(found) {
                let row = self.blobs.get(&digest(n));
                let may = row.is_some_and(|row| row.realms.contains(&r));
                let has = may && row.is_some_and(|row| row.sum.is_some());
                assert_eq!(found == Known::Present, has, "sum {n} for realm {r}");
                assert_eq!(table.find_sum(&[realm(r)], &sum(n).prefix()).0 == Known::Present, has);
                assert_eq!(table.readable(&[realm(r)], &digest(n)) == Known::Present, may);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_table_says_what_a_map_says(ops in proptest::collection::vec(op(), 1..120)) {
        let table = Table::new(u64::MAX);
        let mut model = Model::default();
        for op in &ops {
            model.apply(&table, op);
        }
        model.check(&table);
    }
}

#[test]
fn a_full_table_says_so_and_keeps_what_it_has() {
    let table = Table::new(4 << 20);
    let used = Use::default();
    let blob = |n: u32| Blob {
        digest: digest(n),
        sha256: Some(sum(n).prefix()),
        place: place(n),
        class: Class::Trusted,
        used,
    };
    let refused = (0..100_000).find(|n| table.put(&blob(*n)) == Seated::Refused).expect("it is bounded");
    assert!(table.is_partial());
    assert!(table.bytes() <= (4 << 20) + (64 << 10), "{}", table.bytes());
    assert!(refused > 10_000, "{refused}");
    assert!((0..refused).all(|n| table.get(&digest(n)).is_some_and(|seat| seat.place == place(n))));
    assert!(!table.name(&key(1), None));
}

#[test]
fn slots_are_used_again() {
    let table = Table::new(u64::MAX);
    let used = Use::default();
    for round in 0..20 {
        for n in 0..2_000 {
            let n = round * 2_000 + n;
            let blob =
                Blob { digest: digest(n), sha256: Some(sum(n).prefix()), place: place(n), class: Class::Trusted, used };
            assert_eq!(table.put(&blob), Seated::Here);
            assert!(table.name(&digest(n + 1_000_000), Some(&digest(n))));
        }
        for n in 0..2_000 {
            let n = round * 2_000 + n;
            assert!(table.remove_if(&digest(n), &place(n)));
            assert!(table.unname(&digest(n + 1_000_000)));
        }
    }
    assert_eq!((table.blobs(), table.keys()), (0, 0));
    assert!(table.bytes() < 2 << 20, "{}", table.bytes());
}

#[test]
fn the_coldest_and_largest_come_first_and_leases_hold() {
    let table = Table::new(u64::MAX);
    let period = std::time::Duration::from_secs(3600);
    let now = Minutes::from_number(10_000);
    for n in 0..100 {
        let place = Place { tier: TierName::File, object: n, offset: 0, len: 1 << 20 };
        let used = Use { last: Minutes::from_number(i64::from(n)), hits: 0 };
        table.put(&Blob { digest: digest(n), sha256: None, place, class: Class::Trusted, used });
    }
    let ask = |class| ColdAsk { class, want_bytes: 5 << 20, now, period };
    assert!(table.lease(&digest(0), now));
    assert_eq!(table.leased_bytes(Class::Trusted), 1 << 20);
    let cold = table.cold(&ask(Class::Trusted), &HashSet::new());
    let objects: Vec<u32> = cold.files.iter().map(|(_, place)| place.object).collect();
    assert_eq!(objects, [1, 2, 3, 4, 5]);
    let skip = HashSet::from([digest(1), digest(3)]);
    let objects: Vec<u32> =
        table.cold(&ask(Class::Trusted), &skip).files.iter().map(|(_, place)| place.object).collect();
    assert_eq!(objects, [2, 4, 5, 6, 7]);
    assert!(table.cold(&ask(Class::Document), &HashSet::new()).files.is_empty());
    let later = now.plus(period);
    table.end_leases(later, period);
    assert_eq!(table.leased_bytes(Class::Trusted), 0);
    assert!(!table.is_leased(&digest(0), later, period));
}
