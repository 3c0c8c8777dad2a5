//! cargo through larder: a `CARGO_HOME` laid over the real one.
//!
//! `[source]` can be set neither by variables nor in a file that cargo does not look for, `--config` does not reach a
//! cargo that make starts, and the proxy variables would give a tunnel, whose bytes nobody can keep. So `CARGO_HOME`
//! names a directory of ours: its `config.toml` is the user's with source replacement added, and everything else in it is
//! a link to the real home, locks included, so that caches and credentials are the same ones.
//!
//! A project's own configuration is nearer to cargo than any `CARGO_HOME`. Where it names a mirror, the mirror is
//! what gets replaced: cargo follows the chain `crates-io` to `mirror` to us. `Cargo.lock` names what it would name
//! without us. The directory stays the same from run to run, since cargo builds anew what has moved.
//!
//! A token reaches larder by way of the proxy variables, or, over TLS, as cargo shows any registry one: what replaces is
//! then named in `[registries]` with a provider, since cargo reads tokens for nothing else (tried with cargo 1.95).

use std::path::Path;

use toml::{Table, Value};

use super::overlay::{Overlay, Script, own_directory};
use super::{Client, Settings};
use crate::cli::discover::{Found, cargo as discovered};

/// What cargo makes in its home. A link may lead to a file that is not there yet, but not to such a directory.
const DIRECTORIES: [&str; 3] = ["registry", "git", "bin"];
const FILES: [&str; 8] = [
    ".package-cache",
    ".package-cache-mutate",
    ".global-cache",
    ".crates.toml",
    ".crates2.json",
    "credentials",
    "credentials.toml",
    "env",
];

const SOURCES: &str = "source";
const REGISTRIES: &str = "registries";

/// The overlay on machines that are not this one. Always the same, so that what was built there stays built.
const ELSEWHERE: &str = "/tmp/larder-cargo";

/// Settings for cargo; none when no sparse registry was found.
pub(super) fn settings(client: &Client<'_>) -> Settings {
    let (private, replaced): (Vec<_>, Vec<_>) = client
        .found
        .iter()
        .filter(|found| found.ecosystem == "cargo")
        .partition(|found| found.settings.contains_key("token") || !found.secrets.is_empty());
    let kept = |found: &&Found| format!("cargo's registry {} has a credential and is asked directly", found.name);
    let notes: Vec<String> = private.iter().map(kept).collect();
    if replaced.is_empty() {
        return Settings { notes, ..Settings::default() };
    }
    let real = discovered::home(client.around);
    let replacements = replacements(client, &replaced);
    let here = match config(client, &replacements, &real) {
        Ok(config) => overlay(client, &replacements, &real, config),
        Err(why) => return Settings { notes: vec![format!("cargo is left alone: {why}")], ..Settings::default() },
    };
    let agent =
        client.label.iter().map(|(label, _)| ("CARGO_HTTP_USER_AGENT".to_owned(), format!("cargo larder/{label}")));
    let env = agent.chain(tokens(client, &replacements)).collect();
    Settings { env, here, elsewhere: script(&replacements), notes, ..Settings::default() }
}

fn overlay(client: &Client<'_>, replacements: &Table, real: &Path, config: String) -> Overlay {
    let over = client.overlays.join(format!("cargo-{}", fingerprint(real, replacements)));
    let directories = DIRECTORIES.iter().map(|name| real.join(name)).chain([over.clone()]).collect();
    let links = DIRECTORIES.iter().chain(&FILES).map(|name| (over.join(name), real.join(name))).collect();
    let files = vec![(over.join("config.toml"), config)];
    let shown = |path: &Path| path.display().to_string();
    let env = vec![("CARGO_HOME".to_owned(), shown(&over)), (discovered::REAL_HOME.to_owned(), shown(real))];
    Overlay { env, directories, files, links, ..Overlay::default() }
}

/// The token for each registry of ours that may ask for one. cargo sends it as it stands.
fn tokens(client: &Client<'_>, replacements: &Table) -> Vec<(String, String)> {
    let ours = replacements.get(REGISTRIES).and_then(Value::as_table).into_iter().flat_map(Table::keys);
    let name = |name: &str| format!("CARGO_REGISTRIES_{}_TOKEN", name.to_ascii_uppercase().replace('-', "_"));
    ours.filter_map(|ours| Some((name(ours), format!("Bearer {}", client.token()?)))).collect()
}

/// The same in shell, for a home that is not known here. Its configuration is put before ours as it is.
fn script(replacements: &Table) -> Script {
    let ours = toml::to_string(replacements).unwrap_or_default().replace('\'', r"'\''");
    let (real, names) = (discovered::REAL_HOME, [&DIRECTORIES[..], &FILES[..]].concat().join(" "));
    // A table that stands twice is refused: what the home replaces already stays as it is.
    let sources = replacements.get(SOURCES).and_then(Value::as_table).into_iter().flat_map(Table::keys);
    let theirs: String = sources.map(|name| format!(" -e '[source.{name}]'")).collect();
    let lines = format!(
        "larder_real=\"${{{real}:-${{CARGO_HOME:-$HOME/.cargo}}}}\"\n\
         {}mkdir -p \"$larder_real/registry\" \"$larder_real/git\" \"$larder_real/bin\"\n\
         {{ cat \"$larder_real/config.toml\" 2>/dev/null || true; grep -qsF{theirs} \"$larder_real/config.toml\" || printf '\\n%s' '{ours}'; }} > \"$larder_cargo/config.toml\"\n\
         for name in {names}; do ln -sfn \"$larder_real/$name\" \"$larder_cargo/$name\"; done\n",
        own_directory("larder_cargo", ELSEWHERE)
    );
    // In this order: a form that sets one after the other asks the lines again for the value of the first.
    let env = vec![(real.to_owned(), "$larder_real".to_owned()), ("CARGO_HOME".to_owned(), "$larder_cargo".to_owned())];
    Script { lines, env, directories: vec![ELSEWHERE] }
}

/// `[source]` and `[registries]` entries by name.
fn replacements(client: &Client<'_>, replaced: &[&Found]) -> Table {
    let as_registry = client.token().is_some() && !client.shows_token_as_proxy();
    let (mut sources, mut registries) = (Table::new(), Table::new());
    for found in replaced {
        let Some((upstream, _)) = found.urls.first() else { continue };
        let ours = if found.name.is_empty() { "larder".to_owned() } else { format!("larder-{}", found.name) };
        let theirs = found.settings.get("source").cloned().unwrap_or_else(|| format!("{ours}-from"));
        let mut source = Table::from_iter([("replace-with".to_owned(), Value::String(ours.clone()))]);
        // Elsewhere than in the project that names the mirror, it would be a source without a place.
        if let Some(location) = found.settings.get("location").filter(|_| theirs != "crates-io") {
            source.insert("registry".into(), Value::String(location.clone()));
        }
        sources.insert(theirs, Value::Table(source));
        let index = Value::String(format!("sparse+{}/", client.through(&client.server, "cargo", upstream)));
        if as_registry {
            let provider = Value::Array(vec![Value::String("cargo:token".into())]);
            let registry = [("index".to_owned(), index), ("credential-provider".to_owned(), provider)];
            registries.insert(ours, Value::Table(Table::from_iter(registry)));
        } else {
            sources.insert(ours, Value::Table(Table::from_iter([("registry".to_owned(), index)])));
        }
    }
    let sections =
        [(SOURCES, sources), (REGISTRIES, registries)].into_iter().filter(|(_, section)| !section.is_empty());
    sections.map(|(name, section)| (name.to_owned(), Value::Table(section))).collect()
}

/// The user's configuration with the replacements added.
fn config(client: &Client<'_>, replacements: &Table, real: &Path) -> Result<String, String> {
    let text = discovered::home_config(client.around).unwrap_or_default();
    let mut config: Table = text.parse().map_err(|error| format!("its configuration cannot be read: {error}"))?;
    if let Some(base) = real.parent() {
        make_absolute(&mut config, base, real);
    }
    for (section, added) in replacements {
        let known = config.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let known = known.as_table_mut().ok_or_else(|| format!("{section} is not a table"))?;
        for (name, added) in added.as_table().into_iter().flatten() {
            let one = known.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
            let one = one.as_table_mut().ok_or_else(|| format!("{section}.{name} is not a table"))?;
            one.extend(added.as_table().into_iter().flatten().map(|(field, value)| (field.clone(), value.clone())));
        }
    }
    toml::to_string(&config).map_err(|error| error.to_string())
}

/// Paths in a configuration are relative to where it lies; ours lies elsewhere.
fn make_absolute(config: &mut Table, base: &Path, home: &Path) {
    let rooted = |value: &mut Value, base: &Path| {
        if let Value::String(path) = value {
            *path = base.join(&*path).display().to_string();
        }
    };
    // A bare name is a program on the path.
    let program = |value: &mut Value| match value {
        Value::String(path) if path.contains('/') => *path = base.join(&*path).display().to_string(),
        Value::Array(words) => {
            if let Some(Value::String(path)) =
                words.first_mut().filter(|path| path.as_str().is_some_and(|path| path.contains('/')))
            {
                *path = base.join(&*path).display().to_string();
            }
        }
        _ => {}
    };
    each(config.get_mut("paths"), &mut |path| rooted(path, base));
    each(config.get_mut("include"), &mut |file| match file.get_mut("path") {
        Some(path) => rooted(path, home),
        None => rooted(file, home),
    });
    for (table, fields) in
        [("build", &["target-dir", "build-dir"][..]), ("http", &["cainfo", "proxy-cainfo"]), ("install", &["root"])]
    {
        for field in fields {
            if let Some(value) = config.get_mut(table).and_then(|table| table.get_mut(field)) {
                rooted(value, base);
            }
        }
    }
    for field in ["rustc", "rustc-wrapper", "rustc-workspace-wrapper", "rustdoc"] {
        config.get_mut("build").and_then(|build| build.get_mut(field)).into_iter().for_each(program);
    }
    for (table, fields) in [("target", &["linker", "runner"][..]), ("source", &["directory", "local-registry"])] {
        let Some(members) = config.get_mut(table).and_then(Value::as_table_mut) else { continue };
        for (_, member) in members.iter_mut() {
            for field in fields {
                let Some(value) = member.get_mut(field) else { continue };
                if table == "target" { program(value) } else { rooted(value, base) }
            }
        }
    }
    let Some(env) = config.get_mut("env").and_then(Value::as_table_mut) else { return };
    for (_, variable) in env.iter_mut() {
        if variable.get("relative").and_then(Value::as_bool) == Some(true) {
            variable.get_mut("value").into_iter().for_each(|value| rooted(value, base));
        }
    }
}

fn each(list: Option<&mut Value>, change: &mut dyn FnMut(&mut Value)) {
    list.and_then(Value::as_array_mut).into_iter().flatten().for_each(change);
}

/// Tells overlays apart that must not be written over by one another: other homes, other servers, other mirrors.
fn fingerprint(real: &Path, replacements: &Table) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(real.as_os_str().as_encoded_bytes());
    hasher.update(&[0]);
    hasher.update(replacements.to_string().as_bytes());
    hasher.finalize().to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::tests::{variable, with_client};
    use super::*;

    fn found(name: &str, url: &str, settings: &[(&'static str, &str)]) -> Found {
        let mut found = Found::one("cargo", name, "x".into(), url).expect("is an address");
        found.settings.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        found
    }

    fn config_of(set: &Settings) -> Table {
        set.here.files[0].1.parse().expect("is TOML")
    }

    fn laid(config: &str, all: &[Found]) -> Settings {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("u/.cargo")).expect("a directory");
        std::fs::write(dir.path().join("u/.cargo/config.toml"), config).expect("a file");
        with_client(all, &[("HOME", "/u")], dir.path(), settings)
    }

    #[test]
    fn the_default_registry_is_replaced() {
        let set = laid("[net]\nretry = 7\n", &[found("", "https://crates.example/i/", &[("source", "crates-io")])]);
        let config = config_of(&set);
        assert_eq!(config["net"]["retry"].as_integer(), Some(7));
        assert_eq!(config["source"]["crates-io"]["replace-with"].as_str(), Some("larder"));
        assert!(config["source"]["crates-io"].get("registry").is_none());
        let registry = "sparse+http://larder.example:7070/cargo/@crates.example/i/";
        assert_eq!(config["source"]["larder"]["registry"].as_str(), Some(registry));
        assert!(variable(&set, "CARGO_HOME").starts_with("/cache/larder/cargo-"));
        assert!(
            set.here
                .links
                .iter()
                .any(|(at, to)| at.ends_with(".package-cache") && to.ends_with("u/.cargo/.package-cache"))
        );
        assert!(set.here.directories.iter().any(|dir| dir.ends_with("u/.cargo/registry")));
    }

    #[test]
    fn a_mirror_of_the_project_is_replaced_in_its_turn() {
        let mirror = [("source", "mirror"), ("location", "sparse+https://mirror.example/")];
        let corp = [("location", "sparse+https://corp.example/i/")];
        let set =
            laid("", &[found("", "https://mirror.example", &mirror), found("corp", "https://corp.example/i", &corp)]);
        let sources = config_of(&set)["source"].clone();
        assert_eq!(sources["mirror"]["replace-with"].as_str(), Some("larder"));
        assert_eq!(sources["mirror"]["registry"].as_str(), Some("sparse+https://mirror.example/"));
        assert_eq!(sources["larder-corp-from"]["registry"].as_str(), Some("sparse+https://corp.example/i/"));
        assert_eq!(sources["larder-corp-from"]["replace-with"].as_str(), Some("larder-corp"));
    }

    #[test]
    fn over_tls_a_token_is_shown_as_to_any_registry() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let all = [
            found("", "https://crates.example/i/", &[("source", "crates-io")]),
            found("corp-1", "https://corp.example/i", &[("location", "sparse+https://corp.example/i/")]),
        ];
        let set = with_client(&all, &[("HOME", "/u")], dir.path(), |client| {
            let server = Url::parse("https://larder.example:7070").expect("is a URL");
            let label = Some(("ci".to_owned(), "lrd_x".to_owned()));
            settings(&Client { labelled: server.clone(), server, label, overlays: "/o".into(), ..*client })
        });
        let config = config_of(&set);
        assert_eq!(config["source"]["crates-io"]["replace-with"].as_str(), Some("larder"));
        assert!(config["source"].get("larder").is_none(), "a name that stands twice is refused");
        let index = "sparse+https://larder.example:7070/cargo/@crates.example/i/";
        assert_eq!(config["registries"]["larder"]["index"].as_str(), Some(index));
        assert_eq!(config["registries"]["larder"]["credential-provider"][0].as_str(), Some("cargo:token"));
        assert_eq!(variable(&set, "CARGO_REGISTRIES_LARDER_TOKEN"), "Bearer lrd_x");
        assert_eq!(variable(&set, "CARGO_REGISTRIES_LARDER_CORP_1_TOKEN"), "Bearer lrd_x");
        assert!(!set.here.files[0].1.contains("lrd_x") && !set.elsewhere.lines.contains("lrd_x"));
        assert!(set.notes.is_empty(), "{:?}", set.notes);
    }

    #[test]
    fn registries_with_a_credential_are_left_alone() {
        let set = laid("", &[found("corp", "https://corp.example", &[("token", "yes")])]);
        assert!(set.env.is_empty() && set.here == Overlay::default());
        assert_eq!(set.notes, ["cargo's registry corp has a credential and is asked directly"]);
        let set = laid("no toml", &[found("", "https://crates.example", &[("source", "crates-io")])]);
        assert!(set.env.is_empty() && set.notes[0].contains("left alone"), "{set:?}");
    }

    /// cargo refuses a table that stands twice, and then every build fails.
    #[test]
    fn elsewhere_a_source_that_the_home_replaces_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let set = laid("", &[found("", "https://crates.example/i/", &[("source", "crates-io")])]);
        let lines = set.elsewhere.lines.replace(ELSEWHERE, &dir.path().join("over").display().to_string());
        for (own, expected) in [("[source.crates-io]\nreplace-with = 'mine'\n", 1), ("[net]\n", 2)] {
            std::fs::write(dir.path().join("config.toml"), own).expect("a file");
            let sh = std::process::Command::new("sh").args(["-ec", &lines]).env("CARGO_HOME", dir.path()).status();
            assert!(sh.expect("sh runs").success());
            let config = std::fs::read_to_string(dir.path().join("over/config.toml")).expect("was made");
            let config: Table = config.parse().expect("is TOML");
            assert_eq!(config.get("source").map_or(0, |source| source.as_table().map_or(0, Table::len)), expected);
        }
    }

    #[test]
    fn relative_paths_still_lead_where_they_led() {
        let mut config: Table =
            "paths = ['p']\ninclude = ['more.toml']\n[build]\ntarget-dir = 't'\nrustc-wrapper = 'sccache'\n\
            [target.x]\nlinker = 'bin/ld'\nrunner = ['./run', 'a/b']\n[source.v]\ndirectory = '/abs'\n\
            [env]\nA = { value = 'v', relative = true }\nB = 'v'\n"
                .parse()
                .expect("is TOML");
        make_absolute(&mut config, Path::new("/u"), Path::new("/u/.cargo"));
        assert_eq!(config["paths"][0].as_str(), Some("/u/p"));
        assert_eq!(config["include"][0].as_str(), Some("/u/.cargo/more.toml"));
        assert_eq!(config["build"]["target-dir"].as_str(), Some("/u/t"));
        assert_eq!(config["build"]["rustc-wrapper"].as_str(), Some("sccache"));
        assert_eq!(config["target"]["x"]["linker"].as_str(), Some("/u/bin/ld"));
        assert_eq!(config["target"]["x"]["runner"][0].as_str(), Some("/u/./run"));
        assert_eq!(config["target"]["x"]["runner"][1].as_str(), Some("a/b"));
        assert_eq!(config["source"]["v"]["directory"].as_str(), Some("/abs"));
        assert_eq!(config["env"]["A"]["value"].as_str(), Some("/u/v"));
        assert_eq!(config["env"]["B"].as_str(), Some("v"));
    }

    /// cargo itself reads what is laid: with no network, it must want the replacement and nothing else.
    #[test]
    fn the_installed_cargo_asks_what_is_laid() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let app = dir.path().join("app");
        std::fs::create_dir_all(app.join("src")).expect("a directory");
        std::fs::write(app.join("src/lib.rs"), "").expect("a file");
        std::fs::write(app.join("Cargo.toml"), "[package]\nname='a'\nedition='2021'\n[dependencies]\nx='1'\n")
            .expect("a file");
        let all = [found("", "https://crates.example/i/", &[("source", "crates-io")])];
        let mut set = with_client(&all, &[("HOME", "/u")], dir.path(), settings).here;
        let over = dir.path().join("over");
        for at in set.links.iter_mut().map(|(at, _)| at).chain(set.files.iter_mut().map(|(at, _)| at)) {
            *at = over.join(at.file_name().expect("has a name"));
        }
        set.directories.last_mut().expect("the overlay is last").clone_from(&over);
        set.lay().expect("can be laid");
        let output = std::process::Command::new(env!("CARGO"))
            .args(["generate-lockfile", "--offline"])
            .current_dir(&app)
            .env("CARGO_HOME", &over)
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("larder"), "{said}");
    }
}
