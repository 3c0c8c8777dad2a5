//! What every command has, and what wrong usage is told.

use clap::{CommandFactory, Parser};

use super::Cli;
use super::failure::Failure;

fn each(command: &clap::Command, path: &str, check: &mut dyn FnMut(&clap::Command, &str)) {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        let path = format!("{path} {}", below.get_name());
        check(below, &path);
        each(below, &path, check);
    }
}

#[test]
fn the_definition_holds() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_a_line_and_examples_that_parse_as_its_own() {
    let mut seen = 0;
    each(&Cli::command(), "larder", &mut |command, path| {
        seen += 1;
        assert!(command.get_about().is_some(), "{path} says nothing of itself");
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:\n"), "{path} has no examples");
        assert!(help.lines().skip(1).any(|line| line.contains(path)), "{path}: no example shows it");
    });
    assert!(seen > 20, "{seen}");
}

#[test]
fn examples_parse() {
    each(&Cli::command(), "larder", &mut |command, _| {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().skip(1) {
            let text = line.trim_start().split("    ").next().unwrap_or_default();
            for piece in text.split(['|', '>', '&', '$', '(', ')', '"']) {
                let words: Vec<&str> = piece.split_whitespace().collect();
                if words.first() == Some(&"larder") {
                    let parsed = Cli::try_parse_from(&words);
                    assert!(parsed.is_ok(), "{line}: {:?}", parsed.err().map(|error| error.to_string()));
                }
            }
        }
    });
}

fn refused(words: &[&str]) -> (String, u8) {
    let failure = Failure::from(Cli::try_parse_from(words).err().expect("is refused"));
    (failure.text(), failure.code)
}

#[test]
fn wrong_usage_is_one_line_and_one_of_help() {
    for (words, text) in [
        (
            &["larder", "run"][..],
            "error: the following required arguments were not provided: <COMMAND>...\n\
             help: larder run <COMMAND>...; more with --help\n",
        ),
        (
            &["larder", "offline", "maybe"],
            "error: invalid value 'maybe' for '<STATE>'\nhelp: there is: on, off; more with --help\n",
        ),
        (
            &["larder", "verfy"],
            "error: unrecognized subcommand 'verfy'\n\
             help: a similar subcommand exists: 'verify'; larder <COMMAND>; more with --help\n",
        ),
    ] {
        assert_eq!(refused(words), (text.to_owned(), 2));
    }
}

#[test]
fn wrong_usage_has_code_two_and_names_what_was_meant() {
    let (text, code) = refused(&["larder", "serv"]);
    assert!(text.contains("serve") && code == 2, "{text}");
    let (text, code) = refused(&["larder", "serve", "--lissen", "x"]);
    assert!(text.contains("--listen") && code == 2, "{text}");
    let (_, code) = refused(&["larder", "run"]);
    assert_eq!(code, 2);
    let (text, code) = refused(&["larder", "run", "--labl", "x", "--", "true"]);
    assert!(text.contains("'--labl'") && text.contains("--label") && code == 2, "{text}");
    let (text, _) = refused(&["larder", "token", "create", "ci", "--right", "root"]);
    assert!(text.contains("read, write and admin"), "{text}");
    let (text, _) = refused(&["larder", "gc", "--max-bytes", "lots"]);
    assert!(text.contains("64KiB"), "{text}");
}

#[test]
fn a_command_keeps_its_own_flags() {
    assert!(Cli::try_parse_from(["larder", "run", "--", "cargo", "build", "--release"]).is_ok());
    assert!(Cli::try_parse_from(["larder", "run", "cargo", "build", "--server", "x"]).is_ok());
    assert!(Cli::try_parse_from(["larder", "run", "--server", "http://cache:7070", "--", "make", "-j2"]).is_ok());
    assert!(Cli::try_parse_from(["larder", "run", "make", "-j2", "--", "-x"]).is_ok());
    assert!(Cli::try_parse_from(["larder", "run", "--", "-odd", "-x"]).is_ok());
}

#[test]
fn a_failure_is_one_line_and_a_next_step() {
    let failure = Failure::failed("no larder answers", "start one with `larder serve`");
    assert_eq!(failure.text(), "error: no larder answers\nhelp: start one with `larder serve`\n");
    let failure = Failure::from(crate::config::ConfigError::new("larder.toml:3: unknown key a;\nmend it"));
    assert_eq!((failure.text().as_str(), failure.code), ("error: larder.toml:3: unknown key a; mend it\n", 2));
}

#[test]
fn generated_documents_name_no_place_of_this_machine() {
    let home = std::env::var("HOME").unwrap_or_default();
    for (path, text) in super::docs::documents(Cli::command()) {
        assert!(home.len() < 3 || !text.contains(&home), "{path}");
        assert!(text.ends_with('\n'), "{path}");
    }
}
