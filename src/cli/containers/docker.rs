//! The settings of the `docker` client, for one command: its own `config.json` with `proxies` added, in a directory where
//! everything else is a link to the real one, so that log-ins, contexts and plug-ins are the same. The client hands these
//! proxies to every build, as arguments that are in no layer, key or history, and to every container.
//!
//! Source: the Docker CLI's reference, "Configure the Docker client".

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde_json::{Value, json};

/// The proxies of a client's builds and containers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Proxies {
    pub http: String,
    pub https: String,
    pub none: String,
}

/// The user's configuration with proxies added.
///
/// *Shape*: None when the user has proxies, which then stay, or when the text is not understood.
pub(crate) fn with_proxies(text: Option<&str>, proxies: &Proxies) -> Option<String> {
    let mut config: Value = serde_json::from_str(text.unwrap_or("{}")).ok()?;
    let config = config.as_object_mut()?;
    if config.get("proxies").and_then(Value::as_object).is_some_and(|known| !known.is_empty()) {
        return None;
    }
    let Proxies { http, https, none } = proxies;
    let default = json!({ "default": { "httpProxy": http, "httpsProxy": https, "noProxy": none } });
    config.insert("proxies".to_owned(), default);
    serde_json::to_string(&config).ok()
}

/// Makes `over` the user's directory `real` with another `config.json`. Only its owner reads it: it may hold log-ins.
pub(crate) fn lay(over: &Path, real: &Path, config: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(over)?;
    for entry in fs::read_dir(real).into_iter().flatten() {
        let entry = entry?;
        if entry.file_name() != "config.json" {
            // What it leads to need not be there.
            std::os::unix::fs::symlink(std::path::absolute(entry.path())?, over.join(entry.file_name()))?;
        }
    }
    let options = fs::File::options().write(true).create_new(true).mode(0o600).open(over.join("config.json"));
    io::Write::write_all(&mut options?, config.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        let larder = "http://b:t@172.17.0.1:7070".to_owned();
        Proxies { http: larder.clone(), https: larder, none: "localhost".into() }
    }

    #[test]
    fn log_ins_and_contexts_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let (real, over) = (dir.path().join("real"), dir.path().join("over"));
        fs::create_dir_all(real.join("contexts/meta")).expect("a directory");
        fs::write(real.join("config.json"), r#"{"auths":{"r.example":{"auth":"eDp5"}},"currentContext":"ci"}"#)
            .expect("a file");
        let text = fs::read_to_string(real.join("config.json")).expect("reads");
        lay(&over, &real, &with_proxies(Some(&text), &proxies()).expect("is understood")).expect("is laid");
        let laid: Value =
            serde_json::from_str(&fs::read_to_string(over.join("config.json")).expect("reads")).expect("is JSON");
        assert_eq!(laid["auths"]["r.example"]["auth"], "eDp5");
        assert_eq!(laid["currentContext"], "ci");
        assert_eq!(laid["proxies"]["default"]["httpProxy"], "http://b:t@172.17.0.1:7070");
        assert!(over.join("contexts/meta").is_dir());
        assert_eq!(fs::read_to_string(real.join("config.json")).expect("reads"), text);
    }

    #[test]
    fn proxies_of_the_users_own_stay() {
        let own = r#"{"proxies":{"default":{"httpProxy":"http://corp.example"}}}"#;
        assert_eq!(with_proxies(Some(own), &proxies()), None);
        assert_eq!(with_proxies(Some("{"), &proxies()), None);
        assert!(with_proxies(Some(r#"{"proxies":{}}"#), &proxies()).is_some());
        assert!(with_proxies(None, &proxies()).is_some());
    }
}
