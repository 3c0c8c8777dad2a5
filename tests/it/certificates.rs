//! larder's own certificates and keys on bad days: one that has ended, and one in a thief's hands.

use std::fs;

use super::intercept::{LIMIT, authority, setup};
use crate::support::agent::larder_run;
use crate::support::machine::{run, scratch};
use crate::support::server::{Setup, end_of};
use crate::support::tls::ended_certificate;

/// A build goes on without a server whose certificate has ended, and says why. With `--strict` it does not.
#[test]
fn a_servers_certificate_has_ended() {
    let dir = scratch();
    let ended = ended_certificate(&dir.path().join("tls"), "localhost");
    let config = format!("[server.tls]\ncertificate = {:?}\nkey = {:?}\n", ended.certificate, ended.key);
    let server = Setup::below(&dir.path().join("server")).config(&config).start();
    let url = format!("https://localhost:{}", server.addr().port());
    let run = |words: &[&str]| {
        let mut command = larder_run(dir.path(), &url);
        command.args(words).args(["--", "echo", "was run"]).env("SSL_CERT_FILE", &ended.authority);
        end_of(command, LIMIT)
    };
    let open = run(&[]);
    assert_eq!((open.code, open.stdout.as_str()), (Some(0), "was run\n"), "{}", open.stderr);
    assert!(open.stderr.contains("certificate expired") && open.stderr.contains("going on without it"), "{open:?}");
    let strict = run(&["--strict"]);
    assert_eq!((strict.code, strict.stdout.as_str()), (Some(1), ""), "{}", strict.stderr);
    assert!(strict.stderr.contains("certificate expired") && strict.stderr.contains("SIGHUP"), "{strict:?}");
}

/// Who has the key of the authority for intercepted hosts can make certificates for those, and for nothing else.
#[test]
fn a_stolen_key_vouches_for_the_listed_hosts_alone() {
    let dir = scratch();
    let (_world, setup) = setup(dir.path(), &["files.example"]);
    setup.start().stop();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (trusted, key) = (authority(&setup), setup.data.join("ca/intercept/1/key.pem"));
    let (trusted, key) = (trusted.display().to_string(), key.display().to_string());
    let forged = |names: &str| {
        run(&[
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=thief",
            "-keyout",
            &at("k.pem"),
            "-out",
            &at("r.pem"),
        ]);
        fs::write(at("names"), format!("subjectAltName={names}\n")).expect("scratch can be written");
        run(&[
            "openssl",
            "x509",
            "-req",
            "-in",
            &at("r.pem"),
            "-CA",
            &trusted,
            "-CAkey",
            &key,
            "-set_serial",
            "1",
            "-days",
            "2",
            "-extfile",
            &at("names"),
            "-out",
            &at("c.pem"),
        ]);
        let verify = std::process::Command::new("openssl").args(["verify", "-CAfile", &trusted, &at("c.pem")]).output();
        let verify = verify.expect("openssl runs");
        let said = String::from_utf8_lossy(&verify.stderr).into_owned();
        if verify.status.success() { "good".to_owned() } else { said }
    };
    assert_eq!(forged("DNS:files.example"), "good");
    for names in ["DNS:other.example", "DNS:files.example,DNS:other.example", "DNS:example", "IP:127.0.0.1", "IP:::1"] {
        let said = forged(names);
        assert!(said.contains("subtree violation"), "{names}: {said}");
    }
}
