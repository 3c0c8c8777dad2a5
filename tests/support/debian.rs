//! A Debian root of this machine's own release and mirrors, made once and kept, and images made from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{kept, run};

/// The system's minimum, with the certificates that this machine trusts beside Debian's. Needs root. Copy it before anything
/// is changed in it.
pub fn root() -> PathBuf {
    let release = std::fs::read_to_string("/etc/os-release").expect("a Linux says what it is");
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.expect("Debian names its releases").trim_matches('"').to_owned();
    let root = kept().join(format!("debian-{codename}"));
    let (done, fresh) = (root.with_extension("done"), root.with_extension(format!("new-{}", std::process::id())));
    if done.is_file() {
        return root;
    }
    let at = fresh.display().to_string();
    run(&["debootstrap", "--variant=minbase", "--include=ca-certificates", &codename, &at, &mirror()]);
    run(&["chroot", &at, "apt-get", "clean"]);
    run(&["sh", "-c", &format!("cp -r /usr/local/share/ca-certificates '{at}/usr/local/share/'")]);
    run(&["chroot", &at, "update-ca-certificates"]);
    // It names our paths.
    run(&["rm", &format!("{at}/var/log/bootstrap.log")]);
    run(&["rm", "-rf", &root.display().to_string()]);
    std::fs::rename(&fresh, &root).expect("it is ours");
    std::fs::write(done, "").expect("the tests' cache can be written");
    root
}

/// The archive that this machine itself installs from, as `larder init` finds it.
fn mirror() -> String {
    let found: serde_json::Value =
        serde_json::from_str(&run(&[super::server::LARDER, "init", "--system", "--json"])).expect("is JSON");
    let sources = found["upstreams"].as_array().expect("is a list").iter();
    let mut addresses = sources.filter(|one| one["ecosystem"] == "apt").filter_map(|one| one["url"].as_str());
    addresses.find(|url| url.ends_with("/debian/")).expect("this machine's apt has Debian's archive").to_owned()
}

/// buildah with a store of its own, without daemon, registry, or namespaces that a container may not make.
pub struct Buildah {
    dir: PathBuf,
    driver: &'static str,
    /// Words before it, such as `ip netns exec NAME`.
    pub within: Vec<String>,
}

impl Buildah {
    /// What it keeps goes with `dir`.
    pub fn below(dir: &Path) -> Buildah {
        let overlay = Buildah { dir: dir.join("buildah"), driver: "overlay", within: Vec::new() };
        // It copies no layers; on some file systems it is not to be had.
        let has_overlay = overlay.command().arg("info").output().is_ok_and(|output| output.status.success());
        if has_overlay {
            return overlay;
        }
        Buildah::copying(dir)
    }

    /// With a copy of each layer: two commands can be run in one container, which buildah 1.28 does not survive on overlay.
    pub fn copying(dir: &Path) -> Buildah {
        Buildah { dir: dir.join("buildah-vfs"), driver: "vfs", within: Vec::new() }
    }

    /// Ready to be given words.
    pub fn command(&self) -> Command {
        let words: Vec<&str> = self.within.iter().map(String::as_str).chain(["buildah"]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["--storage-driver", self.driver, "--root"]).arg(self.dir.join("root"));
        command.arg("--runroot").arg(self.dir.join("run")).env("BUILDAH_ISOLATION", "chroot");
        command
    }

    /// Runs it to an end that must be good; what it printed.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.command().args(words).output().expect("buildah is installed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{words:?}: {}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// Makes an image of a directory.
    pub fn import(&self, dir: &Path, name: &str) {
        let file = self.dir.join("import");
        std::fs::create_dir_all(&self.dir).expect("scratch can be written");
        std::fs::write(&file, "FROM scratch\nCOPY . /\n").expect("scratch can be written");
        self.run(&["bud", "-f", &file.display().to_string(), "-t", name, &dir.display().to_string()]);
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // What a test that failed left mounted would keep the directory.
        let _ = self.command().args(["umount", "--all"]).output();
    }
}
