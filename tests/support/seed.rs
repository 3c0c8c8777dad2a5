//! Chance that can be repeated: a seed is printed, and `LARDER_SEED` brings it back.

/// SplitMix64: small, and good enough to choose what a test does next.
pub struct Chance(u64);

impl Chance {
    /// Takes `LARDER_SEED`, or the time; prints what it took.
    pub fn announced(what: &str) -> Chance {
        let seed = match std::env::var("LARDER_SEED") {
            Ok(text) => text.parse().expect("LARDER_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
        };
        println!("{what}: LARDER_SEED={seed}");
        Chance(seed)
    }

    pub const fn from_seed(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
