//! `CDN-Cache-Control` as a dictionary of structured fields (RFC 9213 §2.1, RFC 9651 §3.2, §4.2).
//!
//! Not a general parser: it walks a dictionary, checks every value's form, and hands out bare integers and booleans,
//! which are the types that cache directives have. A field that does not parse is as good as absent.

/// A value of a member, as far as directives have use for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Integer(i64),
    True,
    /// False, a string, a token, bytes, a decimal, a date, an inner list: well-formed, but no directive's type.
    Other,
}

/// Reads a dictionary. None when it does not parse, or is empty. A key that comes twice counts with its last value.
pub(crate) fn parse(text: &str) -> Option<Vec<(&str, Value)>> {
    let mut cursor = Cursor { rest: text.trim_matches(' ') };
    let mut members: Vec<(&str, Value)> = Vec::new();
    while !cursor.rest.is_empty() {
        let key = cursor.key()?;
        let value = if cursor.eat("=") { cursor.member()? } else { Value::True };
        cursor.parameters()?;
        members.retain(|(known, _)| *known != key);
        members.push((key, value));
        cursor.space();
        if cursor.rest.is_empty() {
            break;
        }
        if !cursor.eat(",") {
            return None;
        }
        cursor.space();
        if cursor.rest.is_empty() {
            return None;
        }
    }
    (!members.is_empty()).then_some(members)
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn eat(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let len = self.rest.bytes().take_while(|byte| accept(*byte)).count();
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    fn key(&mut self) -> Option<&'a str> {
        let starts = self.rest.starts_with(|first: char| first.is_ascii_lowercase() || first == '*');
        starts.then(|| self.take(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)))
    }

    fn member(&mut self) -> Option<Value> {
        if !self.eat("(") {
            return self.bare();
        }
        loop {
            self.rest = self.rest.trim_start_matches(' ');
            if self.eat(")") {
                return Some(Value::Other);
            }
            self.bare()?;
            self.parameters()?;
            if !self.rest.starts_with([' ', ')']) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(";") {
            self.rest = self.rest.trim_start_matches(' ');
            self.key()?;
            if self.eat("=") {
                self.bare()?;
            }
        }
        Some(())
    }

    fn bare(&mut self) -> Option<Value> {
        match self.rest.bytes().next()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => {
                self.eat("?");
                if self.eat("1") { Some(Value::True) } else { self.eat("0").then_some(Value::Other) }
            }
            b':' => {
                self.eat(":");
                self.take(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.eat(":").then_some(Value::Other)
            }
            b'@' => {
                self.eat("@");
                self.number().and_then(|date| matches!(date, Value::Integer(_)).then_some(Value::Other))
            }
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let sign = if self.eat("-") { -1 } else { 1 };
        let whole = self.take(|byte| byte.is_ascii_digit());
        if !self.eat(".") {
            let fits = !whole.is_empty() && whole.len() <= 15;
            return fits.then(|| whole.parse::<i64>().ok()).flatten().map(|number| Value::Integer(sign * number));
        }
        let fraction = self.take(|byte| byte.is_ascii_digit());
        ((1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len())).then_some(Value::Other)
    }

    fn string(&mut self) -> Option<Value> {
        let mut bytes = self.rest.bytes().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(Value::Other);
                }
                b'\\' if !matches!(bytes.next(), Some((_, b'"' | b'\\'))) => return None,
                0x20..=0x7e => {}
                _ => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_integers_and_flags() {
        assert_eq!(
            parse("foobar, max-age=3600;p=\"x\",  no-store=?1, a=(1 \"b\";c), b=:aGk=:, c=1.5, d=@1, e=tok"),
            Some(vec![
                ("foobar", Value::True),
                ("max-age", Value::Integer(3600)),
                ("no-store", Value::True),
                ("a", Value::Other),
                ("b", Value::Other),
                ("c", Value::Other),
                ("d", Value::Other),
                ("e", Value::Other),
            ])
        );
        assert_eq!(parse("a=1, a=2"), Some(vec![("a", Value::Integer(2))]));
    }

    #[test]
    fn what_does_not_parse_is_nothing() {
        for text in [
            "",
            "  ",
            "max-age=1, &&&",
            "max-age =1",
            "max-age= 1",
            "Max-Age=1",
            "max-age=1,",
            "a=\"x",
            "a=\"\\x\"",
            "a=1.",
            "a=1234567890123456",
            "a=(1",
            "a=(1,2)",
            "a b",
            "a=\u{e9}",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
