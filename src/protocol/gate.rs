//! Who may come in, and with which right. Callers on loopback need no token; others need one, or, to read and to fill
//! by reading, an address that the operator lists. What a builds' larder wants beyond that is `owner`'s. It judges the caller, never the host that is asked for.
//!
//! A token comes as `Authorization` or `Proxy-Authorization`: Bearer, the password of Basic (whose user name is then the
//! build label), or bare, as cargo sends it. gRPC metadata is the same header. An `Authorization` that holds no token
//! of ours is the client's credential for upstream and is left alone.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::header::{AUTHORIZATION, FORWARDED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::credential::{Ambiguous, Credential, credential};
use super::grants::{Grant, Grants};
use super::label::NO_LABEL;
pub use super::token::Right;
use super::token::{Token, TokenError};
use crate::model::kind::ErrorKind;
use crate::model::party::is_loopback;
use crate::model::realm::Scope;
use crate::runtime::clock::Clock;

/// The node's own token file, in the data directory.
pub const TOKEN_FILE: &str = "tokens.toml";
/// Fields that tell who asks.
const HEEDED: [HeaderName; 4] = [AUTHORIZATION, PROXY_AUTHORIZATION, FORWARDED, X_FORWARDED_FOR];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How long a token that was taken back may still be honoured.
const REREAD_MS: u64 = 1_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub anonymous_read: Vec<IpNet>,
    pub token_file: Option<PathBuf>,
}

/// Admits or denies.
pub struct Gate {
    state: ArcSwap<State>,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    /// When the files were last looked at, in milliseconds of the clock's `elapsed`.
    looked_at: AtomicU64,
    local: Caller,
}

/// What the settings and the files say.
struct State {
    anonymous_read: Vec<IpNet>,
    files: Vec<Grants>,
}

/// Who asks, once admitted.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The build that the request counts for.
    pub label: Arc<str>,
    /// The greatest right that the caller has.
    pub right: Right,
    pub scope: Scope,
    /// The token's name. None: admitted by address.
    pub token: Option<Arc<str>>,
    /// `Authorization` holds the client's credential for upstream.
    pub upstream_credential_present: bool,
    pub strip: Strip,
}

impl Caller {
    pub fn allows(&self, needs: Right) -> bool {
        self.right >= needs
    }

    /// The build that the caller named; None for the label that all others share.
    pub(super) fn build_label(&self) -> Option<Arc<str>> {
        (&*self.label != NO_LABEL).then(|| self.label.clone())
    }
}

/// Those of a request's fields that `Gate::admit` looks at.
pub fn heeded(headers: &HeaderMap) -> HeaderMap {
    let heeded = headers.iter().filter(|(name, _)| HEEDED.contains(name));
    heeded.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Headers that are for larder and must not go on to upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strip {
    pub authorization: bool,
    pub proxy_authorization: bool,
}

impl Strip {
    pub fn apply(self, headers: &mut HeaderMap) {
        if self.authorization {
            headers.remove(AUTHORIZATION);
        }
        if self.proxy_authorization {
            headers.remove(PROXY_AUTHORIZATION);
        }
    }
}

/// In which form the request came; decides how a client is asked for a credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// To larder itself: 401 and `WWW-Authenticate`.
    Origin,
    /// Through larder, in absolute form or by CONNECT: 407 and `Proxy-Authenticate`.
    Proxy,
    /// Within a tunnel, where the client believes to speak with another: 403, since a challenge would be that one's.
    Tunnel,
}

/// Why a caller is not let in. The text may be shown to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    #[error("a larder token is needed: as Bearer, or as the password of Basic with the build's label as user name")]
    NoToken,
    #[error("this larder token is cut short or mistyped")]
    Mistyped,
    #[error("this larder token is not known here: it is wrong, or it was revoked")]
    Unknown,
    #[error("this larder token has expired")]
    Expired,
    #[error(
        "the proxy credential is no larder token: write http://LABEL:TOKEN@HOST:PORT as the proxy's address; without a \
         token, a colon in LABEL as %253A"
    )]
    NotOurs,
    #[error("more than one credential of a kind was sent")]
    Ambiguous,
    #[error("the {} right is needed", .0.name())]
    Right(Right),
}

impl Denied {
    pub fn kind(self) -> ErrorKind {
        match self {
            Denied::Ambiguous => ErrorKind::Invalid,
            Denied::NoToken
            | Denied::Mistyped
            | Denied::Unknown
            | Denied::Expired
            | Denied::NotOurs
            | Denied::Right(_) => ErrorKind::Denied,
        }
    }

    /// Whether another credential would help; else the caller is known and may not.
    pub fn wants_credential(self) -> bool {
        !matches!(self, Denied::Right(_) | Denied::Ambiguous)
    }

    /// The status and, where another credential would help, the header that asks for one.
    pub fn answer(self, door: Door) -> (u16, Option<(HeaderName, HeaderValue)>) {
        let ask = HeaderValue::from_static("Basic realm=\"larder\", charset=\"UTF-8\"");
        match (self, door) {
            (Denied::Ambiguous, _) => (400, None),
            (Denied::Right(_), _) => (403, None),
            (_, Door::Origin) => (401, Some((WWW_AUTHENTICATE, ask))),
            (_, Door::Proxy) => (407, Some((PROXY_AUTHENTICATE, ask))),
            (_, Door::Tunnel) => (403, None),
        }
    }
}

/// The gate cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Tokens(#[from] TokenError),
    #[error("listening on {0} would need tokens or [gate] anonymous_read, and there is neither")]
    Open(SocketAddr),
    #[error("[gate] token_file: {file} does not exist", file = .0.display())]
    NoFile(PathBuf),
}

impl GateError {
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    /// The lines that mend it.
    pub fn help(&self) -> String {
        match self {
            GateError::Tokens(_) => {
                "mend the file, or move it away and create tokens anew with `larder token create`".to_owned()
            }
            GateError::Open(_) => "\
create a token, shown once:
    larder token create ci --right write
or let networks read without one, in the configuration:
    [gate]
    anonymous_read = [\"10.0.0.0/8\"]
or listen on loopback alone:
    larder serve --listen 127.0.0.1:7070"
                .to_owned(),
            GateError::NoFile(file) => format!("larder token create ci --right write --file {}", file.display()),
        }
    }
}

impl Gate {
    /// Reads the token files.
    ///
    /// *Errors*: a token file that is there but wrong, or named but not there.
    pub fn open(settings: &Settings, data_dir: &Path, clock: Arc<dyn Clock>) -> Result<Gate, GateError> {
        let state = State::read(settings, data_dir)?;
        let looked_at = AtomicU64::new(millis(&*clock));
        let local = Caller {
            label: Arc::from(NO_LABEL),
            right: Right::Admin,
            scope: Scope::shared(),
            token: None,
            upstream_credential_present: false,
            strip: Strip::default(),
        };
        Ok(Gate { state: ArcSwap::from_pointee(state), data_dir: data_dir.to_owned(), clock, looked_at, local })
    }

    /// Takes new settings and reads the files again.
    ///
    /// *Errors*: as `open`; what was in force stays so.
    pub fn reload(&self, settings: &Settings) -> Result<(), GateError> {
        self.state.store(Arc::new(State::read(settings, &self.data_dir)?));
        Ok(())
    }

    /// Refuses an address that anyone could reach while nobody is told apart.
    ///
    /// *Errors*: `Open`.
    pub fn check_listen(&self, addresses: &[SocketAddr]) -> Result<(), GateError> {
        let state = self.state.load();
        let guarded = !state.anonymous_read.is_empty() || state.files.iter().any(|file| !file.is_empty());
        match addresses.iter().find(|address| !is_loopback(address.ip())) {
            Some(address) if !guarded => Err(GateError::Open(*address)),
            _ => Ok(()),
        }
    }

    /// Judges a request. Makes nothing on the heap for a caller on loopback without a credential.
    ///
    /// *Errors*: why not; `Denied::answer` has the status.
    pub fn admit(&self, headers: &HeaderMap, peer: &SocketAddr, needs: Right, door: Door) -> Result<Caller, Denied> {
        if !headers.keys().any(|name| HEEDED.contains(name)) && is_loopback(peer.ip()) {
            // The usual caller: a build on this machine. Its right is the greatest.
            return Ok(self.local.clone());
        }
        let proxy = credential(headers, &PROXY_AUTHORIZATION)?;
        let authorization = match credential(headers, &AUTHORIZATION)? {
            // Many registries take a secret as the user name, and beside a proxy it is not for us.
            Credential::Label(_) if door != Door::Origin => Credential::Other,
            other => other,
        };
        let local = is_loopback(peer.ip()) && !was_forwarded(headers);
        let label_in_authorization = matches!((&proxy, &authorization), (Credential::None, Credential::Label(_)));
        let strip = Strip {
            authorization: authorization.is_ours() || label_in_authorization,
            proxy_authorization: !matches!(proxy, Credential::None),
        };
        let mut caller = match (&proxy, &authorization) {
            (Credential::Ours(token, label), _) => self.by_token(token, label.as_deref())?,
            (Credential::Mistyped, _) | (Credential::None | Credential::Label(_), Credential::Mistyped) => {
                return Err(Denied::Mistyped);
            }
            (Credential::Other, _) => return Err(Denied::NotOurs),
            (Credential::None | Credential::Label(_), Credential::Ours(token, label)) => {
                self.by_token(token, label.as_deref())?
            }
            (Credential::None, Credential::None | Credential::Other) => self.by_address(peer.ip(), local)?,
            (Credential::Label(label), Credential::None | Credential::Other | Credential::Label(_))
            | (Credential::None, Credential::Label(label)) => {
                Caller { label: Arc::from(label.as_str()), ..self.by_address(peer.ip(), local)? }
            }
        };
        if local {
            caller.right = Right::Admin;
        }
        if !caller.allows(needs) {
            return Err(if caller.token.is_some() { Denied::Right(needs) } else { Denied::NoToken });
        }
        caller.strip = strip;
        caller.upstream_credential_present = match authorization {
            Credential::Other => true,
            Credential::Label(_) => !label_in_authorization,
            Credential::None | Credential::Ours(..) | Credential::Mistyped => false,
        };
        Ok(caller)
    }

    /// Judges a caller who only reads. The build that it names, if it names one.
    ///
    /// *Errors*: as `admit`.
    pub fn admit_reader(&self, heeded: &HeaderMap, peer: &SocketAddr, door: Door) -> Result<Option<Arc<str>>, Denied> {
        let named = |label: &Arc<str>| (**label != *NO_LABEL).then(|| label.clone());
        if heeded.is_empty() && is_loopback(peer.ip()) {
            return Ok(named(&self.local.label));
        }
        self.admit(heeded, peer, Right::Read, door).map(|caller| named(&caller.label))
    }

    fn by_address(&self, peer: IpAddr, local: bool) -> Result<Caller, Denied> {
        if local {
            return Ok(self.local.clone());
        }
        let peer = peer.to_canonical();
        let listed = self.state.load().anonymous_read.iter().any(|network| network.contains(&peer));
        // A caller that came through a proxy on this machine is nobody's neighbour.
        if listed && !is_loopback(peer) {
            return Ok(Caller { label: Arc::from(NO_LABEL), right: Right::Read, ..self.local.clone() });
        }
        Err(Denied::NoToken)
    }

    fn by_token(&self, token: &Token, label: Option<&str>) -> Result<Caller, Denied> {
        self.look_again(REREAD_MS);
        let mut grant = self.state.load().find(token);
        if grant.is_none() {
            // It may have been made a moment ago.
            self.look_again(0);
            grant = self.state.load().find(token);
        }
        let grant = grant.ok_or(Denied::Unknown)?;
        if grant.ends.is_some_and(|ends| self.clock.now() >= ends) {
            return Err(Denied::Expired);
        }
        Ok(Caller {
            label: label.map_or_else(|| grant.label.clone(), Arc::from),
            right: grant.right,
            scope: grant.scope.clone(),
            token: Some(grant.name.clone()),
            upstream_credential_present: false,
            strip: Strip::default(),
        })
    }

    /// Reads the token files again if they changed, unless that was seen to within `older_than_ms`. Two calls of `stat` on
    /// small files, at most once a second for tokens that are known: not worth a pool.
    fn look_again(&self, older_than_ms: u64) {
        let now = millis(&*self.clock);
        let last = self.looked_at.load(Ordering::Relaxed);
        if now.saturating_sub(last) < older_than_ms {
            return;
        }
        self.looked_at.store(now, Ordering::Relaxed);
        let state = self.state.load();
        if state.files.iter().all(|file| !file.has_changed()) {
            return;
        }
        let read: Result<Vec<Grants>, TokenError> = state.files.iter().map(|file| file.read_again()).collect();
        match read {
            Ok(files) => {
                self.state.store(Arc::new(State { anonymous_read: state.anonymous_read.clone(), files }));
            }
            Err(error) => tracing::warn!(%error, "token file not read again; the tokens before it stay in force"),
        }
    }
}

impl From<Ambiguous> for Denied {
    fn from(_: Ambiguous) -> Denied {
        Denied::Ambiguous
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gate").finish_non_exhaustive()
    }
}

impl State {
    fn read(settings: &Settings, data_dir: &Path) -> Result<State, GateError> {
        let mut files = vec![Grants::read(&data_dir.join(TOKEN_FILE))?];
        if let Some(path) = &settings.token_file {
            let file = Grants::read(path)?;
            if file.is_missing() {
                return Err(GateError::NoFile(path.clone()));
            }
            files.push(file);
        }
        Ok(State { anonymous_read: settings.anonymous_read.clone(), files })
    }

    fn find(&self, token: &Token) -> Option<Arc<Grant>> {
        self.files.iter().find_map(|file| file.find(token))
    }
}

/// Whether a reverse proxy brought the request: its loopback address is then not the caller's.
fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED)
}

fn millis(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
