//! The clients that people use, started by `larder run` against a server that intercepts: each trusts larder's authority
//! by what it reads itself, gets the same bytes as without larder, and gets them again with the upstream dead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::intercept::{LIMIT, authority, file, setup};
use crate::support::body::sha256_hex;
use crate::support::machine::{run, scratch};
use crate::support::resource::{Content, Resource};
use crate::support::server::{Ended, LARDER, Server, end_of};
use crate::support::tls::World;

/// A client's command, for a shell in an empty home; it leaves what it got in `out`.
struct Client {
    name: &'static str,
    script: String,
}

fn bytes(bytes: Vec<u8>) -> Resource {
    Resource { content: Content::Bytes(Arc::from(bytes)), ..file("") }
}

/// Puts files into an archive that a tool of the machine makes.
fn packed(dir: &Path, files: &[(&str, &str)], pack: &[&str]) -> Vec<u8> {
    let dir = dir.join(format!("packed-{}", files.len() + pack.len()));
    for (name, text) in files {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("scratch can be written");
        std::fs::write(file, text).expect("scratch can be written");
    }
    let archive = dir.join("archive");
    let mut command = Command::new(pack[0]);
    let ended = end_of(
        {
            command.args(&pack[1..]).current_dir(&dir);
            command
        },
        LIMIT,
    );
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let bytes = std::fs::read(archive).expect("was packed");
    std::fs::remove_dir_all(dir).expect("scratch can be removed");
    bytes
}

/// What `files.example` has for each client.
fn stock(world: &World, dir: &Path) {
    let put = |path: &str, resource: Resource| world.upstream.put(path, resource);
    let zip = "import sys,zipfile\nz=zipfile.ZipFile('archive','w')\nfor n in sys.argv[1:]: z.write(n)\nz.close()";
    let module = "example.com/demo@v1.0.0/go.mod";
    put("/go/example.com/demo/@v/v1.0.0.info", file(r#"{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}"#));
    put("/go/example.com/demo/@v/v1.0.0.mod", file("module example.com/demo\n"));
    let archive = packed(dir, &[(module, "module example.com/demo\n")], &["python3", "-c", zip, module]);
    put("/go/example.com/demo/@v/v1.0.0.zip", bytes(archive));

    let manifest = "[package]\nname = \"demo\"\nversion = \"1.0.0\"\nedition = \"2021\"\n";
    let files = [("demo-1.0.0/Cargo.toml", manifest), ("demo-1.0.0/src/lib.rs", "")];
    let archive = packed(dir, &files, &["tar", "-czf", "archive", "demo-1.0.0"]);
    let sum = sha256_hex(&archive);
    put("/index/config.json", file(r#"{"dl":"https://files.example/crates/{crate}-{version}.crate"}"#));
    let line = format!(r#"{{"name":"demo","vers":"1.0.0","deps":[],"cksum":"{sum}","features":{{}},"yanked":false}}"#);
    put("/index/de/mo/demo", file(line + "\n"));
    put("/crates/demo-1.0.0.crate", bytes(archive));

    let metadata = "Metadata-Version: 2.1\nName: demo\nVersion: 1.0.0\n";
    let wheel = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let [one, two, three] = ["METADATA", "WHEEL", "RECORD"].map(|name| format!("demo-1.0.0.dist-info/{name}"));
    let files = [(&*one, metadata), (&*two, wheel), (&*three, "")];
    put("/demo-1.0.0-py3-none-any.whl", bytes(packed(dir, &files, &["python3", "-c", zip, &one, &two, &three])));
    put(
        "/simple/demo/",
        file("<a href=\"/demo-1.0.0-py3-none-any.whl\">demo-1.0.0-py3-none-any.whl</a>")
            .header("content-type", "text/html"),
    );

    let package = [("package/package.json", r#"{"name":"demo","version":"1.0.0"}"#)];
    let archive = packed(dir, &package, &["tar", "-czf", "archive", "package"]);
    let document = r#"{"name":"demo","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"demo","version":"1.0.0",
        "dist":{"tarball":"https://files.example/npm/demo-1.0.0.tgz"}}}}"#;
    put("/npm/demo", file(document).header("content-type", "application/json"));
    put("/npm/demo-1.0.0.tgz", bytes(archive));

    let commit = "0123456789abcdef0123456789abcdef01234567";
    put("/repo.git/info/refs?service=git-upload-pack", file(format!("{commit}\trefs/heads/main\n")));
    put("/repo.git/HEAD", file("ref: refs/heads/main\n"));
}

const JAVA: &str = "
import java.net.*;
class Get {
    public static void main(String[] words) throws Exception {
        Proxy proxy = new Proxy(Proxy.Type.HTTP, new InetSocketAddress(words[0], Integer.parseInt(words[1])));
        System.out.write(new URL(words[2]).openConnection(proxy).getInputStream().readAllBytes());
        System.out.flush();
    }
}
";

fn clients(server: &Server) -> Vec<Client> {
    let client = |name, script: &str| Client { name, script: script.to_owned() };
    let java = format!(
        "cat > Get.java <<'EOF'\n{JAVA}EOF\njava Get.java {} {} https://files.example/a > out",
        server.addr().ip(),
        server.addr().port()
    );
    vec![
        client("curl", "curl -sS https://files.example/a > out"),
        client(
            "python",
            "python3 -c 'import sys,urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())' \
             https://files.example/a > out",
        ),
        Client { name: "java", script: java },
        client("git", "git ls-remote https://files.example/repo.git > out"),
        client(
            "go",
            "mkdir m && cd m && go mod init example.com/m 2>/dev/null && \
             GOPROXY=https://files.example/go GONOSUMDB='*' GOFLAGS=-mod=mod GOTOOLCHAIN=local \
             go mod download -json example.com/demo@v1.0.0 | grep -E 'Sum|Version' > ../out",
        ),
        client(
            "cargo",
            "mkdir -p p/src p/.cargo && cd p && echo > src/lib.rs && \
             printf '[package]\\nname=\"p\"\\nversion=\"1.0.0\"\\nedition=\"2021\"\\n[dependencies]\\n\
             demo={version=\"1\",registry=\"demo\"}\\n' > Cargo.toml && \
             printf '[registries.demo]\\nindex=\"sparse+https://files.example/index/\"\\n' > .cargo/config.toml && \
             CARGO_HOME=$HOME/cargo cargo fetch -q && cat Cargo.lock $HOME/cargo/registry/cache/*/demo-1.0.0.crate > ../out",
        ),
        client(
            "pip",
            "pip download -q --no-deps --disable-pip-version-check --index-url https://files.example/simple/ demo && \
             cat demo-1.0.0-py3-none-any.whl > out",
        ),
        client(
            "npm",
            "npm pack --silent --registry https://files.example/npm/ demo > /dev/null && cat demo-1.0.0.tgz > out",
        ),
    ]
}

/// Runs a client in a home of its own. Returns what it left.
fn fetched(client: &Client, words: &[&str], home: &Path, variables: &[(&str, &str)]) -> (Ended, Vec<u8>) {
    std::fs::create_dir_all(home).expect("a home can be made");
    let mut all = words.to_vec();
    all.extend(["sh", "-e", "-c", &client.script]);
    let mut command = Command::new(all[0]);
    command.args(&all[1..]).current_dir(home).env_clear();
    // Tools that a manager of versions stands in for find themselves by these.
    for name in ["PATH", "JAVA_HOME", "PYENV_ROOT", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let rustup = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".rustup");
    if std::env::var_os("RUSTUP_HOME").is_none() && rustup().is_dir() {
        command.env("RUSTUP_HOME", rustup());
    }
    command.env("HOME", home).envs(variables.iter().copied());
    let ended = end_of(command, LIMIT);
    let out = std::fs::read(home.join("out")).unwrap_or_default();
    (ended, out)
}

#[test]
fn clients_get_the_same_bytes_cold_and_with_the_upstream_dead() {
    let dir = scratch();
    let (mut world, setup) = setup(dir.path(), &["files.example"]);
    stock(&world, dir.path());
    let server = setup.start();
    let (url, data) = (server.url(), dir.path().join("client-data").display().to_string());
    let words = [LARDER, "run", "--server", &url, "--data", &data, "--trust-plain-http", "--"];
    let mut cold = Vec::new();
    for client in clients(&server) {
        let (ended, out) = fetched(&client, &words, &dir.path().join("cold").join(client.name), &[]);
        assert_eq!(ended.code, Some(0), "{}: {}{}", client.name, ended.stdout, ended.stderr);
        assert!(!out.is_empty(), "{}", client.name);
        cold.push(out);
    }
    // What passes as tunnel was not cached.
    let stats = server.stats();
    assert_eq!(stats["bytes_tunnelled"], 0, "{stats}");
    assert_eq!(cold[0], b"what the host has\n");
    world.die();
    // git asks for its references with `no-cache`: no answer from before will do.
    for (client, cold) in clients(&server).iter().zip(cold).filter(|(client, _)| client.name != "git") {
        let (ended, out) = fetched(client, &words, &dir.path().join("warm").join(client.name), &[]);
        assert_eq!(ended.code, Some(0), "{}: {}{}", client.name, ended.stdout, ended.stderr);
        assert!(out == cold, "{}: {}", client.name, String::from_utf8_lossy(&out));
    }
}

#[test]
fn a_run_tells_of_a_tool_that_does_not_trust_the_authority() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let (url, data) = (server.url(), dir.path().join("client-data").display().to_string());
    let words = [LARDER, "run", "--server", &url, "--data", &data, "--trust-plain-http", "--"];
    let script = format!(
        "! curl -sS --cacert {0} https://files.example/a && curl -sS --cacert {0} https://files.example/a > out",
        world.authority.display()
    );
    let client = Client { name: "curl", script };
    let (ended, out) = fetched(&client, &words, &dir.path().join("home"), &[]);
    assert_eq!((ended.code, &*out), (Some(0), &b"what the host has\n"[..]), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("files.example was not cached: a tool does not trust larder's authority"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("larder ca tools"), "{}", ended.stderr);
    // Who keeps to what run sets is not affected, as another build.
    let client = Client { name: "curl", script: "curl -sS https://files.example/a > out".to_owned() };
    let (ended, _) = fetched(&client, &words, &dir.path().join("home"), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("does not trust"), "{}", ended.stderr);
}

#[test]
fn what_the_user_trusts_goes_on_being_trusted() {
    let dir = scratch();
    let (world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let (url, data) = (server.url(), dir.path().join("client-data").display().to_string());
    let words = [LARDER, "run", "--server", &url, "--data", &data, "--trust-plain-http", "--"];
    let own = world.authority.display().to_string();
    // other.example is not intercepted: its own authority is the user's.
    for (name, script) in [
        ("CURL_CA_BUNDLE", "curl -sS https://files.example/a https://other.example/a > out"),
        (
            "SSL_CERT_FILE",
            "for h in files other; do python3 -c 'import sys,urllib.request as u; \
             sys.stdout.write(u.urlopen(sys.argv[1]).read().decode())' https://$h.example/a >> out; done",
        ),
    ] {
        let client = Client { name: "both", script: script.to_owned() };
        let (ended, out) = fetched(&client, &words, &dir.path().join(name), &[(name, &own)]);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
        assert_eq!(String::from_utf8_lossy(&out), "what the host has\n".repeat(2), "{name}");
    }
}

#[test]
fn where_nothing_is_intercepted_a_run_changes_no_tools_trust() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &[]);
    let server = setup.start();
    let (url, data) = (server.url(), dir.path().join("client-data").display().to_string());
    let words = [LARDER, "run", "--server", &url, "--data", &data, "--trust-plain-http", "--"];
    let client = Client { name: "env", script: "env > out".to_owned() };
    let (ended, out) = fetched(&client, &words, &dir.path().join("home"), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let out = String::from_utf8_lossy(&out);
    assert!(
        out.contains("https_proxy=") && !out.contains("SSL_CERT_FILE") && !out.contains("JAVA_TOOL_OPTIONS"),
        "{out}"
    );
}

#[test]
fn gnutls_takes_the_constrained_authority() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example"]);
    let server = setup.start();
    let trusted = authority(&setup);
    // wget speaks TLS by GnuTLS.
    let proxy = server.url();
    let wget = ["wget", "-q", "-O", "-", "-e", &format!("https_proxy={proxy}"), "--ca-certificate"];
    let said = run(&[&wget[..], &[trusted.to_str().expect("text"), "https://files.example/a"]].concat());
    assert_eq!(said, "what the host has\n");
}
