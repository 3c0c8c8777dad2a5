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
    section("server", "The one port that everything speaks to."),
    key(
        "server.listen",
        "Addresses, each with a port. Each speaks HTTP/1.1, HTTP/2 and TLS, told apart by the first bytes. Beyond \
         loopback it needs tokens or gate.anonymous_read.",
    ),
    section("server.tls", "How clients are shown who we are. Nothing set: no TLS."),
    unset(
        "server.tls.certificate",
        "PEM chain, the server's own first. Read again on SIGHUP.",
        "\"/etc/larder/tls.pem\"",
    ),
    unset("server.tls.key", "PEM private key.", "\"/etc/larder/tls.key\""),
    key(
        "server.tls.names",
        "Without files: names for which `larder ca` issues a certificate. Its authority is made for those alone, and those below them.",
    ),
    section("server.limits", "Bounds on what clients may use up."),
    key("server.limits.header_bytes", "Request line and headers together."),
    key("server.limits.headers", "Headers of one request."),
    key("server.limits.target_bytes", "The request's address."),
    key("server.limits.header_read", "From a request's first byte to the end of its headers (HTTP/1)."),
    key("server.limits.idle", "How long a connection may be silent between requests."),
    key("server.limits.tunnel_idle", "How long a CONNECT tunnel may carry no byte in either direction."),
    key("server.limits.tls_handshake", "For the TLS handshake."),
    key("server.limits.connection_life", "After this a connection takes no further request."),
    key("server.limits.connections", "Connections open at once; further ones wait."),
    key("server.limits.connections_per_address", "From one IPv4 address or IPv6 /64; further ones are closed."),
    unset("server.limits.requests_per_second", "From one address, on average. Unset: any number.", "1000"),
    key("server.limits.slow_body_bytes", "Bytes a second that a body must move, over the window below."),
    key("server.limits.slow_body_window", "The window for that."),
    section("server.limits.http2", "Bounds of HTTP/2 connections."),
    key("server.limits.http2.streams", "Requests at once on one connection."),
    key("server.limits.http2.header_list_bytes", "Headers of one request, unpacked."),
    key("server.limits.http2.pending_resets", "Streams reset by the peer before we looked at them (CVE-2023-44487)."),
    key("server.limits.http2.local_resets", "Streams that the peer made us reset (CVE-2025-8671)."),
    key("server.limits.http2.send_buffer_bytes", "Bytes buffered for a stream that the peer does not take."),
    key("server.limits.http2.frame_bytes", "The largest frame that is taken."),
    key(
        "server.limits.http2.window_budget_bytes",
        "Receive windows of all connections together; each gets its part, between 1 and 16 MiB.",
    ),
    section("public", "How clients know this larder."),
    unset(
        "public.url",
        "Base address as clients see it, behind a proxy. Unset: as each asked.",
        "\"https://cache.example\"",
    ),
    key("public.names", "Host names that are ours, beside localhost and this machine's name and addresses."),
    unset(
        "public.region",
        "What the place is called where this larder stands; larders that have it as a peer are told.",
        "\"eu-west\"",
    ),
    section("store", "Where bytes are kept, and how much."),
    key("store.memory_bytes", "Room for copies of small blobs in memory."),
    key("store.memory_max_blob", "Blobs above this are never copied to memory."),
    key("store.segment_border", "Blobs up to this go to a segment, larger ones get a file. At most 256 KiB."),
    key("store.segment_bytes", "A segment is closed at this size. At most 1 GiB; smaller when the budget is."),
    unset("store.max_bytes", "Room on the volume. Unset: 20 % of it, at most 50 GiB.", "\"50GiB\""),
    key("store.min_free_percent", "Share of the volume that is always left free."),
    key("store.documents_percent", "Share of the budget for mutable documents."),
    key("store.untrusted_percent", "Share of the budget for what untrusted scopes filled."),
    key("store.descriptors", "Files kept open. At most half of what the process may open."),
    section(
        "store.s3",
        "A bucket of S3, or of a server that speaks it, for what machines share. What is stored here is sent there behind \
         the requests, and what is there alone is read from it. larder doctor tells whether the bucket will do. Credentials come from the environment, a profile, a web identity, a container's or an \
         instance's role.",
    ),
    unset("store.s3.bucket", "Its name. Unset: no S3.", "\"larder\""),
    key("store.s3.prefix", "Put before all names of objects."),
    unset("store.s3.region", "Unset: what environment, profile or instance say.", "\"eu-central-1\""),
    unset(
        "store.s3.endpoint",
        "Address of the server. Unset: that of AWS for the region.",
        "\"https://s3.example:9000\"",
    ),
    key("store.s3.path_style", "Write the bucket into the path, not into the host: most servers but AWS want that."),
    unset(
        "store.s3.credentials_file",
        "A file as AWS's own tools write it, which wins. Unset: environment, ~/.aws, roles.",
        "\"/etc/larder/s3\"",
    ),
    unset("store.s3.profile", "Which profile of it, or of ~/.aws. Unset: AWS_PROFILE, or `default`.", "\"ci\""),
    unset("store.s3.storage_class", "Unset: the bucket's default.", "\"STANDARD_IA\""),
    key(
        "store.s3.encryption",
        "At rest: `bucket` as the bucket does by default, `s3` with keys of S3 (SSE-S3), `kms` with a key of KMS (SSE-KMS).",
    ),
    unset("store.s3.kms_key", "The key for `kms`. Unset: the account's default.", "\"alias/larder\""),
    key("store.s3.checksum", "Sent with each object and part, for S3 to check and keep."),
    key("store.s3.attempts", "Times a request is sent, the first included, with growing pauses between."),
    key("store.s3.deadline", "From the first attempt to the head of an answer."),
    key("store.s3.multipart_from", "Blobs of this size and more are sent in parts."),
    key("store.s3.part_bytes", "Size of a part, and of the ranges that are read side by side. 5MiB to 64MiB."),
    key("store.s3.parallel", "Parts of one blob under way at a time."),
    key("store.s3.in_flight_bytes", "Memory for what is sent and read, all together. At least 64MiB."),
    key(
        "store.s3.hedge_after",
        "A read that is not answered for so long, and longer than 19 of 20, is asked a second time,",
    ),
    key("store.s3.hedge_percent", "as long as there are no more such than this percentage of all reads."),
    key("store.s3.pack_bytes", "Blobs up to 1 MiB share an object, which is sent once it has so many bytes,"),
    key("store.s3.pack_delay", "or once the first of them has waited so long."),
    unset(
        "store.s3.outbox_max_bytes",
        "What may wait here to be sent, and is not evicted meanwhile; more is kept here alone. Unset: half of what may be kept.",
        "\"10GiB\"",
    ),
    section("index", "What exists and where."),
    key("index.table_max_bytes", "The table in memory: about 90 bytes a blob. Beyond it the database answers."),
    key("index.entry_cache_bytes", "Entries kept in memory."),
    key("index.queue_bytes", "What may wait to be committed; then askers wait."),
    key("index.commit_rows", "Rows that nobody awaits are committed once there are so many of them,"),
    key("index.commit_delay", "or once the first has waited so long."),
    key("index.readers", "Connections that read each database."),
    key("index.variants_max", "Answers kept of one key that `Vary` tells apart."),
    key(
        "index.lease_period",
        "How long a promise not to evict holds; after a start all counts as promised for as long.",
    ),
    key("index.use_flush", "How seldom use times are written to disk."),
    key("index.feed_max", "Commits that the feed of changes reaches back."),
    key("index.builds_max", "Builds whose record is kept; the oldest goes first."),
    key("index.lines_max", "Lines of one record."),
    key("index.keep_records", "How long a record is kept."),
    section("ledger", "What was used, by day: `larder stats --days 30` shows it, and what it cost and saved."),
    key("ledger.save_every", "How often what was counted is made durable: a crash loses no more."),
    key("ledger.keep_days", "Days that the ledger goes back."),
    key(
        "ledger.rows_max",
        "Rows of one day: build labels, upstreams, tiers, links. The rest of a day is counted as `(other)`.",
    ),
    section(
        "ledger.links",
        "What is at the other end of each link, for it decides what bytes cost: networks, addresses, hosts, or *.HOST for all \
         below it. A host's name counts before its address, and the longest network; of two alike the one further down.",
    ),
    key("ledger.links.loopback", "This machine."),
    key("ledger.links.private", "The network that this machine is in."),
    key("ledger.links.zone", "Other zones of the region: list their subnets."),
    key("ledger.links.region", "Other regions, likewise."),
    key("ledger.links.internet", "Everybody."),
    key("ledger.links.nat", "The internet, where the way there is paid by the byte: write [\"0.0.0.0/0\"]."),
    section("ledger.prices", "What things cost: list prices unless you write your own. A GB is 2^30 bytes."),
    key("ledger.prices.currency", "Of all prices."),
    key("ledger.prices.disk_gb_month", "For a GB kept on disk for a month."),
    key("ledger.prices.s3_gb_month", "The same in S3."),
    section("ledger.prices.requests", "For a thousand requests to S3."),
    key("ledger.prices.requests.put_per_1000", "PUT, POST and LIST."),
    key("ledger.prices.requests.get_per_1000", "GET and HEAD."),
    section(
        "ledger.prices.transfer_gb",
        "For a GB by its link: that comes in, from upstreams and from S3; that goes out, to clients and to S3. Where both ends \
         are larders, both count: let one of them pay.",
    ),
    key("ledger.prices.transfer_gb.loopback_in", "Over loopback."),
    key("ledger.prices.transfer_gb.loopback_out", "The same, out."),
    key("ledger.prices.transfer_gb.private_in", "Over private."),
    key("ledger.prices.transfer_gb.private_out", "The same, out."),
    key("ledger.prices.transfer_gb.zone_in", "Over zone."),
    key("ledger.prices.transfer_gb.zone_out", "The same, out."),
    key("ledger.prices.transfer_gb.region_in", "Over region."),
    key("ledger.prices.transfer_gb.region_out", "The same, out."),
    key("ledger.prices.transfer_gb.internet_in", "Over internet."),
    key("ledger.prices.transfer_gb.internet_out", "The same, out."),
    key("ledger.prices.transfer_gb.nat_in", "Over nat."),
    key("ledger.prices.transfer_gb.nat_out", "The same, out."),
    section("upstream", "How larder fetches."),
    key("upstream.offline", "Ask no upstream: answer from the cache alone."),
    unset("upstream.node_id", "How this node knows its own requests in `Via`. Unset: a random word.", "\"cache-1\""),
    key("upstream.http2", "Offer HTTP/2 to upstreams with TLS."),
    key("upstream.resolve_deadline", "To resolve a name."),
    key("upstream.connect_deadline", "To connect, all addresses of a name together."),
    key("upstream.handshake_deadline", "For the TLS handshake."),
    key("upstream.first_byte_deadline", "From the start of an attempt to the head of its answer."),
    key("upstream.answer_deadline", "From the ask to the head of the answer: queue, retries and redirects included."),
    key("upstream.queue_deadline", "How long an ask may wait for a free place at its host."),
    key("upstream.minimum_rate", "A body slower than this a second, over the window below, is given up."),
    key("upstream.rate_window", "The window for that."),
    key(
        "upstream.requests_per_host",
        "Exchanges at one time with one host; three quarters of them for one address, or one build on this machine.",
    ),
    key("upstream.requests", "Exchanges at one time in all."),
    key("upstream.queue_per_host", "Asks that may wait for one host; more are turned away."),
    key("upstream.idle_per_host", "Idle connections kept to one host."),
    key("upstream.idle_connection", "How long one is kept."),
    key("upstream.hosts", "Hosts whose state is remembered."),
    key("upstream.tunnels", "CONNECT tunnels at one time."),
    key("upstream.redirects", "Redirects that are followed."),
    key("upstream.allow_downgrade", "Follow a redirect from https to http."),
    key("upstream.http2_window", "Receive window of HTTP/2."),
    key("upstream.http1_buffer", "Read buffer of HTTP/1."),
    key("upstream.allow_private", "Networks that hosts named by clients may be in although they are not public."),
    key("upstream.deny", "Networks that nothing is fetched from."),
    key("upstream.connect_ports", "Ports that CONNECT may reach."),
    key("upstream.own_addresses", "Our own listeners beside server.listen: never fetched from."),
    key(
        "upstream.credentials",
        "Tables of origin, and either bearer, or user and password, or header and value. A secret is named by \
         { env = \"NAME\" } or { file = \"PATH\" }. It goes to its origin alone, where that is configured.",
    ),
    unset("upstream.netrc", "A netrc file; its entries are bound to https://MACHINE.", "\"/etc/larder/netrc\""),
    key("upstream.netrc_from_env", "Read the file that NETRC names, or ~/.netrc."),
    unset("upstream.ca_file", "Certificates (PEM) trusted beside the system's.", "\"/etc/larder/upstream-ca.pem\""),
    key("upstream.system_roots", "Trust the system's certificates."),
    section("upstream.retry", "How often a failed exchange is repeated."),
    key("upstream.retry.attempts", "Attempts for one ask, the first included."),
    key("upstream.retry.percent", "Retries that a host may be sent, as a percentage of its requests."),
    key("upstream.retry.reserve", "Retries beyond that; grows back by one in ten seconds."),
    key("upstream.retry.pause", "The first pause is random up to this; each later one up to twice as long."),
    key("upstream.retry.longest_pause", "Up to this."),
    key("upstream.retry.resumes", "How often one broken body is taken up again."),
    section("upstream.breaker", "When a host that fails is left alone."),
    key(
        "upstream.breaker.failures",
        "After so many failures in a row: of requests without a good answer, or of bodies that break off.",
    ),
    key("upstream.breaker.rest", "How long it is left alone before one request may try; doubled each time that fails."),
    key("upstream.breaker.longest_rest", "Up to this."),
    key("upstream.breaker.longest_retry_after", "The longest `Retry-After` that is obeyed."),
    section("upstream.proxy", "The proxy that upstreams are reached through."),
    key("upstream.proxy.from_env", "Read http_proxy, https_proxy, all_proxy and no_proxy."),
    unset(
        "upstream.proxy.http",
        "For http upstreams, without user and password; wins over the environment.",
        "\"http://proxy.example:3128\"",
    ),
    unset("upstream.proxy.https", "The same for https upstreams.", "\"http://proxy.example:3128\""),
    unset(
        "upstream.proxy.none",
        "Hosts, domains and networks reached directly, with commas between.",
        "\"example.internal,10.0.0.0/8\"",
    ),
    unset("upstream.proxy.user", "User at the proxy.", "\"larder\""),
    unset("upstream.proxy.password", "Its password.", "{ env = \"PROXY_PASSWORD\" }"),
    section("upstreams", "Which hosts clients may have larder fetch from."),
    key(
        "upstreams.learn",
        "Hosts that a client names: `public` accepts those with public addresses, `ask` holds them for `larder upstream \
         allow`, `listed` refuses what is not configured or allowed. `auto` is `public` for clients on this machine and \
         `ask` for others.",
    ),
    key("upstreams.allow", "Hosts that any client may name, each as HOST or HOST:PORT."),
    section(
        "intercept",
        "Whose TLS is ended here, so that what clients fetch through CONNECT is cached. They have to trust larder's \
         authority: larder run sees to it, larder ca tools tells how. A download through CONNECT that the server's death cuts \
         has to be tried again, and then goes around it; those by way of the mounts go on.",
    ),
    key(
        "intercept.hosts",
        "Hosts, each as HOST, HOST:PORT or *.HOST for all below it. HOST alone means port 443. None: nobody's TLS is ended.",
    ),
    section(
        "peers",
        "Other larders, asked for what is missing here before its origin is: each under a name of your choice. What is \
         here already, under whatever address, does not come again. Taken up at a start.",
    ),
    unset("peers.NAME.url", "Scheme, host and port.", "\"https://eu.example:7070\""),
    unset(
        "peers.NAME.token",
        "Where a token of that larder's stands, with the right to read: { file = \"PATH\" } or { env = \"NAME\" }.",
        "{ file = \"/run/secrets/eu-token\" }",
    ),
    unset("peers.NAME.link", "What its bytes go over. Peers may share one. Unset: a link of its own.", "\"atlantic\""),
    unset("peers.NAME.usd_per_gb", "What the link costs; who costs less is asked first. Unset: nothing.", "0.02"),
    unset(
        "peers.NAME.max_bytes_per_day",
        "What the link may carry in a day of UTC; beyond it origins are asked. Unset: any number.",
        "\"100GB\"",
    ),
    unset(
        "peers.NAME.timeout",
        "How long it may take over an answer, and keep still in the middle of a body, before an origin is asked. Unset: 1s.",
        "\"1s\"",
    ),
    unset(
        "peers.NAME.ca_file",
        "Certificates (PEM) trusted beside the system's, as `larder ca print` prints them there. Unset: upstream.ca_file.",
        "\"/etc/larder/eu-ca.pem\"",
    ),
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
];
