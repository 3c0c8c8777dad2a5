//! What the loader accepts, and the one line it says when it does not.

use super::*;
use crate::protocol::hosts::Learn;

fn refused(text: &str) -> String {
    let error = parse("larder.toml", text).expect_err(text).to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn with(variables: impl Into<Variables>) -> Result<Loaded, ConfigError> {
    let none = tempfile::tempdir().expect("a directory");
    let file = none.path().join("larder.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:1\"\n[index]\nbuilds_max = 1\n").expect("writes");
    load(&Flags { config: Some(file), ..Flags::default() }, &variables.into())
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest() {
    assert_eq!(
        refused("[server]\nlisten = \"127.0.0.1:0\"\nlistne = 1\n"),
        "larder.toml:3: unknown key server.listne; did you mean server.listen?"
    );
    assert_eq!(refused("[serve]\n"), "larder.toml:1: unknown key serve; did you mean server?");
    assert_eq!(
        refused("[gate]\nlearn = \"ask\"\n"),
        "larder.toml:2: unknown key gate.learn; did you mean upstreams.learn?"
    );
    assert_eq!(
        refused("[data]\ncompletely_else = 1\n"),
        "larder.toml:2: unknown key data.completely_else; [data] takes: dir"
    );
}

#[test]
fn a_wrong_value_names_line_key_and_default() {
    assert_eq!(
        refused("[index]\nbuilds_max = \"many\"\n"),
        "larder.toml:2: index.builds_max: found the text \"many\", expected a whole number, not below zero; \
         the default is 1000"
    );
    assert_eq!(
        refused("[upstream]\n\nqueue_deadline = \"soon\"\n"),
        "larder.toml:3: upstream.queue_deadline: `soon` is not a duration; write for example 500ms, 10s, 5m, 1h30m or 7d; \
         the default is \"15s\""
    );
    assert_eq!(
        refused("[upstreams]\nlearn = \"all\"\n"),
        "larder.toml:2: upstreams.learn: found \"all\", expected \"auto\" or \"listed\" or \"ask\" or \
         \"public\"; the default is \"auto\""
    );
    assert!(refused("server = 3\n").starts_with("larder.toml:1: server: found the number 3, expected a table"));
    assert!(
        refused("[gate]\nanonymous_read = [\"10.0.0.0/99\"]\n").starts_with("larder.toml:2: gate.anonymous_read: ")
    );
}

#[test]
fn what_is_not_toml_names_the_line() {
    let line = refused("[server]\nlisten = \n");
    assert!(line.starts_with("larder.toml:2: not TOML: "), "{line}");
}

#[test]
fn an_unreadable_file_is_one_line_with_a_remedy() {
    let flags = Flags { config: Some("/nonexistent/larder.toml".into()), ..Flags::default() };
    let line = load(&flags, &Variables::default()).expect_err("no such file").to_string();
    assert!(line.starts_with("/nonexistent/larder.toml: no such file; "), "{line}");
    let flags = Flags { config: Some("/".into()), ..Flags::default() };
    let line = load(&flags, &Variables::default()).expect_err("a directory").to_string();
    assert!(line.starts_with("/: cannot be read"), "{line}");
}

#[test]
fn an_unknown_ecosystem_or_a_wrong_upstream_is_refused() {
    assert_eq!(refused("[ecosystem.carg]\n"), "ecosystem.carg: no such ecosystem; did you mean ecosystem.cargo?");
    let line = refused("[ecosystem.go]\nupstreams = [\"mirror\"]\n");
    assert!(line.starts_with("ecosystem.go.upstreams: \"mirror\" is no address; "), "{line}");
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let loaded = with([("LARDER_SERVER_LISTEN", "127.0.0.1:2")]).expect("loads");
    assert_eq!(loaded.config.listen()[0].port(), 2);
    assert_eq!(loaded.config.index.builds_max, 1, "the file's stays");
    assert_eq!(loaded.config.index.lines_max, 100_000, "the default stays");
    let flags = Flags { config: loaded.file, listen: Some("127.0.0.1:3".into()), data: Some("/srv/larder".into()) };
    std::fs::write(flags.config.as_ref().expect("set"), "").ok();
    let none = Flags { config: None, ..flags };
    let loaded = load(&none, &[("LARDER_SERVER_LISTEN", "127.0.0.1:2")].into()).expect("loads");
    assert_eq!(loaded.config.listen()[0].port(), 3);
    assert_eq!(loaded.config.data.dir.as_deref(), Some(Path::new("/srv/larder")));
}

#[test]
fn a_variable_has_the_type_of_its_setting() {
    let loaded = with([
        ("LARDER_INDEX_BUILDS_MAX", "7"),
        ("LARDER_UPSTREAM_QUEUE_DEADLINE", "1h"),
        ("LARDER_UPSTREAMS_LEARN", "listed"),
        ("LARDER_GATE_ANONYMOUS_READ", "10.0.0.0/8, fd00::/8"),
        ("LARDER_ECOSYSTEM_GO_UPSTREAMS", "https://a.example/,https://b.example/"),
        ("LARDER_DATA_DIR", "/srv/larder"),
        ("LARDER_TOKEN", "lrd_not_a_setting"),
    ])
    .expect("loads");
    assert_eq!(loaded.config.index.builds_max, 7);
    assert_eq!(loaded.config.upstream.queue_deadline.as_secs(), 3600);
    assert_eq!(loaded.config.upstreams.learn, Learn::Listed);
    assert_eq!(loaded.config.gate.anonymous_read.len(), 2);
    assert_eq!(loaded.config.ecosystem["go"].upstreams.len(), 2);
    assert!(loaded.notes.is_empty());
    let line = with([("LARDER_INDEX_BUILDS_MAX", "many")]).expect_err("not a number").to_string();
    assert!(line.starts_with("LARDER_INDEX_BUILDS_MAX: index.builds_max: found the text \"many\""), "{line}");
}

#[test]
fn a_secret_is_named_by_where_it_is() {
    let text = "[[upstream.credentials]]\norigin = \"https://a.example\"\nbearer = { env = \"TOKEN\" }\n";
    assert_eq!(parse("larder.toml", text).expect("reads").upstream.credentials.len(), 1);
    let line = refused("[[upstream.credentials]]\norigin = \"https://a.example\"\nbearer = \"hush\"\n");
    assert!(line.contains("larder.toml:3: upstream.credentials"), "{line}");
}

#[test]
fn an_unknown_variable_is_refused_but_a_platforms_is_not() {
    let line = with([("LARDER_SERVER_LISTNE", "x")]).expect_err("a slip").to_string();
    assert_eq!(line, "LARDER_SERVER_LISTNE: no such setting; did you mean LARDER_SERVER_LISTEN?");
    assert!(with([("LARDER_STORE_SOMETHING_ELSE", "x")]).is_err());
    let links = [
        ("LARDER_SERVICE_HOST", "10.0.0.1"),
        ("LARDER_PORT", "tcp://10.0.0.1:7070"),
        ("LARDER_PORT_7070_TCP_ADDR", "10.0.0.1"),
        ("LARDER_SERVER_SERVICE_PORT_HTTP", "7070"),
    ];
    assert!(with(links).expect("loads").notes.is_empty());
    assert_eq!(with([("LARDER_BANANA", "x")]).expect("loads").notes.len(), 1);
}

#[test]
fn the_data_directory_is_the_platforms_unless_named() {
    let config = Config::default();
    let home = Variables::from([("HOME", "/home/ci")]);
    let xdg = Variables::from([("HOME", "/home/ci"), ("XDG_DATA_HOME", "/srv/data")]);
    if cfg!(target_os = "linux") {
        assert_eq!(config.data_dir(&home), Ok(PathBuf::from("/home/ci/.local/share/larder")));
    }
    assert_eq!(config.data_dir(&xdg), Ok(PathBuf::from("/srv/data/larder")));
    assert!(config.data_dir(&Variables::default()).is_err());
    let flags = Flags { data: Some("/srv/larder".into()), ..Flags::default() };
    let loaded = load(&flags, &Variables::from([("PATH", ""), ("HOME", "")])).expect("loads");
    assert_eq!(loaded.config.data_dir(&Variables::default()), Ok(PathBuf::from("/srv/larder")));
}
