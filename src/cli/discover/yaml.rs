//! The little of YAML that settings of package managers are written in: nested maps of plain or quoted texts. Not a
//! parser: lists, flows, anchors and texts of several lines are passed over.

/// Every `key: text`, with the keys that lead to it, the outermost first.
pub(super) fn pairs(text: &str) -> Vec<(Vec<String>, String)> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let inner = line.trim_start();
        let indent = line.len() - inner.len();
        let Some((key, value)) = pair(inner) else { continue };
        open.retain(|(known, _)| *known < indent);
        let path = || open.iter().map(|(_, key)| key.clone()).chain([key.clone()]).collect();
        match value {
            "" => {}
            value => all.push((path(), value.to_owned())),
        }
        open.push((indent, key));
    }
    all
}

/// A key may be quoted and then hold a colon; a plain one ends at the first colon with a blank behind it.
fn pair(line: &str) -> Option<(String, &str)> {
    if line.starts_with(['#', '-', '{', '[']) {
        return None;
    }
    let quote = line.chars().next().filter(|one| matches!(one, '"' | '\''));
    let (key, rest) = match quote {
        Some(quote) => {
            let (key, rest) = line[1..].split_once(quote)?;
            (key, rest.trim_start().strip_prefix(':')?)
        }
        None => line.split_once(": ").or_else(|| Some((line.trim_end().strip_suffix(':')?, "")))?,
    };
    let value = rest.trim();
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split_once(quote)?.0,
        Some('#') => "",
        _ => value.split_once(" #").map_or(value, |(value, _)| value).trim_end(),
    };
    Some((key.trim().to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_texts_are_found_with_their_keys() {
        let text = "# c\na: 1 # c\nb:\n  \"//x:1/\":\n    c: 'two # words'\n  d: https://x.example:81/y\n- e: 1\nf: \"unclosed\ng:\nh: {i: 1}\n";
        let all = pairs(text);
        let shown: Vec<(String, &str)> = all.iter().map(|(path, value)| (path.join("|"), value.as_str())).collect();
        let want = [("a", "1"), ("b|//x:1/|c", "two # words"), ("b|d", "https://x.example:81/y"), ("h", "{i: 1}")];
        assert_eq!(shown, want.map(|(path, value)| (path.to_owned(), value)));
    }
}
