//! apt with a root of its own: its sources, lists, archives and installed packages below one folder; nothing of the
//! machine's own apt is read or changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::server::{Ended, end_of};

const LIMIT: Duration = Duration::from_secs(300);

pub struct AptRoot {
    pub at: PathBuf,
}

impl AptRoot {
    /// A root whose sources are these, in the one-line form; by way of `proxy` where one is named.
    pub fn below(dir: &Path, name: &str, sources: &str, proxy: Option<&str>) -> AptRoot {
        let root = AptRoot { at: dir.join(name) };
        let (etc, dpkg) = (root.at.join("etc/apt"), root.at.join("var/lib/dpkg"));
        let folders = ["apt.conf.d", "preferences.d", "sources.list.d", "trusted.gpg.d", "auth.conf.d"];
        for folder in
            folders.map(|folder| etc.join(folder)).into_iter().chain([dpkg.join("updates"), dpkg.join("info")])
        {
            fs::create_dir_all(folder).expect("scratch can be written");
        }
        for file in ["status", "available"] {
            fs::write(dpkg.join(file), "").expect("scratch can be written");
        }
        fs::write(etc.join("sources.list"), sources).expect("scratch can be written");
        let at = root.at.display();
        let proxy = proxy.map_or("DIRECT", |proxy| proxy);
        let conf = format!(
            "Dir \"{at}\";\nDir::State::status \"{at}/var/lib/dpkg/status\";\nDir::Log \"{at}/var/log/apt\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\nAcquire::Retries \"0\";\n\
             Acquire::http::Proxy \"{proxy}\";\nDPkg::Options {{ \"--root={at}\"; \"--force-depends\"; }};\n"
        );
        fs::write(root.conf(), conf).expect("scratch can be written");
        root.emptied();
        root
    }

    fn conf(&self) -> PathBuf {
        self.at.join("apt.conf")
    }

    /// Without lists and archives, as in a new image.
    pub fn emptied(&self) {
        for folder in ["var/lib/apt", "var/cache/apt", "var/log/apt"] {
            // It may be new.
            let _ = fs::remove_dir_all(self.at.join(folder));
        }
        for folder in ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt"] {
            fs::create_dir_all(self.at.join(folder)).expect("scratch can be written");
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        command.arg("--yes").args(words).env("APT_CONFIG", self.conf()).env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, words: &[&str]) -> Ended {
        end_of(self.command(words), LIMIT)
    }

    /// A run that must work and complain of nothing.
    #[track_caller]
    pub fn must(&self, when: &str, words: &[&str]) {
        let ended = self.run(words);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(0), "{when}: apt-get {words:?}: {said}");
        assert!(!said.contains("W:") && !said.contains("E:"), "{when}: apt-get {words:?}: {said}");
    }

    /// BLAKE3 of what was downloaded: archives by name.
    pub fn archives(&self) -> BTreeMap<String, blake3::Hash> {
        files(&self.at.join("var/cache/apt/archives"), ".deb")
    }

    /// BLAKE3 of the lists by name.
    pub fn lists(&self) -> BTreeMap<String, blake3::Hash> {
        files(&self.at.join("var/lib/apt/lists"), "")
    }
}

/// No hash sum mismatch, no bad signature: what apt says of a generation that does not fit itself.
#[track_caller]
pub fn assert_no_mismatch(when: &str, ended: &Ended) {
    for sign in ["Mismatch", "mismatch", "BADSIG", "unexpected size", "NOSPLIT"] {
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!said.contains(sign), "{when}: {said}");
    }
}

fn files(dir: &Path, end: &str) -> BTreeMap<String, blake3::Hash> {
    let entries = fs::read_dir(dir).into_iter().flatten().map_while(Result::ok).map(|entry| entry.path());
    let named = entries.filter(|path| path.is_file()).filter_map(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        (name.ends_with(end) && name != "lock").then_some((name, path))
    });
    named.map(|(name, path)| (name, blake3::hash(&fs::read(path).expect("a file that is there")))).collect()
}
