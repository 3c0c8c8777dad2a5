//! Empties the outbox into the bucket, behind the requests. What waits is written down: an outage, a crash or the end of
//! the process only makes it wait longer.
//!
//! An object is stored first, then written down as holding its blobs, and only then they leave the outbox. A crash in
//! between leaves an object that nobody names.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Sleep;

use super::super::Inner;
use super::super::error::CacheError;
use super::outbox::{Due, Look, Pauses};
use crate::index::error::IndexError;
use crate::index::outbox::Waiting;
use crate::index::remote::Uploaded;
use crate::model::digest::Digest;
use crate::model::place::{Place, TierName};
use crate::model::range::ByteRange;
use crate::runtime::clock::random_bytes;
use crate::store::StoreError;
use crate::store::s3::error::S3Error;
use crate::store::s3::names::Name;
use crate::store::s3::pack::{Packer, Pushed};
use crate::store::s3::remote::Blob;
use crate::store::s3::upload::Source;

/// So many of those that wait are looked at: more than a pack of 16 MiB has, with 4 KiB each.
const LISTED: usize = 8192;
/// New ones are not looked at singly.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// Something may have been overlooked, or left for later.
const LOOK_ANYWAY: Duration = Duration::from_secs(30);
/// What could not be read is tried again so much later.
const AVOIDED_FOR: Duration = Duration::from_secs(60);
const PACKS_MAX: usize = 2;
const OBJECTS_MAX: usize = 3;

/// What became of an upload.
struct Ended {
    digests: Vec<Digest>,
    kind: Kind,
    /// Those that could not be read just now: they wait a while and hold nobody up.
    result: Result<Vec<Digest>, Failed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pack,
    Object,
}

/// Why nothing was sent.
enum Failed {
    S3(S3Error),
    /// What is here could not be read, or what was sent not be written down.
    Here(CacheError),
}

impl From<S3Error> for Failed {
    fn from(error: S3Error) -> Failed {
        Failed::S3(error)
    }
}

impl From<IndexError> for Failed {
    fn from(error: IndexError) -> Failed {
        Failed::Here(error.into())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Here(error.into())
    }
}

impl From<CacheError> for Failed {
    fn from(error: CacheError) -> Failed {
        Failed::Here(error)
    }
}

struct Uploader {
    cache: Arc<Inner>,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    sending: HashSet<Digest>,
    /// What could not be read, and until when it is not tried again. Bounded by what an upload holds.
    avoided: HashMap<Digest, Duration>,
    packs: usize,
    objects: usize,
    pauses: Pauses,
    /// Since when small blobs have been seen waiting.
    holding: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    /// The timer is set to a pause, which nothing cuts short.
    resting: bool,
    /// The timer is set to the next look, which news does not put off.
    looking_soon: bool,
}

impl Inner {
    /// Sends what waits, for ever.
    pub(in crate::cache) async fn upload_for_ever(self: Arc<Inner>) {
        let mut uploader = Uploader {
            cache: self.clone(),
            under_way: FuturesUnordered::new(),
            sending: HashSet::new(),
            avoided: HashMap::new(),
            packs: 0,
            objects: 0,
            pauses: Pauses::default(),
            holding: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            resting: false,
            looking_soon: true,
        };
        loop {
            tokio::select! {
                Some(ended) = uploader.under_way.next() => uploader.ended(ended),
                () = &mut uploader.timer => uploader.look().await,
                () = self.index.outbox_filled(), if !uploader.resting && !uploader.looking_soon => {
                    uploader.look_in(LOOK_AFTER);
                }
            }
        }
    }
}

impl Uploader {
    fn look_in(&mut self, pause: Duration) {
        self.timer = Box::pin(tokio::time::sleep(pause));
        self.looking_soon = pause <= LOOK_AFTER;
    }

    /// Begins what is due.
    async fn look(&mut self) {
        self.resting = false;
        let Some(bucket) = &self.cache.bucket else { return self.look_in(LOOK_ANYWAY) };
        let pace = bucket.pace;
        let waiting = match self.cache.index.waiting(LISTED).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "what waits for S3 could not be listed");
                return self.look_in(LOOK_ANYWAY);
            }
        };
        let is_cut = waiting.len() == LISTED;
        let (now, elapsed) = (self.cache.clock.now(), self.cache.clock.elapsed());
        let held = self.holding.map_or(Duration::ZERO, |since| elapsed.saturating_sub(since));
        self.avoided.retain(|_, until| *until > elapsed);
        let sending: HashSet<Digest> = self.sending.iter().chain(self.avoided.keys()).copied().collect();
        let due = pace.due(waiting, &Look { now, held, sending: &sending, is_cut });
        self.holding = due.pack_in.map(|_| self.holding.unwrap_or(elapsed));
        let Due { pack, objects: mut large, pack_in } = due;
        // While one fails, the other has its turn.
        let turn = self.pauses.failures().is_multiple_of(2) || large.is_empty();
        if !pack.is_empty() && turn && self.packs < PACKS_MAX && self.may_try() {
            self.begin_pack(pack);
        }
        if !large.is_empty() {
            // One that cannot be sent does not hold up the others.
            let first = self.pauses.failures() as usize % large.len();
            large.rotate_left(first);
        }
        for blob in large {
            if self.objects >= OBJECTS_MAX || !self.may_try() {
                break;
            }
            self.begin_object(blob);
        }
        // What ends makes room for the next, and looks again.
        self.look_in(pack_in.unwrap_or(LOOK_ANYWAY).min(LOOK_ANYWAY));
    }

    /// While S3 takes nothing, one try at a time is enough.
    fn may_try(&self) -> bool {
        self.under_way.is_empty() || !self.pauses.is_failing()
    }

    fn begin_pack(&mut self, blobs: Vec<Waiting>) {
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        self.sending.extend(&digests);
        self.packs += 1;
        let cache = self.cache.clone();
        self.under_way.push(Box::pin(async move {
            let result = cache.send_pack(blobs).await;
            Ended { digests, kind: Kind::Pack, result }
        }));
    }

    fn begin_object(&mut self, blob: Waiting) {
        self.sending.insert(blob.digest);
        self.objects += 1;
        let cache = self.cache.clone();
        self.under_way.push(Box::pin(async move {
            let digests = vec![blob.digest];
            let result = cache.send_object(blob).await;
            Ended { digests, kind: Kind::Object, result }
        }));
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { digests, kind, result } = ended;
        for digest in &digests {
            self.sending.remove(digest);
        }
        match kind {
            Kind::Pack => self.packs -= 1,
            Kind::Object => self.objects -= 1,
        }
        match result {
            Ok(unread) => {
                let until = self.cache.clock.elapsed() + AVOIDED_FOR;
                self.avoided.extend(unread.into_iter().map(|digest| (digest, until)));
                if self.pauses.end() {
                    tracing::info!("S3 takes what waited for it again");
                }
                self.resting = false;
                self.look_in(Duration::ZERO);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &Failed) {
        let is_first = !self.pauses.is_failing();
        if let Some(bucket) = &self.cache.bucket {
            bucket.counters.failed_upload();
        }
        if is_first {
            let waiting = self.cache.index.outbox();
            let (blobs, bytes) = (waiting.blobs, waiting.bytes);
            match error {
                Failed::S3(error) => tracing::error!(%error, blobs, bytes, "nothing can be sent to S3, it waits here"),
                Failed::Here(error) => tracing::error!(%error, blobs, bytes, "what waits for S3 could not be sent"),
            }
        }
        let [chance] = random_bytes();
        let pause = self.pauses.next(chance);
        self.resting = true;
        self.look_in(pause);
    }
}

impl Inner {
    /// Sends small blobs as one object.
    ///
    /// *Shape*: those that could not be read.
    async fn send_pack(self: &Arc<Inner>, blobs: Vec<Waiting>) -> Result<Vec<Digest>, Failed> {
        let Some(bucket) = &self.bucket else { return Ok(Vec::new()) };
        let (mut packer, mut left_out, mut unread) = (Packer::default(), Vec::new(), Vec::new());
        for blob in &blobs {
            match self.whole_of(blob).await? {
                // One that finds no room goes with the next pack; an empty one needs none.
                Some(bytes) if packer.push(blob.digest, blob.class, &bytes) == Pushed::Full && bytes.is_empty() => {
                    left_out.push(blob.digest);
                }
                Some(_) => {}
                None => unread.push(blob.digest),
            }
            tokio::task::yield_now().await;
        }
        if !left_out.is_empty() {
            self.index.not_uploaded(left_out).await?;
        }
        let name = Name::of_pack().to_string();
        let sequence = u64::try_from(self.clock.now().0).unwrap_or(0);
        let Some(footer) = bucket.remote.put_pack(&name, packer, b"", sequence).await? else { return Ok(unread) };
        let uploaded: Vec<Uploaded> = footer
            .entries
            .iter()
            .map(|entry| Uploaded {
                digest: entry.digest,
                class: entry.class,
                // A pack has at most 64 MiB of blobs.
                offset: u32::try_from(entry.range.start).unwrap_or(u32::MAX),
                len: entry.range.len(),
            })
            .collect();
        let (count, bytes) = (uploaded.len() as u64, uploaded.iter().map(|blob| blob.len).sum());
        self.write_down(&name, footer.object_bytes(), uploaded).await?;
        bucket.counters.uploaded_pack(count, bytes);
        tracing::debug!(object = name, blobs = count, bytes, "a pack is in S3");
        Ok(unread)
    }

    /// Sends a large blob as an object of its own.
    ///
    /// *Shape*: as of `send_pack`.
    async fn send_object(self: &Arc<Inner>, blob: Waiting) -> Result<Vec<Digest>, Failed> {
        let Some(bucket) = &self.bucket else { return Ok(Vec::new()) };
        let Waiting { digest, place, class, .. } = blob;
        let name = Name::of_blob(digest).to_string();
        let source = Here { cache: self.clone(), digest, place };
        match bucket.remote.put_blob(&name, &Blob { digest, class, len: place.len }, &source).await {
            Ok(()) => {}
            Err(error @ S3Error::TooLarge { .. }) => {
                tracing::warn!(%digest, %error, "a blob is kept here alone");
                self.index.not_uploaded(vec![digest]).await?;
                return Ok(Vec::new());
            }
            Err(S3Error::Source { why }) => return self.look_into(&digest, &place, why).await,
            Err(error) => return Err(error.into()),
        }
        self.write_down(&name, place.len, vec![Uploaded { digest, class, offset: 0, len: place.len }]).await?;
        bucket.counters.uploaded_object(place.len);
        tracing::debug!(object = name, bytes = place.len, "a blob is in S3");
        Ok(Vec::new())
    }

    /// What was stored is not stored a second time because it could not be written down at once.
    async fn write_down(&self, name: &str, bytes: u64, blobs: Vec<Uploaded>) -> Result<(), Failed> {
        let mut pauses = Pauses::default();
        loop {
            match self.index.uploaded(name, bytes, blobs.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ IndexError::Closed) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, object = name, "what is in S3 could not be written down, it is tried again");
                    tokio::time::sleep(pauses.next(255)).await;
                }
            }
        }
    }

    /// All of a small blob, hashed. None: it cannot be read just now, is not here any more, or damaged and set aside. Its
    /// row in the outbox goes with its place, and with nothing else.
    async fn whole_of(self: &Arc<Inner>, blob: &Waiting) -> Result<Option<Bytes>, Failed> {
        let (digest, mut place) = (blob.digest, blob.place);
        for _ in 0..3 {
            let damaged = match read(self, &digest, &place, place.whole()).await {
                Ok(bytes) if Digest::of(&bytes) == digest => return Ok(Some(bytes)),
                Ok(_) => StoreError::Corrupt { digest, why: "its bytes hash to something else" },
                Err(error) => error,
            };
            match damaged {
                // Carried to another segment meanwhile.
                StoreError::Gone => match self.index.find_place(&digest).await? {
                    Some(moved) if moved != place && moved.tier != TierName::S3 => place = moved,
                    Some(_) | None => return Ok(None),
                },
                error => {
                    self.note_unread(&digest, &place, &error).await?;
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// A large blob could not be read as what it should be.
    async fn look_into(self: &Arc<Inner>, digest: &Digest, place: &Place, why: String) -> Result<Vec<Digest>, Failed> {
        let (store, blob, at) = (self.store.clone(), *digest, *place);
        let verified = tokio::task::spawn_blocking(move || store.verify_blob(&blob, &at)).await;
        match verified {
            Ok(Err(error)) => {
                self.note_unread(digest, place, &error).await?;
                Ok(vec![*digest])
            }
            // It was read well this time.
            Ok(Ok(())) | Err(_) => Err(Failed::S3(S3Error::Source { why })),
        }
    }

    /// What is wrong stays wrong: it is set aside. What cannot be read may be readable later.
    async fn note_unread(self: &Arc<Inner>, digest: &Digest, place: &Place, error: &StoreError) -> Result<(), Failed> {
        match error {
            StoreError::Corrupt { .. } => {
                tracing::error!(%digest, %error, "a blob that waits for S3 is damaged, it is set aside");
                Ok(self.set_aside(digest, place).await?)
            }
            error => {
                tracing::warn!(%digest, %error, "a blob that waits for S3 cannot be read now, the others go first");
                Ok(())
            }
        }
    }
}

/// A blob on the disk, as what is sent.
struct Here {
    cache: Arc<Inner>,
    digest: Digest,
    place: Place,
}

impl Source for Here {
    fn read(&self, range: ByteRange) -> BoxFuture<'_, Result<Bytes, S3Error>> {
        Box::pin(async move {
            let bytes = read(&self.cache, &self.digest, &self.place, range).await;
            bytes.map_err(|error| S3Error::Source { why: error.to_string() })
        })
    }
}

async fn read(cache: &Inner, digest: &Digest, place: &Place, range: ByteRange) -> Result<Bytes, StoreError> {
    let mut reader = cache.store.open_blob(digest, place, range)?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = reader.chunk().await {
        let chunk = chunk?;
        if chunk.len() as u64 == range.len() {
            return Ok(chunk);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}
