//! `docs/use/`: what to paste for each CI system and tool. The lines come from the renderers of `larder env`, so that they
//! are what it prints; tests/it/ runs each block.

use std::fmt::Write as _;

use super::containers;
use super::sample::{MADE, SERVER, sample, see, with_client};
use crate::cli::tools::pasted::{Pasted, pasted};
use crate::cli::tools::render::{Format, render};
use crate::cli::tools::{NO_FALLBACK, Settings, TOOLS, Tool};

/// Tools that need more than the proxy variables have a page each; the rest share one.
const SHARED: &str = "proxy";
const SHARING: [&str; 4] = [SHARED, "gradle", "git", "curl"];

/// Where a form of `larder env` is put.
struct Place {
    file: &'static str,
    title: &'static str,
    form: Format,
    /// As on the command line, and as Markdown calls it.
    name: &'static str,
    language: &'static str,
    tools: &'static [&'static str],
    where_to: &'static str,
    /// What else there is to know.
    more: &'static str,
}

const PLACES: [Place; 6] = [
    Place {
        file: "github",
        title: "GitHub Actions",
        form: Format::Github,
        name: "github",
        language: "yaml",
        tools: &["go", "cargo"],
        where_to: "A step before those that fetch. What it writes to `$GITHUB_ENV` holds for all later steps of the job.",
        more: "Where the runner has larder on its path, `run: larder run -- COMMAND` with `LARDER_SERVER` in `env` is enough. \
               For a job that builds an image see [BuildKit](buildkit.md).",
    },
    Place {
        file: "gitlab",
        title: "GitLab CI",
        form: Format::Gitlab,
        name: "gitlab",
        language: "yaml",
        tools: &["go", "cargo"],
        where_to: "In a job, or below `default:` for all jobs. It is one shell with the job's `script`.",
        more: "A job that has a `before_script` already gets these lines as its first entry. For a job that runs \
               `docker build`, `larder env gitlab` prints the `before_script`: see [BuildKit](buildkit.md).",
    },
    Place {
        file: "circleci",
        title: "CircleCI",
        form: Format::Circleci,
        name: "circleci",
        language: "yaml",
        tools: &["go", "cargo"],
        where_to: "In a job's `steps`, before those that fetch. Each later step reads `$BASH_ENV`.",
        more: "The job's shell must be bash, as it is in CircleCI's images.",
    },
    Place {
        file: "kubernetes",
        title: "Kubernetes",
        form: Format::Kubernetes,
        name: "kubernetes",
        language: "yaml",
        tools: &["go", "cargo"],
        where_to: "The ConfigMap once in the namespace; of the Pod its `command`, `volumeMounts` and `volumes`.",
        more: "A Pod without the ConfigMap runs as ever: it is `optional`. A server in the cluster gets its upstreams by \
               `larder init --configmap NAME`.",
    },
    Place {
        file: "make",
        title: "Make",
        form: Format::Make,
        name: "make",
        language: "make",
        tools: &["go", "cargo"],
        where_to: "On your own machine `larder run -- make` needs no line at all. Where larder is not installed, put these at \
                   the top of the Makefile, or into `larder.mk` with `-include larder.mk`. They hold for every recipe, and \
                   every `make` below.",
        more: "They take GNU Make 4.0 or later; an older one goes without larder.",
    },
    Place {
        file: "dockerfile",
        title: "Dockerfile",
        form: Format::Dockerfile,
        name: "dockerfile",
        language: "dockerfile",
        tools: &["go", "apt"],
        where_to: "One `RUN` that fetches. Nothing of larder stays in the image, but the address is in its history: \
                   [BuildKit](buildkit.md) and [Buildah](buildah.md) have a way without.",
        more: "It takes BuildKit, or a Buildah of 1.33 or later: earlier ones know no `<<`.",
    },
];

/// Every page: its path and text.
pub(super) fn pages() -> Vec<(String, String)> {
    let mut all = vec![("README".to_owned(), index()), ("sh".to_owned(), shell()), (SHARED.to_owned(), shared())];
    all.extend(PLACES.iter().map(|place| (place.file.to_owned(), place.page())));
    all.extend(containers::pages());
    all.extend(own_pages().map(|tool| (tool.word.to_owned(), of_tool(tool))));
    all.into_iter().map(|(file, text)| (format!("docs/use/{file}.md"), text)).collect()
}

fn own_pages() -> impl Iterator<Item = &'static Tool> {
    let shared = |tool: &&Tool| SHARING.contains(&tool.word) || tool.word == "docker";
    TOOLS.iter().filter(|tool| tool.is_mounted()).filter(move |tool| !shared(tool))
}

fn index() -> String {
    let mut page = format!(
        "# What to paste\n\n{MADE}\n\nEach page has lines to copy, what becomes of them when larder is dead, and what is not \
         cached. They name no registry: the server's own upstreams are used (`larder init` on the server finds them). Put \
         your larder's address in the place of `larder.example` and `7070`.\n\n\
         With larder installed where the build runs, `larder run --server {SERVER} -- COMMAND` is all that any of these \
         needs, and the one way that goes on when larder dies in the middle of a build.\n\n\
         | where the build runs | tool |\n|---|---|\n"
    );
    let places = [("Shell", "sh")].into_iter().chain(PLACES.iter().map(|place| (place.title, place.file)));
    let places: Vec<_> = places.chain(containers::TITLES).collect();
    let tools: Vec<_> = own_pages().map(|tool| (tool.name, tool.word)).chain([(SHARED_TITLE, SHARED)]).collect();
    let link =
        |row: Option<&(&str, &str)>| row.map_or_else(String::new, |(title, file)| format!("[{title}]({file}.md)"));
    for at in 0..places.len().max(tools.len()) {
        let _ = writeln!(page, "| {} | {} |", link(places.get(at)), link(tools.get(at)));
    }
    page + "\nWhere larder wants a token, set `LARDER_TOKEN` for `larder env`: its lines then hold the token, and belong \
            where your secrets are. Certificates of hosts that larder intercepts: `larder ca tools`, and \
            [tools](../tools.md#certificates).\n"
}

fn shell() -> String {
    let command = format!("eval \"$(larder env --if-up --server {SERVER})\"");
    format!(
        "# Shell\n\n{MADE}\n\nFor one command:\n\n```sh\nlarder run --server {SERVER} -- your-command\n```\n\n\
         For all that follows in this shell, such as a CI system's first step:\n\n```sh\n{command}\n```\n\n\
         Both look at what this machine's tools use and keep it: each tool goes to its own upstreams, by way of larder.\n\n\
         ## When larder is dead\n\n`larder run` goes on: from what its agent keeps, then from the upstreams, in the middle of \
         a download too. One kind of download is cut there and comes by another try: https by way of the proxy variables, \
         tunnelled or intercepted, since nobody can go on within another's TLS. `curl --retry 3 --retry-all-errors` tries \
         again by itself, go and Maven when they are started again. `--if-up` sets nothing when larder does not answer within 300 ms. When it dies later in that shell:\n\n\
         {}\n## What is kept\n\n{}\n{}",
        alone(&mounted()),
        kept(&mounted()),
        see()
    )
}

const SHARED_TITLE: &str = "git, curl, wget, Gradle and the rest";

fn shared() -> String {
    let settings = sample(&[SHARED, "gradle"]);
    let tools: Vec<&Tool> = TOOLS.iter().filter(|tool| SHARING.contains(&tool.word)).collect();
    format!(
        "# {SHARED_TITLE}\n\n{MADE}\n\nThey read the proxy variables. Gradle reads `GRADLE_OPTS`, which nobody has tried here yet. If larder answers:\n\n\
         ```sh\neval \"$(larder env --if-up --server {SERVER} {SHARED} gradle)\"\n```\n\n\
         Where larder is not installed:\n\n```sh\n{}```\n\n\
         ## When larder is dead\n\nThe first line sets nothing. The others, and a build under way:\n\n{}\n\
         ## What is kept\n\n{}\n{}",
        render(&Settings { server: None, ..settings }, Format::Sh),
        alone(&tools),
        kept(&tools),
        see()
    )
}

fn of_tool(tool: &Tool) -> String {
    let Pasted { place, language, text } = with_client(|client| pasted(client, tool.word));
    let word = tool.word;
    let dead = match word {
        "go" => "So does one with the pasted line: `direct` is the modules' own repositories.",
        "apt" => "So does one with the pasted files.",
        _ => "With the pasted file every build fails until that is taken away.",
    };
    let lost = match tool.alone {
        NO_FALLBACK => "A build under way fails".to_owned(),
        goes_on => format!("A build under way {goes_on}"),
    };
    format!(
        "# {}\n\n{MADE}\n\nFor one command:\n\n```sh\nlarder run --server {SERVER} -- {}\n```\n\n\
         For a shell, if larder answers:\n\n```sh\neval \"$(larder env --if-up --server {SERVER} {word})\"\n```\n\n\
         {place}, where larder is not installed:\n\n```{language}\n{text}```\n\n{}\
         ## When larder is dead\n\n`larder run` goes on. `--if-up` sets nothing. {lost}. {dead}\n\n\
         ## What is kept\n\n{}\n{}",
        tool.name,
        command(word),
        of_word(word),
        kept(&[tool]),
        see()
    )
}

fn command(word: &str) -> &'static str {
    match word {
        "go" => "go mod download",
        "cargo" => "cargo fetch",
        "apt" => "apt-get update",
        "maven" => "mvn package",
        "lein" => "lein deps",
        "npm" => "npm ci",
        "pypi" => "pip install -r requirements.txt",
        _ => "your-command",
    }
}

/// What else there is to know of a tool.
fn of_word(word: &str) -> &'static str {
    match word {
        "cargo" => "`Cargo.lock` stays as it would be without. A registry with a credential is asked directly.\n\n",
        "maven" => {
            "Another repository of a project is a further `<mirror>`: its id in `mirrorOf`, `/maven/@HOST/PATH` in `url`. A \
             repository with a `<server>` is asked directly.\n\n"
        }
        "lein" => {
            "Another repository is a further entry by its name, with `/maven/@HOST/PATH` in `:url`. The JVM has to trust \
             larder's authority: `larder ca tools` tells how.\n\n"
        }
        _ => "",
    }
}

impl Place {
    fn page(&self) -> String {
        let Place { title, name, language, where_to, more, .. } = self;
        let tools: Vec<&Tool> = TOOLS.iter().filter(|tool| self.tools.contains(&tool.word)).collect();
        format!(
            "# {title}\n\n{MADE}\n\n{where_to}\n\n```{language}\n{}```\n\n\
             Printed by `larder env --unnamed --server {SERVER} --format {name} {}`. Name the tools that your build has, or \
             none for all. Without `--unnamed` they are pointed at the upstreams of the machine that prints. {more}\n\n\
             ## When larder is dead\n\nThe lines ask it first, for a second. When it does not answer they set nothing and say \
             so, and the build goes without. When it dies later:\n\n{}\n\
             ## What is kept\n\n{}\n{}",
            render(&sample(self.tools), self.form),
            self.tools.join(" "),
            alone(&tools),
            kept(&tools),
            see()
        )
    }
}

fn mounted() -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| tool.is_mounted() && tool.word != "docker").collect()
}

/// What each tool does without larder; those that have no way share a line.
fn alone(tools: &[&Tool]) -> String {
    let (lost, others): (Vec<&Tool>, Vec<_>) = tools.iter().partition(|tool| tool.alone == NO_FALLBACK);
    let mut out: String = others.iter().map(|tool| format!("- {} {}\n", tool.name, tool.alone)).collect();
    let names: Vec<&str> = lost.iter().map(|tool| tool.name).collect();
    if !names.is_empty() {
        let _ = writeln!(out, "- {}: what is fetched fails (`no fallback`)", names.join(", "));
    }
    out
}

fn kept(tools: &[&Tool]) -> String {
    if let [tool] = tools {
        return format!("{}{}.\n", tool.kept[..1].to_uppercase(), &tool.kept[1..]);
    }
    let mut by_text: Vec<(&str, Vec<&str>)> = Vec::new();
    for tool in tools {
        match by_text.iter_mut().find(|(text, _)| *text == tool.kept) {
            Some((_, names)) => names.push(tool.name),
            None => by_text.push((tool.kept, vec![tool.name])),
        }
    }
    by_text.iter().map(|(text, names)| format!("- {}: {text}\n", names.join(", "))).collect()
}
