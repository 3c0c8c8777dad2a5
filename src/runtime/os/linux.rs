//! What Linux alone offers. The one place for it: `portable.rs` beside it has the same functions for every other system, and
//! `contract.rs` holds both to the same promises.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{RecvFlags, SendFlags};

/// For a message to a peer that may have gone: an error, no signal.
pub const SEND: SendFlags = SendFlags::NOSIGNAL;
/// For a message with descriptors: no child of ours inherits them.
pub const RECEIVE: RecvFlags = RecvFlags::CMSG_CLOEXEC;

/// Longest path of a Unix socket (`sun_path`), less its end.
const MAX_SOCKET_PATH: usize = 107;

/// Reads what is in the page cache; never waits for a disk.
///
/// *Shape*: may be short. *Errors*: `WouldBlock` when nothing is there, or this cannot be told.
pub fn read_cached(file: &File, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, parts, at, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        // Some file systems and old kernels know no such read: the pool does it then.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Says that this part will be read soon.
pub fn prefetch(file: &File, at: u64, len: u64) {
    // A hint: a file system that does not take it loses speed alone.
    let _ = rustix::fs::fadvise(file, at, NonZeroU64::new(len), Advice::WillNeed);
}

/// Keeps a received descriptor from children, which `RECEIVE` has done.
pub fn keep_from_children(_received: impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Whether a socket takes connections.
pub fn is_listening(socket: impl AsFd) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_acceptconn(socket)?)
}

/// Has what a listener on this machine's own address accepts sent unpaced. There is no link to be fair on, and BBR, where it
/// is the default, arms a timer every few packets: a ninth of what a miss cost.
///
/// *Errors*: it costs that much more, and nothing else.
pub fn send_unpaced(listener: impl AsFd) -> io::Result<()> {
    // Built into every kernel and open to every user; nothing is lost here that it could be slow to make up for.
    Ok(rustix::net::sockopt::set_tcp_congestion(listener, "reno")?)
}

/// Opens the Unix socket `name` in `dir`, however long that path is: a long one through a descriptor of its directory.
pub fn at_short_path<T>(dir: &Path, name: &str, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = dir.join(name);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return open(&path);
    }
    let dir = File::open(dir)?;
    open(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}
