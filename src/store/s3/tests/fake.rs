//! A bucket in memory that fails on demand: as told for the next answers, or by the dice of a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream;
use parking_lot::Mutex;

use crate::store::s3::bucket::*;
use crate::store::s3::error::{Flaw, S3Error};

/// What an answer to a get may suffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// No answer at all.
    Unavailable,
    /// The body breaks off after so many bytes.
    CutAfter(usize),
    /// A bit of the body is another.
    Flip(usize),
    /// The answer begins so late.
    Late(Duration),
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    tag: Tag,
    seal: Option<String>,
}

/// Name, seal and parts of an upload.
type Begun = (String, Option<String>, BTreeMap<u16, Bytes>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Begun>,
    /// For the next gets, first one first.
    faults: Vec<Fault>,
    dice: Option<u64>,
    /// Of so many puts and completed uploads the answer is lost: they were asked twice.
    lost: usize,
    count: u64,
}

#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    pub gets: AtomicU64,
    /// Bytes that were answered with.
    pub asked: AtomicU64,
    /// Every get begins so late, under tokio's clock.
    pub latency: Mutex<Duration>,
    /// Nothing is answered.
    pub down: AtomicBool,
    pub puts: AtomicU64,
}

impl Fake {
    pub fn fail_next(&self, faults: &[Fault]) {
        self.state.lock().faults.extend_from_slice(faults);
    }

    /// From now on a third of all gets fail somehow.
    pub fn roll(&self, seed: u64) {
        self.state.lock().dice = Some(seed | 1);
    }

    pub fn lose_next_answers(&self, count: usize) {
        self.state.lock().lost = count;
    }

    /// Changes what is stored behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        let object = state.objects.get_mut(name).expect("it is stored");
        let mut bytes = object.bytes.to_vec();
        change(&mut bytes);
        object.bytes = bytes.into();
    }

    pub fn remove(&self, name: &str) {
        self.state.lock().objects.remove(name);
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    fn fault(&self, len: usize) -> Fault {
        let mut state = self.state.lock();
        if !state.faults.is_empty() {
            return state.faults.remove(0);
        }
        let Some(dice) = &mut state.dice else { return Fault::None };
        // xorshift64
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        let at = (*dice >> 16) as usize % len.max(1);
        match *dice % 9 {
            0 => Fault::Unavailable,
            1 => Fault::CutAfter(at),
            2 => Fault::Flip(at * 8),
            _ => Fault::None,
        }
    }

    fn answers(&self, doing: &'static str) -> Result<(), S3Error> {
        let down = self.down.load(Ordering::Relaxed);
        if down { Err(S3Error::Unavailable { doing, why: "it is down".to_owned() }) } else { Ok(()) }
    }

    fn store(&self, name: &str, bytes: Bytes, seal: Option<String>, only: &Only) -> Result<Tag, S3Error> {
        self.answers("a put")?;
        self.puts.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        let there = state.objects.get(name).map(|object| object.tag.clone());
        let holds = match only {
            Only::Always => true,
            Only::IfAbsent => there.is_none(),
            Only::IfTag(tag) => there.as_ref() == Some(tag),
        };
        if !holds {
            return Err(S3Error::Exists { object: name.to_owned() });
        }
        state.count += 1;
        let tag = Tag(format!("\"{}\"", state.count));
        state.objects.insert(name.to_owned(), Object { bytes, tag: tag.clone(), seal });
        if state.lost > 0 {
            state.lost -= 1;
            return Err(S3Error::Exists { object: name.to_owned() });
        }
        Ok(tag)
    }

    async fn read(&self, name: &str, span: Span) -> Result<Option<Got>, S3Error> {
        self.answers("a get")?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        let latency = *self.latency.lock();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let Some(object) = self.state.lock().objects.get(name).cloned() else { return Ok(None) };
        let len = object.bytes.len();
        let flaw = Flaw::Damaged("it ends before what was asked for");
        if matches!(span, Span::Part(range) if range.start >= len as u64) {
            return Err(S3Error::Damaged { object: name.to_owned(), flaw });
        }
        let part = match span {
            Span::Whole => object.bytes.clone(),
            Span::Part(range) => object.bytes.slice(range.start as usize..(range.end as usize).min(len)),
            Span::Last(last) => object.bytes.slice(len.saturating_sub(last as usize)..),
        };
        let unavailable = |why: &str| S3Error::Unavailable { doing: "a get", why: why.to_owned() };
        let stat = Stat { len: len as u64, tag: object.tag, seal: object.seal };
        let (mut bytes, mut cut) = (part, false);
        match self.fault(bytes.len()) {
            Fault::None => {}
            Fault::Unavailable => return Err(unavailable("no answer")),
            Fault::CutAfter(after) => {
                bytes.truncate(after);
                cut = true;
            }
            Fault::Flip(bit) => {
                let mut flipped = BytesMut::from(&bytes[..]);
                flipped[bit / 8] ^= 1 << (bit % 8);
                bytes = flipped.freeze();
            }
            Fault::Late(by) => tokio::time::sleep(by).await,
        }
        self.asked.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let body = stream::unfold((bytes, cut), move |(mut bytes, cut)| async move {
            if bytes.is_empty() {
                return cut.then(|| (Err(unavailable("it broke off")), (bytes, false)));
            }
            let chunk = bytes.split_to(bytes.len().min(64 << 10));
            Some((Ok(chunk), (bytes, cut)))
        });
        Ok(Some(Got { stat, body: Body::new(body) }))
    }
}

impl Bucket for Fake {
    fn put<'a>(&'a self, name: &'a str, object: Put) -> BoxFuture<'a, Result<Tag, S3Error>> {
        Box::pin(async move { self.store(name, object.bytes, object.seal, &object.only) })
    }

    fn get<'a>(&'a self, name: &'a str, span: Span) -> BoxFuture<'a, Result<Option<Got>, S3Error>> {
        Box::pin(self.read(name, span))
    }

    fn head<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Stat>, S3Error>> {
        Box::pin(async move {
            let found = self.state.lock().objects.get(name).cloned();
            let stat = |object: Object| Stat { len: object.bytes.len() as u64, tag: object.tag, seal: object.seal };
            Ok(found.map(stat))
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> BoxFuture<'a, Result<Page, S3Error>> {
        Box::pin(async move {
            let state = self.state.lock();
            let all = state.objects.iter().filter(|(name, _)| name.starts_with(folder));
            let later = all.filter(|(name, _)| after.is_none_or(|after| name.as_str() > after));
            let mut objects: Vec<_> = later.map(|(name, object)| (name.clone(), object.bytes.len() as u64)).collect();
            let more = objects.len() > 1000;
            objects.truncate(1000);
            Ok(Page { objects, more })
        })
    }

    fn delete(&self, names: Vec<String>) -> BoxFuture<'_, Result<Vec<(String, String)>, S3Error>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            names.iter().for_each(|name| drop(state.objects.remove(name)));
            Ok(Vec::new())
        })
    }

    fn begin<'a>(&'a self, name: &'a str, seal: Option<&'a str>) -> BoxFuture<'a, Result<UploadId, S3Error>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            state.count += 1;
            let id = format!("upload-{}", state.count);
            let begun = (name.to_owned(), seal.map(str::to_owned), BTreeMap::new());
            state.uploads.insert(id.clone(), begun);
            Ok(UploadId(id))
        })
    }

    fn part<'a>(&'a self, upload: &'a Upload, number: u16, bytes: Bytes) -> BoxFuture<'a, Result<Part, S3Error>> {
        Box::pin(async move {
            self.answers("a part")?;
            let mut state = self.state.lock();
            let gone = || S3Error::Gone { object: upload.name.clone() };
            state.uploads.get_mut(&upload.id.0).ok_or_else(gone)?.2.insert(number, bytes);
            Ok(Part { number, tag: Tag(number.to_string()), checksum: None })
        })
    }

    fn complete<'a>(&'a self, upload: &'a Upload, parts: Vec<Part>, only: Only) -> BoxFuture<'a, Result<Tag, S3Error>> {
        Box::pin(async move {
            let gone = || S3Error::Gone { object: upload.name.clone() };
            let (name, seal, sent) = self.state.lock().uploads.get(&upload.id.0).cloned().ok_or_else(gone)?;
            let mut bytes = BytesMut::new();
            for part in parts {
                bytes.extend_from_slice(sent.get(&part.number).ok_or_else(gone)?);
            }
            let tag = self.store(&name, bytes.freeze(), seal, &only)?;
            self.state.lock().uploads.remove(&upload.id.0);
            Ok(tag)
        })
    }

    fn abort<'a>(&'a self, upload: &'a Upload) -> BoxFuture<'a, Result<(), S3Error>> {
        Box::pin(async move {
            self.state.lock().uploads.remove(&upload.id.0);
            Ok(())
        })
    }

    fn unfinished<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, Result<Vec<Upload>, S3Error>> {
        Box::pin(async move {
            let state = self.state.lock();
            let all =
                state.uploads.iter().map(|(id, (name, ..))| Upload { name: name.clone(), id: UploadId(id.clone()) });
            Ok(all.filter(|upload| upload.name.starts_with(folder)).collect())
        })
    }
}
