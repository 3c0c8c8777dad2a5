//! Just enough Rust to count braces: comments, strings and characters are blanked, lines stay where they are.

/// `text` with everything inside comments, strings and character literals turned into blanks.
pub fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

/// Where the comment or literal that starts at `at` ends; `at` when none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if rest[0] == b'"' {
        return quoted_end(bytes, at + 1, b'"');
    }
    if !word_before && (rest[0] == b'r' || rest.starts_with(b"br")) {
        let hashes_at = at + if rest[0] == b'b' { 2 } else { 1 };
        let hashes = bytes[hashes_at..].iter().take_while(|byte| **byte == b'#').count();
        if bytes.get(hashes_at + hashes) == Some(&b'"') {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let from = hashes_at + hashes + 1;
            let found = bytes[from..].windows(close.len()).position(|window| window == close);
            return found.map_or(bytes.len(), |found| from + found + close.len());
        }
    }
    if rest[0] == b'\'' {
        return character_end(bytes, at);
    }
    at
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A character literal, not a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    let Some(first) = bytes.get(at + 1) else { return at };
    if *first == b'\\' {
        return quoted_end(bytes, at + 1, b'\'');
    }
    let width = match first {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

/// Which lines of blanked text belong to something under `#[cfg(test)]` or `#[test]`.
pub fn test_lines(blanked: &str) -> Vec<bool> {
    let lines: Vec<&str> = blanked.lines().collect();
    let mut marks = vec![false; lines.len()];
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim_start();
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let end = item_end(&lines, at);
            marks[at..=end].fill(true);
            at = end;
        }
        at += 1;
    }
    marks
}

/// The line on which the item that starts at `from` closes its braces, or ends without any.
fn item_end(lines: &[&str], from: usize) -> usize {
    let (mut depth, mut opened) = (0_i64, false);
    for (at, line) in lines.iter().enumerate().skip(from) {
        // The attribute's own line may hold parentheses and brackets, but no braces.
        for byte in line.bytes() {
            match byte {
                b'{' => (depth, opened) = (depth + 1, true),
                b'}' => depth -= 1,
                b';' if !opened && at > from => return at,
                _ => {}
            }
        }
        if opened && depth <= 0 {
            return at;
        }
    }
    lines.len() - 1
}

#[test]
fn literals_are_blanked_and_lines_kept() {
    let text = "let a = \"{\\\"\"; // {\nlet b = '{'; /* { /* { */ } */\nfn c<'a>(d: &'a str) { r#\"}\"}\"# }\n";
    let blank = blanked(text);
    assert_eq!(blank.lines().count(), text.lines().count());
    assert_eq!(blank.matches('{').count(), 1);
    assert_eq!(blank.matches('}').count(), 1);
    assert!(blank.contains("fn c<'a>(d: &'a str)"));
}

#[test]
fn test_code_is_told_apart() {
    let text = "fn a() {\n}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\nuse x;\nfn d() {}\n";
    let marks = test_lines(&blanked(text));
    assert_eq!(marks, [false, false, true, true, true, true, false, true, true, false]);
}
