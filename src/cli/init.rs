//! `larder init`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::credentials;
use super::discover::tool::InstalledTools;
use super::discover::unpacked::look_unpacked;
use super::discover::{Found, Surroundings, look};
use super::failure::Failure;
use super::out;
use super::point;
use super::where_at::ConfigArgs;
use crate::config::{Variables, parse, print};

/// Find which upstreams this machine's tools use, and write a configuration with them
///
/// Read are the tools' own files and lockfiles; a tool is asked only where no file tells. Credentials in
/// addresses are written nowhere, or with --credentials to files that their owner alone can read.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder init                                          write the user's configuration
  larder init --write larder.toml --from ./image       read an unpacked image, no tool needed
  larder init --system                                 in an image: write /etc/larder/larder.toml
  larder init --from . --configmap larder              a checkout's upstreams, for kubectl apply -f -
  larder init --json | larder upstream import -        adopt them in a running server")]
pub(crate) struct Args {
    /// Print what was found as JSON; write nothing
    #[arg(long, conflicts_with_all = ["write", "force", "configmap", "credentials"])]
    json: bool,
    /// Print a Kubernetes ConfigMap of this name, with what was found as larder.toml
    #[arg(long, value_name = "NAME", conflicts_with_all = ["force", "credentials"], value_parser = object_name)]
    configmap: Option<String>,
    /// Read a checkout or an unpacked image in place of this machine
    #[arg(long, value_name = "DIR", conflicts_with = "system")]
    from: Option<PathBuf>,
    /// Read what holds for the whole machine, not this user's or directory's settings
    #[arg(long)]
    system: bool,
    /// File to write; - is standard output
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Keep credentials that stand in addresses in the data directory, for the server that reads the file
    #[arg(long)]
    credentials: bool,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// *Errors*: a directory that cannot be read, a file that cannot be written.
pub(crate) fn init(args: &Args) -> Result<(), Failure> {
    let found = find(args)?;
    if !args.credentials {
        point::note_secrets(&found);
    }
    let sources = point::sources(&found);
    if args.json {
        out::text_out(&format!("{:#}\n", point::as_json(&sources)));
        return Ok(());
    }
    let mut text = match &args.configmap {
        Some(_) => print::upstreams_alone(&point::discovered(&sources)),
        None => print::with_upstreams(&point::discovered(&sources)),
    };
    if args.credentials {
        text.push_str(&credentials::keep(&data_dir()?, &found)?);
    }
    // What is written must also be read: an address that a tool takes may still not be one.
    parse("the configuration found", &text)?;
    if let Some(name) = &args.configmap {
        text = configmap(name, &text);
    }
    let to = destination(args)?;
    if to == Path::new("-") {
        out::text_out(&text);
        return Ok(());
    }
    write(&to, &text, args.force)?;
    out::line(&format!("{} written, with {}", to.display(), out::count(sources.len() as u64, "upstream", "upstreams")));
    for source in &sources {
        out::line(&format!("  {:<8} {}  found in {}", source.ecosystem, source.url, out::plain(&source.found_in)));
    }
    if sources.is_empty() {
        out::line("no tool here names an upstream; run it where the build runs, or add them to the file");
    }
    Ok(())
}

fn find(args: &Args) -> Result<Vec<Found>, Failure> {
    if let Some(dir) = &args.from {
        if !dir.is_dir() {
            let help = "name a checkout or an unpacked image";
            return Err(Failure::usage(format!("{} is no directory", dir.display()), help));
        }
        return Ok(look_unpacked(dir));
    }
    if args.system {
        let variables = Variables::of_process();
        let kept =
            ["PATH", "LANG"].into_iter().filter_map(|name| Some((name.to_owned(), variables.get(name)?.to_owned())));
        let env: BTreeMap<String, String> = kept.chain([("HOME".to_owned(), "/nonexistent".to_owned())]).collect();
        let around = Surroundings::new(Path::new("/"), Path::new("/nonexistent"), env, &InstalledTools);
        return Ok(look(&around));
    }
    Ok(point::found_here())
}

fn destination(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.write {
        return Ok(file.clone());
    }
    if args.configmap.is_some() {
        return Ok(PathBuf::from("-"));
    }
    if args.system {
        return Ok(PathBuf::from("/etc/larder/larder.toml"));
    }
    let home = Variables::of_process().config_home();
    home.map(|home| home.join("larder/larder.toml"))
        .ok_or_else(|| Failure::usage("there is no home directory to write to", "name a file with --write FILE"))
}

fn data_dir() -> Result<PathBuf, Failure> {
    ConfigArgs::default().here(None)?.data_dir()
}

/// The document that a pod mounts as its directory of configuration.
fn configmap(name: &str, text: &str) -> String {
    let mut out = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  larder.toml: |\n");
    for line in text.lines() {
        out.push_str(format!("    {line}").trim_end());
        out.push('\n');
    }
    out
}

/// As Kubernetes takes it (RFC 1123).
fn object_name(text: &str) -> Result<String, String> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = text.bytes().all(|byte| inner(byte) || b"-.".contains(&byte)) && text.len() <= 253;
    let ends = text.bytes().next().is_some_and(inner) && text.bytes().last().is_some_and(inner);
    if fits && ends { Ok(text.to_owned()) } else { Err("use lower case letters, digits, - and .".to_owned()) }
}

fn write(to: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let written = (|| {
        if let Some(dir) = to.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            std::fs::create_dir_all(dir)?;
        }
        let mut options = std::fs::File::options();
        options.write(true);
        if force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        options.open(to)?.write_all(text.as_bytes())
    })();
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::failed(
            format!("{} is there already", to.display()),
            "add --force to write over it, or --write FILE",
        ),
        _ => Failure::failed(
            format!("{}: {error}", to.display()),
            "name a file that this user may write with --write FILE",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::print::{Adopted, Discovered};
    use crate::config::sections::Next;

    #[test]
    fn a_configmap_holds_a_configuration_that_reads() {
        let adopted = |url: &str| Adopted { url: url.into(), next: Next::Failure, found_in: "a: \"file\"\n#".into() };
        let discovered = Discovered {
            upstreams: [("go".to_owned(), vec![adopted("https://go.example/")])].into(),
            allow: [("packages.example:81".to_owned(), "b".to_owned())].into(),
        };
        let text = configmap("larder", &print::upstreams_alone(&discovered));
        let (head, block) = text.split_once("larder.toml: |\n").expect("is a block");
        assert_eq!(head, "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: larder\ndata:\n  ");
        assert!(block.lines().all(|line| line.is_empty() || line.starts_with("    ")), "{block}");
        let inner: String = block.lines().map(|line| format!("{}\n", line.get(4..).unwrap_or_default())).collect();
        let config = parse("the map", &inner).expect("reads");
        assert_eq!(config.upstreams.allow, ["packages.example:81"]);
        assert_eq!(config.ecosystem["go"].upstreams, ["https://go.example/"]);
        for name in ["", "-a", "A", "a b", "a:"] {
            assert!(object_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_that_is_there_is_kept_unless_forced() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("below/larder.toml");
        write(&file, "one", false).expect("writes");
        let failure = write(&file, "two", false).expect_err("is there");
        assert!(failure.help.is_some_and(|help| help.contains("--force")));
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "one");
        write(&file, "two", true).expect("writes");
        assert_eq!(std::fs::read_to_string(&file).expect("reads"), "two");
    }
}
