//! `larder doctor URL`: something of each ecosystem goes through the server, from where this machine's tools fetch.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::agent::as_user;
use crate::support::machine::{root_or_say, scratch};
use crate::support::resource::Resource;
use crate::support::server::{Ended, LARDER, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(60);
const PROBED: [(&str, &str); 4] = [
    ("apt", "/debian/dists/stable/updates/InRelease"),
    ("cargo", "/index/se/rd/serde"),
    ("go", "/go/github.com/pkg/errors/@v/list"),
    ("maven", "/maven/org/apache/maven/plugins/maven-clean-plugin/maven-metadata.xml"),
];

/// What it tells on a machine with these sources, of apt's in a file and of the others in its user's.
fn told(dir: &std::path::Path, apt: &str, server: &str) -> (Ended, Value) {
    let sources = dir.join("etc-apt");
    fs::create_dir_all(&sources).expect("scratch can be written");
    fs::write(sources.join("sources.list"), apt).expect("scratch can be written");
    // apt's sources are those of the whole machine, which another's namespace can have to itself.
    let script = "mount --bind \"$1\" /etc/apt && exec \"$2\" doctor --json \"$3\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(sources).args([LARDER, server]);
    as_user(&mut command, dir);
    let home = dir.join("home");
    command.env("CARGO_HOME", home.join(".cargo")).env("GOENV", "off").env("XDG_DATA_HOME", home.join("data"));
    command.env("GOPROXY", fs::read_to_string(home.join("goproxy")).expect("is there"));
    let ended = end_of(command, LIMIT);
    let json = serde_json::from_str(&ended.stdout).unwrap_or_else(|why| panic!("{why}: {ended:?}"));
    (ended, json)
}

#[test]
fn each_ecosystem_is_probed_end_to_end() {
    if !root_or_say("sources of apt's that are not the machine's") {
        return;
    }
    let (dir, upstream) = (scratch(), Upstream::start());
    let home = dir.path().join("home");
    let put = |name: &str, text: String| {
        let at = home.join(name);
        fs::create_dir_all(at.parent().expect("a folder")).expect("scratch can be written");
        fs::write(at, text).expect("scratch can be written");
    };
    let cargo = upstream.url("/index/");
    put(
        ".cargo/config.toml",
        format!("[source.crates-io]\nreplace-with = \"x\"\n[source.x]\nregistry = \"sparse+{cargo}\"\n"),
    );
    put("goproxy", upstream.url("/go"));
    let mirror = format!("<mirror><mirrorOf>*</mirrorOf><url>{}</url></mirror>", upstream.url("/maven"));
    put(".m2/settings.xml", format!("<settings><mirrors>{mirror}</mirrors></settings>"));
    for (_, path) in PROBED {
        upstream.put(path, Resource::text("something"));
    }
    let server = Setup::below(&dir.path().join("server")).start();
    let apt = format!("deb {} stable/updates main\n", upstream.url("/debian"));

    let (ended, json) = told(dir.path(), &apt, &server.url());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(json["not_probed"], serde_json::json!([]));
    let probes = json["probes"].as_array().expect("a list");
    assert_eq!(probes.len(), PROBED.len(), "{probes:?}");
    for ((name, path), probe) in PROBED.iter().zip(probes) {
        assert_eq!(probe["ecosystem"], *name);
        assert_eq!((&probe["cold"]["status"], &probe["warm"]["status"]), (&200.into(), &200.into()), "{probe}");
        assert_eq!(probe["warm"]["bytes"], 9, "{probe}");
        assert!(upstream.count(path) > 0, "{name} was not asked for {path}");
    }

    // What is broken for one of them is told of that one.
    upstream.remove(PROBED[0].1);
    let (ended, _) = told(dir.path(), &apt, &server.url());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the probe failed for apt"), "{}", ended.stderr);

    // A machine without apt's sources names no suite.
    let (ended, json) = told(dir.path(), "", &server.url());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let why = json["not_probed"][0]["why"].as_str().unwrap_or_default();
    assert!(json["not_probed"][0]["ecosystem"] == "apt" && why.contains("nor the server have an upstream"), "{json}");
}
