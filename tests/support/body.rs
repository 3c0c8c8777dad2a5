//! Bodies that follow from a seed: BLAKE3's output stream, readable at any offset, faster than a socket.

/// The bytes that `seed` stands for, `len` of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    pub seed: u64,
    pub len: u64,
}

impl Body {
    pub const fn new(seed: u64, len: u64) -> Body {
        Body { seed, len }
    }

    /// Fills `out` from `at`. The stream goes on past `len`: that is for upstreams that send too much.
    pub fn read(&self, at: u64, out: &mut [u8]) {
        let mut stream = blake3::Hasher::new().update(&self.seed.to_le_bytes()).finalize_xof();
        stream.set_position(at);
        stream.fill(out);
    }

    pub fn bytes(&self, from: u64, to: u64) -> Vec<u8> {
        let mut out = vec![0; usize::try_from(to - from).expect("a test's body fits in memory")];
        self.read(from, &mut out);
        out
    }

    pub fn whole(&self) -> Vec<u8> {
        self.bytes(0, self.len)
    }

    /// BLAKE3 of the bytes `from..to`.
    pub fn digest_of(&self, from: u64, to: u64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let mut at = from;
        let mut chunk = vec![0; 256 << 10];
        while at < to {
            let take = (to - at).min(chunk.len() as u64) as usize;
            self.read(at, &mut chunk[..take]);
            hasher.update(&chunk[..take]);
            at += take as u64;
        }
        hasher.finalize()
    }

    pub fn digest(&self) -> blake3::Hash {
        self.digest_of(0, self.len)
    }
}

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_body_is_the_same_from_any_offset() {
    let body = Body::new(7, 1000);
    let whole = body.whole();
    assert_eq!(body.bytes(333, 700), whole[333..700]);
    assert_eq!(body.digest(), blake3::hash(&whole));
    assert_ne!(whole, Body::new(8, 1000).whole());
}
