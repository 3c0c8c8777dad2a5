//! The commands: what is typed, what is printed, which code comes back.

mod beacon;
mod ca;
mod client;
mod completions;
mod containers;
mod credentials;
pub mod discover;
mod docs;
mod doctor;
mod env;
mod explain;
mod failure;
mod health;
mod init;
mod keystore;
mod ledger;
mod out;
mod point;
mod probe;
mod progress;
mod public_dir;
mod run;
mod run_child;
mod serve;
mod serve_shared;
mod settings;
mod shared;
mod stats;
mod summary;
mod token;
pub mod tools;
mod trust;
mod unseen;
mod upkeep;
mod upstream;
mod where_at;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::Failure;

const EXAMPLES: &str = "\
Examples:
  larder run -- cargo fetch          build once through the cache, with nothing set up
  larder serve                       serve on 127.0.0.1:7070
  eval \"$(larder env)\"               point this shell's tools at it
  larder doctor http://HOST:7070     see whether a server works, and how fast

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration; `run`: the command's own.
Variables: LARDER_SERVER and LARDER_TOKEN name a server and a token, LARDER_CONFIG a file,
LARDER_SECTION_KEY any setting.";

/// One warm cache for everything a build fetches, makes and ships
#[derive(Parser)]
#[command(name = "larder", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Run(run::Args),
    Env(env::Args),
    Init(init::Args),
    Doctor(doctor::Args),
    Stats(stats::Args),
    Gc(upkeep::GcArgs),
    Verify(upkeep::VerifyArgs),
    Ca(ca::Args),
    Explain(explain::Args),
    Offline(upstream::OfflineArgs),
    Upstream(upstream::Args),
    Token(token::Args),
    Config(settings::Args),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
    Docs(docs::Args),
    Shared(serve_shared::Args),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if is_page(&error) => {
            // A closed pipe is no reason to say more.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::USAGE } else { 0 });
        }
        Err(error) => return Failure::from(error).report(),
    };
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Whether this is help or a version that was asked for, or that a bare command gets.
fn is_page(error: &clap::Error) -> bool {
    use clap::error::ErrorKind;
    let bare = matches!(error.kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
    bare || !error.use_stderr()
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    let done = match command {
        Command::Serve(args) => serve::serve(args),
        Command::Run(args) => return run::run(args),
        Command::Env(args) => env::env(&args),
        Command::Init(args) => init::init(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Gc(args) => upkeep::gc(&args),
        Command::Verify(args) => upkeep::verify(&args),
        Command::Ca(args) => ca::ca(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Offline(args) => upstream::offline(&args),
        Command::Upstream(args) => upstream::upstream(&args),
        Command::Token(args) => token::token(&args),
        Command::Config(args) => settings::config(&args),
        Command::Completions(args) => completions::completions(&args, Cli::command()),
        Command::Man(args) => completions::man(&args, Cli::command()),
        Command::Docs(args) => docs::docs(&args, Cli::command()),
        Command::Shared(args) => serve_shared::serve_shared(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
