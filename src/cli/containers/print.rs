//! `larder env docker|buildkit|buildah|gitlab`: the options of a build by hand, for `docker build $(larder env docker) .`.

use std::path::Path;

use super::super::env::{credential, tools_url};
use super::super::failure::Failure;
use super::super::point::{self, Target};
use super::super::trust::{self, Consent};
use super::super::where_at::{Here, block_on};
use super::super::{client::Client, out};
use super::{SECRET, Told, address, secret_line, write};

/// Where the secret is kept for builds that are started by hand.
const FILE: &str = "build.env";

/// A word of `larder env` that names a builder, or where one runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builder {
    Docker,
    Buildah,
    Gitlab,
}

impl Builder {
    /// *Shape*: None when the words are tools.
    pub fn of(words: &[String]) -> Option<Builder> {
        match words {
            [word] => match word.as_str() {
                "docker" | "buildkit" => Some(Builder::Docker),
                "buildah" => Some(Builder::Buildah),
                "gitlab" => Some(Builder::Gitlab),
                _ => None,
            },
            _ => None,
        }
    }

    /// What is run by hand.
    const fn command(self) -> [&'static str; 2] {
        match self {
            Builder::Docker | Builder::Gitlab => ["docker", "build"],
            Builder::Buildah => ["buildah", "bud"],
        }
    }
}

/// Prints what a build needs.
///
/// *Errors*: containers do not reach the server.
pub(crate) fn print(builder: Builder, here: &Here, client: &Client, label: Option<&str>) -> Result<(), Failure> {
    let command = builder.command().map(std::ffi::OsString::from);
    // A job of GitLab has a Docker daemon of its own, whose containers are on no network of this machine.
    let reached = async { Ok((address(&command, client).await, trust::offered(client, Consent::Missing).await)) };
    let (server, offer) = block_on(reached)?;
    let server = server.map_err(|why| Failure::failed("no address for containers", why))?;
    let offer = offer.unwrap_or_else(|failure| {
        out::note(&format!("containers do not trust this server's authority: {}", failure.message));
        None
    });
    let offer = offer.map(|offer| offer.at(&server));
    let found = point::known_here(&here.data_dir()?);
    point::note_secrets(&found);
    let overlays = here.data_dir()?.join("overlays");
    let label = label.map(str::to_owned);
    let target = Target {
        labelled: tools_url(&server, label.as_deref()),
        label: credential(label.as_deref(), here.token()),
        overlays: overlays.clone(),
        server,
    };
    let told = Told::of(point::settings(target, &found), offer.as_ref());
    let words = builder.command().join(" ");
    if builder == Builder::Gitlab {
        out::text_out(&gitlab(&told));
    } else {
        let file = overlays.join(FILE);
        let written = std::fs::create_dir_all(&overlays).and_then(|()| write(&file, &told.secret()));
        written.map_err(|error| {
            Failure::failed(format!("{}: {error}", file.display()), "name another directory with --data DIR")
        })?;
        out::text_out(&format!("{}\n", options(&told, &file)));
        out::note(&format!(
            "{words} $(larder env {}) .",
            if builder == Builder::Buildah { "buildah" } else { "docker" }
        ));
    }
    out::note(&format!("a RUN that needs more than the proxies, as for Go: {}; your-command", secret_line()));
    Ok(())
}

/// Options of a build: words without spaces in them.
pub(crate) fn options(told: &Told, file: &Path) -> String {
    // Builders know the others beforehand, and would ask what this one is for.
    let known = told.proxies.iter().filter(|(name, _)| name != "http_no_proxy");
    let mut words: Vec<String> =
        known.map(|(name, value)| format!("--build-arg {name}={}", value.replace(' ', ""))).collect();
    words.push(format!("--secret id={SECRET},src={}", file.display()));
    words.join(" ")
}

/// Keys of a job that builds with `docker build $LARDER_BUILD .`.
fn gitlab(told: &Told) -> String {
    let file = format!("/tmp/{FILE}");
    let body = told.secret();
    let lines = format!(
        "umask 077\ncat > {file} <<'LARDER'\n{body}LARDER\nexport LARDER_BUILD=\"{}\"\n",
        options(told, Path::new(&file))
    );
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("# script: docker build $LARDER_BUILD .\nbefore_script:\n  - |\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::super::super::tools::Settings;
    use super::*;

    fn told() -> Told {
        let pairs = [
            ("http_proxy", "http://b:t%2F@10.0.0.1:7070"),
            ("http_no_proxy", "a|b"),
            ("GOPROXY", "http://10.0.0.1:7070/go,direct"),
        ];
        let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Told::of(Settings { env, ..Settings::default() }, None)
    }

    #[test]
    fn options_are_words_for_a_shell_to_split() {
        let line = options(&told(), Path::new("/d/build.env"));
        assert_eq!(line, "--build-arg http_proxy=http://b:t%2F@10.0.0.1:7070 --secret id=cache,src=/d/build.env");
    }

    #[test]
    fn a_job_makes_the_secret_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let job = gitlab(&told());
        let script = job.split_once("  - |\n").expect("has a script").1;
        let script = script.replace("/tmp/build.env", &dir.path().join("build.env").display().to_string());
        let script = script.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
        let output = std::process::Command::new("sh").args(["-c", &format!("{script}echo $LARDER_BUILD")]).output();
        let said = String::from_utf8_lossy(&output.expect("sh runs").stdout).into_owned();
        assert!(said.starts_with("--build-arg http_proxy=http://b:t%2F@10.0.0.1:7070 --secret id=cache,"), "{said}");
        let secret = std::fs::read_to_string(dir.path().join("build.env")).expect("was made");
        assert!(secret.contains("export GOPROXY=http://10.0.0.1:7070/go,direct\n"), "{secret}");
    }

    #[test]
    fn one_word_names_a_builder() {
        let of = |line: &str| Builder::of(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("buildkit"), Some(Builder::Docker));
        assert_eq!(of("buildah"), Some(Builder::Buildah));
        assert_eq!([of("go"), of(""), of("docker go")], [None; 3]);
    }
}
