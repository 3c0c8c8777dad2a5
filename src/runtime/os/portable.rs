//! The same as `linux.rs` with what every Unix has: slower, never wrong. The feature `portable` takes it on Linux too, which
//! is how the tests run it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::{Errno, FdFlags};
use rustix::net::{RecvFlags, SendFlags};

use super::clock::random_bytes;
use crate::model::hex;

/// Nothing to ask for: Rust's start-up code has SIGPIPE ignored.
pub const SEND: SendFlags = SendFlags::empty();
/// Nothing to ask for: see `keep_from_children`.
pub const RECEIVE: RecvFlags = RecvFlags::empty();

/// Longest path of a Unix socket (`sun_path`), less its end, on the systems that give it least.
const MAX_SOCKET_PATH: usize = 103;

/// Reads what is in the page cache, of which nothing is known here: the caller reads on a thread that may wait.
///
/// *Errors*: `WouldBlock`, always.
pub fn read_cached(_file: &File, _parts: &mut [IoSliceMut<'_>], _at: u64) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// A hint that is not given.
pub fn prefetch(_file: &File, _at: u64, _len: u64) {}

/// Keeps a received descriptor from children. One that is started between the two calls has it all the same.
pub fn keep_from_children(received: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(received, FdFlags::CLOEXEC)?)
}

/// Whether a socket may take connections: nobody is at its other end. One that was bound and
/// does not listen is not told from one that does; accepting fails then.
pub fn is_listening(socket: impl AsFd) -> io::Result<bool> {
    match rustix::net::getpeername(&socket) {
        Err(Errno::NOTCONN) => Ok(true),
        Ok(_) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Nothing to ask for: nobody else paces by timers of the kernel.
pub fn send_unpaced(_listener: impl AsFd) -> io::Result<()> {
    Ok(())
}

/// Opens the Unix socket `name` in `dir`, however long that path is: a long one through a link, made for the moment.
pub fn at_short_path<T>(dir: &Path, name: &str, open: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = dir.join(name);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return open(&path);
    }
    // A link that is there already is not ours and an error: nobody can lead us elsewhere.
    let link = std::env::temp_dir().join(format!("larder-{}", hex::encode(&random_bytes::<8>())));
    std::os::unix::fs::symlink(std::path::absolute(dir)?, &link)?;
    let opened = open(&link.join(name));
    std::fs::remove_file(&link)?;
    opened
}
