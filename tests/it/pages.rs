//! The pages of docs/use/, as readers paste them: each block is run in the way that its CI system documents, with a
//! server, then with the same lines and none. What a block of YAML may hold is what the system's reference has.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::machine::scratch;
use crate::support::pages::{Page, undocumented, yaml};
use crate::support::registry::Crates;
use crate::support::resource::Resource;
use crate::support::server::{Ended, LARDER, Server, Setup, end_of};
use crate::support::upstream::Upstream;

const LIMIT: Duration = Duration::from_secs(120);
/// An address that no list of hosts to be asked directly has in it.
const ELSEWHERE: &str = "127.0.0.2:0";
const LIST: &str = "/example.test/m/@v/list";
const SAYS: &str = "this build goes without";

/// A module proxy and a crate index upstream, a server that has them as its own, and a build that uses both.
struct Bed {
    dir: tempfile::TempDir,
    upstream: Upstream,
}

impl Bed {
    fn new() -> Bed {
        let bed = Bed { dir: scratch(), upstream: Upstream::start_on(ELSEWHERE) };
        let info = "{\"Version\":\"v1.1.0\",\"Time\":\"2026-01-02T03:04:05Z\"}";
        bed.upstream.put("/example.test/m/@v/v1.1.0.info", Resource::text(info));
        bed.upstream.put("/example.test/m/@v/v1.1.0.mod", Resource::text("module example.test/m\n"));
        bed.upstream.put(LIST, Resource::text("v1.0.0\nv1.1.0\n").header("cache-control", "no-cache"));
        Crates::on(&bed.upstream).index("larder-page", &"0".repeat(64));
        bed.write("app/Cargo.toml", "[package]\nname='a'\nedition='2021'\n[dependencies]\nlarder-page='1'\n");
        bed.write("app/src/lib.rs", "");
        // What the job does: cargo has no other registry, so it is asked only where it is pointed at larder.
        let build = format!(
            "cd '{}'\ngo list -m -versions example.test/m\necho \"cargo in ${{CARGO_HOME:-its own}}\"\n\
             if [ -n \"${{CARGO_HOME:-}}\" ]; then cargo generate-lockfile; fi\n",
            bed.dir.path().join("app").display()
        );
        bed.write("build.sh", &build);
        bed
    }

    fn write(&self, name: &str, text: &str) {
        let at = self.dir.path().join(name);
        fs::create_dir_all(at.parent().expect("is below scratch")).expect("scratch can be written");
        fs::write(at, text).expect("scratch can be written");
    }

    fn build(&self) -> String {
        format!("sh -e '{}'", self.dir.path().join("build.sh").display())
    }

    fn server(&self) -> Server {
        let own = format!(
            "[ecosystem.go]\nupstreams = [\"{}\"]\n[ecosystem.cargo]\nupstreams = [\"{}\"]\n\
             [upstreams]\nlearn = \"public\"\n[upstream]\nallow_private = [\"127.0.0.0/30\"]\n",
            self.upstream.url("/"),
            self.upstream.url("/index/")
        );
        Setup::below(&self.dir.path().join("server")).default_policy().config(&own).start()
    }

    /// The build's own surroundings: go has an upstream that it is to fall back to.
    fn within(&self, page: &Page, program: &str) -> Command {
        let mut command = page.command(program);
        let proxy = self.upstream.url("/");
        let own = [("GOPROXY", proxy.as_str()), ("GONOSUMDB", "*"), ("GOTOOLCHAIN", "local")];
        command.envs(own).env("GOFLAGS", "-modcacherw").env("LARDER_DATA_DIR", self.dir.path().join("client"));
        command
    }

    /// Runs with a server, then with the same lines and none, which must be told and do no harm.
    fn alive_then_dead(&self, name: &str, run: &dyn Fn(&Page) -> Ended) {
        let server = self.server();
        let page = Page::read(name, &server, self.dir.path());
        let asked = |path: &str| {
            let seen = self.upstream.seen(path);
            seen.last().unwrap_or_else(|| panic!("{name}: {path} was not asked for")).header("via").is_some()
        };
        let ended = run(&page);
        assert_eq!(ended.code, Some(0), "{name}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("example.test/m v1.0.0 v1.1.0\n"), "{name}: {}", ended.stdout);
        assert!(asked(LIST), "{name}: go went around larder");
        if ended.stdout.contains("cargo in its own") {
            assert_eq!(name, "dockerfile", "{}", ended.stdout);
        } else {
            assert!(asked("/index/la/rd/larder-page"), "{name}: cargo went around larder");
        }
        server.kill();
        let ended = run(&page);
        assert_eq!(ended.code, Some(0), "{name}, dead: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("example.test/m v1.0.0 v1.1.0\ncargo in its own\n"), "{name}: {}", ended.stdout);
        assert!(ended.stderr.contains(SAYS) || name == "sh", "{name}: {}{}", ended.stdout, ended.stderr);
        assert!(!asked(LIST), "{name}: go found a larder that is gone");
    }
}

/// Source: "Workflow syntax for GitHub Actions", `jobs.<job_id>.steps`.
const GITHUB: [&str; 10] = [
    "[].id",
    "[].if",
    "[].name",
    "[].uses",
    "[].run",
    "[].working-directory",
    "[].shell",
    "[].with",
    "[].env",
    "[].continue-on-error",
];

/// Source: "Workflow syntax", `shell: bash` is `bash --noprofile --norc -eo pipefail {0}`; "Workflow commands", what is
/// appended to `$GITHUB_ENV` as `NAME=value` is in the environment of later steps.
#[test]
fn the_step_for_github() {
    let bed = Bed::new();
    bed.alive_then_dead("github", &|page| {
        let step = yaml(&page.block("yaml")).remove(0);
        assert_eq!(undocumented(&step, &GITHUB), [""; 0]);
        assert_eq!(step[0]["shell"], "bash");
        bed.write("step.sh", step[0]["run"].as_str().expect("has a script"));
        bed.write("github.env", "");
        let bash = || {
            let mut command = bed.within(page, "bash");
            command.args(["--noprofile", "--norc", "-eo", "pipefail"]);
            command
        };
        let mut first = bash();
        first.arg("step.sh").env("GITHUB_ENV", bed.dir.path().join("github.env"));
        let first = end_of(first, LIMIT);
        assert_eq!(first.code, Some(0), "{}", first.stderr);
        let written = fs::read_to_string(bed.dir.path().join("github.env")).expect("is there");
        let set = written.lines().map(|line| line.split_once('=').expect("NAME=value"));
        let mut second = bash();
        second.args(["-c", &bed.build()]).envs(set);
        let second = end_of(second, LIMIT);
        Ended { stderr: first.stderr + &second.stderr, ..second }
    });
}

/// Source: "CI/CD YAML syntax reference": `before_script` is concatenated with `script`, and run in one shell.
#[test]
fn the_keys_for_gitlab() {
    let bed = Bed::new();
    bed.alive_then_dead("gitlab", &|page| {
        let job = yaml(&page.block("yaml")).remove(0);
        assert_eq!(undocumented(&job, &["before_script"]), [""; 0]);
        let before = job["before_script"].as_array().expect("is a list").iter();
        let lines: Vec<&str> = before.map(|line| line.as_str().expect("is a line")).collect();
        let mut shell = bed.within(page, "sh");
        shell.args(["-ec", &format!("{}\n{}", lines.join("\n"), bed.build())]);
        end_of(shell, LIMIT)
    });
}

/// Source: "CircleCI configuration reference", `run`; the default shell is `/bin/bash -eo pipefail`; "Set an environment
/// variable in a shell command": each step's bash reads `$BASH_ENV`.
#[test]
fn the_step_for_circleci() {
    let documented = ["[].run", "[].run.name", "[].run.command", "[].run.shell", "[].run.environment"];
    let bed = Bed::new();
    bed.alive_then_dead("circleci", &|page| {
        let steps = yaml(&page.block("yaml")).remove(0);
        assert_eq!(undocumented(&steps, &documented), [""; 0]);
        bed.write("bash.env", "");
        let step = |script: &str| {
            let mut bash = bed.within(page, "bash");
            bash.args(["-eo", "pipefail", "-c", script]).env("BASH_ENV", bed.dir.path().join("bash.env"));
            end_of(bash, LIMIT)
        };
        let first = step(steps[0]["run"]["command"].as_str().expect("has a script"));
        assert_eq!(first.code, Some(0), "{}", first.stderr);
        let second = step(&bed.build());
        Ended { stderr: first.stderr + &second.stderr, ..second }
    });
}

/// Source: the Kubernetes API reference, ConfigMap v1 and Pod v1.
#[test]
fn the_objects_for_kubernetes() {
    let map = ["apiVersion", "kind", "metadata", "metadata.name", "data", "data.*"];
    let pod = [
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "spec",
        "spec.restartPolicy",
        "spec.containers",
        "spec.containers[].name",
        "spec.containers[].image",
        "spec.containers[].command",
        "spec.containers[].volumeMounts",
        "spec.containers[].volumeMounts[].name",
        "spec.containers[].volumeMounts[].mountPath",
        "spec.volumes",
        "spec.volumes[].name",
        "spec.volumes[].configMap",
        "spec.volumes[].configMap.name",
        "spec.volumes[].configMap.optional",
    ];
    let bed = Bed::new();
    bed.alive_then_dead("kubernetes", &|page| {
        let objects = yaml(&page.block("yaml"));
        assert_eq!(undocumented(&objects[0], &map), [""; 0]);
        assert_eq!(undocumented(&objects[1], &pod), [""; 0]);
        let (spec, volume) = (&objects[1]["spec"], &objects[1]["spec"]["volumes"][0]);
        let (container, mount) = (&spec["containers"][0], &spec["containers"][0]["volumeMounts"][0]);
        assert_eq!((&mount["name"], &volume["configMap"]["name"]), (&volume["name"], &objects[0]["metadata"]["name"]));
        // The volume, where the container has it.
        let at = mount["mountPath"].as_str().expect("is a path");
        for (file, text) in objects[0]["data"].as_object().expect("has files") {
            bed.write(&format!("volume/{file}"), text.as_str().expect("is text"));
        }
        let there = bed.dir.path().join("volume").display().to_string();
        let words = container["command"].as_array().expect("is a list").iter();
        let words = words.map(|word| word.as_str().expect("is a word").replace(at, &there));
        let words: Vec<String> = words.map(|word| word.replace("your-command", &bed.build())).collect();
        let run = |words: &[String]| {
            let mut command = bed.within(page, &words[0]);
            command.args(&words[1..]);
            end_of(command, LIMIT)
        };
        // As without the ConfigMap, which is optional.
        let without: Vec<String> = words.iter().map(|word| word.replace(&there, "/nowhere")).collect();
        let ended = run(&without);
        assert!(ended.code == Some(0) && ended.stdout.contains("cargo in its own"), "{}{}", ended.stdout, ended.stderr);
        run(&words)
    });
}

/// Source: the GNU Make manual, "Multi-Line", "Shell Function", "Variables/Recursion".
#[test]
fn the_lines_for_make() {
    let bed = Bed::new();
    bed.alive_then_dead("make", &|page| {
        bed.write("larder.mk", &page.block("make"));
        bed.write("Makefile", &format!("-include larder.mk\nall:\n\t@$(MAKE) -s below\nbelow:\n\t@{}\n", bed.build()));
        let mut make = bed.within(page, "make");
        make.arg("-s");
        end_of(make, LIMIT)
    });
}

/// Source: Dockerfile reference, "Here-Documents": the text is the shell's.
#[test]
fn the_run_for_a_dockerfile() {
    let bed = Bed::new();
    bed.alive_then_dead("dockerfile", &|page| {
        let block = page.block("dockerfile");
        let (_, text) = block.split_once("\nRUN <<'LARDER'\n").expect("is a here-document");
        let text = text.strip_suffix("LARDER\n").expect("ends as it began").replace("your-command", &bed.build());
        let mut shell = bed.within(page, "sh");
        shell.args(["-c", &text]);
        let ended = end_of(shell, LIMIT);
        assert!(!bed.dir.path().join("larder-apt").exists(), "it would be in the layer");
        ended
    });
}

#[test]
fn the_lines_for_a_shell() {
    let bed = Bed::new();
    // cargo has a registry here that it is pointed at: the eval looks at it.
    let index = format!("sparse+{}", bed.upstream.url("/index/"));
    let own = format!("[source.crates-io]\nreplace-with='own'\n[source.own]\nregistry='{index}'\n");
    bed.write(".cargo/config.toml", &own);
    bed.alive_then_dead("sh", &|page| {
        let mut shell = bed.within(page, "sh");
        shell.args(["-ec", &format!("{}{}", page.shell("eval"), bed.build())]);
        end_of(shell, LIMIT)
    });
    let server = bed.server();
    let page = Page::read("sh", &server, bed.dir.path());
    let mut shell = bed.within(&page, "sh");
    shell.args(["-ec", &page.shell("larder run").replace("your-command", &bed.build())]);
    let ended = end_of(shell, LIMIT);
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    // And how a reader sees that it works.
    for line in page.shell("larder stats").lines() {
        let mut shell = bed.within(&page, "sh");
        shell.args(["-ec", line]);
        let ended = end_of(shell, LIMIT);
        assert!(!ended.stdout.is_empty(), "{line}: {}", ended.stderr);
    }
}

/// What a machine has to ask a server with: one of three.
#[test]
fn a_server_is_asked_with_what_is_there_and_silence_is_no_answer() {
    let bed = Bed::new();
    let server = bed.server();
    let page = Page::read("gitlab", &server, bed.dir.path());
    let job = yaml(&page.block("yaml")).remove(0);
    let script = job["before_script"][0].as_str().expect("is a script").to_owned() + "\necho \"${GOPROXY:-}\"\n";
    let common = ["mkdir", "cat", "grep", "ln", "printf"];
    let ask = |tools: &[&str]| {
        let path = bed.dir.path().join(format!("bin-{}", tools.join("-")));
        fs::create_dir_all(&path).expect("scratch can be written");
        for tool in common.iter().chain(tools) {
            let found = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(tool)).into_iter().find(|at| at.exists());
            let _ = std::os::unix::fs::symlink(found.expect("is installed"), path.join(tool));
        }
        let mut shell = page.command("/bin/sh");
        shell.args(["-ec", &script]).env("PATH", &path);
        end_of(shell, LIMIT)
    };
    let ways: BTreeMap<&str, &[&str]> =
        BTreeMap::from([("curl", &["curl"][..]), ("wget", &["wget"]), ("bash", &["bash", "timeout"])]);
    for (name, tools) in &ways {
        let ended = ask(tools);
        assert!(ended.stdout.contains("/go|direct"), "{name}: {}{}", ended.stdout, ended.stderr);
    }
    server.freeze();
    for (name, tools) in ways.iter().chain([(&"all", &&["curl", "wget", "bash", "timeout"][..])]) {
        let ended = ask(tools);
        assert_eq!((ended.code, ended.stdout.trim()), (Some(0), ""), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(SAYS), "{name}: {}", ended.stderr);
    }
}

/// The pages are made from a table; this is the command that they name.
#[test]
fn what_a_page_says_that_env_prints_is_what_env_prints() {
    let dir = scratch();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use");
    let mut checked = 0;
    for page in fs::read_dir(pages).expect("is there") {
        let text = fs::read_to_string(page.expect("is there").path()).expect("is text");
        let Some(words) = text.split_once("Printed by `larder ").and_then(|(_, rest)| Some(rest.split_once('`')?.0))
        else {
            continue;
        };
        let mut command = Command::new(LARDER);
        command.args(words.split(' ')).env_clear().env("HOME", dir.path());
        let ended = end_of(command, LIMIT);
        assert!(!ended.stdout.is_empty() && text.contains(&ended.stdout), "{words}: {}{}", ended.stdout, ended.stderr);
        checked += 1;
    }
    assert_eq!(checked, 6);
}
