//! The servers that are measured: larder, nginx as Debian has it, a bare hyper server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::load::Connection;
use crate::origin::pattern;
use crate::process::{Running, cpu_seconds, start_and_read};

/// A server under load.
pub struct Peer {
    pub name: &'static str,
    pub addr: SocketAddr,
    pub running: Running,
    /// Where an object of a size is.
    pub path: Box<dyn Fn(u64) -> String>,
}

impl Peer {
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn cpu(&self) -> f64 {
        cpu_seconds(self.pid())
    }
}

/// What larder is told beside the defaults.
pub const LARDER: &str = "
[upstreams]
learn = \"public\"

[upstream]
allow_private = [\"127.0.0.0/8\"]

[server.limits]
connections_per_address = 20000
";

/// larder with its access log on and all else as it comes, but for `more`.
pub fn larder(dir: &Path, name: &'static str, more: &str, path: impl Fn(u64) -> String + 'static) -> Peer {
    larder_with(dir, name, &format!("{LARDER}{more}"), path)
}

/// The same with nothing but what is said.
pub fn larder_with(dir: &Path, name: &'static str, text: &str, path: impl Fn(u64) -> String + 'static) -> Peer {
    let home = dir.join(name.replace([' ', ','], "-"));
    fs::create_dir_all(&home).expect("scratch can be written");
    let config = home.join("larder.toml");
    let log = format!("\n[log]\naccess = \"{}\"\n", home.join("access.log").display());
    fs::write(&config, format!("{text}{log}")).expect("scratch can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
    command.arg("serve").arg("--config").arg(&config).args(["--listen", "127.0.0.1:0"]);
    command.arg("--data").arg(home.join("data")).env_clear();
    let (running, addr) = start_and_read(command, "listening on http://");
    Peer { name, addr: addr.parse().expect("an address"), running, path: Box::new(path) }
}

pub fn bare() -> Peer {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.arg("serve-bare");
    let (running, addr) = start_and_read(command, "listening on ");
    Peer {
        name: "bare hyper",
        addr: addr.parse().expect("an address"),
        running,
        path: Box::new(|len| format!("/{len}")),
    }
}

/// nginx with what makes it fast for files, over files of its own with the same bytes.
pub fn nginx(dir: &Path, sizes: &[u64]) -> Peer {
    nginx_with(dir, sizes, "")
}

/// The same with `more` said of its server.
pub fn nginx_with(dir: &Path, sizes: &[u64], more: &str) -> Peer {
    let home = dir.join("nginx");
    let files = home.join("files");
    fs::create_dir_all(&files).expect("scratch can be written");
    let pattern = pattern();
    for len in sizes {
        let body: Vec<u8> = pattern.iter().copied().cycle().take(*len as usize).collect();
        fs::write(files.join(len.to_string()), body).expect("scratch can be written");
    }
    // Two ports of ours would race: nginx cannot choose one itself, so a free one is looked for right before.
    let addr = free();
    let home_text = home.display();
    let config = format!(
        "worker_processes 2;\ndaemon off;\nmaster_process on;\npid {home_text}/pid;\nerror_log {home_text}/error.log warn;\n\
         {user}events {{ worker_connections 8192; }}\n\
         http {{\n  access_log {home_text}/access.log combined buffer=64k flush=1s;\n  sendfile on;\n  sendfile_max_chunk 2m;\n\
         tcp_nopush on;\n  keepalive_requests 1000000000;\n  open_file_cache max=1000 inactive=60s;\n\
         open_file_cache_valid 60s;\n  client_body_temp_path {home_text}/t1;\n  proxy_temp_path {home_text}/t2;\n\
         fastcgi_temp_path {home_text}/t3;\n  uwsgi_temp_path {home_text}/t4;\n  scgi_temp_path {home_text}/t5;\n\
         server {{ listen {addr}; root {files}; {more} }}\n}}\n",
        user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" },
        files = files.display(),
    );
    let config_path = home.join("nginx.conf");
    fs::write(&config_path, config).expect("scratch can be written");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&config_path).arg("-p").arg(&home);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let running = Running(command.spawn().expect("nginx is installed: tests/setup --benches"));
    for _ in 0..500 {
        if Connection::open(addr).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Peer { name: "nginx", addr, running, path: Box::new(|len| format!("/{len}")) }
}

/// Where something may listen that cannot choose itself.
pub fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a free port")
}
