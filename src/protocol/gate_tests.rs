//! Who gets in with what: address by credential by right.

use base64::Engine;

use super::*;
use crate::model::hex;
use crate::model::time::Timestamp;
use crate::protocol::label::label_of;
use crate::protocol::token::{Keyed, Line, TokenFile, datetime};
use crate::runtime::clock::ManualClock;

struct House {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    gate: Gate,
    read: String,
    write: String,
    admin: String,
}

fn add(path: &Path, keyed: Keyed, name: &str, right: Right, ends: Option<Timestamp>) -> String {
    let token = Token::generate();
    let mut file = TokenFile::read_or_new(path, keyed).expect("reads");
    file.lines.push(Line {
        name: name.to_owned(),
        hash: hex::encode(&token.hash(&file.salt)),
        rights: vec![right],
        expires: ends.map(datetime),
        label: Some(format!("{name}-label")),
        scope: (right == Right::Write).then(|| "trusted".to_owned()),
    });
    file.write().expect("writes");
    token.reveal()
}

fn house() -> House {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::at(Timestamp::from_secs(1_800_000_000));
    let own = dir.path().join(TOKEN_FILE);
    let shared = dir.path().join("shared.toml");
    let read = add(&own, Keyed::ByNeighbour, "reader", Right::Read, None);
    let write = add(&shared, Keyed::ByItself, "writer", Right::Write, None);
    let admin = add(&own, Keyed::ByNeighbour, "admin", Right::Admin, None);
    let settings =
        Settings { anonymous_read: vec!["10.0.0.0/8".parse().expect("a network")], token_file: Some(shared) };
    let gate = Gate::open(&settings, dir.path(), clock.clone()).expect("opens");
    House { dir, clock, gate, read, write, admin }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, value.parse().expect("a value"));
    }
    headers
}

fn basic_of(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

const LOOPBACK: &str = "127.0.0.1:4000";
const LISTED: &str = "10.1.2.3:4000";
const MAPPED: &str = "[::ffff:10.1.2.3]:4000";
const STRANGER: &str = "192.0.2.1:4000";

impl House {
    fn try_at(&self, peer: &str, pairs: &[(&str, &str)], needs: Right) -> Result<Caller, Denied> {
        self.gate.admit(&headers(pairs), &peer.parse().expect("an address"), needs, Door::Origin)
    }
}

#[test]
fn every_role_has_its_rights_and_no_more() {
    let house = house();
    let bearer = |token: &str| format!("Bearer {token}");
    let (read, write, admin) = (bearer(&house.read), bearer(&house.write), bearer(&house.admin));
    let none: Option<&str> = None;
    let no_token = Err(Denied::NoToken);
    let lacks = |right| Err(Denied::Right(right));
    // peer, credential, then the verdicts for read, write and admin.
    let table = [
        (LOOPBACK, none, [Ok(()), Ok(()), Ok(())]),
        ("[::1]:4000", none, [Ok(()), Ok(()), Ok(())]),
        ("[::ffff:127.0.0.1]:4000", none, [Ok(()), Ok(()), Ok(())]),
        (LOOPBACK, Some(read.as_str()), [Ok(()), Ok(()), Ok(())]),
        (LISTED, none, [Ok(()), no_token, no_token]),
        (MAPPED, none, [Ok(()), no_token, no_token]),
        (STRANGER, none, [no_token, no_token, no_token]),
        (STRANGER, Some("Bearer somebody-elses"), [no_token, no_token, no_token]),
        (STRANGER, Some(&read), [Ok(()), lacks(Right::Write), lacks(Right::Admin)]),
        (STRANGER, Some(&write), [Ok(()), Ok(()), lacks(Right::Admin)]),
        (STRANGER, Some(&admin), [Ok(()), Ok(()), Ok(())]),
        (LISTED, Some(&write), [Ok(()), Ok(()), lacks(Right::Admin)]),
    ];
    for (peer, credential, verdicts) in table {
        let pairs: Vec<(&str, &str)> = credential.iter().map(|value| ("authorization", *value)).collect();
        for (needs, verdict) in Right::ALL.into_iter().zip(verdicts) {
            let got = house.try_at(peer, &pairs, needs).map(|_| ());
            assert_eq!(got, verdict, "{peer} {needs:?} {}", credential.is_some());
        }
    }
}

#[test]
fn one_token_works_in_every_form() {
    let house = house();
    let token = &house.write;
    let forms = [
        ("authorization", format!("Bearer {token}"), "writer-label"),
        ("authorization", format!("bearer {token}"), "writer-label"),
        ("authorization", basic_of("build-42", token), "build-42"),
        ("authorization", basic_of("", token), "writer-label"),
        ("authorization", basic_of("not a label", token), "writer-label"),
        ("authorization", basic_of(token, ""), "writer-label"),
        ("authorization", token.clone(), "writer-label"),
        ("proxy-authorization", format!("Bearer {token}"), "writer-label"),
        ("proxy-authorization", basic_of("build-42", token), "build-42"),
    ];
    for (name, value, label) in forms {
        let caller = house.try_at(STRANGER, &[(name, &value)], Right::Write).expect(name);
        assert_eq!((&*caller.label, caller.token.as_deref()), (label, Some("writer")), "{name}");
        assert_eq!(caller.scope.as_str(), "trusted");
        assert!(!caller.upstream_credential_present);
        let mut sent = headers(&[(name, &value)]);
        caller.strip.apply(&mut sent);
        assert!(sent.is_empty(), "{name} went on to upstream");
    }
}

#[test]
fn a_credential_for_upstream_is_left_alone() {
    let house = house();
    let upstream = basic_of("ci", "for-upstream");
    let caller = house.try_at(LOOPBACK, &[("authorization", &upstream)], Right::Read).expect("admitted");
    assert!(caller.upstream_credential_present && !caller.strip.authorization);
    assert_eq!(&*caller.label, NO_LABEL);
    let both = [("authorization", upstream.as_str()), ("proxy-authorization", &basic_of("b", &house.read))];
    let caller = house.try_at(STRANGER, &both, Right::Read).expect("admitted");
    assert!(caller.upstream_credential_present && !caller.strip.authorization && caller.strip.proxy_authorization);
    let user_alone = basic_of("api-key-as-user", "");
    let both = [("authorization", user_alone.as_str()), ("proxy-authorization", &basic_of("b", &house.read))];
    let caller = house.try_at(STRANGER, &both, Right::Read).expect("admitted");
    assert!(caller.upstream_credential_present && &*caller.label == "b");
}

#[test]
fn a_user_name_without_password_sets_the_label_alone() {
    let house = house();
    for name in ["authorization", "proxy-authorization"] {
        let value = basic_of("build-42", "");
        let caller = house.try_at(LOOPBACK, &[(name, &value)], Right::Admin).expect(name);
        assert_eq!(&*caller.label, "build-42");
        assert!(caller.strip.authorization || caller.strip.proxy_authorization);
        assert_eq!(house.try_at(STRANGER, &[(name, &value)], Right::Read).map(|_| ()), Err(Denied::NoToken));
        assert!(house.try_at(LISTED, &[(name, &value)], Right::Read).is_ok());
    }
}

#[test]
fn a_wrong_token_is_refused_even_on_loopback() {
    let house = house();
    let wrong = Token::generate().reveal();
    let mut mistyped = house.read.clone();
    mistyped.pop();
    for peer in [LOOPBACK, LISTED, STRANGER] {
        for (value, verdict) in [(&wrong, Denied::Unknown), (&mistyped, Denied::Mistyped)] {
            let bearer = format!("Bearer {value}");
            let got = house.try_at(peer, &[("authorization", &bearer)], Right::Read).map(|_| ());
            assert_eq!(got, Err(verdict), "{peer}");
        }
        let other = basic_of("ci", "no-token");
        let got = house.try_at(peer, &[("proxy-authorization", &other)], Right::Read).map(|_| ());
        assert_eq!(got, Err(Denied::NotOurs), "{peer}");
    }
    let bearer = format!("Bearer {}", house.read);
    let twice = [("authorization", bearer.as_str()), ("authorization", "Bearer other")];
    assert_eq!(house.try_at(LOOPBACK, &twice, Right::Read).map(|_| ()), Err(Denied::Ambiguous));
}

#[test]
fn a_proxy_on_this_machine_does_not_make_its_callers_local() {
    let house = house();
    for name in ["x-forwarded-for", "forwarded"] {
        let got = house.try_at(LOOPBACK, &[(name, "192.0.2.1")], Right::Read).map(|_| ());
        assert_eq!(got, Err(Denied::NoToken), "{name}");
    }
}

#[test]
fn a_token_ends_is_added_and_is_revoked_while_running() {
    let house = house();
    let own = house.dir.path().join(TOKEN_FILE);
    let bearer = |token: &str| format!("Bearer {token}");
    let ends = house.clock.now().plus(std::time::Duration::from_secs(3600));
    let brief = add(&own, Keyed::ByNeighbour, "brief", Right::Read, Some(ends));
    let try_brief = || house.try_at(STRANGER, &[("authorization", &bearer(&brief))], Right::Read).map(|_| ());
    assert_eq!(try_brief(), Ok(()), "added a moment ago");
    house.clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(try_brief(), Err(Denied::Expired));

    let mut file = TokenFile::read(&own).expect("reads").expect("is there");
    file.lines.retain(|line| line.name != "reader");
    file.write().expect("writes");
    house.clock.advance(std::time::Duration::from_secs(1));
    let reader = bearer(&house.read);
    let got = house.try_at(STRANGER, &[("authorization", &reader)], Right::Read).map(|_| ());
    assert_eq!(got, Err(Denied::Unknown), "revoked");

    std::fs::write(&own, "no tokens here").expect("writes");
    house.clock.advance(std::time::Duration::from_secs(1));
    let admin = bearer(&house.admin);
    assert!(
        house.try_at(STRANGER, &[("authorization", &admin)], Right::Admin).is_ok(),
        "a broken file changes nothing"
    );
}

#[test]
fn an_open_address_needs_a_guard() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = ManualClock::at(Timestamp(0));
    let open = |settings: &Settings| Gate::open(settings, dir.path(), clock.clone());
    let everywhere = ["0.0.0.0:7070".parse().expect("an address")];
    let here = ["127.0.0.1:7070".parse().expect("an address"), "[::1]:7070".parse().expect("an address")];
    let gate = open(&Settings::default()).expect("opens");
    assert!(gate.check_listen(&here).is_ok());
    let error = gate.check_listen(&everywhere).expect_err("open to all");
    assert!(error.help().contains("larder token create") && error.help().contains("anonymous_read"));
    let caller = gate.admit(&HeaderMap::new(), &here[0], Right::Admin, Door::Origin).expect("admitted");
    assert_eq!(&*caller.label, NO_LABEL);
    let listed = Settings { anonymous_read: vec!["10.0.0.0/8".parse().expect("a network")], token_file: None };
    gate.reload(&listed).expect("reloads");
    assert!(gate.check_listen(&everywhere).is_ok());
    let missing = Settings { token_file: Some(dir.path().join("none.toml")), ..Settings::default() };
    assert!(matches!(open(&missing), Err(GateError::NoFile(_))));
    add(&dir.path().join(TOKEN_FILE), Keyed::ByNeighbour, "ci", Right::Read, None);
    assert!(open(&Settings::default()).expect("opens").check_listen(&everywhere).is_ok());
}

#[test]
fn each_door_asks_in_its_own_way() {
    let asked = |denied: Denied, door| {
        let (status, header) = denied.answer(door);
        (status, header.map(|(name, _)| name))
    };
    assert_eq!(asked(Denied::NoToken, Door::Origin), (401, Some(WWW_AUTHENTICATE)));
    assert_eq!(asked(Denied::Expired, Door::Proxy), (407, Some(PROXY_AUTHENTICATE)));
    assert_eq!(asked(Denied::Right(Right::Write), Door::Origin), (403, None));
    assert_eq!(asked(Denied::Ambiguous, Door::Proxy), (400, None));
}

#[test]
fn no_secret_is_shown() {
    let house = house();
    let bearer = format!("Bearer {}", house.write);
    let caller = house.try_at(STRANGER, &[("authorization", &bearer)], Right::Write).expect("admitted");
    let shown = format!("{:?} {caller:?}", house.gate);
    assert!(!shown.contains(&house.write[4..40]), "{shown}");
    assert_eq!(label_of(&house.write), None, "a token is never a label");
}
