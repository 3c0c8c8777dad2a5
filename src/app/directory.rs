//! Opening what is in the data directory: the lock first, then the store, then the index, which holds the lock from then
//! on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{StartError, StartErrorKind};
use crate::config::{Config, Variables};
use crate::index::Index;
use crate::index::error::IndexError;
use crate::index::lock::DirectoryLock;
use crate::index::open::OnPlace;
use crate::runtime::clock::Clock;
use crate::server::handover::Takeover;
use crate::store::{Store, SystemFiles};

/// How long a successor waits for the directory.
pub(super) const HANDOVER_PATIENCE: Duration = Duration::from_secs(20);

/// The data directory, which is there from now on.
pub(super) fn made(config: &Config) -> Result<PathBuf, StartError> {
    let dir = config
        .data_dir(&Variables::of_process())
        .map_err(|error| StartError::new(StartErrorKind::Config, error.to_string(), "larder serve --data DIR"))?;
    std::fs::create_dir_all(&dir).map_err(|error| {
        let message = format!("the data directory {} cannot be made: {error}", dir.display());
        StartError::new(StartErrorKind::Config, message, "choose another with --data DIR")
    })?;
    Ok(dir)
}

/// Whether this version can read what is there. Asked before a running larder is told to make room for this one.
pub(super) fn check(dir: &Path) -> Result<(), StartError> {
    Index::check(dir).map_err(refused)
}

/// Opens store and index. With `patience` it waits as long for who owns the directory to let go of it.
pub(super) async fn open(
    dir: &Path,
    config: &Config,
    clock: &Arc<dyn Clock>,
    patience: Option<Duration>,
) -> Result<(Store, Index), StartError> {
    // The owner goes on writing until it lets go: what was looked at before would be out of date.
    let lock = match patience {
        Some(patience) => DirectoryLock::wait(dir, patience).await,
        None => DirectoryLock::take(dir),
    };
    let lock = lock.map_err(refused)?;
    let store = Store::open(dir, &config.store, SystemFiles::shared(), clock.clone()).map_err(StartError::failed)?;
    let accounts = store.clone();
    let on_place: OnPlace = Box::new(move |_, place, class| accounts.adopt([(*place, class)]));
    let mut settings = config.index.clone();
    let s3 = &config.store.s3;
    settings.outbox_max_bytes =
        s3.bucket.as_ref().map(|_| s3.outbox_max_bytes.unwrap_or(store.usage().budget_bytes / 2));
    let index = Index::open_owned(dir, &settings, clock.clone(), on_place, lock).map_err(refused)?;
    Ok((store, index))
}

/// A larder that runs on this directory hands its sockets over and lets go of the directory.
pub(super) async fn take_over(dir: &Path) -> Result<Vec<std::net::TcpListener>, StartError> {
    match Takeover::ask(dir).await {
        Ok(Some(takeover)) => takeover.release(HANDOVER_PATIENCE).await.map_err(StartError::failed),
        Ok(None) => Ok(Vec::new()),
        Err(error) => {
            tracing::warn!(%error, "a running larder did not hand over");
            Ok(Vec::new())
        }
    }
}

fn refused(error: IndexError) -> StartError {
    match error {
        IndexError::Locked { .. } => StartError::new(
            StartErrorKind::InUse,
            error.to_string(),
            "stop the other larder, or give this one its own directory with --data DIR",
        ),
        IndexError::Newer { .. } => {
            let help = "run that larder, or give this one its own directory with --data DIR; nothing was changed";
            StartError::new(StartErrorKind::Failed, error.to_string(), help)
        }
        other => StartError::failed(other),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::task::Poll;

    use super::*;
    use crate::index::Ack;
    use crate::index::record::{NewBlob, Record};
    use crate::model::place::Class;
    use crate::runtime::clock::SystemClock;
    use crate::store::Intent;

    /// As with sockets that a supervisor passes on: nobody has told the predecessor to stop.
    #[tokio::test]
    async fn who_waits_for_the_directory_finds_what_its_owner_did_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let (config, clock) = (Config::default(), SystemClock::new() as Arc<dyn Clock>);
        let (store, index) = open(dir.path(), &config, &clock, None).await.expect("it is free");
        let mut successor = std::pin::pin!(open(dir.path(), &config, &clock, Some(Duration::from_secs(60))));
        let waits = std::future::poll_fn(|context| Poll::Ready(successor.as_mut().poll(context).is_pending()));
        assert!(waits.await, "it has an owner");

        let intent = Intent { len: Some(5), class: Class::Trusted, sums: Vec::new() };
        let mut writer = store.writer(intent).expect("room");
        writer.write(bytes::Bytes::from_static(b"bytes")).await.expect("taken");
        let sealed = writer.seal(&[], None).await.expect("sealed");
        let (digest, place) = (sealed.digest, sealed.place);
        let blob = NewBlob { digest, sums: sealed.sums, place, class: Class::Trusted, dirty: sealed.dirty };
        index.record(Record { blob: Some(blob), ..Record::default() }, Ack::Durable).await.expect("durable");
        index.close().await;

        let (store, index) = successor.await.expect("it is free again");
        assert_eq!(index.find_place(&digest).await.expect("told"), Some(place));
        store.verify_blob(&digest, &place).expect("what was durable is there");
    }
}
