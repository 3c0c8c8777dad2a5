//! A server of S3: SeaweedFS, which `tests/setup` fetches. On ports of its own, with one bucket and two identities.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::machine::kept;

pub const BUCKET: &str = "larder";
pub const SECRET: &str = "not-a-secret";
/// May do everything.
pub const WRITER: &str = "writer";
/// May read and list.
pub const READER: &str = "reader";

const IDENTITIES: &str = r#"{"identities": [
    {"name": "writer", "credentials": [{"accessKey": "writer", "secretKey": "not-a-secret"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "not-a-secret"}],
     "actions": ["Read", "List"]}
]}"#;

/// Runs as long as this lives.
pub struct S3 {
    server: Child,
    pub endpoint: String,
    dir: PathBuf,
}

impl S3 {
    /// Starts one whose files are below `dir`, and makes the bucket.
    #[track_caller]
    pub fn below(dir: &Path) -> S3 {
        // Between finding a port free and taking it another may take it.
        for number in 0..5 {
            let dir = dir.join(format!("s3-{number}"));
            std::fs::create_dir_all(&dir).expect("scratch can be written");
            std::fs::write(dir.join("identities.json"), IDENTITIES).expect("scratch can be written");
            let mut s3 = S3::started(&dir);
            if s3.answers() {
                return s3;
            }
        }
        panic!("SeaweedFS does not start");
    }

    fn started(dir: &Path) -> S3 {
        let weed = kept().join("tools/bin/weed");
        assert!(weed.exists(), "{} is missing: run tests/setup", weed.display());
        let free: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let mut ports = free.iter().map(|port| port.local_addr().expect("a listener has an address").port());
        let mut command = Command::new(weed);
        command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
        let mut endpoint = String::new();
        for part in ["master", "volume", "filer", "s3"] {
            let (port, grpc) = (ports.next().expect("a port"), ports.next().expect("a port"));
            command.arg(format!("-{part}.port={port}")).arg(format!("-{part}.port.grpc={grpc}"));
            endpoint = format!("http://127.0.0.1:{port}");
        }
        let at = |name: &str| dir.join(name).display().to_string();
        command.arg(format!("-dir={}", dir.display())).arg(format!("-s3.config={}", at("identities.json")));
        command.arg(format!("-filer.localSocket={}", at("f"))).arg(format!("-s3.localSocket={}", at("s")));
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket=false"]);
        command.args(["-master.volumeSizeLimitMB=64", "-volume.max=100"]);
        let log = std::fs::File::create(dir.join("log")).expect("scratch can be written");
        drop(free);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("weed starts");
        S3 { server, endpoint, dir: dir.to_owned() }
    }

    /// Whether the bucket could be made, within a minute.
    fn answers(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            if self.server.try_wait().expect("our own child").is_some() {
                return false;
            }
            let made = Command::new("curl")
                .args([
                    "-sf",
                    "--aws-sigv4",
                    "aws:amz:us-east-1:s3",
                    "--user",
                    &format!("{WRITER}:{SECRET}"),
                    "-X",
                    "PUT",
                ])
                .arg(format!("{}/{BUCKET}", self.endpoint))
                .status();
            if made.expect("curl runs").success() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        panic!("SeaweedFS does not answer: {}", &log[log.len().saturating_sub(2000)..]);
    }

    /// What larder's configuration says of it.
    pub fn config(&self) -> String {
        format!("[store.s3]\nbucket = \"{BUCKET}\"\nendpoint = \"{}\"\npath_style = true\n", self.endpoint)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
