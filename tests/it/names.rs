//! Upstreams that nobody named, and what a mount says then.

use std::process::Command;
use std::time::Duration;

use crate::support::agent::larder_run;
use crate::support::client::Ask;
use crate::support::machine::scratch;
use crate::support::registry::{Crates, go_mount};
use crate::support::resource::Resource;
use crate::support::server::{LARDER, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_mount_without_upstream_says_how_to_mend_it() {
    let dir = scratch();
    let server = Setup::below(dir.path()).start();
    // Go's list of proxies goes on after a 404; cargo would take it for an absence.
    let go = server.get("/go/example.test/m/@v/list");
    assert_eq!(go.status, 404, "{}", go.text());
    let cargo = server.get("/cargo/se/rd/serde");
    assert_eq!(cargo.status, 503, "{}", cargo.text());
    for reply in [go, cargo] {
        assert!(reply.cache_status().contains("no-upstream"), "{}", reply.cache_status());
        assert!(reply.text().contains("larder "), "no command that mends it: {}", reply.text());
    }
}

#[test]
fn an_upstream_in_the_path_is_used() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let body = crate::support::body::Body::new(90, 5000);
    crates.publish("demo", body);
    upstream.put("/example.test/m/@v/list", Resource::text("v1.0.0\n"));
    let server = Setup::below(dir.path()).start();
    assert_eq!(server.get(format!("{}/example.test/m/@v/list", go_mount(&upstream))).text(), "v1.0.0\n");
    let index = server.get(format!("{}/{}", crates.mount(), Crates::index_path("demo")));
    assert_eq!(index.status, 200);
    assert!(index.text().contains("\"name\":\"demo\""), "raw is served: {}", index.text());
    let target = crates.download_target(&server, "demo", &crate::support::body::sha256_hex(&body.whole()));
    for _ in 0..2 {
        server.get(&target).assert_is(200, body.digest());
    }
    assert_eq!(upstream.count(&Crates::download_path("demo")), 1);
    let absent = server.get(format!("{}/{}", crates.mount(), Crates::index_path("absent")));
    assert_eq!(absent.status, 404);
}

#[test]
fn what_is_rewritten_at_the_door_is_kept_as_it_came() {
    let (dir, upstream) = (scratch(), Upstream::start());
    let crates = Crates::on(&upstream);
    let server = Setup::below(dir.path()).start();
    let shown = server.get(format!("{}/config.json", crates.mount())).text();
    let raw = Ask::get("/index/config.json").must(upstream.addr()).text();
    assert_ne!(shown, raw);
    let kept = server.get(format!("/api/v1/blobs/{}", blake3::hash(raw.as_bytes()).to_hex()));
    assert_eq!((kept.status, kept.text()), (200, raw));
}

#[test]
fn a_configured_upstream_serves_the_bare_mount() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/example.test/m/@v/list", Resource::text("v1.0.0\n"));
    let config = format!("\n[ecosystem.go]\nupstreams = [\"{}\"]\n", upstream.url(""));
    let server = Setup::below(dir.path()).config(&config).start();
    assert_eq!(server.get("/go/example.test/m/@v/list").text(), "v1.0.0\n");
}

#[test]
fn a_private_mirror_that_was_adopted_for_a_tool_without_a_mount_may_be_asked() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/debian/InRelease", Resource::text("signed\n"));
    let server = Setup::below(dir.path()).default_policy().start();
    let mirrored = upstream.mirror("/debian/InRelease");
    let refused = server.get(&mirrored);
    let remedy = format!("larder upstream allow {}", upstream.addr());
    assert!(refused.status == 403 && refused.text().contains(&remedy), "{}", refused.text());
    let found = dir.path().join("found.json");
    let one = serde_json::json!({ "ecosystem": "apt", "url": upstream.url("/debian/"), "found_in": "sources.list" });
    std::fs::write(&found, serde_json::json!({ "upstreams": [one] }).to_string()).unwrap();
    let found = found.to_str().unwrap();
    let ended = end_of(larder(&["upstream", "import", found, "--server", &server.url()]), LIMIT);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(server.get(&mirrored).text(), "signed\n");
}

#[test]
fn explain_says_when_a_host_would_be_refused() {
    let (dir, upstream) = (scratch(), Upstream::start());
    upstream.put("/a", Resource::text("a"));
    let server = Setup::below(dir.path()).start();
    let decision = |url: &str| {
        let ended = end_of(larder(&["explain", "--json", url, "--server", &server.url()]), LIMIT);
        let said: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
        said["decision"].as_str().unwrap_or_default().to_owned()
    };
    let private = decision("https://10.0.0.1/x");
    assert!(private.starts_with("refused: ") && private.contains("larder upstream allow 10.0.0.1"), "{private}");
    let metadata = decision("http://169.254.169.254/latest");
    assert!(metadata.starts_with("refused: ") && !metadata.contains("allow 169"), "{metadata}");
    let fetched = decision(&upstream.url("/a"));
    assert!(fetched.starts_with("fetched from upstream"), "{fetched}");
}

fn larder(arguments: &[&str]) -> Command {
    let mut command = Command::new(LARDER);
    command.args(arguments);
    command
}

/// A colon ends the user name in a proxy's credential (RFC 7617), and without a token nothing tells where the label does.
#[test]
fn a_label_with_a_colon_and_no_token_breaks_no_build() {
    // An address that no list of hosts to be asked directly has in it.
    let (dir, upstream) = (scratch(), Upstream::start_on("127.0.0.2:0"));
    let paths = ["/curl", "/git/info/refs?service=git-upload-pack", "/wget"];
    paths.iter().for_each(|path| upstream.put(path, Resource::text("# an answer\n")));
    let config = "[upstreams]\nlearn = \"public\"\n[upstream]\nallow_private = [\"127.0.0.0/30\"]\n";
    let server = Setup::below(dir.path()).default_policy().config(config).start();
    let at = |path| upstream.url(path);
    // What git is told is no repository: it asked, and that is enough.
    let script = format!("curl -fsS {}; wget -qO- {}; git ls-remote {} || :", at("/curl"), at("/wget"), at("/git"));
    for (label, within) in [("team/app:42", &["--strict"][..]), ("team/app:43", &[])] {
        let mut command = larder_run(dir.path(), &server.url());
        command.args(within).args(["--label", label, "--", "sh", "-ec", &script]);
        let ended = end_of(command, LIMIT);
        assert_eq!(
            (ended.code, &*ended.stdout),
            (Some(0), "# an answer\n# an answer\n"),
            "{within:?}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains("is this a git repository?"), "git had no answer: {}", ended.stderr);
        assert!(paths.iter().all(|path| upstream.seen(path).last().is_some_and(|seen| seen.header("via").is_some())));
        let told = server.get(format!("/api/v1/stats?build={}", label.replace('/', "%2F"))).text();
        let told: serde_json::Value = serde_json::from_str(&told).expect("is JSON");
        // git shows its credential where it is asked for one alone, which nobody does on this machine.
        assert_eq!(told["requests"], 2, "{within:?}: {told}");
    }
    // Whoever writes the address of a proxy by hand is told how.
    let proxy = format!("http://team:42:@{}", server.addr());
    let mut command = std::process::Command::new("curl");
    command.args(["-sS", "--noproxy", "", "--proxy", &proxy, &at("/curl")]);
    let ended = end_of(command, LIMIT);
    assert!(ended.stdout.contains("colon") && ended.stdout.contains("%253A"), "{ended:?}");
    let mut command = std::process::Command::new("curl");
    command.args(["-fsS", "--noproxy", "", "--proxy", &proxy.replace("team:", "team%253A"), &at("/curl")]);
    assert_eq!(end_of(command, LIMIT).stdout, "# an answer\n");
}
