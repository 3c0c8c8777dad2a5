//! The real cargo, from an address that needs a token, over TLS with larder's own authority: it shows the token as to any
//! registry, for the index and for crates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::support::alone;
use crate::support::body::sha256_hex;
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::registry::Crates;
use crate::support::resource::{Content, Resource};
use crate::support::server::{Ended, LARDER, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(120);
/// Of a network that is only ours: callers on loopback would need no token.
const ADDRESS: &str = "198.51.100.7";

fn package(dir: &Path, manifest: &str) -> PathBuf {
    fs::create_dir_all(dir.join("src")).expect("scratch can be written");
    fs::write(dir.join("Cargo.toml"), manifest).expect("scratch can be written");
    fs::write(dir.join("src/lib.rs"), "").expect("scratch can be written");
    dir.to_owned()
}

fn cargo_home(command: &mut Command, home: &Path) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO")) {
        command.env_remove(name);
    }
    command.env("HOME", home).env("CARGO_HOME", home.join(".cargo"));
}

/// A crate as cargo packs it, published.
fn publish(upstream: &Upstream, dir: &Path) {
    let manifest = "[package]\nname = 'demo'\nversion = '1.0.0'\nedition = '2021'\n";
    let package = package(&dir.join("demo"), manifest);
    let mut command = Command::new("cargo");
    command.args(["package", "--no-verify", "--allow-dirty", "--offline", "--target-dir"]).arg(dir.join("packed"));
    cargo_home(&mut command, dir);
    let ended = end_of(
        {
            command.current_dir(package);
            command
        },
        LIMIT,
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let bytes = fs::read(dir.join("packed/package/demo-1.0.0.crate")).expect("cargo packed it");
    let crates = Crates::on(upstream);
    crates.index("demo", &sha256_hex(&bytes));
    upstream.put(
        &Crates::download_path("demo"),
        Resource { content: Content::Bytes(Arc::from(bytes)), ..Resource::seed(0, 0) },
    );
}

/// `cargo fetch` in a shell that `larder env` was evaluated in.
fn fetch(words: &[String], project: &Path, home: &Path, server: &str, more: &[(&str, &str)]) -> Ended {
    let script = format!("eval \"$({LARDER} env --server {server} cargo proxy)\" && cargo fetch");
    let mut words = words.to_vec();
    words.extend(["sh", "-ec", &script].map(str::to_owned));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(project);
    cargo_home(&mut command, home);
    command.env("LARDER_DATA_DIR", home.join("client")).envs(more.iter().copied());
    end_of(command, LIMIT)
}

#[test]
fn a_token_is_shown_over_tls_for_the_index_and_for_crates() {
    if !root_or_say("a network namespace of its own") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let (upstream, home) = (Upstream::start(), dir.path().join("home"));
    publish(&upstream, dir.path());
    let manifest = "[package]\nname = 'app'\nversion = '1.0.0'\nedition = '2021'\n[dependencies]\ndemo = '1'\n";
    let project = package(&dir.path().join("app"), manifest);
    fs::create_dir_all(project.join(".cargo")).expect("scratch can be written");
    let mirror = format!(
        "[source.crates-io]\nreplace-with = 'mirror'\n[source.mirror]\nregistry = 'sparse+{}'\n",
        upstream.url("/index/")
    );
    fs::write(project.join(".cargo/config.toml"), mirror).expect("scratch can be written");

    // Filled where no token is needed; the upstream cannot be reached from where one is.
    let setup = Setup::below(dir.path()).config(&format!("\n[server.tls]\nnames = [\"{ADDRESS}\"]\n"));
    let server = setup.start();
    let plain = fetch(&[], &project, &home, &server.url(), &[]);
    assert_eq!(plain.code, Some(0), "plain: {}{}", plain.stdout, plain.stderr);
    server.flush();
    server.stop();
    let lock = fs::read_to_string(project.join("Cargo.lock")).expect("cargo wrote it");

    let data = setup.data.display().to_string();
    let made = run(&[LARDER, "token", "create", "ci", "--right", "read", "--data", &data]);
    let token = made.split_whitespace().find(|word| word.starts_with("lrd_")).expect("prints the token").to_owned();
    let island = Island::new();
    run(&["ip", "-n", &island.name, "addr", "add", ADDRESS, "dev", "lo"]);
    let words = island.words();
    let server = setup.clone().argument("--offline").listen(&format!("{ADDRESS}:0"));
    let server = server.within(&words.iter().map(String::as_str).collect::<Vec<_>>()).start();
    let address = format!("https://{}", server.addr());
    let authority = setup.data.join("ca/ca.pem").display().to_string();
    let trust = ("CARGO_HTTP_CAINFO", authority.as_str());
    for (more, code, what) in
        [(&[trust, ("LARDER_TOKEN", token.as_str())][..], 0, "with a token"), (&[trust], 101, "without one")]
    {
        let _ = fs::remove_dir_all(home.join(".cargo/registry"));
        let ended = fetch(&words, &project, &home, &address, more);
        assert_eq!(ended.code, Some(code), "{what}: {}{}", ended.stdout, ended.stderr);
        assert!(!ended.stderr.contains(&token), "{}", ended.stderr);
    }
    assert_eq!(fs::read_to_string(project.join("Cargo.lock")).expect("is there"), lock, "the lock names larder");
}
