//! The front door: sockets bound, connections accepted, and a drain that loses nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::admission::Admission;
use super::connection::serve_socket;
use super::counters::Counters;
use super::error::ServerError;
use super::guise::Guises;
use super::session::{Ends, Shared};
use super::settings::Settings;
use super::tls::Certificates;
use super::tunnels::Tunnels;
use super::watch::Watch;
use crate::protocol::Mount;
use crate::runtime::os;
use crate::runtime::tasks::Tasks;

/// Connections that wait in the kernel; the system's own maximum applies too.
const BACKLOG: u32 = 4096;

/// How long accepting rests after it failed: it fails for want of descriptors, and connections in progress free some.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a server starts with besides its settings.
#[derive(Default)]
pub struct Doors {
    /// Listening sockets from a predecessor or the service manager. They take the place of `settings.listen`.
    pub inherited: Vec<std::net::TcpListener>,
    /// Without it, TLS is not spoken.
    pub certificates: Option<Arc<Certificates>>,
    /// Without them no tunnel's TLS is ended here.
    pub guises: Option<Arc<Guises>>,
}

/// A server whose sockets are open. Cheap to clone; all clones are the same server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Arc<Mutex<Vec<Arc<TcpListener>>>>,
    addresses: Arc<[SocketAddr]>,
    accepting: Arc<watch::Sender<bool>>,
}

impl Server {
    /// Opens the sockets. Connections queue from here on and are accepted by `run`. Call it within the runtime.
    ///
    /// *Errors*: `Invalid` settings; `Unavailable` when an address cannot be listened on.
    pub fn bind(settings: &Settings, doors: Doors, tasks: Tasks, root: Arc<dyn Mount>) -> Result<Server, ServerError> {
        settings.check()?;
        let listeners = if doors.inherited.is_empty() {
            settings.listen.iter().map(|addr| listen(*addr)).collect::<Result<Vec<_>, _>>()?
        } else {
            doors.inherited.into_iter().map(adopt).collect::<Result<Vec<_>, _>>()?
        };
        if listeners.is_empty() {
            return Err(ServerError::Settings { what: "server.listen names no address".to_owned() });
        }
        let source = |source| ServerError::Inherited { source };
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>().map_err(source)?;
        let counters = Arc::new(Counters::default());
        let limits = settings.limits.clone();
        let shared = Shared {
            root,
            watch: Watch::new(&limits, counters.clone()),
            admission: Admission::new(&limits),
            acceptor: doors.certificates.map(|certificates| certificates.acceptor()).transpose()?,
            tunnels: Tunnels::of,
            guises: doors.guises,
            counters,
            tasks,
            limits,
        };
        Ok(Server {
            shared: Arc::new(shared),
            listeners: Arc::new(Mutex::new(listeners.into_iter().map(Arc::new).collect())),
            addresses,
            accepting: Arc::new(watch::Sender::new(true)),
        })
    }

    /// The addresses that were bound, in the order of the settings.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.shared.counters.clone()
    }

    /// Requests whose answers are not complete.
    pub fn in_flight(&self) -> u64 {
        self.shared.watch.in_flight()
    }

    /// Accepts until `stop_accepting` or `drain`.
    pub async fn run(&self) {
        let listeners = self.listeners.lock().clone();
        let watching = self.clone();
        self.shared.tasks.spawn("connection watch", async move { watching.watch().await });
        futures_util::future::join_all(listeners.into_iter().map(|listener| self.accept(listener))).await;
    }

    /// Accepts no more and lets go of the sockets. Whoever else holds them goes on.
    pub fn stop_accepting(&self) {
        self.accepting.send_replace(false);
        self.listeners.lock().clear();
    }

    /// Has open connections finish what is under way and take nothing new.
    pub fn finish(&self) {
        self.shared.watch.finish();
    }

    /// Stops accepting, lets what is under way finish, at most for `grace`, then cuts the rest. Returns how many
    /// connections were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.stop_accepting();
        self.finish();
        let empty = self.shared.watch.empty();
        if tokio::time::timeout(grace, empty).await.is_ok() {
            return 0;
        }
        let left = self.shared.watch.open();
        self.shared.watch.cut();
        left
    }

    /// The listening sockets, for a successor.
    pub(crate) fn sockets(&self) -> Vec<Arc<TcpListener>> {
        self.listeners.lock().clone()
    }

    /// Watches connections until the last is gone after the end of accepting.
    async fn watch(&self) {
        let ended = async {
            self.stopped().await;
            self.shared.watch.empty().await;
        };
        let admission = self.shared.admission.clone();
        tokio::select! {
            () = self.shared.watch.run(|| admission.refill()) => {}
            () = ended => {}
        }
    }

    /// Serves a stream that is no socket, as if it had just been accepted.
    #[cfg(test)]
    pub(crate) async fn serve_memory(&self, io: tokio::io::DuplexStream) {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let permit = self.shared.admission.permit().await;
        let Some(admitted) = self.shared.admission.admit(addr.ip(), permit) else { return };
        super::connection::serve_memory(self.shared.clone(), io, Ends { addr, local: addr }, admitted).await;
    }

    async fn stopped(&self) {
        // An error means the sender is gone, and it lives in self.
        let _ = self.accepting.subscribe().wait_for(|accepting| !accepting).await;
    }

    async fn accept(&self, listener: Arc<TcpListener>) {
        let mut stopped = std::pin::pin!(self.stopped());
        loop {
            let next = async {
                // The permit first: a connection that cannot be served waits in the kernel, unaccepted.
                let permit = self.shared.admission.permit().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = &mut stopped => return,
                next = next => next,
            };
            let (socket, addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    Counters::up(&self.shared.counters.accept_failed);
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            Counters::up(&self.shared.counters.accepted);
            match self.shared.admission.admit(addr.ip(), permit) {
                Some(admitted) => self.begin(socket, addr, admitted),
                None => Counters::up(&self.shared.counters.refused_address),
            }
        }
    }

    fn begin(&self, socket: TcpStream, addr: SocketAddr, admitted: super::admission::Admitted) {
        let Ok(local) = socket.local_addr() else { return };
        let connection = serve_socket(self.shared.clone(), socket, Ends { addr, local }, admitted);
        self.shared.tasks.spawn("connection", connection);
    }
}

/// Options are set on the listening socket: what is accepted inherits them, without a call for each connection.
fn listen(addr: SocketAddr) -> Result<TcpListener, ServerError> {
    let open = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.bind(addr)?;
        if addr.ip().is_loopback() {
            // A failure costs speed alone.
            let _ = os::send_unpaced(&socket);
        }
        socket.listen(BACKLOG)
    };
    open().map_err(|source| ServerError::Listen { addr, source })
}

fn adopt(listener: std::net::TcpListener) -> Result<TcpListener, ServerError> {
    let adopt = || {
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        rustix::net::sockopt::set_socket_keepalive(&listener, true)?;
        if listener.local_addr()?.ip().is_loopback() {
            let _ = os::send_unpaced(&listener);
        }
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    adopt().map_err(|source| ServerError::Inherited { source })
}

/// Certificates to speak TLS with, from files. None when the settings name none.
pub fn certificates_from(settings: &Settings) -> Result<Option<Arc<Certificates>>, ServerError> {
    let (Some(certificate), Some(key)) = (&settings.tls.certificate, &settings.tls.key) else { return Ok(None) };
    Certificates::from_files(certificate, key).map(|certificates| Some(Arc::new(certificates)))
}
