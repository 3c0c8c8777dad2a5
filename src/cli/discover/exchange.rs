//! What was found, as JSON: written by `larder init --json`, read by `larder upstream import`. Secrets are left out.

use serde_json::{Value, json};

use super::{Found, LOOKED_FOR};
use crate::model::lookup::Fallback;

/// Writes what was found.
///
/// *Shape*: `[{"ecosystem", "name", "from", "urls": [{"url", "next": "on-absence" | "on-failure"}]}]`.
pub fn write(all: &[Found]) -> Value {
    let one = |found: &Found| {
        let urls: Vec<_> =
            found.urls.iter().map(|(url, next)| json!({ "url": url.as_str(), "next": word(*next) })).collect();
        json!({ "ecosystem": found.ecosystem, "name": found.name, "from": found.from, "urls": urls })
    };
    all.iter().map(one).collect()
}

/// Reads what `write` wrote. Err: what is wrong, for people.
pub fn read(document: &Value) -> Result<Vec<Found>, String> {
    let all = document.as_array().ok_or("a list of upstreams was expected")?;
    all.iter().map(one).collect()
}

fn one(found: &Value) -> Result<Found, String> {
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or_default();
    let named = text("ecosystem");
    let ecosystem = LOOKED_FOR.into_iter().find(|known| *known == named);
    let ecosystem = ecosystem.ok_or_else(|| format!("no such ecosystem: {named:?}"))?;
    let urls = found.get("urls").and_then(Value::as_array).ok_or_else(|| format!("{ecosystem} has no urls"))?;
    let urls = urls.iter().map(|member| {
        let url = member.get("url").and_then(Value::as_str).unwrap_or_default();
        let next = member.get("next").and_then(Value::as_str).unwrap_or(word(Fallback::OnAbsence));
        let next = [Fallback::OnAbsence, Fallback::OnFailure].into_iter().find(|known| word(*known) == next);
        Ok((url.to_owned(), next.ok_or_else(|| format!("{ecosystem}: next is on-absence or on-failure"))?))
    });
    let urls = urls.collect::<Result<Vec<_>, String>>()?;
    let given = urls.len();
    let read = Found::of(ecosystem, text("name"), text("from").to_owned(), urls);
    read.filter(|read| read.urls.len() == given)
        .ok_or_else(|| format!("{ecosystem} has an address that is not http or https"))
}

fn word(next: Fallback) -> &'static str {
    match next {
        Fallback::OnAbsence => "on-absence",
        Fallback::OnFailure => "on-failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_holds_no_secret() {
        let texts = [("https://u:hush@a.example/x", Fallback::OnFailure), ("http://b.example", Fallback::OnAbsence)];
        let texts = texts.map(|(text, next)| (text.to_owned(), next));
        let found = Found::of("go", "", "go.env".into(), texts).expect("has addresses");
        let written = write(std::slice::from_ref(&found));
        assert!(!written.to_string().contains("hush"));
        assert_eq!(read(&written), Ok(vec![Found { secrets: Vec::new(), ..found }]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for document in [
            json!({}),
            json!([{ "ecosystem": "x" }]),
            json!([{ "ecosystem": "go" }]),
            json!([{ "ecosystem": "go", "urls": [{ "url": "file:///x" }] }]),
            json!([{ "ecosystem": "go", "urls": [{ "url": "https://a.example", "next": "never" }] }]),
        ] {
            assert!(read(&document).is_err(), "{document}");
        }
    }
}
