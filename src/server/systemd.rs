//! What the service manager gives and wants to hear: sockets it opened for us, and whether we are ready, alive or
//! going. Without one, nothing here does anything.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// The sockets that were opened for us. Call it before the first thread starts: it clears the environment.
///
/// *Errors*: one of them is not a listening TCP socket.
pub fn sockets() -> io::Result<Vec<TcpListener>> {
    let mut given = ListenFd::from_env();
    (0..given.len()).filter_map(|at| given.take_tcp_listener(at).transpose()).collect()
}

/// Says that requests are served, and by which process: after a handover it is another one.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
}

/// Says that a shutdown began, and how long it may take.
pub fn stopping(grace: Duration) {
    let usec = u32::try_from(grace.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(usec)]);
}

/// One line on what goes on, shown beside the service's state.
pub fn status(line: &str) {
    notify(&[NotifyState::Status(line)]);
}

/// Tells a watchdog that we live, for as long as `alive` says so. Returns at once when there is none.
pub async fn feed_watchdog(alive: impl Fn() -> bool) {
    let mut usec = 0;
    if !sd_notify::watchdog_enabled(false, &mut usec) {
        return;
    }
    let mut ticks = tokio::time::interval(Duration::from_micros(usec / 2).max(Duration::from_millis(100)));
    loop {
        ticks.tick().await;
        if alive() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "service manager not told");
    }
}
