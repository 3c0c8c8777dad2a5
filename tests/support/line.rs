//! A line between larder and a server that it needs: carries bytes both ways until it is cut, and again once it is mended.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Listens as long as the process lives.
pub struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    cut: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Line {
    /// A line to `to`, such as `127.0.0.1:9000`.
    pub fn to(to: &str) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { cut: AtomicBool::new(false), open: Mutex::default() });
        std::thread::spawn({
            let (shared, to) = (shared.clone(), to.to_owned());
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    // Dropped, it is closed: as if the server's process had just ended.
                    if !shared.cut.load(Ordering::SeqCst) {
                        let _ = shared.join(client, &to);
                    }
                }
            }
        });
        Line { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends all that goes through, and closes what comes.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        for stream in self.shared.open().drain(..) {
            // The other side may have gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, client: TcpStream, to: &str) -> std::io::Result<()> {
        let server = TcpStream::connect(to)?;
        self.open().extend([client.try_clone()?, server.try_clone()?]);
        for (mut from, mut into) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut into);
                let _ = into.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
