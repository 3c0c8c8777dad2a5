//! apt by way of the proxy, and without it when it is gone.
//!
//! apt asks a program for its proxy (`Acquire::http::Proxy-Auto-Detect`, apt-transport-http(1)); `DIRECT` wins over the
//! proxy variables. The program, which apt takes no arguments for, is a script for what every Debian has: bash and coreutils. `APT_CONFIG` names a file that
//! apt reads before all others.

use super::overlay::{Overlay, Script, own_directory};
use super::{Client, Purpose, Settings};
use crate::cli::public_dir;

/// On machines that are not this one. Always the same, so that what was built there stays built.
const ELSEWHERE: &str = "/tmp/larder-apt";

/// In print alone: a command that larder looks after has the proxy variables, which apt reads too.
pub(super) fn settings(client: &Client<'_>) -> Settings {
    if client.purpose != Purpose::Print || !client.found.iter().any(|found| found.ecosystem == "apt") {
        return Settings::default();
    }
    let script = script(client);
    let Ok(Some(overlays)) = public_dir::for_all(&client.overlays) else {
        let why = "its user `_apt` could not run what finds its proxy: nothing here is open to others".to_owned();
        return Settings { notes: vec![format!("apt is left the proxy variables: {why}")], ..Settings::default() };
    };
    let over = overlays.join(format!("apt-{}", &blake3::hash(script.as_bytes()).to_hex()[..12]));
    let shown = over.display().to_string();
    let theirs = client.around.var("APT_CONFIG").filter(|theirs| !theirs.starts_with(&shown));
    let files =
        vec![(over.join("proxy"), script.clone()), (over.join("apt.conf"), config(theirs, &format!("{shown}/proxy")))];
    let env = vec![("APT_CONFIG".to_owned(), format!("{shown}/apt.conf"))];
    let programs = vec![over.join("proxy")];
    let here = Overlay { env, directories: vec![over], files, programs, ..Overlay::default() };
    let quoted = |text: &str| text.replace('\'', r"'\''");
    // Its name comes from the shell.
    let config = quoted(&config(None, "DIR/proxy")).replace("DIR", "'\"$larder_apt\"'");
    let lines = format!(
        "{}printf %s '{}' > \"$larder_apt/proxy\"\nchmod 755 \"$larder_apt/proxy\"\n\
         printf %s '{config}' > \"$larder_apt/apt.conf\"\n",
        own_directory("larder_apt", ELSEWHERE),
        quoted(&script),
    );
    let env = vec![("APT_CONFIG".to_owned(), "$larder_apt/apt.conf".to_owned())];
    Settings { here, elsewhere: Script { lines, env, directories: vec![ELSEWHERE] }, ..Settings::default() }
}

fn config(theirs: Option<&str>, command: &str) -> String {
    let theirs = theirs.map(|theirs| format!("#include \"{theirs}\";\n")).unwrap_or_default();
    format!(
        "{theirs}Acquire::http::Proxy-Auto-Detect \"{command}\";\nAcquire::https::Proxy-Auto-Detect \"{command}\";\n"
    )
}

/// Prints the proxy, with the credential that the variable has, or `DIRECT`.
fn script(client: &Client<'_>) -> String {
    let host = client.server.host_str().unwrap_or_default();
    let bare = host.trim_matches(['[', ']']);
    let (scheme, port) = (client.server.scheme(), client.server.port_or_known_default().unwrap_or_default());
    format!(
        "#!/bin/sh\nif timeout 1 bash -c '</dev/tcp/{bare}/{port}' 2>/dev/null\n\
         then echo \"${{http_proxy:-{scheme}://{host}:{port}}}\"\nelse echo DIRECT\nfi\n"
    )
}
