//! What either side of the seam promises.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::{FdFlags, fcntl_getfd};

use super::os;

#[test]
fn a_cached_read_tells_the_truth_or_nothing() {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"0123456789").expect("writes");
    let mut bytes = [0; 4];
    match os::read_cached(&file, &mut [IoSliceMut::new(&mut bytes)], 3) {
        Ok(read) => assert!(read > 0 && bytes[..read] == b"3456"[..read], "{read} {bytes:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
    }
    os::prefetch(&file, 0, 10);
}

#[test]
fn a_listener_is_told_from_a_stream_and_a_file() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let stream = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    assert!(os::is_listening(&listener).expect("is a socket"));
    assert!(!os::is_listening(&stream).expect("is a socket"));
    assert!(os::is_listening(tempfile::tempfile().expect("a file")).is_err());
}

#[test]
fn what_a_listener_accepts_is_unpaced_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    os::send_unpaced(&listener).expect("every kernel can");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    let (accepted, _) = listener.accept().expect("accepts");
    #[cfg(all(target_os = "linux", not(feature = "portable")))]
    assert_eq!(rustix::net::sockopt::tcp_congestion(&accepted).expect("has one"), "reno");
    drop((accepted, client));
}

#[test]
fn a_socket_below_a_long_path_is_reached() {
    let dir = tempfile::tempdir().expect("a directory");
    let deep = dir.path().join("d".repeat(150));
    std::fs::create_dir(&deep).expect("a directory with a long path");
    for dir in [dir.path(), &deep] {
        let _listener = os::at_short_path(dir, "a.sock", |path| UnixListener::bind(path)).expect("binds");
        os::at_short_path(dir, "a.sock", |path| UnixStream::connect(path)).expect("connects");
        assert!(dir.join("a.sock").exists());
        let missing = os::at_short_path(dir, "b.sock", |path| UnixStream::connect(path)).expect_err("is not there");
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
}

#[test]
fn what_was_received_is_kept_from_children() {
    let file: File = tempfile::tempfile().expect("a file");
    // As a descriptor comes that was received with the flags of `os::RECEIVE`.
    let flags = if os::RECEIVE.is_empty() { FdFlags::empty() } else { FdFlags::CLOEXEC };
    rustix::io::fcntl_setfd(&file, flags).expect("sets");
    os::keep_from_children(&file).expect("is open");
    assert_eq!(fcntl_getfd(&file).expect("is open"), FdFlags::CLOEXEC);
}
