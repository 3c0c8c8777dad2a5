//! Interned sets of realms: a slot names its readers by one small number.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::realm::Realm;

/// No reader at all: a blob without an edge.
pub(super) const NOBODY: u16 = 0;
/// More sets or realms than numbers: who may read is asked of the catalog.
pub(super) const UNCERTAIN: u16 = u16::MAX;

/// Steps remembered.
const STEPS_MAX: usize = 65_536;

/// Whether a caller's realms meet a blob's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Right {
    Yes,
    No,
    Unknown,
}

/// Realms by number, and sets of them by number. Sets are never freed: deployments have few.
pub(super) struct Realms {
    numbers: HashMap<Realm, u16>,
    sets: Vec<Arc<[u16]>>,
    set_numbers: HashMap<Arc<[u16]>, u16>,
    /// The set that a set becomes with a realm: nearly every blob takes one of a few such steps.
    steps: HashMap<(u16, u16), u16>,
}

impl Realms {
    pub(super) fn new() -> Realms {
        let nobody: Arc<[u16]> = Arc::from([]);
        Realms {
            numbers: HashMap::new(),
            sets: vec![nobody.clone()],
            set_numbers: HashMap::from([(nobody, NOBODY)]),
            steps: HashMap::new(),
        }
    }

    /// The number of `set` with `realm` added to it.
    pub(super) fn with(&mut self, set: u16, realm: &Realm) -> u16 {
        let Some(number) = self.number(realm) else { return UNCERTAIN };
        if let Some(known) = self.steps.get(&(set, number)) {
            return *known;
        }
        let more = self.step(set, number);
        if self.steps.len() < STEPS_MAX {
            self.steps.insert((set, number), more);
        }
        more
    }

    fn step(&mut self, set: u16, number: u16) -> u16 {
        let Some(members) = self.sets.get(usize::from(set)).cloned() else { return UNCERTAIN };
        let Err(at) = members.binary_search(&number) else { return set };
        let mut more = members.to_vec();
        more.insert(at, number);
        let more: Arc<[u16]> = Arc::from(more);
        if let Some(known) = self.set_numbers.get(&more) {
            return *known;
        }
        let Some(number) = u16::try_from(self.sets.len()).ok().filter(|number| *number != UNCERTAIN) else {
            return UNCERTAIN;
        };
        self.sets.push(more.clone());
        self.set_numbers.insert(more, number);
        number
    }

    fn number(&mut self, realm: &Realm) -> Option<u16> {
        if let Some(number) = self.numbers.get(realm) {
            return Some(*number);
        }
        let number = u16::try_from(self.numbers.len()).ok()?;
        self.numbers.insert(realm.clone(), number);
        Some(number)
    }

    /// Whether one of `realms` is in the set.
    pub(super) fn right(&self, set: u16, realms: &[Realm]) -> Right {
        let Some(members) = self.sets.get(usize::from(set)) else { return Right::Unknown };
        let mut mine = realms.iter().filter_map(|realm| self.numbers.get(realm));
        if mine.any(|number| members.binary_search(number).is_ok()) { Right::Yes } else { Right::No }
    }

    /// The verdict on every set at once, for a batch; sets made later are missing from it.
    pub(super) fn judge(&self, realms: &[Realm]) -> Vec<Right> {
        (0..self.sets.len()).map(|set| self.right(set as u16, realms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_interned_whatever_the_order() {
        let mut realms = Realms::new();
        let (a, b) = (Realm::named("a"), Realm::named("b"));
        let ab = realms.with(NOBODY, &a);
        let ab = realms.with(ab, &b);
        let ba = realms.with(NOBODY, &b);
        let ba = realms.with(ba, &a);
        assert_eq!(ab, ba);
        assert_eq!(realms.with(ab, &a), ab);
        assert_eq!(realms.right(ab, std::slice::from_ref(&b)), Right::Yes);
        assert_eq!(realms.right(ab, &[Realm::named("c")]), Right::No);
        assert_eq!(realms.right(NOBODY, &[a]), Right::No);
        assert_eq!(realms.right(UNCERTAIN, &[b]), Right::Unknown);
    }

    #[test]
    fn too_many_realms_are_uncertain_not_absent() {
        let mut realms = Realms::new();
        for n in 0..70_000 {
            realms.with(NOBODY, &Realm::named(&n.to_string()));
        }
        assert_eq!(realms.with(NOBODY, &Realm::named("one more")), UNCERTAIN);
    }
}
