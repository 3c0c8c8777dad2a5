//! What each section and key means: the words of the annotated default and of the generated page.

/// A section or key, what it means, and an example where the default is to be unset.
pub(crate) struct About {
    pub key: &'static str,
    pub text: &'static str,
    pub example: &'static str,
}

const fn section(key: &'static str, text: &'static str) -> About {
    About { key, text, example: "" }
}

const fn key(key: &'static str, text: &'static str) -> About {
    About { key, text, example: "" }
}

const fn unset(key: &'static str, text: &'static str, example: &'static str) -> About {
    About { key, text, example }
}

/// Finds the words for a dotted key.
pub(crate) fn of(key: &str) -> Option<&'static About> {
    ALL.iter().find(|about| about.key == key)
}

/// In the order of the sections.
pub(crate) const ALL: &[About] = &[
    section("data", "Where larder keeps what it caches."),
    unset(
        "data.dir",
        "Blobs, index, tokens. Unset: $XDG_DATA_HOME/larder or ~/.local/share/larder, for root too.",
        "\"/var/lib/larder\"",
    ),
    section("server", "The one address that everything speaks to."),
    key("server.listen", "Addresses, each with a port. Beyond loopback it needs tokens or gate.anonymous_read."),
    section("upstreams", "Which sources larder fetches from."),
    unset(
        "upstreams.learn",
        "Upstreams that a client names: `public` accepts hosts with public addresses, `ask` holds them for \
         `larder upstream allow`, `listed` refuses what is not configured. Unset: `public` on loopback, else `ask`.",
        "\"listed\"",
    ),
    key("upstreams.allow", "Hosts that clients may name whatever `learn` says, each as HOST or HOST:PORT."),
    section("ecosystem", "An ecosystem's sources. `larder init` writes what this machine's tools use."),
    key("ecosystem.NAME.upstreams", "Addresses in order of preference. Credentials go to netrc, never in here."),
    key(
        "ecosystem.NAME.next",
        "When the next one is asked: `absence`, when the one before says that there is no such thing; `failure`, on \
         any failure.",
    ),
    section("gate", "Who may come in. Callers on loopback need no token; writes from elsewhere always do."),
    key("gate.anonymous_read", "Networks that may read, and fill by reading, without a token."),
    unset(
        "gate.token_file",
        "A token file that is the same on every node (`larder token create --file`), besides the node's own.",
        "\"/etc/larder/tokens.toml\"",
    ),
    section("log", "What larder says of itself."),
    key("log.level", "error, warn, info, debug or trace; a filter such as `info,larder::cache=debug` also works."),
    key("log.format", "How lines are written to standard error."),
    unset("log.access", "A file for one line per request.", "\"/var/log/larder/access.log\""),
    section("ledger", "The record that each labelled build leaves."),
    key("ledger.keep", "How long a record is kept."),
    key("ledger.max_builds", "Records kept at most; the oldest goes first."),
    key("ledger.max_lines", "Lines that a record may have; what comes after is counted but not kept."),
];
