//! A small Debian archive on a misbehaving upstream: it signs its generations with a key of its own, keeps its indexes by
//! hash where it says so, and forgets older ones when told to.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::body::sha256_hex;
use super::machine::run;
use super::resource::{Content, Resource};
use super::upstream::Upstream;

/// Where the archive is on its upstream, and the name of its one suite.
pub const BASE: &str = "/debian";
pub const SUITE: &str = "stable";
pub const INDEX: &str = "main/binary-amd64/Packages";

/// A throw-away key to sign with. Its agent ends with it.
pub struct SigningKey {
    home: PathBuf,
    /// What a client is to trust.
    pub public: PathBuf,
}

impl SigningKey {
    pub fn below(dir: &Path) -> SigningKey {
        let home = dir.join("gnupg");
        std::fs::create_dir_all(&home).expect("scratch can be written");
        std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).expect("our own folder");
        let key = SigningKey { public: dir.join("archive-key.gpg"), home };
        key.gpg(&["--passphrase", "", "--quick-gen-key", "Archive <archive@example.test>", "ed25519", "sign"], b"");
        let public = key.gpg(&["--export"], b"");
        std::fs::write(&key.public, public).expect("scratch can be written");
        key
    }

    fn gpg(&self, words: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command
            .arg("--homedir")
            .arg(&self.home)
            .args(["--batch", "--quiet", "--pinentry-mode", "loopback"])
            .args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("gpg is installed by tests/setup");
        child.stdin.take().expect("stdin is piped").write_all(input).expect("gpg reads");
        let output = child.wait_with_output().expect("our own child can be waited for");
        assert!(output.status.success(), "gpg {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn clearsigned(&self, text: &str) -> String {
        String::from_utf8(self.gpg(&["--clearsign", "--digest-algo", "SHA512"], text.as_bytes()))
            .expect("armour is ASCII")
    }
}

impl Drop for SigningKey {
    fn drop(&mut self) {
        // It ends by itself when its folder goes.
        let _ = Command::new("gpgconf").arg("--homedir").arg(&self.home).args(["--kill", "all"]).output();
    }
}

/// Whether indexes are kept by hash too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByHash {
    Yes,
    No,
}

/// A package as it lies in the pool.
#[derive(Clone)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub bytes: Arc<[u8]>,
}

impl Package {
    /// A package that dpkg can install; `payload` makes the bytes differ.
    pub fn built(dir: &Path, name: &str, version: &str, payload: &[u8]) -> Package {
        let tree = dir.join(format!("tree-{name}-{version}"));
        std::fs::create_dir_all(tree.join("DEBIAN")).expect("scratch can be written");
        std::fs::create_dir_all(tree.join("opt")).expect("scratch can be written");
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Archive <archive@example.test>\n\
             Description: a test's\n"
        );
        std::fs::write(tree.join("DEBIAN/control"), control).expect("scratch can be written");
        std::fs::write(tree.join("opt").join(name), payload).expect("scratch can be written");
        let at = dir.join(format!("{name}_{version}_all.deb"));
        run(&[
            "dpkg-deb",
            "--build",
            "--root-owner-group",
            "-Znone",
            &tree.display().to_string(),
            &at.display().to_string(),
        ]);
        let bytes = std::fs::read(at).expect("dpkg-deb wrote it");
        Package { name: name.into(), version: version.into(), bytes: bytes.into() }
    }

    pub fn path(&self) -> String {
        format!("pool/main/{}/{}_{}_all.deb", self.name, self.name, self.version)
    }

    fn stanza(&self) -> String {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Archive <archive@example.test>\nFilename: {}\n\
             Size: {}\nSHA256: {}\nDescription: a test's\n\n",
            self.name,
            self.version,
            self.path(),
            self.bytes.len(),
            sha256_hex(&self.bytes)
        )
    }
}

/// A state of the archive.
pub struct State {
    pub release: String,
    pub index: String,
    /// Later for each state, in whole minutes: clients ask by it.
    made: std::time::SystemTime,
}

impl State {
    /// The state that has these packages. It is not published yet.
    pub fn of(packages: &[Package], by_hash: ByHash, key: &SigningKey) -> State {
        static STATES: AtomicU64 = AtomicU64::new(0);
        let minutes = STATES.fetch_add(1, Ordering::Relaxed);
        let made =
            std::time::SystemTime::now() - Duration::from_secs(30 * 24 * 3600) + Duration::from_secs(60 * minutes);
        let index: String = packages.iter().map(Package::stanza).collect();
        let mut text = format!(
            "Origin: Test\nLabel: Test\nSuite: {SUITE}\nCodename: {SUITE}\nDate: {}\nArchitectures: amd64 all\n\
             Components: main\n",
            httpdate::fmt_http_date(made).replace("GMT", "UTC")
        );
        if by_hash == ByHash::Yes {
            text += "Acquire-By-Hash: yes\n";
        }
        write!(text, "SHA256:\n {} {} {INDEX}\n", sha256_hex(index.as_bytes()), index.len())
            .expect("a String takes all");
        State { release: key.clearsigned(&text), index, made }
    }

    /// One of its texts, as a server of an archive sends it.
    pub fn sent(&self, text: &str) -> Resource {
        Resource::text(text).header("last-modified", httpdate::fmt_http_date(self.made))
    }

    /// When it was made, as a release says it.
    pub fn date(&self) -> String {
        httpdate::fmt_http_date(self.made).replace("GMT", "UTC")
    }

    pub fn by_hash_path(&self) -> String {
        let folder = INDEX.rsplit_once('/').map_or("", |(folder, _)| folder);
        dists(&format!("{folder}/by-hash/SHA256/{}", sha256_hex(self.index.as_bytes())))
    }
}

/// The path of a file of the suite.
pub fn dists(name: &str) -> String {
    format!("{BASE}/dists/{SUITE}/{name}")
}

/// Publishes a state: names lead to it from now on. What is kept by hash stays until it is removed.
pub fn publish(upstream: &Upstream, state: &State, by_hash: ByHash) {
    publish_release(upstream, state);
    publish_index(upstream, state, by_hash);
}

pub fn publish_release(upstream: &Upstream, state: &State) {
    upstream.put(&dists("InRelease"), state.sent(&state.release));
}

pub fn publish_index(upstream: &Upstream, state: &State, by_hash: ByHash) {
    upstream.put(&dists(INDEX), state.sent(&state.index));
    if by_hash == ByHash::Yes {
        upstream.put(&state.by_hash_path(), state.sent(&state.index));
    }
}

pub fn publish_package(upstream: &Upstream, package: &Package) {
    upstream.put(&format!("{BASE}/{}", package.path()), file(&package.bytes));
}

/// A file as a server of an archive sends it.
pub fn file(bytes: &Arc<[u8]>) -> Resource {
    let tag = format!("\"{}\"", blake3::hash(bytes));
    Resource { content: Content::Bytes(bytes.clone()), ..Resource::seed(0, 0).header("etag", tag) }
}
