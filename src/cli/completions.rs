//! `larder completions` and `larder man`.

use std::path::PathBuf;

use clap_complete::Shell;

use super::failure::Failure;
use super::out;

/// Print a completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder completions bash > ~/.local/share/bash-completion/completions/larder
  larder completions zsh > ~/.zfunc/_larder
  larder completions fish > ~/.config/fish/completions/larder.fish")]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

/// *Errors*: none.
pub(crate) fn completions(args: &CompletionsArgs, mut command: clap::Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "larder", &mut script);
    out::text_out(&String::from_utf8_lossy(&script));
    Ok(())
}

/// Print the manual page, or write one for each command to a directory
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder man | man -l -
  larder man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Directory to write a page for each command to
    dir: Option<PathBuf>,
}

/// *Errors*: the directory's.
pub(crate) fn man(args: &ManArgs, command: clap::Command) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        let made = clap_mangen::Man::new(command).render(&mut page);
        made.map_err(|error| Failure::failed(format!("the page cannot be made: {error}"), "report it"))?;
        out::text_out(&String::from_utf8_lossy(&page));
        return Ok(());
    };
    let written = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    written.map_err(|error| {
        Failure::failed(format!("{}: {error}", dir.display()), "name a directory that this user may write to")
    })
}
