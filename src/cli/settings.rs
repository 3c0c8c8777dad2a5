//! `larder config`.

use clap::Subcommand;

use super::failure::Failure;
use super::out;
use super::where_at::ConfigArgs;
use crate::config::print;

/// Show the settings
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  larder config show                                what is in force here
  larder config default > larder.toml               every setting with what it means")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print the settings in force, from file, environment and flags
    #[command(after_help = "Examples:\n  larder config show --config /etc/larder/larder.toml")]
    Show {
        #[command(flatten)]
        at: ConfigArgs,
    },
    /// Print every setting with its default and what it means
    #[command(after_help = "Examples:\n  larder config default > larder.toml")]
    Default,
}

/// *Errors*: a configuration that cannot be used.
pub(crate) fn config(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Default => out::text_out(&print::default_file()),
        Action::Show { at } => {
            let here = at.here(None)?;
            match &here.loaded.file {
                Some(file) => out::line(&format!("# from {}", file.display())),
                None => out::line("# no configuration file"),
            }
            let mut config = here.loaded.config.clone();
            config.data.dir = here.data_dir().ok();
            out::text_out(&print::in_force(&config)?);
            here.loaded.notes.iter().for_each(|note| out::note(note));
        }
    }
    Ok(())
}
