//! apt's trust. It reads no variable but `APT_CONFIG`, the name of a file that it reads before all others (apt.conf(5)):
//! what the machine's own files say of `CaInfo` stays in force, as does what the user's file says.
//!
//! apt's user has to be able to read the certificates: where it cannot, every https source fails, intercepted or not.
//! Tried with apt 2.6.

use std::fs;
use std::io;
use std::path::Path;

use super::super::keystore::Der;
use super::super::{out, public_dir};
use super::{Before, bundle, kept};

/// Where this machine's apt is configured.
const APT: &str = "/etc/apt";

/// The variable that leads apt to what it has to trust. None: there is no apt, or no file that it could read.
///
/// *Errors*: a file cannot be written.
pub(super) fn variable(dir: &Path, before: &Before<'_>, larder: &[Der]) -> io::Result<Option<(String, String)>> {
    if !before.around.at(APT).is_dir() {
        return Ok(None);
    }
    match public_dir::for_all(dir)? {
        Some(dir) => conf(&dir, before, larder).map(Some),
        None => {
            out::note("apt is not told of larder's authority: no directory for temporary files is open to its user");
            Ok(None)
        }
    }
}

fn conf(dir: &Path, before: &Before<'_>, larder: &[Der]) -> io::Result<(String, String)> {
    let theirs = match before.around.var("APT_CONFIG") {
        // Of a run around this one: what the user has stands in it.
        Some(ours) if Path::new(ours).starts_with(dir) => {
            fs::read_to_string(ours).unwrap_or_default().lines().skip(1).map(|line| format!("{line}\n")).collect()
        }
        Some(theirs) => format!("#include \"{theirs}\";\n"),
        None => String::new(),
    };
    let bundle = bundle(dir, before.system.clone(), larder)?;
    // The last one counts.
    let text = format!("Acquire::https::CaInfo \"{}\";\n{theirs}", bundle.display());
    Ok(("APT_CONFIG".to_owned(), kept(dir, "conf", text.as_bytes())?.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{certificates, read, surroundings};
    use super::super::with;
    use super::*;

    #[test]
    fn what_a_user_says_to_apt_comes_last_within_a_run_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let [system, larder] = certificates(&["system.example", "larder.example"]).try_into().expect("two");
        let told = |theirs: &str| {
            let around = surroundings(dir.path(), &[("APT_CONFIG", theirs.to_owned())]);
            let before = Before { around: &around, system: vec![system.clone()] };
            conf(dir.path(), &before, std::slice::from_ref(&larder)).expect("lays").1
        };
        let text = |file: &str| fs::read_to_string(file).expect("a file");
        let first = told("/users/apt.conf");
        let (ours, theirs) = text(&first).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("lines");
        let bundle = ours.split('"').nth(1).expect("a path");
        assert_eq!(read(bundle), with(vec![system.clone()], std::slice::from_ref(&larder)));
        assert_eq!(theirs, "#include \"/users/apt.conf\";\n");
        assert_eq!(told(&first), first, "a run within a run");
        assert_eq!(text(&told("")).lines().count(), 1);
    }
}
