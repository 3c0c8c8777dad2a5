//! A small Maven repository on a misbehaving upstream. It makes up what it serves; jars are empty archives that differ.

use std::sync::Arc;

use super::archive::file;
use super::machine::run;
use super::resource::Resource;
use super::upstream::Upstream;

/// Where the repository is on its upstream.
pub const BASE: &str = "/repository";

/// What is published: `group:artifact:version`, and what it depends on.
pub struct Artifact<'a> {
    pub name: &'a str,
    pub needs: &'a [&'a str],
    /// What stands in its POM beside that.
    pub more: &'a str,
}

/// The path of an artifact's file without its ending, and that of its folder.
pub fn place(name: &str) -> (String, String) {
    let [group, artifact, version] = parts(name);
    let folder = format!("{BASE}/{}/{artifact}/{version}", group.replace('.', "/"));
    (format!("{folder}/{artifact}-{version}"), folder)
}

fn parts(name: &str) -> [&str; 3] {
    let parts: Vec<&str> = name.split(':').collect();
    parts.try_into().expect("group:artifact:version")
}

pub fn coordinates(name: &str) -> String {
    let [group, artifact, version] = parts(name);
    format!("<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>")
}

fn dependencies(needs: &[&str]) -> String {
    let each = needs.iter().map(|name| format!("<dependency>{}</dependency>", coordinates(name)));
    format!("<dependencies>{}</dependencies>", each.collect::<String>())
}

/// Publishes the artifact's POM and jar with their `.sha1`.
pub fn publish(upstream: &Upstream, artifact: &Artifact<'_>) {
    let (path, _) = place(artifact.name);
    put(upstream, &format!("{path}.pom"), &pom(artifact).into_bytes().into());
    put(upstream, &format!("{path}.jar"), &jar(artifact.name));
}

pub fn pom(artifact: &Artifact<'_>) -> String {
    format!(
        "<project><modelVersion>4.0.0</modelVersion>{}{}{}</project>\n",
        coordinates(artifact.name),
        artifact.more,
        dependencies(artifact.needs)
    )
}

/// A file and its `.sha1`.
pub fn put(upstream: &Upstream, path: &str, bytes: &Arc<[u8]>) {
    upstream.put(path, file(bytes));
    upstream.put(&format!("{path}.sha1"), Resource::text(sha1_hex(bytes)));
}

/// An empty zip archive whose comment is made of the name, 60,000 bytes long.
pub fn jar(name: &str) -> Arc<[u8]> {
    const COMMENT: u16 = 60_000;
    let mut bytes = b"PK\x05\x06".to_vec();
    bytes.extend([0; 16]);
    bytes.extend(COMMENT.to_le_bytes());
    bytes.extend(name.bytes().cycle().take(usize::from(COMMENT)));
    bytes.into()
}

pub fn sha1_hex(bytes: &[u8]) -> String {
    let dir = super::machine::scratch();
    let at = dir.path().join("file");
    std::fs::write(&at, bytes).expect("scratch can be written");
    run(&["sha1sum", &at.display().to_string()])[..40].to_owned()
}
