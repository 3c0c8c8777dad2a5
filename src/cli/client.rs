//! The command line's own HTTP client for larder's API. Not for upstreams: it talks to the one server that the operator
//! names, so that the egress gate has no part in it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use url::Url;

use super::failure::Failure;
use crate::model::hex;
use crate::protocol::owner::{CHALLENGE, OwnerKey, PASS};
use crate::runtime::clock::random_bytes;
use crate::runtime::tasks::Tasks;

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
/// The largest answer that is read whole, and the longest line of one that is not.
const MAX_BYTES: usize = 64 << 20;

/// A server and what is shown to it.
#[derive(Clone)]
pub(crate) struct Client {
    /// Without userinfo; the path ends in `/`.
    pub base: Url,
    authorization: Option<HeaderValue>,
    /// What is shown, as it was given.
    pub token: Option<String>,
    pub roots: Option<std::path::PathBuf>,
    /// Of the directory that it serves, where that is this user's. Nothing is asked then before it has proven that.
    pub owner: Option<OwnerKey>,
    tasks: Tasks,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no larder answers at {url}: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} answered {status}: {why}")]
    Status { url: String, status: u16, why: String, help: Option<String> },
    #[error("{url} answered what is not larder's: {why}")]
    Strange { url: String, why: String },
}

impl ClientError {
    /// There is one, and it is a question of rights.
    pub fn wants_token(&self) -> bool {
        matches!(self, ClientError::Status { status: 401 | 403 | 407, .. })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let help = match &error {
            ClientError::Unreachable { why, .. } if why.contains("certificate expired") => {
                "put a new one in its place on the server and send it SIGHUP; else see this machine's clock"
            }
            ClientError::Unreachable { why, .. } if why.contains("certificate") => {
                "for an authority of larder's own, take it there with `larder ca print` and set SSL_CERT_FILE to that file"
            }
            ClientError::Unreachable { .. } => {
                "start one with `larder serve`, or name another with --server URL or LARDER_SERVER"
            }
            ClientError::Status { help: Some(help), .. } => help,
            ClientError::Status { status: 401 | 407, .. } => {
                "set LARDER_TOKEN to a token made there with `larder token create NAME --right admin`"
            }
            ClientError::Status { status: 403, .. } => "use a token with the right that is missing",
            ClientError::Status { status: 404 | 405, .. } => {
                "see with `larder doctor URL` whether that server is as new as this command"
            }
            ClientError::Status { .. } => "see the server's log",
            ClientError::Strange { .. } => "see whether the address is larder's: `larder doctor URL`",
        };
        Failure::failed(error.to_string(), help)
    }
}

impl Client {
    /// `token` is used unless the address holds one as its password.
    ///
    /// *Errors*: the address is not one.
    pub fn new(address: &str, token: Option<&str>) -> Result<Client, Failure> {
        let wrong = || Failure::usage("the server's address is wrong", "write it as http://HOST:PORT");
        let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let mut base = Url::parse(&with_scheme).map_err(|_| wrong())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(wrong());
        }
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (decoded(base.username()), base.password().map(decoded));
        let token = password.as_deref().or(token);
        let authorization = match (token, user.as_str()) {
            (None, "") => None,
            (Some(token), "") => Some(format!("Bearer {token}")),
            (token, user) => {
                let pair = format!("{user}:{}", token.unwrap_or_default());
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
            }
        };
        let authorization = authorization.map(HeaderValue::try_from).transpose().map_err(|_| wrong())?;
        let bare = base.set_username("").and_then(|()| base.set_password(None));
        bare.map_err(|()| wrong())?;
        if !base.path().ends_with('/') {
            let path = format!("{}/", base.path());
            base.set_path(&path);
        }
        base.set_query(None);
        base.set_fragment(None);
        let authorization = authorization.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let token = token.filter(|token| !token.is_empty()).map(str::to_owned);
        Ok(Client { base, authorization, token, roots: None, owner: None, tasks: Tasks::new() })
    }

    /// Also trusts the certificates in a file, such as the one of `larder ca`.
    pub fn trusting(mut self, file: Option<std::path::PathBuf>) -> Client {
        self.roots = file;
        self
    }

    /// Talks to the process alone that serves the directory of this key.
    pub fn of_owner(mut self, key: OwnerKey) -> Client {
        self.owner = Some(key);
        self
    }

    /// The server's address without a slash at the end.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Sends a request; the answer may have any status.
    ///
    /// *Errors*: `Unreachable`.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { url: self.address().to_owned(), why };
        let target = self.base.join(path.trim_start_matches('/')).map_err(|error| unreachable(error.to_string()))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        let path = match target.query() {
            Some(query) => format!("{}?{query}", target.path()),
            None => target.path().to_owned(),
        };
        *request.uri_mut() = path.parse().map_err(|error: http::uri::InvalidUri| unreachable(error.to_string()))?;
        *request.headers_mut() = headers;
        let host = &target[url::Position::BeforeHost..url::Position::AfterPort];
        let host = HeaderValue::try_from(host).map_err(|error| unreachable(error.to_string()))?;
        request.headers_mut().insert(HOST, host);
        let agent = concat!("larder/", env!("CARGO_PKG_VERSION"));
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(agent));
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let sent = async { self.exchange(&target, request).await.map_err(unreachable) };
        deadline(ANSWER, sent).await.unwrap_or_else(|| Err(unreachable("no answer in time".to_owned())))
    }

    async fn exchange(&self, target: &Url, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let host = target.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = target.port_or_known_default().unwrap_or(80);
        let connecting = TcpStream::connect((host.as_str(), port));
        let stream = deadline(CONNECT, connecting).await.ok_or("no connection in time")?.map_err(|e| e.to_string())?;
        // Small requests should not wait for company; without it they are only slower.
        let _ = stream.set_nodelay(true);
        if target.scheme() == "https" {
            let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
            let connector = TlsConnector::from(Arc::new(self.tls()?));
            let stream = deadline(CONNECT, connector.connect(name, stream)).await.ok_or("no TLS in time")?;
            self.over(stream.map_err(|error| error.to_string())?, request).await
        } else {
            self.over(stream, request).await
        }
    }

    async fn over<S>(&self, stream: S, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        self.tasks.spawn("client connection", async move {
            // What goes wrong here also ends the body, where it is told.
            let _ = connection.await;
        });
        if let Some(key) = &self.owner {
            self.prove(key, &mut sender, &request).await?;
            if request.uri().path().starts_with("/api/") {
                request.headers_mut().extend(HeaderValue::try_from(key.pass()).ok().map(|pass| (PASS, pass)));
            }
        }
        sender.send_request(request).await.map_err(|error| error.to_string())
    }

    /// On the connection that is used from then on: who has the port in the next moment may be another.
    async fn prove(
        &self,
        key: &OwnerKey,
        sender: &mut http1::SendRequest<Full<Bytes>>,
        next: &Request<Full<Bytes>>,
    ) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Proof {
            proof: Option<String>,
        }
        let failed = |error: hyper::Error| error.to_string();
        let challenge = hex::encode(&random_bytes::<32>());
        let mut ask = Request::new(Full::default());
        *ask.uri_mut() = http::Uri::from_static("/api/v1/health");
        ask.headers_mut().extend(next.headers().get(HOST).map(|host| (HOST, host.clone())));
        ask.headers_mut().extend(HeaderValue::try_from(&challenge).ok().map(|value| (CHALLENGE, value)));
        let response = sender.send_request(ask).await.map_err(failed)?;
        let body = self.collect(response).await.map_err(|error| error.to_string())?;
        let said = serde_json::from_slice::<Proof>(&body).ok().and_then(|said| said.proof);
        let port = self.base.port_or_known_default().unwrap_or(80);
        if !said.is_some_and(|said| key.is_proven(&challenge, port, &said)) {
            return Err(
                "what answers there cannot prove that it is the larder of this user's data directory".to_owned()
            );
        }
        sender.ready().await.map_err(failed)
    }

    fn tls(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = &self.roots {
            use tokio_rustls::rustls::pki_types::CertificateDer;
            use tokio_rustls::rustls::pki_types::pem::PemObject;
            let certificates = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
            roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    /// Asks the API. *Errors*: any status but success, and what is not JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.asked(Method::GET, path, None).await?;
        self.read_json(response).await
    }

    /// Tells the API. *Errors*: as `get`.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, ClientError> {
        let response = self.asked(Method::POST, path, Some(body)).await?;
        self.read_json(response).await
    }

    /// Reads an answer line by line as it comes. *Errors*: as `get`; a line that is too long.
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mut each: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut incoming = self.asked(method, path, body).await?.into_body();
        let mut kept = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|error| self.strange(error))?.into_data() else { continue };
            kept.extend_from_slice(&data);
            while let Some(end) = kept.iter().position(|byte| *byte == b'\n') {
                let line = kept.split_to(end + 1);
                each(String::from_utf8_lossy(&line).trim_end())?;
            }
            if kept.len() > MAX_BYTES {
                return Err(self.strange("a line without an end").into());
            }
        }
        if kept.is_empty() { Ok(()) } else { each(&String::from_utf8_lossy(&kept)) }
    }

    async fn asked(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Incoming>, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let response = self.send(method, path, headers, body).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = self.collect(response).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let field = |name: &str| said.get(name).and_then(Value::as_str).map(super::out::plain);
        let why = field("error").unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            super::out::plain(text.lines().next().unwrap_or("no reason given"))
        });
        Err(ClientError::Status { url: self.address().to_owned(), status, why, help: field("help") })
    }

    async fn read_json<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let body = self.collect(response).await?;
        let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
        serde_json::from_slice(&body).map_err(|error| self.strange(error))
    }

    /// Reads a body whole. *Errors*: `Strange` when it breaks off or is too large.
    pub async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(response.into_body(), MAX_BYTES);
        limited.collect().await.map(|body| body.to_bytes()).map_err(|error| self.strange(error))
    }

    fn strange(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Strange { url: self.address().to_owned(), why: why.to_string() }
    }
}

async fn deadline<T>(within: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(within, work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_up_its_credential() {
        let client = Client::new("http://build-42:lrd_x@cache.example:7070/base", None).expect("an address");
        assert_eq!(client.address(), "http://cache.example:7070/base");
        let sent = client.authorization.as_ref().expect("a credential").to_str().expect("text");
        assert_eq!(sent, "Basic YnVpbGQtNDI6bHJkX3g=");
        let client = Client::new("cache.example:7070", Some("lrd_y")).expect("an address");
        assert_eq!(client.address(), "http://cache.example:7070");
        assert_eq!(client.authorization.expect("a credential").to_str().expect("text"), "Bearer lrd_y");
        for address in ["ftp://cache.example", "http://", ""] {
            assert!(Client::new(address, None).is_err(), "{address:?}");
        }
    }
}
