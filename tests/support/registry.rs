//! Small registries on a misbehaving upstream: a sparse crate index with its crates, and a module proxy. Both make
//! up what they serve.

use super::body::{Body, sha256_hex};
use super::resource::{Content, Resource};
use super::server::Server;
use super::upstream::Upstream;

/// A crate registry at `/index/` and `/dl/` of an upstream.
pub struct Crates<'a> {
    upstream: &'a Upstream,
}

impl<'a> Crates<'a> {
    pub fn on(upstream: &'a Upstream) -> Crates<'a> {
        let config = format!("{{\"dl\":\"{}\"}}", upstream.url("/dl/{crate}/{version}/download"));
        upstream.put("/index/config.json", Resource::text(config));
        Crates { upstream }
    }

    /// Where larder serves this registry.
    pub fn mount(&self) -> String {
        format!("/cargo/@http:{}/index", self.upstream.addr())
    }

    /// Publishes version 1.0.0 of `name` with this body; the index says what its sum is.
    pub fn publish(&self, name: &str, body: Body) {
        self.index(name, &sha256_hex(&body.whole()));
        let resource = Resource { content: Content::Seed(body), ..Resource::seed(body.seed, body.len) };
        self.upstream.put(&Crates::download_path(name), resource);
    }

    /// Writes an index line with any sum.
    pub fn index(&self, name: &str, sum: &str) {
        let line = format!(
            "{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[],\"cksum\":\"{sum}\",\"features\":{{}},\"yanked\":false}}\n"
        );
        self.upstream.put(&format!("/index/{}", Crates::index_path(name)), Resource::text(line));
    }

    pub fn download_path(name: &str) -> String {
        format!("/dl/{name}/1.0.0/download")
    }

    /// The path of an index file, as cargo makes it.
    pub fn index_path(name: &str) -> String {
        match name.len() {
            1 => format!("1/{name}"),
            2 => format!("2/{name}"),
            3 => format!("3/{}/{name}", &name[..1]),
            _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
        }
    }

    /// The target of a download at `server`, made as cargo makes it from the config.json that larder serves.
    pub fn download_target(&self, server: &Server, name: &str, sum: &str) -> String {
        let reply = server.get(format!("{}/config.json", self.mount()));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let config: serde_json::Value = serde_json::from_slice(reply.bytes()).expect("config.json is JSON");
        let template = config["dl"].as_str().expect("config.json has dl").to_owned();
        let prefix = Crates::index_path(name).rsplit_once('/').map(|(prefix, _)| prefix.to_owned()).unwrap_or_default();
        let marked = template.contains("{crate}") || template.contains("{sha256-checksum}");
        let url = template
            .replace("{crate}", name)
            .replace("{version}", "1.0.0")
            .replace("{prefix}", &prefix)
            .replace("{lowerprefix}", &prefix)
            .replace("{sha256-checksum}", sum);
        let url = if marked { url } else { format!("{url}/{name}/1.0.0/download") };
        let path = url.strip_prefix(&server.url()).unwrap_or_else(|| panic!("dl leads elsewhere: {url}"));
        path.to_owned()
    }
}

/// The mount of a module proxy on `upstream`.
pub fn go_mount(upstream: &Upstream) -> String {
    format!("/go/@http:{}", upstream.addr())
}
