//! What a tool's own files are given, for machines where larder is not installed. From what `larder env` prints, for the
//! docs.

use super::{Client, Settings, maven, render, settings_of};

/// Where apt's script goes.
const APT_SCRIPT: &str = "/usr/local/bin/larder-apt-proxy";

/// Text to be pasted.
pub struct Pasted {
    /// Where it goes, for people.
    pub place: &'static str,
    /// What it is written in, as Markdown calls it.
    pub language: &'static str,
    pub text: String,
}

/// For the tool of this word.
pub fn pasted(client: &Client<'_>, word: &str) -> Pasted {
    let settings = settings_of(client, &|one| one == word);
    match word {
        "cargo" => Pasted {
            place: "In `~/.cargo/config.toml`, or a project's `.cargo/config.toml`",
            language: "toml",
            text: settings.here.files.first().map(|(_, text)| text.clone()).unwrap_or_default(),
        },
        "apt" => Pasted { place: "As root", language: "sh", text: apt(&settings) },
        "maven" => Pasted { place: "In `~/.m2/settings.xml`", language: "xml", text: maven::own_settings(client) },
        "lein" => Pasted {
            place: "In `~/.lein/profiles.clj`, with a larder that speaks TLS (`[server.tls] names`), since Leiningen \
                    refuses plain HTTP",
            language: "clojure",
            text: lein(client),
        },
        _ => Pasted {
            place: "In a shell's profile",
            language: "sh",
            text: render::exports(&settings, settings.env.iter()),
        },
    }
}

fn apt(settings: &Settings) -> String {
    let [(script, program), (_, config)] = &settings.here.files[..] else { return String::new() };
    let config = config.replace(&script.display().to_string(), APT_SCRIPT);
    format!(
        "cat > {APT_SCRIPT} <<'LARDER'\n{program}LARDER\nchmod +x {APT_SCRIPT}\n\
         cat > /etc/apt/apt.conf.d/30larder <<'LARDER'\n{config}LARDER\n"
    )
}

fn lein(client: &Client<'_>) -> String {
    let mut server = client.labelled.clone();
    // Cannot fail: from one special scheme to another.
    let _ = server.set_scheme("https");
    let server = server.as_str().trim_end_matches('/').to_owned();
    format!("{{:user {{:mirrors {{\"central\" {{:name \"larder\" :url \"{server}/maven\"}}}}}}}}\n")
}
