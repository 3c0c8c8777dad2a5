//! What tools answered, kept in the data directory: one takes a good part of a second to start, and every build begins
//! with this.
//!
//! An answer holds while everything is as it was that it may come from: the program, what its first line runs it with, what
//! chooses between several versions of it, variables by their names, the files that larder knows it to read, and those
//! that it says it reads. What that leaves out, an hour forgets.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Surroundings;
use crate::model::digest::Digest;
use crate::model::time::Timestamp;
use crate::runtime::aside::{Mode, replace};
use crate::runtime::clock::Clock;

/// How long an answer holds, and that there is none: what fails may have had a bad moment.
const HOLDS: Duration = Duration::from_secs(3600);
const NONE_HOLDS: Duration = Duration::from_secs(600);
/// Answers to one question; projects and users may each have theirs.
const ANSWERS: usize = 16;
/// Larger files are known by size, times and inode alone.
const SMALL: u64 = 64 << 10;
const KEPT_BYTES: u64 = 1 << 20;

/// In the project's directory or above it: which version of a tool is meant.
const NEAR: [&str; 7] =
    [".tool-versions", "mise.toml", ".mise.toml", ".config/mise.toml", ".python-version", ".node-version", ".nvmrc"];
/// The same for a user, below the directory that a variable names, or the home.
const OF_USER: [(&str, &str, &str); 7] = [
    ("PYENV_ROOT", ".pyenv", "version"),
    ("NODENV_ROOT", ".nodenv", "version"),
    ("GOENV_ROOT", ".goenv", "version"),
    ("VOLTA_HOME", ".volta", "tools/user/platform.json"),
    ("MISE_CONFIG_DIR", ".config/mise", "config.toml"),
    ("", "", ".tool-versions"),
    ("", "", ".asdfrc"),
];
/// Variables that lead to any tool and to its files, and parts of such names.
const NAMES: [&str; 6] = ["PATH", "HOME", "PREFIX", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "LD_LIBRARY_PATH"];
const WORDS: [&str; 6] = ["asdf", "mise", "rtx", "volta", "env_version", "env_root"];

/// What a tool is asked.
pub struct Question {
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// The answer, in what it prints.
    pub answer: fn(&str) -> Option<String>,
    /// What has it print the files that it takes settings from; empty: it does so already.
    pub sources: &'static [&'static str],
    /// Those files, in what it prints.
    pub named: fn(&str) -> Vec<PathBuf>,
    /// Further files that it may take settings from, there or not.
    pub files: fn(&Surroundings<'_>) -> Vec<PathBuf>,
    /// Parts of the names of the variables that matter to it, in lower case.
    pub variables: &'static [&'static str],
}

/// Where answers are kept.
pub struct Kept {
    pub dir: PathBuf,
    pub clock: Arc<dyn Clock>,
}

impl Kept {
    /// The answer, as `start` gets it from the tool where none is kept.
    pub(super) fn ask(
        &self,
        question: &Question,
        around: &Surroundings<'_>,
        start: &(dyn Fn(&[&str]) -> Option<String> + Sync),
    ) -> Option<String> {
        let of = everything(question, around, &program(around, question.program)?);
        let file = self.dir.join(question.program);
        let (mut known, now) = (read(&file), self.clock.now());
        known.retain(|answer| answer.holds(now));
        if let Some(answer) = known.iter().find(|answer| answer.of == of && answer.files == stamps(&answer.named)) {
            return answer.text.clone();
        }
        let (text, named) = asked(question, start);
        if let Some(named) = named.filter(|_| may_be_written(text.as_deref())) {
            known.retain(|answer| answer.of != of);
            let named: Vec<_> = named.iter().map(|path| around.at(path)).collect();
            known.push(Answer { of, files: stamps(&named), named, at: now.0, text: text.clone() });
            known.drain(..known.len().saturating_sub(ANSWERS));
            // The next one then asks again, which is slower and no worse.
            let _ = write(&file, &known);
        }
        text
    }
}

/// An answer, and what it came from.
#[derive(Serialize, Deserialize)]
struct Answer {
    /// Everything that was known before the tool was asked, as a sum.
    of: String,
    /// The same of the files that the tool named.
    files: String,
    named: Vec<PathBuf>,
    /// Milliseconds since 1970.
    at: i64,
    text: Option<String>,
}

impl Answer {
    fn holds(&self, now: Timestamp) -> bool {
        let at = Timestamp(self.at);
        let until = at.plus(if self.text.is_some() { HOLDS } else { NONE_HOLDS });
        at <= now && now < until
    }
}

/// The answer and the files that it may come from; None where the tool does not say.
fn asked(
    question: &Question,
    start: &(dyn Fn(&[&str]) -> Option<String> + Sync),
) -> (Option<String>, Option<Vec<PathBuf>>) {
    let (printed, sources) = std::thread::scope(|scope| {
        let sources = (!question.sources.is_empty()).then(|| scope.spawn(|| start(question.sources)));
        (start(question.arguments), sources.map(|asking| asking.join().ok().flatten()))
    });
    let answer = printed.as_deref().and_then(question.answer);
    let named = sources.unwrap_or(printed).map(|printed| (question.named)(&printed));
    // No files make no answer.
    let named = if answer.is_none() { Some(Vec::new()) } else { named };
    (answer, named)
}

/// Userinfo is kept nowhere.
fn may_be_written(text: Option<&str>) -> bool {
    !text.is_some_and(|text| text.contains('@'))
}

fn read(file: &Path) -> Vec<Answer> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(KEPT_BYTES).read_to_end(&mut bytes));
    read.ok().and_then(|_| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn write(file: &Path, answers: &[Answer]) -> io::Result<()> {
    let Some(dir) = file.parent() else { return Ok(()) };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    replace(file, &serde_json::to_vec(answers)?, Mode::Usual)
}

/// Where `PATH` leads.
pub(super) fn program(around: &Surroundings<'_>, name: &str) -> Option<PathBuf> {
    let dirs = around.var("PATH")?.split(':').filter(|dir| dir.starts_with('/'));
    let is_program = |path: &PathBuf| {
        let at = around.inside(path).and_then(|path| path.metadata().ok());
        at.is_some_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    dirs.map(|dir| around.at(dir).join(name)).find(is_program)
}

/// What the answer may depend on, as one sum.
fn everything(question: &Question, around: &Surroundings<'_>, program: &Path) -> String {
    let mut all = Pieces::default();
    // What is picked from the same words may be another thing in another version.
    all.add(env!("CARGO_PKG_VERSION"));
    all.add(question.program);
    question.arguments.iter().for_each(|argument| all.add(argument));
    for (name, value) in around.vars() {
        let lower = name.to_ascii_lowercase();
        if NAMES.contains(&name) || WORDS.iter().chain(question.variables).any(|word| lower.contains(word)) {
            all.add(name);
            all.add(value);
        }
    }
    all.program(around, program);
    for dir in around.project().ancestors() {
        NEAR.iter().for_each(|name| all.file(&dir.join(name)));
    }
    for (variable, below, name) in OF_USER {
        let dir = around.var(variable).map_or_else(|| around.home().join(below), |dir| around.at(dir));
        all.file(&dir.join(name));
    }
    (question.files)(around).iter().for_each(|path| all.file(path));
    all.sum()
}

/// Files as they are now.
fn stamps(paths: &[PathBuf]) -> String {
    let mut all = Pieces::default();
    paths.iter().for_each(|path| all.file(path));
    all.sum()
}

#[derive(Default)]
struct Pieces(Vec<u8>);

impl Pieces {
    fn add(&mut self, piece: impl AsRef<[u8]>) {
        let piece = piece.as_ref();
        self.0.extend_from_slice(&piece.len().to_le_bytes());
        self.0.extend_from_slice(piece);
    }

    /// A file by its content where it is small: two changes within a tick of the clock leave the same times.
    fn file(&mut self, path: &Path) {
        self.add(path.as_os_str().as_encoded_bytes());
        let Ok(about) = path.metadata() else { return self.add([]) };
        let (changed, moved) = ((about.mtime(), about.mtime_nsec()), (about.ctime(), about.ctime_nsec()));
        for part in [about.size() as i64, about.ino() as i64, changed.0, changed.1, moved.0, moved.1] {
            self.add(part.to_le_bytes());
        }
        if about.is_file() && about.len() <= SMALL {
            self.add(fs::read(path).unwrap_or_default());
        }
    }

    /// A program, where its links lead, and what its first line runs it with.
    fn program(&mut self, around: &Surroundings<'_>, path: &Path) {
        self.file(path);
        let Some(real) = around.inside(path) else { return };
        self.add(real.as_os_str().as_encoded_bytes());
        let mut start = Vec::new();
        let _ = File::open(&real).and_then(|file| file.take(256).read_to_end(&mut start));
        let start = String::from_utf8_lossy(&start);
        let Some(line) = start.strip_prefix("#!").and_then(|rest| rest.lines().next()) else { return };
        for word in line.split_whitespace() {
            let runs = if word.starts_with('/') { Some(around.at(word)) } else { program(around, word) };
            if let Some(runs) = runs {
                self.file(&runs);
            }
        }
    }

    fn sum(self) -> String {
        Digest::of(&self.0).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::super::tool::InstalledTools;
    use super::*;
    use crate::runtime::clock::ManualClock;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    /// A machine whose own tool counts its starts, prints what stands in a file, and says so.
    struct Bench {
        machine: Machine,
        clock: Arc<ManualClock>,
        question: Question,
    }

    impl Bench {
        fn new() -> Bench {
            let clock = ManualClock::at(START);
            let question = Question {
                program: "tool",
                arguments: &["get"],
                answer: |printed| printed.lines().next().map(str::to_owned),
                sources: &[],
                named: |printed| printed.lines().skip(1).map(PathBuf::from).collect(),
                files: |around| vec![around.at("/etc/tool")],
                variables: &["tool"],
            };
            let machine = Machine::new(&[("etc/own", "https://one.example/")]).with("PATH", "/nowhere:/bin");
            let bench = Bench { machine, clock, question };
            let root = bench.root();
            bench.install(&format!("echo x >>{root}/starts; cat {root}/etc/own; echo; echo /etc/own"));
            bench
        }

        fn root(&self) -> String {
            self.machine.dir.path().display().to_string()
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.machine.dir.path().join(path);
            fs::create_dir_all(path.parent().expect("has a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        }

        fn install(&self, script: &str) {
            self.write("bin/tool", &format!("#!/bin/sh\n{script}\n"));
            let tool = self.machine.dir.path().join("bin/tool");
            fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).expect("may be changed");
        }

        /// What is answered, and how often the tool was started so far.
        fn ask(&self) -> (Option<String>, usize) {
            let root = self.machine.dir.path();
            let env = self.machine.env.clone();
            let around = Surroundings::new(root, &root.join("build/app"), env, &InstalledTools);
            let kept = Kept { dir: root.join("kept/asked"), clock: self.clock.clone() };
            // By its path: what PATH leads to here is not what it leads to for this process.
            let tool = root.join("bin/tool").display().to_string();
            let start = |arguments: &[&str]| around.ask_now(&tool, arguments);
            let answer = kept.ask(&self.question, &around, &start);
            (answer, fs::read_to_string(root.join("starts")).unwrap_or_default().lines().count())
        }
    }

    fn one(starts: usize) -> (Option<String>, usize) {
        (Some("https://one.example/".to_owned()), starts)
    }

    #[test]
    fn a_tool_is_asked_once_and_again_when_it_changed() {
        let bench = Bench::new();
        assert_eq!([bench.ask(), bench.ask(), bench.ask()], [one(1), one(1), one(1)]);
        bench.install(&format!("echo x >>{0}/starts; echo https://two.example/", bench.root()));
        let two = || (Some("https://two.example/".to_owned()), 2);
        assert_eq!([bench.ask(), bench.ask()], [two(), two()]);
    }

    #[test]
    fn a_changed_setting_is_seen_at_once_wherever_it_stands() {
        let mut bench = Bench::new();
        assert_eq!(bench.ask(), one(1));
        bench.write("etc/own", "https://two.example/");
        assert_eq!(bench.ask(), (Some("https://two.example/".to_owned()), 2), "a file that the tool named");
        bench.write("etc/own", "https://one.example/");
        assert_eq!(bench.ask(), one(3));
        for (starts, path) in (4..).zip(["etc/tool", "build/.tool-versions", "home/me/.pyenv/version"]) {
            bench.write(path, "x");
            assert_eq!([bench.ask(), bench.ask()], [one(starts), one(starts)], "{path}");
        }
        for (starts, name) in (7..).zip(["TOOL_X", "XDG_CONFIG_HOME", "PYENV_VERSION"]) {
            bench.machine.env.insert(name.into(), "/x".into());
            assert_eq!([bench.ask(), bench.ask()], [one(starts), one(starts)], "{name}");
        }
        bench.machine.env.insert("CI_JOB_ID".into(), "7".into());
        assert_eq!(bench.ask(), one(9), "what has nothing to do with it");
        bench.machine.env.remove("TOOL_X");
        bench.machine.env.remove("XDG_CONFIG_HOME");
        bench.machine.env.remove("PYENV_VERSION");
        assert_eq!(bench.ask(), one(9), "back to what was known");
    }

    #[test]
    fn an_answer_is_forgotten_in_time_and_never_comes_from_the_future() {
        let bench = Bench::new();
        assert_eq!(bench.ask(), one(1));
        bench.clock.advance(HOLDS - Duration::from_millis(1));
        assert_eq!(bench.ask(), one(1));
        bench.clock.advance(Duration::from_millis(1));
        assert_eq!(bench.ask(), one(2));
        let bench = Bench { clock: ManualClock::at(START), ..bench };
        assert_eq!(bench.ask(), one(3));
    }

    #[test]
    fn that_there_is_no_answer_is_kept_too_but_not_for_long() {
        let bench = Bench::new();
        bench.install(&format!("echo x >>{}/starts; exit 127", bench.root()));
        assert_eq!([bench.ask(), bench.ask()], [(None, 1), (None, 1)]);
        bench.clock.advance(NONE_HOLDS);
        assert_eq!(bench.ask(), (None, 2));
    }

    #[test]
    fn no_userinfo_is_written() {
        let bench = Bench::new();
        bench.write("etc/own", "https://me:hush@one.example/");
        assert_eq!((bench.ask().1, bench.ask().1), (1, 2));
        assert!(!bench.machine.dir.path().join("kept").exists());
    }

    #[test]
    fn what_is_not_installed_is_not_started_and_what_is_not_kept_well_is_asked() {
        let mut bench = Bench::new();
        bench.write("kept/asked/tool", "[{");
        assert_eq!([bench.ask(), bench.ask()], [one(1), one(1)]);
        bench.machine.env.insert("PATH".into(), "/nowhere".into());
        assert_eq!(bench.ask(), (None, 1));
    }

    #[test]
    fn a_tool_that_does_not_say_what_it_reads_is_asked_each_time() {
        let mut bench = Bench::new();
        bench.question.sources = &["sources"];
        bench.install(&format!("echo x >>{0}/starts; test $1 = get && echo a", bench.root()));
        assert_eq!((bench.ask(), bench.ask().1), ((Some("a".to_owned()), 2), 4));
    }
}
