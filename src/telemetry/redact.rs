//! Blanks out what looks like a secret in a line that is about to leave the process. The last line of defence: code
//! that logs a secret is wrong all the same.

use std::borrow::Cow;
use std::io::{self, Write};

const BLANK: &str = "***";

/// Words after which a value is secret, in lower case, with what separates them from it.
const MARKS: [&str; 17] = [
    "authorization: ",
    "authorization=",
    "authorization\":\"",
    "bearer ",
    "basic ",
    "cookie: ",
    "password=",
    "password\":\"",
    "token=",
    "token\":\"",
    "secret=",
    "secret\":\"",
    "x-amz-signature=",
    "x-amz-security-token=",
    "signature=",
    "sig=",
    "api_key=",
];

/// The line without secrets. *Shape*: borrowed when there was nothing to blank out.
pub fn redact(line: &str) -> Cow<'_, str> {
    let mut spans = userinfo(line);
    spans.extend(marked(line));
    if spans.is_empty() {
        return Cow::Borrowed(line);
    }
    spans.sort_unstable();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    for (start, end) in spans {
        if end <= at {
            continue;
        }
        out.push_str(&line[at..start.max(at)]);
        out.push_str(BLANK);
        at = end;
    }
    out.push_str(&line[at..]);
    Cow::Owned(out)
}

/// `scheme://user:password@host`: the part before the `@`.
fn userinfo(line: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    for (at, _) in line.match_indices("://") {
        let start = at + 3;
        let authority = line[start..].find(|c: char| "/?#\"' \\,)>".contains(c)).unwrap_or(line.len() - start);
        if let Some(len) = line[start..start + authority].rfind('@')
            && len > 0
        {
            spans.push((start, start + len));
        }
    }
    spans
}

fn marked(line: &str) -> Vec<(usize, usize)> {
    let lower = line.to_ascii_lowercase();
    let mut spans = Vec::new();
    for mark in MARKS {
        for (at, _) in lower.match_indices(mark) {
            let start = at + mark.len();
            // The scheme's name after `authorization` is followed by the secret itself.
            let spaced = mark.starts_with("authorization") || mark.starts_with("cookie");
            let ends = if spaced { "\"',\n" } else { "\"',\n &;)" };
            let len = line[start..].find(|c: char| ends.contains(c)).unwrap_or(line.len() - start);
            if len > 0 {
                spans.push((start, start + len));
            }
        }
    }
    spans
}

/// Redacts what is written through it. tracing writes one event at a time.
pub struct Redacting<W>(pub W);

impl<W: Write> Write for Redacting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(redact(&text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blanked_and_the_rest_stays() {
        let cases = [
            ("fetch https://user:pw@host/path failed", "fetch https://***@host/path failed"),
            ("fetch https://host/a@b failed", "fetch https://host/a@b failed"),
            ("authorization: Bearer abc.def", "authorization: ***"),
            ("got Bearer abc.def here", "got Bearer *** here"),
            ("/x?X-Amz-Signature=00ff&y=1", "/x?X-Amz-Signature=***&y=1"),
            ("{\"token\":\"s3cr3t\",\"a\":1}", "{\"token\":\"***\",\"a\":1}"),
            ("password=hunter2 host=a", "password=*** host=a"),
            ("nothing here", "nothing here"),
        ];
        for (line, wanted) in cases {
            assert_eq!(redact(line), wanted);
        }
    }

    #[test]
    fn a_line_without_secrets_is_not_copied() {
        assert!(matches!(redact("listening on 127.0.0.1:7070"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_written_is_redacted() {
        let mut out = Vec::new();
        write!(Redacting(&mut out), "token=abc").expect("writes to memory");
        assert!(String::from_utf8_lossy(&out).ends_with("***"));
    }
}
