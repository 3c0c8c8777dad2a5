//! The blocks of docs/use/, as a reader copies them: with an address in the place of the pages' own, and scratch
//! directories in the place of those that a whole machine has one of.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::server::{LARDER, Server};

/// A page, for one reader.
pub struct Page {
    text: String,
    dir: PathBuf,
}

impl Page {
    /// `name` without its ending; what its lines make goes below `dir`.
    pub fn read(name: &str, server: &Server, dir: &Path) -> Page {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use").join(format!("{name}.md"));
        let text = std::fs::read_to_string(&at).unwrap_or_else(|why| panic!("{}: {why}", at.display()));
        let address = server.addr();
        let text = text.replace("larder.example", &address.ip().to_string());
        let text = text.replace("7070", &address.port().to_string()).replace("/tmp/", &format!("{}/", dir.display()));
        Page { text, dir: dir.to_owned() }
    }

    /// The blocks of a language, in order.
    pub fn blocks(&self, language: &str) -> Vec<String> {
        let parts: Vec<&str> = self.text.split("\n```").collect();
        let begins = format!("{language}\n");
        parts.iter().filter_map(|part| Some(format!("{}\n", part.strip_prefix(&begins)?))).collect()
    }

    /// The only block of a language.
    #[track_caller]
    pub fn block(&self, language: &str) -> String {
        match &self.blocks(language)[..] {
            [one] => one.clone(),
            others => panic!("{} blocks of {language}", others.len()),
        }
    }

    /// A block of shell that has these words in it.
    #[track_caller]
    pub fn shell(&self, words: &str) -> String {
        let found = self.blocks("sh").into_iter().find(|block| block.contains(words));
        found.unwrap_or_else(|| panic!("{words} is in no block of {}", self.text))
    }

    /// Runs a command with larder on its path, as readers have it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        let tools = Path::new(LARDER).parent().expect("is in a folder").display();
        command.env("PATH", format!("{tools}:{path}")).current_dir(&self.dir).env("HOME", &self.dir);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            let ours = text.starts_with("cargo") && text != "cargo_http_cainfo" || text.ends_with("_proxy");
            if ours || ["goproxy", "goflags", "maven_opts", "apt_config", "larder_server"].contains(&&*text) {
                command.env_remove(&name);
            }
        }
        command
    }
}

/// The documents of a YAML text, read by a parser that is not ours.
#[track_caller]
pub fn yaml(text: &str) -> Vec<serde_json::Value> {
    let program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python3 is installed by tests/setup");
    std::io::Write::write_all(&mut child.stdin.take().expect("is piped"), text.as_bytes()).expect("python reads");
    let output = child.wait_with_output().expect("our own child can be waited for");
    assert!(output.status.success(), "no YAML: {text}");
    serde_json::from_slice(&output.stdout).expect("is JSON")
}

/// Every key that is not documented where it stands: `documented` is paths such as `spec.containers[].name`; one that
/// ends in `*` may hold anything.
pub fn undocumented(value: &serde_json::Value, documented: &[&str]) -> Vec<String> {
    fn keys(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(key, below)| {
                let path = format!("{at}{}{key}", if at.is_empty() { "" } else { "." });
                found.push(path.clone());
                keys(below, &path, found);
            }),
            serde_json::Value::Array(list) => list.iter().for_each(|below| keys(below, &format!("{at}[]"), found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    keys(value, "", &mut found);
    let known = |path: &String| {
        documented.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => path.starts_with(start),
            None => path == known,
        })
    };
    found.retain(|path| !known(path));
    found
}
