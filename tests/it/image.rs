//! The image of `ops/Dockerfile`: built by buildah as it is committed, then run with a volume and a port and nothing else.
//! Its compiler's stage alone is given: the binary that `tests/run` linked statically.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::debian::{self, Buildah};
use crate::support::machine::{Island, root_or_say, run, scratch};
use crate::support::server::{LARDER, end_of};
use crate::support::{alone, wait_until};

const IMAGE: &str = "larder-under-test";
/// A module without dependencies.
const MODULE: &str = "github.com/pkg/errors@v0.9.1";

/// Builds the image; what buildah says of it.
fn build(dir: &Path, buildah: &Buildah) -> serde_json::Value {
    let binary = Path::new(LARDER).with_file_name("larder-static");
    assert!(binary.is_file(), "tests/run builds {}", binary.display());
    let given = dir.join("given");
    std::fs::create_dir_all(&given).expect("scratch can be written");
    run(&["strip", "-o", &given.join("larder").display().to_string(), &binary.display().to_string()]);
    buildah.import(&debian::root(), "base");
    let root = env!("CARGO_MANIFEST_DIR");
    let file = format!("{root}/ops/Dockerfile");
    let context = format!("binary={}", given.display());
    let mut words = vec!["bud", "--format", "docker", "-f", &file, "-t", IMAGE, "--build-context", &context];
    words.extend(["--build-arg", "BASE=localhost/base", "--build-arg", "TOOLS=golang-go", root]);
    buildah.run(&words);
    let inspected = buildah.run(&["inspect", "--type", "image", IMAGE]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("is JSON");
    inspected["Docker"].clone()
}

fn words(list: &serde_json::Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|word| word.as_str()).map(str::to_owned).collect()
}

/// A container of the image that runs what the image says.
struct Running {
    child: Child,
    addr: SocketAddr,
}

/// `buildah run` in a container of the image, with its volume.
fn within(buildah: &Buildah, container: &str, volume: &Path, words: &[String]) -> Command {
    let mut command = buildah.command();
    // The port is the machine's own choice, since other tests run here too.
    command.args(["run", "--env", "LARDER_SERVER_LISTEN=0.0.0.0:0", "-v", &format!("{}:/data", volume.display())]);
    command.args([container, "--"]).args(words);
    command
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("buildah is installed");
        let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.strip_prefix("listening on http://0.0.0.0:").map(str::to_owned));
        let Some(port) = port else { panic!("the container ended: {:?}", child.wait()) };
        // What else it says is taken from it, or it would wait.
        std::thread::spawn(move || lines.for_each(drop));
        Running { child, addr: format!("127.0.0.1:{port}").parse().expect("an address") }
    }

    /// The first process in it.
    fn first(&self) -> u32 {
        let mut innermost = self.child.id();
        while let Some(child) = child_of(innermost) {
            innermost = child;
        }
        innermost
    }

    /// Whom it runs as.
    fn user(&self) -> u32 {
        let process = std::fs::metadata(format!("/proc/{}", self.first())).expect("it runs");
        std::os::unix::fs::MetadataExt::uid(&process)
    }

    /// Ends it as `docker stop` does: a signal to the first process in it.
    fn stop(mut self) {
        let pid = rustix::process::Pid::from_raw(self.first() as i32).expect("a pid is not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own");
        let mut status = None;
        wait_until(Duration::from_secs(20), "the container stops", || {
            status = self.child.try_wait().expect("our own child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child of any of a process's threads.
fn child_of(pid: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut children = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children.find_map(|text| text.split_whitespace().next()?.parse().ok())
}

/// What go's checksum database has for it.
const SUM: &str = "h1:FEBLx1zS214owpjy7qsBeixbURkuhQAwrK5UwLGTwt4=";

/// go, emptied, with no setting but the address. It fetches the module as its checksum has it.
fn go(island: &[String], dir: &Path, addr: SocketAddr) -> blake3::Hash {
    let home = dir.join("go");
    let _ = std::fs::remove_dir_all(&home);
    let mut words = island.to_vec();
    words.extend(["go", "mod", "download", MODULE].map(str::to_owned));
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(dir).env("GOPROXY", format!("http://{addr}/go")).env("GOSUMDB", "off");
    command.env("GOPATH", &home).env("GOMODCACHE", home.join("mod")).env("GOFLAGS", "-modcacherw -mod=mod");
    let ended = end_of(command, Duration::from_secs(60));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let fetched = home.join("mod/cache/download/github.com/pkg/errors/@v");
    assert_eq!(std::fs::read_to_string(fetched.join("v0.9.1.ziphash")).expect("go wrote it"), SUM);
    blake3::hash(&std::fs::read(fetched.join("v0.9.1.zip")).expect("go wrote it"))
}

/// Regular files of the image, and all of their bytes.
fn files(buildah: &Buildah, container: &str) -> (Vec<String>, u64) {
    let mounted = PathBuf::from(buildah.run(&["mount", container]).trim());
    let found = run(&["find", &mounted.display().to_string(), "-type", "f", "-printf", "%s /%P\n"]);
    let files: Vec<(&str, &str)> = found.lines().filter_map(|line| line.split_once(' ')).collect();
    let bytes = files.iter().map(|(size, _)| size.parse::<u64>().expect("a size")).sum();
    let mut names: Vec<String> = files.iter().map(|(_, name)| (*name).to_owned()).collect();
    names.sort();
    buildah.run(&["umount", container]);
    (names, bytes)
}

#[test]
fn the_image_serves_a_build_with_a_volume_and_a_port_alone() {
    if !root_or_say("building an image") {
        return;
    }
    let _alone = alone();
    let dir = scratch();
    let mut buildah = Buildah::copying(dir.path());
    let image = build(dir.path(), &buildah);
    let config = &image["config"];
    assert_eq!(config["User"], "10001:10001");
    assert!(config["Volumes"]["/data"].is_object() && config["ExposedPorts"]["7070/tcp"].is_object(), "{config}");
    let container = buildah.run(&["from", IMAGE]).trim().to_owned();
    let (names, bytes) = files(&buildah, &container);
    let own = ["/etc/larder/larder.toml", "/etc/ssl/certs/ca-certificates.crt", "/usr/bin/larder"];
    assert_eq!(names, own);
    assert!(bytes < 64 << 20, "{bytes} bytes are not small");

    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).expect("scratch can be written");
    std::os::unix::fs::chown(&volume, Some(10001), Some(10001)).expect("root may");
    let start = [words(&config["Entrypoint"]), words(&config["Cmd"])].concat();
    let health = words(&config["Healthcheck"]["Test"]);
    let check = |buildah: &Buildah| within(buildah, &container, &volume, &health[1..]);
    assert_eq!(health.first().map(String::as_str), Some("CMD"), "{config}");
    assert_eq!(end_of(check(&buildah), Duration::from_secs(10)).code, Some(1), "nothing runs yet");

    let server = Running::start(within(&buildah, &container, &volume, &start));
    assert_eq!(server.user(), 10001);
    let cold = go(&[], dir.path(), server.addr);
    let healthy = end_of(check(&buildah), Duration::from_secs(10));
    assert_eq!(healthy.code, Some(0), "{}", healthy.stderr);
    server.stop();

    let island = Island::new();
    buildah.within = island.words();
    let server = Running::start(within(&buildah, &container, &volume, &start));
    assert_eq!(go(&island.words(), dir.path(), server.addr), cold);
    assert_eq!(end_of(check(&buildah), Duration::from_secs(10)).code, Some(0), "a dead upstream is no sickness");
    server.stop();
}

#[test]
fn the_images_variables_are_settings() {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ops/Dockerfile")).expect("is there");
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
    let pairs = pairs.filter(|(name, _)| {
        name.starts_with("LARDER_") && name.chars().all(|one| one.is_ascii_uppercase() || one == '_')
    });
    let pairs: Vec<(&str, &str)> = pairs.collect();
    assert!(pairs.iter().any(|(name, _)| *name == "LARDER_DATA_DIR"), "{pairs:?}");
    let shown = Command::new(LARDER).args(["config", "show"]).env_clear().envs(pairs.clone()).output().expect("runs");
    let said = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{said}");
    for (_, value) in pairs {
        assert!(value.split(',').all(|one| said.contains(one)), "{value} is not in force:\n{said}");
    }
}
