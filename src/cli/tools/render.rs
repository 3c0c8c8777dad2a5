//! The forms in which settings are printed: for a shell, a Dockerfile, CI systems, Kubernetes, Make, and programs.
//!
//! What is kept in a file outlives the server. So all forms but the shell's, which `larder env --if-up` prints anew each
//! time, ask first whether the server answers, and set nothing when it does not. They ask with whatever is there: curl, a
//! wget (BusyBox has no more), or bash.
//!
//! Source: "Workflow commands for GitHub Actions" (`GITHUB_ENV`), GitLab's "CI/CD YAML syntax reference"
//! (`before_script` and `script` are one shell), "CircleCI configuration reference" (`BASH_ENV`), the Kubernetes API
//! reference (ConfigMap, Pod), the GNU Make manual.

use std::path::Path;

use serde_json::{Map, json};

use super::overlay::Overlay;
use super::{NO_FALLBACK, Settings};

/// How settings are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// For `eval "$(larder env)"`.
    Sh,
    /// One `RUN` that changes nothing of the image but what the build itself does.
    Dockerfile,
    /// A step of GitHub Actions.
    Github,
    /// Keys of a GitLab job.
    Gitlab,
    /// A step of CircleCI.
    Circleci,
    /// A ConfigMap, and a Pod that reads it.
    Kubernetes,
    /// For a Makefile: to be put in it, or included.
    Make,
    Json,
}

/// Prints settings in a form. Ends with a line feed.
pub fn render(settings: &Settings, format: Format) -> String {
    match format {
        Format::Sh => sh(settings),
        Format::Dockerfile => dockerfile(settings),
        Format::Github => github(settings),
        Format::Gitlab => gitlab(settings),
        Format::Circleci => circleci(settings),
        Format::Kubernetes => kubernetes(settings),
        Format::Make => make(settings),
        Format::Json => json(settings),
    }
}

fn sh(settings: &Settings) -> String {
    let notes = settings.notes.iter().map(|note| format!("# {}\n", note.replace('\n', " ")));
    notes.collect::<String>() + &laid(&settings.here) + &exports(settings, settings.env_here())
}

/// Says behind a line that its tool is lost when larder is.
fn mark(settings: &Settings, name: &str) -> String {
    if settings.no_fallback.contains(name) { format!("  # {NO_FALLBACK}") } else { String::new() }
}

/// Files, directories and links as shell commands.
fn laid(overlay: &Overlay) -> String {
    let shown = |path: &Path| quoted(&path.display().to_string());
    let mut out = String::new();
    for dir in &overlay.directories {
        out.push_str(&format!("mkdir -p {}\n", shown(dir)));
    }
    for (at, text) in &overlay.files {
        out.push_str(&format!("printf %s {} > {}\n", quoted(text), shown(at)));
    }
    for at in &overlay.programs {
        out.push_str(&format!("chmod +x {}\n", shown(at)));
    }
    for (at, target) in &overlay.links {
        out.push_str(&format!("ln -sfn {} {}\n", shown(target), shown(at)));
    }
    out
}

pub(super) fn exports<'a>(settings: &Settings, env: impl Iterator<Item = &'a (String, String)>) -> String {
    env.map(|(name, value)| format!("export {name}={}{}\n", quoted(value), mark(settings, name))).collect()
}

/// Exports whose values the shell fills in.
fn open_exports(settings: &Settings) -> String {
    let env = settings.elsewhere.env.iter();
    env.map(|(name, value)| format!("export {name}=\"{value}\"{}\n", mark(settings, name))).collect()
}

/// Shell for a machine that is not this one.
pub fn elsewhere(settings: &Settings) -> String {
    settings.elsewhere.lines.clone() + &open_exports(settings) + &exports(settings, settings.env.iter())
}

/// A command of the shell that tells whether the server takes requests, within a second for each that it tries.
fn probe(settings: &Settings) -> String {
    let Some(server) = &settings.server else { return "true\n".to_owned() };
    let ready = format!("{}/readyz", server.as_str().trim_end_matches('/'));
    let mut out = format!("{{\n  curl -fsm 1 -o /dev/null {ready} ||\n  wget -q -T 1 -t 1 -O /dev/null {ready}");
    if server.scheme() == "http" {
        let bare = server.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = server.port_or_known_default().unwrap_or_default();
        let path = format!("{}/readyz", server.path().trim_end_matches('/'));
        out.push_str(&format!(
            " ||\n  timeout 1 bash -c 'exec 3<>/dev/tcp/{bare}/{port} &&\n    printf \"GET {path} HTTP/1.0\\r\\nHost: {bare}:{port}\\r\\n\\r\\n\" >&3 && grep -q \" 200 \" <&3'"
        ));
    }
    out + "\n} 2>/dev/null\n"
}

/// Lines of a shell that are run if the server answers.
fn guarded(settings: &Settings, lines: &str) -> String {
    format!("if {}then\n{lines}else\necho {} >&2\nfi\n", probe(settings), quoted(&silent(settings)))
}

fn silent(settings: &Settings) -> String {
    let server = settings.server.as_ref().map_or("", |server| server.as_str().trim_end_matches('/'));
    format!("no larder answers at {server}: this build goes without")
}

fn dockerfile(settings: &Settings) -> String {
    let (known, own): (Vec<_>, Vec<_>) = settings.env.iter().partition(|(name, _)| is_proxy(name));
    let mut out = String::new();
    if !known.is_empty() {
        out.push_str("# The proxy variables are arguments that every builder knows; they are no part of a layer or of its key:\n");
    }
    for (name, value) in known {
        out.push_str(&format!("#   docker build --build-arg {name}={}\n", quoted(value)));
    }
    out.push_str("# These hold for one RUN. Put your command in the place of the last line.\nRUN <<'LARDER'\nset -e\n");
    if !settings.elsewhere.directories.is_empty() {
        out.push_str(&format!("trap 'rm -rf {}' EXIT\n", settings.elsewhere.directories.join(" ")));
    }
    let lines = settings.elsewhere.lines.clone() + &open_exports(settings) + &exports(settings, own.into_iter());
    out + &guarded(settings, &lines) + "your-command\nLARDER\n"
}

/// Whether every builder knows it as an argument (Dockerfile reference, "Predefined ARGs").
pub fn is_proxy(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "http_proxy" | "https_proxy" | "ftp_proxy" | "all_proxy" | "no_proxy")
}

fn github(settings: &Settings) -> String {
    let mut lines = settings.elsewhere.lines.clone();
    for (name, value) in &settings.elsewhere.env {
        lines.push_str(&format!("echo \"{name}={value}\" >> \"$GITHUB_ENV\"{}\n", mark(settings, name)));
    }
    for (name, value) in &settings.env {
        let pair = quoted(&format!("{name}={value}"));
        lines.push_str(&format!("echo {pair} >> \"$GITHUB_ENV\"{}\n", mark(settings, name)));
    }
    format!("- name: larder\n  shell: bash\n  run: |\n{}", indented(&guarded(settings, &lines), 4))
}

fn gitlab(settings: &Settings) -> String {
    format!("before_script:\n  - |\n{}", indented(&guarded(settings, &elsewhere(settings)), 4))
}

fn circleci(settings: &Settings) -> String {
    let mut lines = settings.elsewhere.lines.clone();
    for (name, value) in &settings.elsewhere.env {
        lines.push_str(&format!("echo \"export {name}='{value}'\" >> \"$BASH_ENV\"{}\n", mark(settings, name)));
    }
    for (name, value) in &settings.env {
        let export = format!("export {name}={}", quoted(value));
        lines.push_str(&format!("echo {} >> \"$BASH_ENV\"{}\n", quoted(&export), mark(settings, name)));
    }
    format!("- run:\n    name: larder\n    command: |\n{}", indented(&guarded(settings, &lines), 6))
}

/// What a Pod does when the ConfigMap is not there is what it did before.
fn kubernetes(settings: &Settings) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: larder-client\ndata:\n  env.sh: |\n{}\
         ---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: build\nspec:\n  restartPolicy: Never\n  containers:\n\
         \x20   - name: build\n      image: your-image\n      command:\n        - sh\n        - -c\n        - |\n\
         \x20         [ ! -f /etc/larder/env.sh ] || . /etc/larder/env.sh\n          your-command\n      volumeMounts:\n\
         \x20       - name: larder\n          mountPath: /etc/larder\n  volumes:\n    - name: larder\n      configMap:\n\
         \x20       name: larder-client\n        optional: true\n",
        indented(&guarded(settings, &elsewhere(settings)), 4)
    )
}

/// Variables for all recipes. Make's own shell gets no line feeds, so the lines go by way of a file; what the shell has to
/// fill in is asked of one that ran them, and they may run again.
fn make(settings: &Settings) -> String {
    let doubled = |text: &str| text.replace('$', "$$");
    let lines = format!(
        "if [ \"$larder\" ] || {}then\n{}larder=up\nelse\necho {} >&2\nfi\n",
        probe(settings),
        settings.elsewhere.lines,
        quoted(&silent(settings))
    );
    let mut out = format!(
        "define LARDER_LINES\n{}endef\nLARDER_FILE := $(shell mktemp)\n$(file >$(LARDER_FILE),$(LARDER_LINES))\n\
         ifeq (up,$(shell . $(LARDER_FILE); echo $$larder))\n",
        doubled(&lines)
    );
    let before = |name: &str| match mark(settings, name).trim() {
        "" => String::new(),
        mark => format!("{mark}\n"),
    };
    for (name, value) in &settings.elsewhere.env {
        let value = match value.contains('$') {
            true => format!("$(shell larder=up; . $(LARDER_FILE); printf %s \"{}\")", doubled(value)),
            false => value.replace('#', "\\#"),
        };
        out.push_str(&format!("{}export {name} := {value}\n", before(name)));
    }
    for (name, value) in &settings.env {
        out.push_str(&format!("{}export {name} := {}\n", before(name), doubled(value).replace('#', "\\#")));
    }
    out + "endif\n$(shell rm -f $(LARDER_FILE))\n"
}

fn json(settings: &Settings) -> String {
    let here = &settings.here;
    let env: Map<_, _> = settings.env_here().map(|(name, value)| (name.clone(), json!(value))).collect();
    let files: Vec<_> = here.files.iter().map(|(at, text)| json!({ "path": at, "text": text })).collect();
    let links: Vec<_> = here.links.iter().map(|(at, target)| json!({ "path": at, "target": target })).collect();
    let all = json!({
        "env": env, "directories": here.directories, "files": files, "links": links, "programs": here.programs, "notes": settings.notes,
        "no_fallback": settings.no_fallback,
    });
    format!("{all:#}\n")
}

/// For a POSIX shell: in single quotes unless it needs none.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.:@,_-=%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn indented(text: &str, by: usize) -> String {
    let line = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::overlay::Script;
    use super::*;

    fn sample() -> Settings {
        Settings {
            server: url::Url::parse("http://larder.example:7070").ok(),
            env: vec![
                ("GOPROXY".into(), "http://larder.example/go/@go.example,direct".into()),
                ("ODD".into(), "a 'b' $c|d".into()),
                ("http_proxy".into(), "http://larder.example".into()),
            ],
            here: Overlay {
                env: vec![("CARGO_HOME".into(), "/o/x y".into())],
                directories: vec!["/o/x y".into()],
                files: vec![("/o/x y/config.toml".into(), "[a]\nb = 'c'\n".into())],
                programs: vec!["/o/x y/config.toml".into()],
                links: vec![("/o/x y/bin".into(), "/h/bin".into())],
            },
            elsewhere: Script {
                lines: "real=\"$HOME\"\nmkdir -p /tmp/o\n".into(),
                env: vec![("CARGO_HOME".into(), "/tmp/o".into()), ("REAL".into(), "$real".into())],
                directories: vec!["/tmp/o"],
            },
            no_fallback: ["CARGO_HOME", "ODD", "http_proxy"].map(str::to_owned).into(),
            notes: vec!["left alone".into()],
        }
    }

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path().join("x y");
        let mut settings = sample();
        settings.here.directories = vec![at.clone()];
        settings.here.files = vec![(at.join("config.toml"), "[a]\nb = 'c'\n\\n %s\n".into())];
        settings.here.programs = vec![at.join("config.toml")];
        settings.here.links = vec![(at.join("bin"), "/h/bin".into())];
        let script = format!(
            "set -e\n{}{}printf '%s\\n' \"$GOPROXY\" \"$ODD\"",
            render(&settings, Format::Sh),
            render(&settings, Format::Sh)
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("sh runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "http://larder.example/go/@go.example,direct\na 'b' $c|d\n");
        let laid = std::fs::read_to_string(at.join("config.toml")).expect("was written");
        assert_eq!(laid, settings.here.files[0].1);
    }

    #[test]
    fn each_form_is_as_it_was() {
        for (form, name) in [
            (Format::Sh, "sh"),
            (Format::Dockerfile, "dockerfile"),
            (Format::Github, "github"),
            (Format::Gitlab, "gitlab"),
            (Format::Circleci, "circleci"),
            (Format::Kubernetes, "kubernetes"),
            (Format::Make, "make"),
            (Format::Json, "json"),
        ] {
            insta::assert_snapshot!(name, render(&sample(), form));
        }
    }
}
