//! The real apt-get, debootstrap's too, through larder's forward proxy: against the archives that this machine uses, and
//! against one of our own that misbehaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::apt_intercepted::for_all;
use crate::support::alone;
use crate::support::apt::{AptRoot, assert_no_mismatch};
use crate::support::archive::{
    BASE, ByHash, INDEX, Package, SUITE, SigningKey, State, dists, publish, publish_index, publish_package,
    publish_release,
};
use crate::support::body::sha256_hex;
use crate::support::machine::{Island, kept, root_or_say, run, scratch};
use crate::support::resource::Fault;
use crate::support::server::{LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

const LIMIT: Duration = Duration::from_secs(300);

/// A package of the machine's own archives with a few dependencies.
const WANTED: &str = "hello";

/// An archive of ours, and apt that reads it through larder.
struct Bed {
    dir: tempfile::TempDir,
    key: SigningKey,
    upstream: Upstream,
    setup: Setup,
}

impl Bed {
    fn new() -> Bed {
        let dir = scratch();
        let key = SigningKey::below(dir.path());
        let setup = Setup::below(&dir.path().join("larder"));
        Bed { key, upstream: Upstream::start(), setup, dir }
    }

    fn package(&self, version: &str) -> Package {
        Package::built(self.dir.path(), "thing", version, &[version.as_bytes(); 60_000].concat())
    }

    /// A state with one package in it, which is in the pool at once.
    fn state(&self, version: &str, by_hash: ByHash) -> State {
        let package = self.package(version);
        publish_package(&self.upstream, &package);
        State::of(&[package], by_hash, &self.key)
    }

    fn pool(&self, version: &str) -> String {
        format!("{BASE}/{}", self.package(version).path())
    }

    fn root(&self, name: &str, server: &Server) -> AptRoot {
        let signed = format!("[signed-by={}]", self.key.public.display());
        let sources = format!("deb {signed} {} {SUITE} main\n", self.upstream.url(BASE));
        AptRoot::below(self.dir.path(), name, &sources, Some(&server.url()))
    }
}

#[track_caller]
fn assert_installed(root: &AptRoot, version: &str) {
    let there = fs::read(root.at.join("opt/thing")).expect("it is installed");
    assert!(there == [version.as_bytes(); 60_000].concat(), "another version than {version} is installed");
}

#[test]
fn apt_installs_cold_and_again_with_the_archive_dead() {
    let bed = Bed::new();
    publish(&bed.upstream, &bed.state("1", ByHash::Yes), ByHash::Yes);
    let server = bed.setup.start();
    let root = bed.root("cold", &server);
    root.must("cold", &["update"]);
    root.must("cold", &["install", "thing"]);
    assert_installed(&root, "1");
    server.stop();

    bed.upstream.die();
    let server = bed.setup.start();
    let again = bed.root("again", &server);
    again.must("archive dead", &["update"]);
    again.must("archive dead", &["install", "thing"]);
    assert_installed(&again, "1");
    assert_eq!(again.archives(), root.archives());
    assert_eq!(again.lists().into_values().collect::<Vec<_>>(), root.lists().into_values().collect::<Vec<_>>());
}

/// What root starts of apt fetches as `_apt`, which asks the program for its proxy itself, and gets to nothing in root's
/// home.
#[test]
fn apts_own_user_gets_to_what_env_prints() {
    if !root_or_say("apt's own user") {
        return;
    }
    let bed = Bed::new();
    publish(&bed.upstream, &bed.state("1", ByHash::Yes), ByHash::Yes);
    let server = bed.setup.start();
    let (dir, home) = (bed.dir.path(), bed.dir.path().join("home"));
    fs::create_dir(&home).expect("scratch can be written");
    run(&["chmod", "0755", &dir.display().to_string()]);
    run(&["chmod", "0700", &home.display().to_string()]);
    let root = bed.root("sandboxed", &server);
    run(&["chown", "_apt", &root.at.join("var/lib/apt/lists/partial").display().to_string()]);
    // What is empty is not set: the program is asked.
    let more = "Acquire::http::Proxy \"\";\nAPT::Sandbox::User \"_apt\";\n";
    let conf = root.at.join("apt.conf");
    fs::write(&conf, fs::read_to_string(&conf).expect("is there") + more).expect("scratch can be written");
    let mut command = Command::new("sh");
    command.args(["-e", "-c", &format!("eval \"$({LARDER} env apt --server {})\"; apt-get update", server.url())]);
    command.env("HOME", &home).env("APT_CONFIG", &conf).env("LC_ALL", "C").env("TMPDIR", for_all(dir));
    for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "XDG_DATA_HOME"] {
        command.env_remove(name);
    }
    let ended = end_of(command, LIMIT);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(ended.code == Some(0) && !said.contains("W:") && !said.contains("E:"), "{said}");
    assert!(server.stats()["requests"].as_u64() >= Some(2), "{}", server.stats());
}

/// The archive moves on while apt has its `InRelease` and not yet the index that it names.
#[test]
fn the_archive_moves_on_in_the_middle_of_an_update() {
    for by_hash in [ByHash::Yes, ByHash::No] {
        let bed = Bed::new();
        let (old, new) = (bed.state("1", by_hash), bed.state("2", by_hash));
        publish(&bed.upstream, &old, by_hash);
        let server = bed.setup.start();
        if by_hash == ByHash::No {
            // Without files by hash the old index must have been here before.
            bed.root("before", &server).must("before", &["update"]);
        }
        let held = if by_hash == ByHash::Yes { old.by_hash_path() } else { dists("InRelease") };
        let slow = match by_hash {
            ByHash::Yes => old.sent(&old.index).then(Fault::Hold(0)),
            ByHash::No => old.sent(&old.release).then(Fault::Hold(10)),
        };
        bed.upstream.put(&held, slow.without("etag"));
        let root = bed.root("slow", &server);
        let ended = std::thread::scope(|scope| {
            let updating = scope.spawn(|| root.run(&["update"]));
            wait_until(LIMIT, "apt waits", || bed.upstream.held(&held) == 1);
            publish_release(&bed.upstream, &new);
            publish_index(&bed.upstream, &new, by_hash);
            bed.upstream.release(&held);
            updating.join().expect("apt ends")
        });
        assert_no_mismatch("in the middle", &ended);
        assert_eq!(ended.code, Some(0), "{by_hash:?}: {}{}", ended.stdout, ended.stderr);
        root.must("after", &["update"]);
        root.must("after", &["install", "thing"]);
        assert_installed(&root, "2");
    }
}

/// A mirror in the middle of its own update: what does not fit fails, is no mismatch, and leaves nothing behind.
#[test]
fn a_half_updated_mirror_fails_and_then_heals() {
    let bed = Bed::new();
    let (old, new) = (bed.state("1", ByHash::No), bed.state("2", ByHash::No));
    publish_release(&bed.upstream, &new);
    publish_index(&bed.upstream, &old, ByHash::No);
    let server = bed.setup.start();
    let root = bed.root("half", &server);
    let half = root.run(&["update"]);
    assert!(half.code == Some(100) || half.stderr.contains("W:"), "{}{}", half.stdout, half.stderr);
    assert_no_mismatch("half", &half);
    publish_index(&bed.upstream, &new, ByHash::No);
    root.must("whole", &["update"]);
    root.must("whole", &["install", "thing"]);
    assert_installed(&root, "2");
}

#[test]
fn a_cut_index_is_not_kept() {
    let bed = Bed::new();
    let state = bed.state("1", ByHash::No);
    publish(&bed.upstream, &state, ByHash::No);
    let half = state.index[..state.index.len() / 2].to_owned();
    let server = bed.setup.start();
    let root = bed.root("cut", &server);
    for wrong in [state.sent(&half), state.sent(&state.index).always(Fault::Truncate(40))] {
        bed.upstream.put(&dists(INDEX), wrong.without("etag"));
        assert_no_mismatch("cut", &root.run(&["update"]));
    }
    publish_index(&bed.upstream, &state, ByHash::No);
    root.must("whole", &["update"]);
    root.must("whole", &["install", "thing"]);
    assert_installed(&root, "1");
}

/// The archive dies in the middle of a package; what was there of it does no harm.
#[test]
fn a_package_that_breaks_off_is_fetched_again() {
    let bed = Bed::new();
    publish(&bed.upstream, &bed.state("1", ByHash::Yes), ByHash::Yes);
    let pool = bed.pool("1");
    let whole = crate::support::archive::file(&bed.package("1").bytes);
    bed.upstream.put(&pool, whole.clone().always(Fault::Reset(9_000)).without("etag"));
    let server = bed.setup.start();
    let root = bed.root("broken", &server);
    root.must("broken", &["update"]);
    let broken = root.run(&["install", "thing"]);
    assert_eq!(broken.code, Some(100), "{}{}", broken.stdout, broken.stderr);
    assert_no_mismatch("broken", &broken);
    bed.upstream.put(&pool, whole);
    root.must("whole", &["install", "thing"]);
    assert_installed(&root, "1");
}

/// larder is killed while apt downloads. apt fails and says so, and goes on with the one that is started then.
#[test]
fn larder_is_killed_while_apt_downloads() {
    let bed = Bed::new();
    publish(&bed.upstream, &bed.state("1", ByHash::Yes), ByHash::Yes);
    let pool = bed.pool("1");
    let whole = crate::support::archive::file(&bed.package("1").bytes);
    bed.upstream.put(&pool, whole.then(Fault::Hold(9_000)));
    let server = bed.setup.start();
    let listen = server.addr().to_string();
    let root = bed.root("killed", &server);
    root.must("alive", &["update"]);
    let ended = std::thread::scope(|scope| {
        let installing = scope.spawn(|| root.run(&["install", "thing"]));
        wait_until(LIMIT, "apt downloads", || bed.upstream.held(&pool) == 1);
        server.kill();
        bed.upstream.release(&pool);
        installing.join().expect("apt ends")
    });
    assert_eq!(ended.code, Some(100), "{}{}", ended.stdout, ended.stderr);
    assert_no_mismatch("killed", &ended);
    let _server = bed.setup.clone().listen(&listen).start();
    root.must("started again", &["install", "thing"]);
    assert_installed(&root, "1");
}

/// A flat repository without a signature: a `Release` alone, whose folder apt names with a `./` in front. By proxy and by
/// mount, while it moves on.
#[test]
fn a_flat_repository_without_a_signature() {
    let bed = Bed::new();
    let server = bed.setup.start();
    let put = |version: &str| {
        let package = bed.package(version);
        let mut state = State::of(std::slice::from_ref(&package), ByHash::No, &bed.key);
        state.index = state.index.replace(&package.path(), &format!("./thing_{version}_all.deb"));
        let text = format!(
            "Date: {}\nSHA256:\n {} {} Packages\n",
            state.date(),
            sha256_hex(state.index.as_bytes()),
            state.index.len()
        );
        bed.upstream.put("/flat/Release", state.sent(&text));
        bed.upstream.put("/flat/Packages", state.sent(&state.index));
        bed.upstream.put(&format!("/flat/thing_{version}_all.deb"), crate::support::archive::file(&package.bytes));
    };
    let mount = format!("{}/apt/@http:{}/flat", server.url(), bed.upstream.addr());
    let ways = [("proxy", bed.upstream.url("/flat"), Some(server.url())), ("mount", mount, None)];
    for (at, (way, address, proxy)) in ways.into_iter().enumerate() {
        let (first, second) = (format!("{}", 2 * at + 1), format!("{}", 2 * at + 2));
        let root = AptRoot::below(bed.dir.path(), way, &format!("deb [trusted=yes] {address} ./\n"), proxy.as_deref());
        for version in [first, second] {
            put(&version);
            let updated = root.run(&["update"]);
            assert_eq!(updated.code, Some(0), "{way}: {}{}", updated.stdout, updated.stderr);
            root.must(way, &["install", "thing"]);
            assert_installed(&root, &version);
        }
    }
}

/// The sources of this machine that are read over plain HTTP, as apt has them.
fn sources() -> BTreeMap<String, String> {
    let folder = Path::new("/etc/apt/sources.list.d");
    let listed = fs::read_dir(folder).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path());
    let all = listed.chain([PathBuf::from("/etc/apt/sources.list")]);
    let plain = |text: &str| {
        text.contains("http://") && !text.lines().any(|line| line.contains("https://") && !line.starts_with('#'))
    };
    let texts =
        all.filter_map(|path| Some((path.file_name()?.to_string_lossy().into_owned(), fs::read_to_string(path).ok()?)));
    texts.filter(|(name, text)| (name.ends_with(".list") || name.ends_with(".sources")) && plain(text)).collect()
}

/// The first address and suite of them.
fn first_suite() -> (String, String) {
    let texts = sources();
    let lines: Vec<&str> = texts.values().flat_map(|text| text.lines()).collect();
    let field = |name: &str| {
        let value = lines.iter().find_map(|line| line.strip_prefix(name))?;
        value.split_ascii_whitespace().next().map(str::to_owned)
    };
    let one_line = || {
        let mut words = lines.iter().find_map(|line| line.strip_prefix("deb http://"))?.split_ascii_whitespace();
        Some((format!("http://{}", words.next()?), words.next()?.to_owned()))
    };
    field("URIs:").zip(field("Suites:")).or_else(one_line).expect("this machine has an apt source over plain HTTP")
}

/// A Debian root, made by debootstrap through larder; then a package is installed in it, and installed again from nothing
/// but larder's store.
#[test]
fn a_debian_root_is_made_and_installs_cold_and_again_with_no_way_out() {
    if !root_or_say("a Debian root") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let setup = Setup::below(&dir.path().join("larder")).default_policy();
    let server = setup.start();
    adopt(&server, dir.path());
    let (archive, suite) = first_suite();
    let root = dir.path().join("root");
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", &suite]).arg(&root).arg(&archive).env("http_proxy", server.url());
    let ended = end_of(command, LIMIT);
    assert_eq!(ended.code, Some(0), "debootstrap: {}{}", ended.stdout, ended.stderr);
    assert!(server.stats()["rows"].as_array().expect("rows").iter().any(|row| row["ecosystem"] == "apt"));
    empty(&root);
    install_in(&root, &server, "cold", &[]);
    let cold = downloaded(&root);
    assert!(cold.keys().any(|name| name.starts_with(WANTED)), "{:?}", cold.keys());
    server.stop();

    chrooted(&root, &["dpkg", "--purge", WANTED], "emptied", &[]);
    empty(&root);
    // Not told that the archive is dead: neither larder nor apt can get anywhere.
    let island = Island::new();
    let words = island.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = setup.within(&words).start();
    install_in(&root, &server, "cut off", &words);
    assert_eq!(downloaded(&root), cold);
}

fn empty(root: &Path) {
    for folder in ["var/lib/apt/lists", "var/cache/apt"] {
        fs::remove_dir_all(root.join(folder)).expect("the client is emptied");
    }
}

/// BLAKE3 of the packages and lists that a root's apt holds, by name.
fn downloaded(root: &Path) -> BTreeMap<String, blake3::Hash> {
    let root = AptRoot { at: root.to_owned() };
    let mut all = root.archives();
    all.extend(root.lists());
    all
}

/// `apt-get update` and `install` in a root, and a look at what came.
#[track_caller]
fn install_in(root: &Path, server: &Server, when: &str, within: &[&str]) {
    let proxy = format!("Acquire::http::Proxy={}", server.url());
    chrooted(root, &["apt-get", "-o", &proxy, "update"], when, within);
    chrooted(root, &["apt-get", "--yes", "-o", &proxy, "install", WANTED], when, within);
    chrooted(root, &[WANTED], when, within);
}

/// `within` are words before the command.
#[track_caller]
fn chrooted(root: &Path, words: &[&str], when: &str, within: &[&str]) {
    let all = [within, &["chroot"]].concat();
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).arg(root).args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let ended = end_of(command, LIMIT);
    assert_eq!(ended.code, Some(0), "{when}: {words:?}: {}{}", ended.stdout, ended.stderr);
}

fn machines_root(dir: &Path, name: &str, proxy: Option<&str>) -> AptRoot {
    let root = AptRoot::below(dir, name, "", proxy);
    let sources = sources();
    assert!(!sources.is_empty(), "this machine has no apt source over plain HTTP");
    for (name, text) in sources {
        fs::write(root.at.join("etc/apt/sources.list.d").join(name), text).expect("scratch can be written");
    }
    root
}

/// Has larder adopt what this machine uses: `larder init --json | larder upstream import -`.
fn adopt(server: &Server, dir: &Path) {
    let found = dir.join("found.json");
    let script = format!(
        "{LARDER} init --json > {0} && {LARDER} upstream import --server {1} {0}",
        found.display(),
        server.url()
    );
    run(&["sh", "-c", &script]);
}

/// Packages as the archive itself sends them, fetched once and kept outside of the repository.
fn direct(dir: &Path, wanted: &AptRoot) -> BTreeMap<String, blake3::Hash> {
    let store = kept().join("apt-direct");
    fs::create_dir_all(&store).expect("the tests' cache can be made");
    let missing = wanted.archives().into_keys().any(|name| !store.join(name).is_file());
    if missing {
        let root = machines_root(dir, "direct", None);
        root.must("direct", &["update"]);
        root.must("direct", &["install", "--download-only", WANTED]);
        for name in root.archives().into_keys() {
            fs::copy(root.at.join("var/cache/apt/archives").join(&name), store.join(name)).expect("can be kept");
        }
    }
    let hash = |name: &String| blake3::hash(&fs::read(store.join(name)).unwrap_or_else(|why| panic!("{name}: {why}")));
    wanted.archives().into_keys().map(|name| (name.clone(), hash(&name))).collect()
}

#[test]
fn this_machines_archives_cold_and_again_with_no_way_out() {
    let _alone = alone();
    let dir = scratch();
    // An empty PATH and HOME, and no permission for loopback upstreams: all is in the request line.
    let setup = Setup::below(&dir.path().join("larder")).default_policy();
    let server = setup.start();
    adopt(&server, dir.path());
    let cold = machines_root(dir.path(), "cold", Some(&server.url()));
    cold.must("cold", &["update"]);
    cold.must("cold", &["install", "--download-only", WANTED]);
    assert!(cold.archives().len() > 2, "{:?} are too few", cold.archives().keys());
    assert_eq!(cold.archives(), direct(dir.path(), &cold));
    server.stop();

    let server = setup.clone().argument("--offline").start();
    let offline = machines_root(dir.path(), "offline", Some(&server.url()));
    offline.must("offline", &["update"]);
    offline.must("offline", &["install", "--download-only", WANTED]);
    assert_eq!((offline.archives(), offline.lists()), (cold.archives(), cold.lists()));
    server.stop();

    if !root_or_say("a network namespace without a way out") {
        return;
    }
    let island = Island::new();
    let words = island.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let server = setup.within(&words).start();
    let cut_off = machines_root(dir.path(), "cut-off", Some(&server.url()));
    for asked in [&["update"][..], &["install", "--download-only", WANTED]] {
        let inside = cut_off.command(asked);
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(inside.get_program()).args(inside.get_args());
        for (name, value) in inside.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let ended = end_of(command, LIMIT);
        assert_eq!(ended.code, Some(0), "cut off: {}{}", ended.stdout, ended.stderr);
    }
    assert_eq!((cut_off.archives(), cut_off.lists()), (cold.archives(), cold.lists()));
}
