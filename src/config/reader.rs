//! Layers of settings (file, environment, flags) as one tree, and a serde reader that knows where each value came from.
//!
//! It exists because a plain TOML reader cannot say which file, variable or flag held the wrong value, and because a
//! variable's text gets its type from the setting that reads it.

use std::fmt;
use std::rc::Rc;

use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use toml::de::{DeTable, DeValue};

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    File { name: String, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { name, line } => write!(out, "{name}:{line}"),
            Source::Variable(name) => out.write_str(name),
            Source::Flag(name) => out.write_str(name),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub value: Value,
    pub source: Rc<Source>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
    /// Text from a variable or flag: a number, a truth value or a list with commas where that is what is read.
    Word(String),
}

impl Node {
    pub fn empty() -> Node {
        let source = Rc::new(Source::Flag("defaults"));
        Node { value: Value::Table(Vec::new()), source }
    }

    /// A table with `word` at `path`.
    pub fn word(path: &[&str], word: &str, source: Source) -> Node {
        let source = Rc::new(source);
        let leaf = Node { value: Value::Word(word.to_owned()), source: source.clone() };
        path.iter().rev().fold(leaf, |inner, key| Node {
            value: Value::Table(vec![((*key).to_owned(), inner)]),
            source: source.clone(),
        })
    }

    /// Reads a TOML document.
    ///
    /// *Errors*: the line and what is wrong with it.
    pub fn document(name: &str, text: &str) -> Result<Node, (usize, String)> {
        let line_at = |at: usize| 1 + text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (line_at(at), error.message().replace('\n', ", "))
        })?;
        let source = |at: usize| Rc::new(Source::File { name: name.to_owned(), line: line_at(at) });
        Ok(Node { value: table_of(table.get_ref(), &source), source: source(0) })
    }

    /// Lays `over` on top: tables are merged, all else is replaced.
    pub fn overlay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(under), Value::Table(over)) => {
                for (key, node) in over {
                    match under.iter_mut().find(|(name, _)| *name == key) {
                        Some((_, present)) => present.overlay(node),
                        None => under.push((key, node)),
                    }
                }
            }
            (under, value) => {
                *under = value;
                self.source = over.source;
            }
        }
    }
}

fn table_of(table: &DeTable<'_>, source: &dyn Fn(usize) -> Rc<Source>) -> Value {
    let mut entries: Vec<(usize, String, Node)> = table
        .iter()
        .map(|(key, value)| {
            let at = key.span().start;
            (at, key.get_ref().to_string(), node_of(value.get_ref(), at, source))
        })
        .collect();
    entries.sort_by_key(|(at, _, _)| *at);
    Value::Table(entries.into_iter().map(|(_, key, node)| (key, node)).collect())
}

fn node_of(value: &DeValue<'_>, at: usize, source: &dyn Fn(usize) -> Rc<Source>) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| node_of(item.get_ref(), item.span().start, source)).collect())
        }
        DeValue::Table(table) => table_of(table, source),
    };
    Node { value, source: source(at) }
}

/// What is wrong with a value, and where.
#[derive(Debug)]
pub(crate) struct Problem {
    pub path: Vec<String>,
    pub source: Option<Rc<Source>>,
    pub what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    UnknownKey { key: String, known: &'static [&'static str] },
    Wrong(String),
}

impl Problem {
    fn new(what: What) -> Problem {
        Problem { path: Vec::new(), source: None, what }
    }

    fn under(mut self, key: &str, source: &Rc<Source>) -> Problem {
        self.path.insert(0, key.to_owned());
        self.source.get_or_insert_with(|| source.clone());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::UnknownKey { key, .. } => write!(out, "unknown key {key}"),
            What::Wrong(why) => out.write_str(why),
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(why: T) -> Problem {
        Problem::new(What::Wrong(why.to_string()))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        let found = match found {
            de::Unexpected::Str(text) => format!("the text {text:?}"),
            de::Unexpected::Unsigned(number) => format!("the number {number}"),
            de::Unexpected::Signed(number) => format!("the number {number}"),
            de::Unexpected::Bool(truth) => truth.to_string(),
            de::Unexpected::Seq => "a list".to_owned(),
            de::Unexpected::Map => "a table".to_owned(),
            other => other.to_string(),
        };
        Problem::new(What::Wrong(format!("found {found}, expected {}", plainly(&expected.to_string()))))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        Problem::invalid_type(found, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Problem {
        Problem::new(What::UnknownKey { key: key.to_owned(), known })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Problem {
        let known: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
        Problem::new(What::Wrong(format!("found {found:?}, expected {}", known.join(" or "))))
    }
}

/// serde's words for types, as a reader of the message would say them.
fn plainly(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below zero".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "text in quotes".to_owned(),
        "a sequence" => "a list, as in [\"one\", \"two\"]".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

impl Node {
    /// The number that a variable or flag holds. None: no such text, or not a number; the reader then shows it.
    fn number<T: std::str::FromStr>(&self) -> Option<T> {
        match &self.value {
            Value::Word(word) => word.trim().parse().ok(),
            Value::Text(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Bool(_)
            | Value::List(_)
            | Value::Table(_) => None,
        }
    }
}

impl<'de> de::Deserializer<'de> for Node {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.value {
            Value::Text(text) | Value::Word(text) => visitor.visit_string(text),
            Value::Integer(number) => match u64::try_from(number) {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_i64(number),
            },
            Value::Float(number) => visitor.visit_f64(number),
            Value::Bool(truth) => visitor.visit_bool(truth),
            Value::List(items) => visitor.visit_seq(Items { items: items.into_iter() }),
            Value::Table(entries) => visitor.visit_map(Entries { entries: entries.into_iter(), next: None }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            Value::Word(word) if matches!(word.trim(), "true" | "1" | "yes" | "on") => visitor.visit_bool(true),
            Value::Word(word) if matches!(word.trim(), "false" | "0" | "no" | "off") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_u8(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_u16(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_u32(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_u64(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_i32(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_i64(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_f32(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number() {
            Some(number) => visitor.visit_f64(number),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if let Value::Text(_) = &self.value {
            // One is a list of one.
            return visitor.visit_seq(Items { items: vec![self].into_iter() });
        }
        let Value::Word(word) = &self.value else { return self.deserialize_any(visitor) };
        let parts = word.split(',').map(str::trim).filter(|part| !part.is_empty());
        let items: Vec<Node> =
            parts.map(|part| Node { value: Value::Word(part.to_owned()), source: self.source.clone() }).collect();
        visitor.visit_seq(Items { items: items.into_iter() })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.value {
            // An empty variable unsets.
            Value::Word(word) if word.is_empty() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match self.value {
            Value::Text(word) | Value::Word(word) => visitor.visit_enum(word.into_deserializer()),
            // `{ env = "NAME" }`
            Value::Table(entries) => {
                let entries = Entries { entries: entries.into_iter(), next: None };
                visitor.visit_enum(de::value::MapAccessDeserializer::new(entries))
            }
            Value::Integer(_) | Value::Float(_) | Value::Bool(_) | Value::List(_) => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

struct Items {
    items: std::vec::IntoIter<Node>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        self.items.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries {
    entries: std::vec::IntoIter<(String, Node)>,
    next: Option<(String, Node)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        let source = node.source.clone();
        self.next = Some((key.clone(), node));
        let read = seed.deserialize(key.into_deserializer()).map_err(|mut problem: Problem| {
            problem.source = Some(source);
            problem
        })?;
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let (key, node) = self.next.take().expect("a value is asked for after its key");
        let source = node.source.clone();
        seed.deserialize(node).map_err(|problem| problem.under(&key, &source))
    }
}
