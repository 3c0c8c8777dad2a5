//! The forms in which settings are printed: for a shell, a Dockerfile, three CI systems, and programs.

use std::path::Path;

use serde_json::{Map, json};

use super::{NO_FALLBACK, Overlay, Settings};

/// A form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Form {
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
    Json,
}

/// Prints settings in a form. Ends with a line feed.
pub fn render(settings: &Settings, form: Form) -> String {
    match form {
        Form::Sh => sh(settings),
        Form::Dockerfile => dockerfile(settings),
        Form::Github => github(settings),
        Form::Gitlab => gitlab(settings),
        Form::Circleci => circleci(settings),
        Form::Json => json(settings),
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

fn exports<'a>(settings: &Settings, env: impl Iterator<Item = &'a (String, String)>) -> String {
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

fn dockerfile(settings: &Settings) -> String {
    let is_known = |name: &str| name.to_ascii_lowercase().ends_with("_proxy");
    let (known, own): (Vec<_>, Vec<_>) = settings.env.iter().partition(|(name, _)| is_known(name));
    let mut out = String::from(
        "# The proxy variables are arguments that every builder knows; they are no part of a layer or of its key:\n",
    );
    for (name, value) in known {
        out.push_str(&format!("#   docker build --build-arg {name}={}\n", quoted(value)));
    }
    out.push_str(
        "# The others hold for one RUN. Put your command in the place of the last line.\nRUN <<'LARDER'\nset -e\n",
    );
    if !settings.elsewhere.directories.is_empty() {
        out.push_str(&format!("trap 'rm -rf {}' EXIT\n", settings.elsewhere.directories.join(" ")));
    }
    out.push_str(&settings.elsewhere.lines);
    out.push_str(&open_exports(settings));
    out.push_str(&exports(settings, own.into_iter()));
    out.push_str("your-command\nLARDER\n");
    out
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
    format!("- name: larder\n  shell: bash\n  run: |\n{}", indented(&lines, 4))
}

fn gitlab(settings: &Settings) -> String {
    let mut out = String::from("variables:\n");
    for (name, value) in &settings.env {
        // A JSON string is a YAML string; GitLab expands `$`.
        out.push_str(&format!("  {name}: {}{}\n", json!(value.replace('$', "$$")), mark(settings, name)));
    }
    let lines = settings.elsewhere.lines.clone() + &open_exports(settings);
    if !lines.is_empty() {
        out.push_str(&format!("before_script:\n  - |\n{}", indented(&lines, 4)));
    }
    out
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
    format!("- run:\n    name: larder\n    command: |\n{}", indented(&lines, 6))
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
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Script;
    use super::*;

    fn sample() -> Settings {
        Settings {
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
            render(&settings, Form::Sh),
            render(&settings, Form::Sh)
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
            (Form::Sh, "sh"),
            (Form::Dockerfile, "dockerfile"),
            (Form::Github, "github"),
            (Form::Gitlab, "gitlab"),
            (Form::Circleci, "circleci"),
            (Form::Json, "json"),
        ] {
            insta::assert_snapshot!(name, render(&sample(), form));
        }
    }
}
