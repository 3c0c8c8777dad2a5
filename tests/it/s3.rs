//! A real server of S3: the same contract as the bucket in memory, and what `larder doctor` says of it.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder::config::Config;
use larder::runtime::clock::SystemClock;
use larder::runtime::tasks::Tasks;
use larder::store::s3::aws::AwsBucket;
use larder::store::s3::bucket::Bucket;
use larder::store::s3::cost::RequestKind;

use crate::support::machine::scratch;
use crate::support::s3::{READER, S3, SECRET, WRITER};
use crate::support::server::{Ended, LARDER, end_of};

#[path = "../../src/store/s3/tests/contract.rs"]
mod contract;

/// What the contract needs.
mod api {
    pub use larder::model::digest::Digest;
    pub use larder::model::place::Class;
    pub use larder::model::range::ByteRange;
    pub use larder::runtime::clock::Clock;
    pub use larder::store::s3::bucket::{Bucket, Got, Only, Put, Span, Stat, Tag, Upload};
    pub use larder::store::s3::error::S3Error;
    pub use larder::store::s3::names::probe_folder;
    pub use larder::store::s3::pack::{Packer, Pushed};
    pub use larder::store::s3::read::Wanted;
    pub use larder::store::s3::remote::{Blob, Remote};
    pub use larder::store::s3::settings::Settings;
}

/// `larder doctor` with this configuration and credential.
fn doctor(dir: &Path, config: &str, key: &str, secret: &str) -> Ended {
    let file = dir.join("larder.toml");
    std::fs::write(&file, config).expect("scratch can be written");
    let mut command = Command::new(LARDER);
    command.arg("doctor").arg("--config").arg(&file).arg("--data").arg(dir.join("data"));
    command.env_clear().env("HOME", dir).env("AWS_EC2_METADATA_DISABLED", "true");
    if !key.is_empty() {
        command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
    }
    end_of(command, Duration::from_secs(60))
}

#[track_caller]
fn said(ended: &Ended) -> &str {
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(SECRET), "{ended:?}");
    let line = ended.stdout.lines().find(|line| line.split_whitespace().nth(1) == Some("s3"));
    line.unwrap_or_else(|| panic!("nothing of S3: {ended:?}"))
}

/// The bucket of a server, by the configuration that an operator would write.
async fn bucket(dir: &Path, config: &str) -> Arc<AwsBucket> {
    let file = dir.join("credentials");
    let text = format!("[ci]\naws_access_key_id = {WRITER}\naws_secret_access_key = {SECRET}\n");
    std::fs::write(&file, text).expect("scratch can be written");
    let text = format!("{config}profile = \"ci\"\ncredentials_file = \"{}\"\n", file.display());
    let config: Config = larder::config::parse("test", &text).expect("a configuration");
    let opened = larder::app::bucket::open(&config, SystemClock::new(), Tasks::new()).await;
    Arc::new(opened.expect("opens").expect("is configured"))
}

/// Stands before a server and breaks each connection off after some bytes of its answers: one in eight within the first head.
fn breaking(endpoint: &str) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (to, broken) = (endpoint.trim_start_matches("http://").to_owned(), Arc::new(AtomicU64::new(0)));
    let count = broken.clone();
    std::thread::spawn(move || {
        let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
        for client in listener.incoming().map_while(Result::ok) {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let most = if dice.is_multiple_of(8) { 200 } else { 3 << 20 };
            let (to, count, left) = (to.clone(), count.clone(), dice % most + 1);
            std::thread::spawn(move || {
                if let Ok(server) = TcpStream::connect(to) {
                    // However it ended, it ended.
                    let _ = carry(&client, &server, left, &count);
                }
            });
        }
    });
    (address, broken)
}

fn carry(client: &TcpStream, server: &TcpStream, left: u64, broken: &AtomicU64) -> std::io::Result<()> {
    let (mut asks, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut asks, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let sent = std::io::copy(&mut server.take(left), &mut &*client)?;
    broken.fetch_add(u64::from(sent == left), Ordering::Relaxed);
    client.shutdown(Shutdown::Both)?;
    server.shutdown(Shutdown::Both)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_keeps_the_contract_whatever_the_line_does() {
    let dir = scratch();
    let s3 = S3::below(dir.path());
    for (prefix, checksum) in [("", "crc32c"), ("some/where", "sha256")] {
        let config = format!("{}prefix = \"{prefix}\"\nchecksum = \"{checksum}\"\n", s3.config());
        let bucket = bucket(dir.path(), &config).await;
        contract::all(bucket.clone(), SystemClock::new()).await;
        assert_eq!(bucket.list("", None).await.expect("lists").objects, []);
        let used = bucket.meter().used();
        let counts = RequestKind::ALL.map(|kind| (kind.name(), used.of(kind)));
        println!("{counts:?}, {} bytes sent, {} received", used.sent_bytes, used.received_bytes);
        assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
        assert!(used.sent_bytes > 27 << 20 && used.received_bytes > 39 << 20, "{used:?}");
    }
    let (address, broken) = breaking(&s3.endpoint);
    let config = s3.config().replace(&s3.endpoint, &address) + "attempts = 12\n";
    let bucket = self::bucket(dir.path(), &config).await;
    contract::blobs_and_packs(bucket.clone(), SystemClock::new(), "broken/").await;
    let broken = broken.load(Ordering::Relaxed);
    println!("{broken} connections broken, {} requests", bucket.meter().used().requests());
    assert!(broken > 10, "{broken} connections broke");
}

#[test]
fn doctor_tells_what_a_bucket_can_do_and_what_is_in_its_way() {
    let dir = scratch();
    let s3 = S3::below(dir.path());
    let good = doctor(dir.path(), &s3.config(), WRITER, SECRET);
    assert!(said(&good).starts_with("ok ") && said(&good).contains("conditions hold"), "{good:?}");
    assert!(said(&good).contains(" requests with ") && said(&good).contains(" USD"), "{good:?}");
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = format!("http://{}", closed.local_addr().expect("an address"));
    drop(closed);
    let elsewhere = s3.config().replace(&s3.endpoint, &nobody);
    let other = s3.config().replace("\"larder\"", "\"another\"");
    for (config, key, secret, words) in [
        (s3.config(), READER, SECRET, "S3 refuses a put: AccessDenied; allow s3:GetObject"),
        (s3.config(), WRITER, "wrong", "the secret key is not that of the access key"),
        (s3.config(), "nobody", "wrong", "the access key is not known there"),
        (s3.config(), "", "", "there is no credential for S3"),
        (other, WRITER, SECRET, "the bucket another does not exist here: make it"),
        (elsewhere, WRITER, SECRET, "S3 gave no answer to a listing: 127.0.0.1 could not be reached"),
    ] {
        let bad = doctor(dir.path(), &config, key, secret);
        assert!(said(&bad).starts_with("BROKEN") && said(&bad).contains(words), "{words}: {bad:?}");
        assert_eq!(bad.code, Some(1), "{words}");
    }
    let wrong = doctor(dir.path(), &format!("{}part_bytes = \"1MiB\"\n", s3.config()), WRITER, SECRET);
    assert!(wrong.stdout.contains("store.s3.part_bytes: S3 takes no part below 5MiB"), "{wrong:?}");
}
