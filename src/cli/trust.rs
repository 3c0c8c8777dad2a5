//! Whom a build's tools have to trust so that larder may stand for the hosts that it intercepts: the one table of what
//! each tool reads, and files that are made for one command.
//!
//! Most of these variables replace what a tool trusts of itself. So none is ever given larder's authority alone: always
//! what the user named in that variable, else what the system trusts, and larder's with it.
//!
//! Tried with curl 7.88, git 2.39, go 1.26, cargo 1.95, node 20, pip 23, java 17 and apt 2.6.

mod apt;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use url::Url;

use super::client::{Client, ClientError};
use super::discover::{Surroundings, cargo, ini, npm, pip};
use super::failure::Failure;
use super::keystore::{self, Der};
use super::out;
use crate::model::digest::Digest;
use crate::model::hex;

/// Bundles that are kept; they are named by what is in them, and parallel builds share them.
const KEPT: usize = 32;
/// What a server's authorities are kept in, in the directory of its agent.
const KNOWN: &str = "authorities.json";
/// What Java calls the file that it trusts.
const JAVA_STORE: &str = "-Djavax.net.ssl.trustStore";
/// Where a Java keeps its own.
const JAVA_OWN: &str = "lib/security/cacerts";

/// A variable that names a file of certificates.
pub(crate) struct Variable {
    pub name: &'static str,
    pub read_by: &'static str,
    pub kind: Kind,
}

/// What becomes of what the tool trusts of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Trusted in the place of all else.
    Instead,
    /// Trusted beside what the tool trusts of itself.
    Beside,
    /// Trusted in the place of all else, and set where the user has it: without it another variable is enough.
    IfNamed,
}

const fn instead(name: &'static str, read_by: &'static str) -> Variable {
    Variable { name, read_by, kind: Kind::Instead }
}

/// What `run` sets beside `JAVA_TOOL_OPTIONS`.
pub(crate) static VARIABLES: [Variable; 18] = [
    instead("SSL_CERT_FILE", "OpenSSL and what uses it (Python's ssl, Ruby, PHP, Perl), Go, uv, rustls"),
    instead("CURL_CA_BUNDLE", "curl"),
    instead("GIT_SSL_CAINFO", "git"),
    instead("GIT_PROXY_SSL_CAINFO", "git, for a larder that speaks TLS itself"),
    instead("CARGO_HTTP_CAINFO", "cargo"),
    instead("CARGO_HTTP_PROXY_CAINFO", "cargo, for a larder that speaks TLS itself"),
    instead("PIP_CERT", "pip"),
    instead("REQUESTS_CA_BUNDLE", "Python's requests, and what uses it: poetry, twine, conda"),
    instead("CONDA_SSL_VERIFY", "conda"),
    instead("AWS_CA_BUNDLE", "AWS tools"),
    instead("BUNDLE_SSL_CA_CERT", "Bundler"),
    instead("COMPOSER_CAFILE", "Composer"),
    instead("HEX_CACERTS_PATH", "Hex"),
    instead("NIX_SSL_CERT_FILE", "Nix"),
    instead("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "gRPC"),
    Variable { name: "NODE_EXTRA_CA_CERTS", read_by: "Node.js: npm, pnpm, yarn", kind: Kind::Beside },
    Variable { name: "npm_config_cafile", read_by: "npm, where its cafile is set", kind: Kind::IfNamed },
    Variable { name: "DENO_CERT", read_by: "Deno", kind: Kind::Beside },
];

/// The table for people; `file` stands for the bundle.
pub(crate) fn table(file: &str) -> Vec<Vec<String>> {
    let mut rows: Vec<_> =
        VARIABLES.iter().map(|one| vec![format!("{}={file}", one.name), one.read_by.to_owned()]).collect();
    let java = format!("JAVA_TOOL_OPTIONS={JAVA_STORE}=larder.jks");
    rows.push(vec![java, "every JVM: Maven, Gradle, Leiningen, sbt (larder ca print --format jks)".to_owned()]);
    rows.push(vec![
        format!("Acquire::https::CaInfo \"{file}\";"),
        "apt, in a file below /etc/apt/apt.conf.d, or the one that APT_CONFIG names; its user _apt has to be able to \
        read what it names. It reads no variable for certificates"
            .to_owned(),
    ]);
    rows.push(vec![
        "update-ca-certificates".to_owned(),
        "the whole system, after larder.crt is put into \
        /usr/local/share/ca-certificates: wget, apt, and what reads no variable"
            .to_owned(),
    ]);
    rows
}

/// The section of the docs.
pub(crate) fn markdown() -> String {
    let head = "\n## Certificates\n\nWhere a server intercepts hosts (`[intercept]`), `larder run` sets these too, each to a \
                file that holds what was named there before, else what the system trusts, and larder's authority. `larder \
                ca tools` prints the same.\n\n| Setting | Read by |\n|---|---|\n";
    table("FILE").iter().fold(head.to_owned(), |page, row| format!("{page}| `{}` | {} |\n", row[0], row[1]))
}

/// What a server says that its clients have to trust.
#[derive(Serialize, Deserialize, Debug, Default, Clone, PartialEq, Eq)]
#[serde(default)]
pub(crate) struct Offer {
    own: String,
    intercept: String,
    pub hosts: Vec<String>,
}

impl Offer {
    /// As tools need it that are led to larder at `address`: over plain HTTP none of them sees its own certificate.
    pub fn at(mut self, address: &Url) -> Offer {
        if address.scheme() == "http" {
            self.own.clear();
        }
        self
    }

    /// Every authority, as DER.
    pub fn certificates(&self) -> Vec<Der> {
        let both = format!("{}{}", self.own, self.intercept);
        CertificateDer::pem_slice_iter(both.as_bytes()).filter_map(|one| Some(one.ok()?.to_vec())).collect()
    }
}

/// Whether the user said that an authority may be believed which came over a network in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consent {
    Given,
    Missing,
}

/// Asks a server what its clients have to trust. None: nothing, or it is too old to know.
///
/// *Errors*: it does not answer; the answer came in the clear, and there is no consent.
pub(crate) async fn offered(client: &Client, consent: Consent) -> Result<Option<Offer>, Failure> {
    let offer: Offer = match client.get("/api/v1/ca").await {
        Ok(offer) => offer,
        Err(ClientError::Status { status: 404, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if offer.certificates().is_empty() {
        return Ok(None);
    }
    if client.base.scheme() == "http" && client.owner.is_none() && consent == Consent::Missing {
        let message = format!(
            "the authority of {} came over plain HTTP: whoever is on the way, or has that port, could have \
             put its own in its place",
            client.address()
        );
        let help = "use https://; or take it there by `larder ca print` and trust it as you do others; or, where the \
                    network can be trusted, say --trust-plain-http";
        return Err(Failure::failed(message, help));
    }
    Ok(Some(offer))
}

/// What the server behind an agent offered last, from the agent's directory.
pub(crate) fn known(agent: &Path) -> Option<Offer> {
    let offer: Offer = serde_json::from_slice(&fs::read(agent.join(KNOWN)).ok()?).ok()?;
    Some(offer).filter(|offer| !offer.certificates().is_empty())
}

/// Keeps that, for builds that find the server lost. What is not kept is not trusted then, and that is all.
pub(crate) fn remember(agent: &Path, offered: Option<&Offer>) {
    if known(agent).as_ref() == offered {
        return;
    }
    let text = serde_json::to_vec(&offered).unwrap_or_default();
    let fresh = agent.join(format!("{KNOWN}.new-{}", std::process::id()));
    let _ = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, agent.join(KNOWN))).inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    });
}

/// What a command trusts before larder comes.
pub(crate) struct Before<'a> {
    around: &'a Surroundings<'a>,
    /// What the system trusts.
    system: Vec<Der>,
}

impl<'a> Before<'a> {
    pub fn here(around: &'a Surroundings<'a>) -> Before<'a> {
        let system = rustls_native_certs::load_native_certs().certs.into_iter().map(|one| one.to_vec()).collect();
        Before { around, system }
    }

    /// What the file or directory holds that the user named for a tool. None: none is named that can be read.
    fn named(&self, variable: &str) -> Option<Vec<Der>> {
        let named = self.around.var(variable).map(str::to_owned).or_else(|| configured(self.around, variable))?;
        let path = PathBuf::from(named);
        let (file, dir) = if path.is_dir() { (None, Some(&*path)) } else { (Some(&*path), None) };
        let read = rustls_native_certs::load_certs_from_paths(file, dir);
        if read.certs.is_empty() {
            let path = path.display();
            out::note(&format!("{path} (of {variable}) holds no certificates; the system's stand in for them"));
            return None;
        }
        Some(read.certs.into_iter().map(|one| one.to_vec()).collect())
    }

    /// What Java trusts: the user's store, else the one of the Java that would run. None: neither can be read.
    fn of_java(&self, options: &str, password: &str) -> Option<Vec<Der>> {
        let own = || {
            let home = self.around.var("JAVA_HOME").map(PathBuf::from);
            let home = home.or_else(|| java_on(self.around.var("PATH")?));
            home.map(|home| home.join(JAVA_OWN))
        };
        let (path, is_users) = match option(options, JAVA_STORE) {
            Some(path) => (PathBuf::from(path), true),
            None => (own()?, false),
        };
        let read = fs::read(&path).map_err(|error| error.to_string());
        match read.and_then(|store| keystore::trusted(&store, password).map_err(|error| error.to_string())) {
            Ok(trusted) if !trusted.is_empty() => Some(trusted),
            Ok(_) => None,
            Err(why) => {
                if is_users {
                    let path = path.display();
                    out::note(&format!(
                        "{path} in JAVA_TOOL_OPTIONS: {why}; the system's certificates stand in for it"
                    ));
                }
                None
            }
        }
    }
}

/// Makes bundles below `dir`, and returns the variables that lead tools to them.
///
/// *Errors*: a file cannot be written.
pub(crate) fn lay(dir: &Path, before: &Before<'_>, larder: &[Der]) -> io::Result<Vec<(String, String)>> {
    fs::create_dir_all(dir)?;
    let mut env = Vec::new();
    for variable in &VARIABLES {
        let known = match (before.named(variable.name), variable.kind) {
            (Some(named), _) => named,
            (None, Kind::Instead) => before.system.clone(),
            (None, Kind::Beside) => Vec::new(),
            (None, Kind::IfNamed) => continue,
        };
        env.push((variable.name.to_owned(), bundle(dir, known, larder)?.display().to_string()));
    }
    env.push(("JAVA_TOOL_OPTIONS".to_owned(), java(dir, before, larder)?));
    env.extend(apt::variable(dir, before, larder)?);
    Ok(env)
}

fn bundle(dir: &Path, known: Vec<Der>, larder: &[Der]) -> io::Result<PathBuf> {
    kept(dir, "pem", keystore::pem(&with(known, larder)).as_bytes())
}

fn java(dir: &Path, before: &Before<'_>, larder: &[Der]) -> io::Result<String> {
    let options = before.around.var("JAVA_TOOL_OPTIONS").unwrap_or_default();
    let password = option(options, "-Djavax.net.ssl.trustStorePassword").unwrap_or_else(|| keystore::PASSWORD.into());
    let known = before.of_java(options, &password).unwrap_or_else(|| before.system.clone());
    let file = kept(dir, "jks", &keystore::jks(&with(known, larder), &password))?;
    let path = file.display().to_string();
    let store = format!("{JAVA_STORE}={path}");
    let store = if path.contains(char::is_whitespace) { format!("\"{store}\"") } else { store };
    // The last one counts.
    Ok(format!("{options} {store} {JAVA_STORE}Type=JKS").trim_start().to_owned())
}

/// What a tool's own files name, over which a variable would win.
fn configured(around: &Surroundings<'_>, variable: &str) -> Option<String> {
    let of_ini = |files: Vec<PathBuf>, wanted: &str| {
        files.iter().find_map(|file| {
            let text = around.read(file)?;
            ini(&text).find(|(_, name, _)| *name == wanted).map(|(_, _, value)| value.to_owned())
        })
    };
    match variable {
        "npm_config_cafile" => {
            let other = around.var("NPM_CONFIG_CAFILE").map(str::to_owned);
            other.or_else(|| of_ini(npm::files(around), "cafile"))
        }
        "PIP_CERT" => of_ini(pip::files(around), "cert"),
        "CARGO_HTTP_CAINFO" => {
            let config: toml::Table = cargo::home_config(around)?.parse().ok()?;
            Some(config.get("http")?.get("cainfo")?.as_str()?.to_owned())
        }
        "GIT_SSL_CAINFO" => {
            let said = around.ask_now("git", &["config", "--type=path", "--get", "http.sslCAInfo"])?;
            Some(said.trim().to_owned()).filter(|path| !path.is_empty())
        }
        _ => None,
    }
}

/// The value of one of Java's options; the last one counts.
fn option(options: &str, name: &str) -> Option<String> {
    words(options).iter().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).next_back().map(str::to_owned)
}

/// `JAVA_TOOL_OPTIONS` as a JVM takes it apart: at blanks that do not stand between quotes.
fn words(options: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for letter in options.chars() {
        match quote {
            Some(open) if open == letter => quote = None,
            None if matches!(letter, '"' | '\'') => quote = Some(letter),
            None if letter.is_whitespace() => words.push(String::new()),
            Some(_) | None => words.last_mut().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words
}

/// The home of the Java that PATH leads to.
fn java_on(path: &str) -> Option<PathBuf> {
    let found = std::env::split_paths(path).map(|dir| dir.join("java")).find(|file| file.is_file())?;
    Some(fs::canonicalize(found).ok()?.parent()?.parent()?.to_owned())
}

/// In one order, so that a run within a run makes no other file.
fn with(mut known: Vec<Der>, larder: &[Der]) -> Vec<Der> {
    known.extend_from_slice(larder);
    known.sort_unstable();
    known.dedup();
    known
}

/// A file that is named by what it holds.
fn kept(dir: &Path, ending: &str, bytes: &[u8]) -> io::Result<PathBuf> {
    let mut room = [0; 2 * Digest::LEN];
    let digest = Digest::of(bytes);
    let name = &hex::text(digest.as_bytes(), &mut room)[..16];
    let file = dir.join(format!("{name}.{ending}"));
    if fs::read(&file).is_ok_and(|there| there == bytes) {
        return Ok(file);
    }
    make_room(dir)?;
    let fresh = dir.join(format!("{name}.new-{}", std::process::id()));
    fs::write(&fresh, bytes)?;
    // Certificates are no secret, and who reads them may be another user.
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644))?;
    fs::rename(&fresh, &file)?;
    Ok(file)
}

/// Drops the oldest bundles, where there are many.
fn make_room(dir: &Path) -> io::Result<()> {
    let dated = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
    };
    let mut there: Vec<_> = fs::read_dir(dir)?.filter_map(dated).collect();
    there.sort();
    for (_, file) in there.iter().take((there.len() + 1).saturating_sub(KEPT)) {
        // Another build may have been faster.
        let _ = fs::remove_file(file);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::discover::tool::NoTools;
    use super::*;

    pub(super) fn certificates(names: &[&str]) -> Vec<Der> {
        let make = |name: &&str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new(vec![(*name).to_owned()]).expect("a name");
            params.self_signed(&key).expect("a certificate").der().to_vec()
        };
        names.iter().map(make).collect()
    }

    pub(super) fn read(path: &str) -> Vec<Der> {
        let certificates = CertificateDer::pem_file_iter(path).expect("a bundle");
        certificates.map(|one| one.expect("PEM").to_vec()).collect()
    }

    pub(super) fn surroundings(root: &Path, env: &[(&str, String)]) -> Surroundings<'static> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Surroundings::new(root, &root.join("app"), env, &NoTools)
    }

    fn both(one: &Der, other: &Der) -> Vec<Der> {
        with(vec![one.clone()], std::slice::from_ref(other))
    }

    #[test]
    fn nobody_loses_what_was_trusted_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let [system, users, larder] =
            certificates(&["system.example", "users.example", "larder.example"]).try_into().expect("three");
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("users.pem"), keystore::pem(std::slice::from_ref(&users))).expect("writes");
        fs::create_dir(at("empty")).expect("makes");
        fs::create_dir_all(at("root/.cargo")).expect("makes");
        let cainfo = format!("[http]\ncainfo = {:?}\n", at("users.pem"));
        fs::write(at("root/.cargo/config.toml"), cainfo).expect("writes");
        fs::write(at("root/.npmrc"), format!("cafile={}\n", at("users.pem"))).expect("writes");
        let env = [
            ("HOME", "/root".to_owned()),
            ("PIP_CERT", at("users.pem")),
            ("NODE_EXTRA_CA_CERTS", at("users.pem")),
            ("CURL_CA_BUNDLE", at("empty")),
        ];
        let around = surroundings(dir.path(), &env);
        let before = Before { around: &around, system: vec![system.clone()] };
        let bundles = dir.path().join("a b");
        let env = lay(&bundles, &before, std::slice::from_ref(&larder)).expect("lays");
        let of = |name: &str| env.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
        for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE"] {
            assert_eq!(read(of(name)), both(&system, &larder), "{name}");
        }
        for name in ["PIP_CERT", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO", "npm_config_cafile"] {
            assert_eq!(read(of(name)), both(&users, &larder), "{name}");
        }
        assert_eq!(read(of("DENO_CERT")), std::slice::from_ref(&larder));
        assert!(of("JAVA_TOOL_OPTIONS").starts_with("\"-Djavax.net.ssl.trustStore="));

        // A second build on the same machine finds the same files, and a run within a run adds nothing.
        assert_eq!(lay(&bundles, &before, std::slice::from_ref(&larder)).expect("lays"), env);
        let nested: Vec<(&str, String)> = env.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let around = surroundings(dir.path(), &nested);
        let before = Before { around: &around, system: Vec::new() };
        let again = lay(&bundles, &before, std::slice::from_ref(&larder)).expect("lays");
        assert_eq!(again[0], env[0]);
    }

    /// What a file holds comes back in an order of its own; keys are by chance, so the order of two is too.
    #[test]
    fn a_bundle_is_named_by_what_is_in_it_and_not_by_the_order() {
        let [one, other, larder] =
            certificates(&["one.example", "other.example", "larder.example"]).try_into().expect("three");
        let all = with(vec![one.clone(), other.clone()], std::slice::from_ref(&larder));
        assert_eq!(with(vec![larder.clone(), other.clone(), one.clone()], std::slice::from_ref(&larder)), all);
        assert_eq!(with(vec![other, one], std::slice::from_ref(&larder)), all);
    }

    /// A path between quotes may hold blanks, and a run within a run reads what the outer one wrote.
    #[test]
    fn a_java_store_whose_path_holds_a_blank_is_found_again() {
        for (options, found) in [
            ("\"-Djavax.net.ssl.trustStore=/a b/c\" -Dx=y", Some("/a b/c")),
            ("-Djavax.net.ssl.trustStore=/a -Djavax.net.ssl.trustStore='/b c'", Some("/b c")),
            ("-Xmx1g\t-Djavax.net.ssl.trustStore=/a", Some("/a")),
            ("-Djavax.net.ssl.trustStoreType=JKS", None),
        ] {
            assert_eq!(option(options, JAVA_STORE).as_deref(), found, "{options}");
        }
    }

    #[test]
    fn javas_own_store_and_options_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let [system, javas, larder] =
            certificates(&["system.example", "javas.example", "larder.example"]).try_into().expect("three");
        let at = |name: &str| dir.path().join(name).display().to_string();
        fs::write(at("j"), keystore::pkcs12(std::slice::from_ref(&javas), "secret").expect("a store")).expect("writes");
        let options = format!("-Xmx1g {JAVA_STORE}={} {JAVA_STORE}Password=secret", at("j"));
        let around = surroundings(dir.path(), &[("JAVA_TOOL_OPTIONS", options.clone())]);
        let before = Before { around: &around, system: vec![system.clone()] };
        let told = java(dir.path(), &before, std::slice::from_ref(&larder)).expect("lays");
        assert!(told.starts_with(&options), "{told}");
        let trusted = |told: &str, password: &str| {
            let store = fs::read(option(told, JAVA_STORE).expect("a store")).expect("a store");
            keystore::trusted(&store, password).expect("a store")
        };
        assert_eq!(trusted(&told, "secret"), both(&javas, &larder));

        fs::create_dir_all(at("java/lib/security")).expect("makes");
        let around = surroundings(dir.path(), &[("JAVA_HOME", at("java"))]);
        let before = Before { around: &around, system: vec![system.clone()] };
        let told = java(dir.path(), &before, std::slice::from_ref(&larder)).expect("lays");
        assert_eq!(trusted(&told, keystore::PASSWORD), both(&system, &larder), "it has no store that can be read");
        fs::write(at("java/lib/security/cacerts"), keystore::jks(std::slice::from_ref(&javas), "x")).expect("writes");
        let told = java(dir.path(), &before, std::slice::from_ref(&larder)).expect("lays");
        assert_eq!(trusted(&told, keystore::PASSWORD), both(&javas, &larder));
    }

    #[test]
    fn only_who_speaks_tls_with_larder_needs_its_own_authority() {
        let pem = |name: &str| keystore::pem(&certificates(&[name]));
        let offer = Offer { own: pem("own.example"), intercept: pem("files.example"), hosts: Vec::new() };
        let count = |url: &str| offer.clone().at(&Url::parse(url).expect("an address")).certificates().len();
        assert_eq!((count("http://127.0.0.1:1/"), count("https://cache.example/")), (1, 2));
    }

    #[test]
    fn bundles_are_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        for at in 0..2 * KEPT {
            kept(dir.path(), "pem", at.to_string().as_bytes()).expect("writes");
        }
        assert!(fs::read_dir(dir.path()).expect("reads").count() <= KEPT);
    }
}
