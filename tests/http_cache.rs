//! The public HTTP cache suite (npm package `http-cache-tests`) against larder: once through the generic mirror, once
//! through the forward proxy.
//!
//! Scores as the suite does: a case counts when it passes and all that it depends on passes. Required cases that fail
//! must be named in `http_cache/exceptions.txt`. To score something else, for comparison:
//! `LARDER_HTTP_CACHE_SUITE` is a folder with another edition of the suite, `LARDER_HTTP_CACHE_TARGET` the address of
//! another cache that serves `/http/HOST:PORT/PATH` and absolute-form requests.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

const EDITION: &str = "http-cache-tests@0.4.5";

/// How many required cases must pass at the least.
const FLOOR: usize = 145;

/// The suite measures in seconds: two runs at a time would disturb each other.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn the_generic_mirror_passes_the_public_suite() {
    judge(&run(Route::Mirror));
}

#[test]
fn the_forward_proxy_passes_the_public_suite() {
    judge(&run(Route::Forward));
}

#[derive(Clone, Copy)]
enum Route {
    Mirror,
    Forward,
}

impl Route {
    fn name(self) -> &'static str {
        match self {
            Route::Mirror => "mirror",
            Route::Forward => "forward",
        }
    }
}

/// One case as it went.
#[derive(Clone, Debug)]
struct Case {
    required: bool,
    optimal: bool,
    needs: Vec<String>,
    pass: bool,
    why: String,
}

type Cases = BTreeMap<String, Case>;

/// Runs the suite, and what failed unexpectedly a second time: a busy machine makes answers older than they are.
fn run(route: Route) -> Cases {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let suite = suite();
    let cache = Cache::start();
    let mut cases = ask_suite(&suite, route, &cache.url, &[]);
    let known = exceptions();
    let doubtful: Vec<String> =
        cases.iter().filter(|(id, case)| !case.pass && !known.contains(*id)).map(|(id, _)| id.clone()).collect();
    if !doubtful.is_empty() && doubtful.len() < cases.len() / 4 {
        cases.extend(ask_suite(&suite, route, &cache.url, &doubtful));
    }
    let (required, of_required) = count(&cases, |case| case.required);
    let (optimal, of_optimal) = count(&cases, |case| case.optimal);
    println!("{}: {required} of {of_required} required and {optimal} of {of_optimal} optimal cases pass", route.name());
    cases
}

fn count(cases: &Cases, of: impl Fn(&Case) -> bool) -> (usize, usize) {
    let ids: Vec<&String> = cases.iter().filter(|(_, case)| of(case)).map(|(id, _)| id).collect();
    (ids.iter().filter(|id| passes(cases, id)).count(), ids.len())
}

/// Whether the case and all that it depends on pass.
fn passes(cases: &Cases, id: &str) -> bool {
    cases.get(id).is_some_and(|case| case.pass && case.needs.iter().all(|need| passes(cases, need)))
}

fn judge(cases: &Cases) {
    let known = exceptions();
    let required = || cases.iter().filter(|(_, case)| case.required);
    for (id, _) in required().filter(|(id, _)| known.contains(*id) && passes(cases, id)) {
        println!("passes again, take it out of exceptions.txt: {id}");
    }
    let news: Vec<String> = required()
        .filter(|(id, _)| !known.contains(*id) && !passes(cases, id))
        .map(|(id, case)| format!("{id}: {}", if case.pass { "what it depends on fails" } else { &case.why }))
        .collect();
    for (id, case) in cases.iter().filter(|(id, case)| case.optimal && !passes(cases, id)) {
        println!("optimal, and fails: {id}: {}", case.why);
    }
    assert!(
        news.is_empty(),
        "{} required cases fail that exceptions.txt does not name:\n{}",
        news.len(),
        news.join("\n")
    );
    let (pass, _) = count(cases, |case| case.required);
    assert!(pass >= FLOOR, "{pass} required cases pass, {FLOOR} are promised");
}

fn here(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http_cache").join(file)
}

fn exceptions() -> BTreeSet<String> {
    let text = fs::read_to_string(here("exceptions.txt")).expect("the exceptions can be read");
    let ids = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    ids.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// The suite's folder; installed once, outside of the repository.
fn suite() -> PathBuf {
    if let Some(folder) = env::var_os("LARDER_HTTP_CACHE_SUITE") {
        return folder.into();
    }
    let kept = env::var_os("LARDER_TEST_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(env::var_os("HOME").expect("HOME or LARDER_TEST_CACHE is set")).join(".cache/larder-tests")
    });
    let prefix = kept.join(EDITION.replace('@', "-"));
    let modules = prefix.join("node_modules");
    let folder = modules.join("http-cache-tests");
    if !(folder.join("cli.mjs").is_file() && modules.join("node-fetch/package.json").is_file()) {
        fs::create_dir_all(&prefix).expect("the cache directory can be made");
        let status = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .arg(&prefix)
            .arg(EDITION)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("npm can be started").success(), "npm cannot install {EDITION}");
    }
    folder
}

/// Runs the named cases, or all.
fn ask_suite(suite: &Path, route: Route, cache: &str, ids: &[String]) -> Cases {
    let mut command = Command::new("node");
    command.arg("--no-warnings").arg(here("run.mjs")).arg(suite).args([route.name(), cache]).args(ids);
    let output = command.output().expect("node can be started");
    assert!(output.status.success(), "run.mjs: {}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = serde_json::from_slice(&output.stdout).expect("run.mjs prints JSON");
    lines.iter().map(case).collect()
}

fn case(line: &Value) -> (String, Case) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let needs = line["depends_on"].as_array().map(|ids| ids.iter().map(text).collect()).unwrap_or_default();
    let kind = line["kind"].as_str().unwrap_or_default();
    let case = Case {
        required: kind == "required",
        optimal: kind == "optimal",
        needs,
        pass: line["pass"] == true,
        why: text(&line["why"]),
    };
    (text(&line["id"]), case)
}

/// larder with an empty data directory, or the cache that is to be scored in its place.
struct Cache {
    url: String,
    process: Option<Child>,
    _dir: tempfile::TempDir,
}

impl Cache {
    fn start() -> Cache {
        let dir = tempfile::tempdir().expect("a directory can be made");
        if let Ok(url) = env::var("LARDER_HTTP_CACHE_TARGET") {
            return Cache { url, process: None, _dir: dir };
        }
        let config = dir.path().join("c.toml");
        // The suite's origin listens on loopback, is named by the client, and hangs up on purpose: it is not to be rested.
        let policy = "[upstreams]\nlearn = \"public\"\n\n[upstream]\nallow_private = [\"127.0.0.1/32\"]\n\n\
            [upstream.breaker]\nfailures = 1000\n";
        fs::write(&config, policy).expect("the configuration can be written");
        let log = dir.path().join("log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(dir.path().join("data"))
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the log can be made"))
            .spawn()
            .expect("larder can be started");
        let stdout = process.stdout.take().expect("stdout is piped");
        let (found, address) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    // Nobody listens after the first.
                    let _ = found.try_send(format!("http://{}", address.trim()));
                }
            }
        });
        let mut cache = Cache { url: String::new(), process: Some(process), _dir: dir };
        cache.url = address.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| {
            panic!("larder does not listen: {}", fs::read_to_string(&log).unwrap_or_default());
        });
        cache
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn a_case_counts_only_with_what_it_depends_on() {
    let case = |pass, needs: &[&str]| Case {
        required: true,
        optimal: false,
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        pass,
        why: String::new(),
    };
    let cases = Cases::from([
        ("a".to_owned(), case(true, &[])),
        ("b".to_owned(), case(true, &["a"])),
        ("c".to_owned(), case(false, &["a"])),
        ("d".to_owned(), case(true, &["b", "c"])),
        ("e".to_owned(), case(true, &["d"])),
        ("f".to_owned(), case(true, &["gone"])),
    ]);
    let passing: Vec<&str> = cases.keys().map(String::as_str).filter(|id| passes(&cases, id)).collect();
    assert_eq!(passing, ["a", "b"]);
    assert_eq!(count(&cases, |case| case.required), (2, 6));
}
