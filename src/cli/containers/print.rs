//! `larder env docker|buildkit|buildah|gitlab`: the options of a build by hand, for `docker build $(larder env docker) .`.
//!
//! Every user of a machine reads its command lines. So no token stands in the options: a proxy that has one is named, and
//! its value taken by the builder from the environment, where it has to be already.
//!
//! Source: docker-build(1), buildah-build(1): "--build-arg": without a value, that of the local environment.

use std::path::Path;

use super::super::failure::Failure;
use super::super::point::{self, Target, credential, tools_url};
use super::super::trust::offer::{Consent, offered};
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
    let reached = async { Ok((address(&command, client).await, offered(client, Consent::Missing).await)) };
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
        let (job, left_out) = gitlab(&told);
        out::text_out(&job);
        if left_out == LeftOut::Proxies {
            out::note(WITHOUT_TOKEN);
        }
    } else {
        let file = overlays.join(FILE);
        let written = std::fs::create_dir_all(&overlays).and_then(|()| write(&file, &told.secret()));
        written.map_err(|error| {
            Failure::failed(format!("{}: {error}", file.display()), "name another directory with --data DIR")
        })?;
        let (options, left_out) = options(&told, &file, &|name| std::env::var(name).ok());
        out::text_out(&format!("{options}\n"));
        if left_out == LeftOut::Proxies {
            let all = format!("`larder run -- {words} .` has all of them go through");
            out::note(&format!(
                "{WITHOUT_TOKEN}; {all}, and so has eval \"$(larder env)\" before, where containers reach {}",
                client.address()
            ));
        }
        out::note(&format!(
            "{words} $(larder env {}) .",
            if builder == Builder::Buildah { "buildah" } else { "docker" }
        ));
    }
    out::note(&format!("a RUN that needs more than the proxies, as for Go: {}; your-command", secret_line()));
    Ok(())
}

/// What a line of options goes without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LeftOut {
    Nothing,
    /// Those with a token that the environment has not got: the `RUN`s that read no secret go directly.
    Proxies,
}

const WITHOUT_TOKEN: &str = "every user of a machine can read command lines, so the token is in the secret alone: a RUN that \
                             does not read it goes without larder";

/// Options of a build: words without spaces in them, and no token.
pub(crate) fn options(told: &Told, file: &Path, around: &dyn Fn(&str) -> Option<String>) -> (String, LeftOut) {
    let (mut words, mut left_out) = (Vec::new(), LeftOut::Nothing);
    // Builders know the others beforehand, and would ask what this one is for.
    for (name, value) in told.proxies.iter().filter(|(name, _)| name != "http_no_proxy") {
        if !has_secret(value) {
            words.push(format!("--build-arg {name}={}", value.replace(' ', "")));
        } else if around(name).as_ref() == Some(value) {
            words.push(format!("--build-arg {name}"));
        } else {
            left_out = LeftOut::Proxies;
        }
    }
    words.push(format!("--secret id={SECRET},src={}", file.display()));
    (words.join(" "), left_out)
}

/// Whether a proxy's address has more than a label in it.
fn has_secret(proxy: &str) -> bool {
    let Some((before, _)) = proxy.rsplit_once('@') else { return false };
    let credential = before.rsplit_once('/').map_or(before, |(_, credential)| credential);
    credential.split_once(':').is_none_or(|(_, secret)| !secret.is_empty())
}

/// Keys of a job that builds with `docker build $LARDER_BUILD .`.
fn gitlab(told: &Told) -> (String, LeftOut) {
    let file = format!("$larder_build/{FILE}");
    let body = told.secret();
    let (options, left_out) = options(told, Path::new(&file), &|_| None);
    // A name that others cannot be there with first, and do not get into.
    let lines = format!(
        "larder_build=$(mktemp -d /tmp/larder-XXXXXX)\ncat > \"{file}\" <<'LARDER'\n{body}LARDER\nexport LARDER_BUILD=\"{options}\"\n"
    );
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    (format!("# script: docker build $LARDER_BUILD .\nbefore_script:\n  - |\n{lines}"), left_out)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::super::tools::Settings;
    use super::*;

    fn told() -> Told {
        let pairs = [
            ("http_proxy", "http://b:t%2F@10.0.0.1:7070"),
            ("https_proxy", "http://b:@10.0.0.1:7070"),
            ("no_proxy", "a, b"),
            ("http_no_proxy", "a|b"),
            ("GOPROXY", "http://10.0.0.1:7070/go,direct"),
        ];
        let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Told::of(Settings { env, ..Settings::default() }, None)
    }

    #[test]
    fn a_token_is_in_no_option() {
        let plain = "--build-arg https_proxy=http://b:@10.0.0.1:7070 --build-arg no_proxy=a,b \
                     --secret id=cache,src=/d/build.env";
        let of = |value: &'static str| {
            options(&told(), Path::new("/d/build.env"), &|name| (name == "http_proxy").then(|| value.to_owned()))
        };
        assert_eq!(of("http://b:t%2F@10.0.0.1:7070"), (format!("--build-arg http_proxy {plain}"), LeftOut::Nothing));
        // By name, containers would be led to where they do not come.
        assert_eq!(of("http://b:t%2F@127.0.0.1:7070"), (plain.to_owned(), LeftOut::Proxies));
        assert!(has_secret("me:hush@corp.example:3128") && has_secret("http://key@corp.example"));
        assert!(!has_secret("http://corp.example:3128") && !has_secret("http://label:@larder.example"));
    }

    #[test]
    fn a_job_makes_the_secret_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let (job, left_out) = gitlab(&told());
        let script = job.split_once("  - |\n").expect("has a script").1;
        let script = script.replace("/tmp/larder-", &dir.path().join("larder-").display().to_string());
        let script = script.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>();
        let output = std::process::Command::new("sh").args(["-c", &format!("{script}echo $LARDER_BUILD")]).output();
        let said = String::from_utf8_lossy(&output.expect("sh runs").stdout).into_owned();
        assert!(!said.contains("t%2F") && said.contains("--build-arg no_proxy=a,b --secret id=cache,"), "{said}");
        assert_eq!(left_out, LeftOut::Proxies);
        let secret = said.trim_end().rsplit_once("src=").expect("names it").1;
        let mode = std::fs::metadata(Path::new(secret).parent().expect("is in a directory")).expect("was made").mode();
        assert_eq!(mode & 0o777, 0o700, "it holds a token");
        let secret = std::fs::read_to_string(secret).expect("was made");
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
