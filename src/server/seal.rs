//! Sealing of TLS 1.3 records that rustls and `sealed` have in common: one key, one count of records, so that no nonce is
//! used twice whoever writes. rustls does the handshake, decides which keys there are, and seals whatever is small.
//!
//! AES-GCM alone; with other ciphers, and TLS 1.2, rustls writes everything. RFC 8446, section 5.2.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Weak};

use aws_lc_rs::aead::{self, Aad, Algorithm, TlsProtocolId, TlsRecordSealingKey};
use aws_lc_rs::error::Unspecified;
use parking_lot::Mutex;
use tokio_rustls::rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use tokio_rustls::rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, Nonce, OutboundOpaqueMessage, OutboundPlainMessage,
    PrefixedPayload, Tls13AeadAlgorithm, UnsupportedOperationError, make_tls13_aad,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, tls13};
use tokio_rustls::rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
};

/// What a record holds at most, in bytes.
pub(crate) const RECORD: usize = 16 << 10;
/// Before what a record holds.
const HEAD: usize = 5;
/// Behind it: what kind it is, and the tag.
const TAIL: usize = 1 + TAG;
const TAG: usize = 16;
/// Records under one key, at half of what rustls allows: it does not see ours (RFC 8446, section 5.5).
const WORN: u64 = 1 << 23;

thread_local! {
    /// The last one that a handshake made on this thread.
    static MADE: RefCell<Weak<Mutex<Sealer>>> = const { RefCell::new(Weak::new()) };
}

/// The key with which one connection writes. rustls holds it as long as it is in use, and others hold it weakly.
pub(crate) struct Sealer {
    key: TlsRecordSealingKey,
    iv: Iv,
    records: u64,
}

/// What sealing came to, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sealing {
    pub taken: usize,
    pub sealed: usize,
}

/// How larder seals.
pub(crate) fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    for suite in &mut provider.cipher_suites {
        for ours in [&AES_256, &AES_128] {
            if ours.common.suite == suite.suite() {
                *suite = SupportedCipherSuite::Tls13(ours);
            }
        }
    }
    provider
}

/// Drives a handshake. With it comes what seals the connection's records, if that may be done here.
pub(crate) async fn shaking<F: Future>(handshake: F) -> (F::Output, Weak<Mutex<Sealer>>) {
    let (mut handshake, mut sealer) = (pin!(handshake), Weak::new());
    let done = poll_fn(|cx| {
        MADE.take();
        let poll = handshake.as_mut().poll(cx);
        let made = MADE.take();
        if made.strong_count() > 0 {
            sealer = made;
        }
        poll
    });
    (done.await, sealer)
}

/// Polls what lies beneath a connection. Keys that are changed there, within a tunnel, are not those of a handshake that
/// goes on above.
pub(crate) fn beneath<R>(poll: impl FnOnce() -> R) -> R {
    let made = MADE.take();
    let polled = poll();
    MADE.set(made);
    polled
}

/// Room for the records of so many bytes.
pub(crate) fn room(bytes: usize) -> usize {
    bytes + bytes.div_ceil(RECORD) * (HEAD + TAIL)
}

impl Sealer {
    /// Seals of `slices` up to `most` bytes, in whole records but for the last, to the front of `out`.
    ///
    /// *Shape*: `out` has `room(most)`.
    pub fn seal(&mut self, slices: &[IoSlice<'_>], most: usize, out: &mut [u8]) -> Result<Sealing, Unspecified> {
        let most = most.min(slices.iter().map(|slice| slice.len()).sum());
        let mut sum = Sealing::default();
        let mut rest = slices.iter().map(|slice| &slice[..]);
        let mut run: &[u8] = &[];
        while sum.taken < most {
            let (record, len) = (&mut out[sum.sealed..], RECORD.min(most - sum.taken));
            match run.split_at_checked(len) {
                Some((whole, after)) => {
                    self.seal_from(whole, record)?;
                    run = after;
                }
                None => {
                    gather(&mut run, &mut rest, &mut record[HEAD..HEAD + len]);
                    self.seal_within(len, record)?;
                }
            }
            sum.taken += len;
            sum.sealed += HEAD + len + TAIL;
        }
        Ok(sum)
    }

    pub fn is_worn(&self) -> bool {
        self.records >= WORN
    }

    /// What is sealed goes where it is wanted, without a copy before.
    fn seal_from(&mut self, from: &[u8], record: &mut [u8]) -> Result<(), Unspecified> {
        let head = make_tls13_aad(from.len() + TAIL);
        let nonce = self.nonce();
        record[..HEAD].copy_from_slice(&head);
        let (body, tail) = record[HEAD..].split_at_mut(from.len());
        let kind = [u8::from(ContentType::ApplicationData)];
        self.key.seal_out_of_place_scatter(nonce, Aad::from(head), from, body, &kind, &mut tail[..TAIL])
    }

    /// Seals `len` bytes that lie in their place.
    fn seal_within(&mut self, len: usize, record: &mut [u8]) -> Result<(), Unspecified> {
        let head = make_tls13_aad(len + TAIL);
        let nonce = self.nonce();
        record[..HEAD].copy_from_slice(&head);
        record[HEAD + len] = u8::from(ContentType::ApplicationData);
        let (body, tail) = record[HEAD..].split_at_mut(len + 1);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(head), body)?;
        tail[..TAG].copy_from_slice(tag.as_ref());
        Ok(())
    }

    fn nonce(&mut self) -> aead::Nonce {
        let nonce = Nonce::new(&self.iv, self.records);
        self.records += 1;
        aead::Nonce::assume_unique_for_key(nonce.0)
    }
}

/// Fills `to` with the next bytes.
fn gather<'a>(run: &mut &'a [u8], rest: &mut impl Iterator<Item = &'a [u8]>, to: &mut [u8]) {
    let mut have = 0;
    while have < to.len() {
        if run.is_empty() {
            *run = rest.next().expect("there are as many bytes as were counted");
        }
        let len = run.len().min(to.len() - have);
        to[have..have + len].copy_from_slice(&run[..len]);
        *run = &run[len..];
        have += len;
    }
}

static AES_256: LazyLock<Tls13CipherSuite> = LazyLock::new(|| shared(&SHARED_256));
static AES_128: LazyLock<Tls13CipherSuite> = LazyLock::new(|| shared(&SHARED_128));
static SHARED_256: Shared = Shared { algorithm: &aead::AES_256_GCM, suite: &cipher_suite::TLS13_AES_256_GCM_SHA384 };
static SHARED_128: Shared = Shared { algorithm: &aead::AES_128_GCM, suite: &cipher_suite::TLS13_AES_128_GCM_SHA256 };

/// A suite of rustls' own, but for who seals.
fn shared(aead_alg: &'static Shared) -> Tls13CipherSuite {
    let theirs = aead_alg.theirs();
    let hkdf_provider: &'static dyn tls13::Hkdf = theirs.hkdf_provider;
    let common = tokio_rustls::rustls::crypto::CipherSuiteCommon {
        suite: theirs.common.suite,
        hash_provider: theirs.common.hash_provider,
        confidentiality_limit: WORN,
    };
    Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: None }
}

/// An algorithm whose keys for writing are shared.
struct Shared {
    algorithm: &'static Algorithm,
    suite: &'static SupportedCipherSuite,
}

impl Shared {
    fn theirs(&self) -> &'static Tls13CipherSuite {
        self.suite.tls13().expect("it is one of TLS 1.3")
    }
}

impl Tls13AeadAlgorithm for Shared {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        let key = TlsRecordSealingKey::new(self.algorithm, TlsProtocolId::TLS13, key.as_ref());
        let key = key.expect("rustls makes keys of `key_len`");
        let sealer = Arc::new(Mutex::new(Sealer { key, iv, records: 0 }));
        MADE.set(Arc::downgrade(&sealer));
        Box::new(Common(sealer))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.theirs().aead_alg.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.theirs().aead_alg.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.theirs().aead_alg.extract_keys(key, iv)
    }
}

/// rustls' end of it. Dropped when it has other keys.
struct Common(Arc<Mutex<Sealer>>);

impl MessageEncrypter for Common {
    /// The count that rustls gives is of its own records.
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, _: u64) -> Result<OutboundOpaqueMessage, Error> {
        let len = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(len);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[u8::from(message.typ)]);
        let mut sealer = self.0.lock();
        let nonce = sealer.nonce();
        let sealed = sealer.key.seal_in_place_append_tag(nonce, Aad::from(make_tls13_aad(len)), &mut payload);
        sealed.map_err(|_| Error::EncryptError)?;
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + TAIL
    }
}
