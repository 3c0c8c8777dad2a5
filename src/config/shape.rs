//! Asks the settings types themselves which keys they have and what each takes, so that no second list of keys can
//! drift: unknown variables, the annotated default and the generated page are made from it.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;

/// What a key takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A table with these keys.
    Table(Vec<(&'static str, Shape)>),
    /// A table whose keys the operator chooses.
    Named(Box<Shape>),
    Bool,
    Integer,
    Float,
    Text,
    /// A size: text with a unit, or a number.
    Size,
    Words(&'static [&'static str]),
    List,
}

/// The stand-in for a key that the operator chooses.
pub(crate) const ANY: &str = "NAME";

/// Describes `T`, whose every part must have a default.
pub(crate) fn of<T: DeserializeOwned>() -> Shape {
    at::<T>(&mut Vec::new())
}

fn at<T: DeserializeOwned>(path: &mut Vec<&'static str>) -> Shape {
    let asked = RefCell::new(None);
    // The reading always stops where the path ends; what it asked for there is the answer.
    let _ = T::deserialize(Probe { path, asked: &asked });
    match asked.into_inner() {
        Some(Asked::Fields(fields)) => {
            let below = fields.iter().map(|field| {
                path.push(field);
                let shape = at::<T>(path);
                path.pop();
                (*field, shape)
            });
            Shape::Table(below.collect())
        }
        Some(Asked::Map) => {
            path.push(ANY);
            let shape = at::<T>(path);
            path.pop();
            Shape::Named(Box::new(shape))
        }
        Some(Asked::Leaf(shape)) => shape,
        None => Shape::Text,
    }
}

enum Asked {
    Fields(&'static [&'static str]),
    Map,
    Leaf(Shape),
}

#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("stopped")
    }
}

impl std::error::Error for Stop {}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(_: T) -> Stop {
        Stop
    }
}

struct Probe<'a> {
    path: &'a [&'static str],
    asked: &'a RefCell<Option<Asked>>,
}

impl Probe<'_> {
    fn answer<T>(&self, asked: Asked) -> Result<T, Stop> {
        self.asked.borrow_mut().get_or_insert(asked);
        Err(Stop)
    }
}

impl<'de> de::Deserializer<'de> for Probe<'_> {
    type Error = Stop;

    fn deserialize_bool<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Bool))
    }

    fn deserialize_u8<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_u16<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_u32<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_u64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_i32<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_i64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Integer))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Float))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Float))
    }

    fn deserialize_str<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Text))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::List))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Size))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.answer(Asked::Leaf(Shape::Words(variants)))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        match self.path.split_first() {
            None => self.answer(Asked::Fields(fields)),
            Some((key, path)) => visitor.visit_map(One { key: Some(key), inner: Probe { path, asked: self.asked } }),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.path.split_first() {
            None => self.answer(Asked::Map),
            Some((key, path)) => visitor.visit_map(One { key: Some(key), inner: Probe { path, asked: self.asked } }),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A map with one key.
struct One<'a> {
    key: Option<&'static str>,
    inner: Probe<'a>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        self.key.take().map(|key| seed.deserialize(IntoDeserializer::<Stop>::into_deserializer(key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        seed.deserialize(Probe { path: self.inner.path, asked: self.inner.asked })
    }
}

impl Shape {
    /// Every leaf below, as dotted paths, in the order of the types.
    pub fn leaves(&self) -> Vec<(String, &Shape)> {
        let mut out = Vec::new();
        self.collect(String::new(), &mut out);
        out
    }

    fn collect<'a>(&'a self, path: String, out: &mut Vec<(String, &'a Shape)>) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match self {
            Shape::Table(fields) => fields.iter().for_each(|(key, shape)| shape.collect(below(key), out)),
            Shape::Named(shape) => shape.collect(below(ANY), out),
            Shape::Bool | Shape::Integer | Shape::Float | Shape::Text | Shape::Size | Shape::Words(_) | Shape::List => {
                out.push((path, self))
            }
        }
    }

    /// What a reader is told the key takes.
    pub fn takes(&self) -> String {
        match self {
            Shape::Table(_) | Shape::Named(_) => "a table".to_owned(),
            Shape::Bool => "true or false".to_owned(),
            Shape::Integer => "a whole number".to_owned(),
            Shape::Float => "a number".to_owned(),
            Shape::Text => "text".to_owned(),
            Shape::Size => "a size".to_owned(),
            Shape::Words(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Shape::List => "a list".to_owned(),
        }
    }

    /// The path that the rest of a variable's name (`SECTION_KEY`, in lower case) means. None: no such key.
    pub fn path_of(&self, name: &str) -> Option<Vec<String>> {
        match self {
            Shape::Table(fields) => fields.iter().find_map(|(key, shape)| {
                if name == *key {
                    return shape.is_leaf().then(|| vec![(*key).to_owned()]);
                }
                let rest = name.strip_prefix(key)?.strip_prefix('_')?;
                let mut path = shape.path_of(rest)?;
                path.insert(0, (*key).to_owned());
                Some(path)
            }),
            Shape::Named(shape) => name.match_indices('_').find_map(|(at, _)| {
                let mut path = shape.path_of(&name[at + 1..])?;
                path.insert(0, name[..at].to_owned());
                Some(path)
            }),
            Shape::Bool | Shape::Integer | Shape::Float | Shape::Text | Shape::Size | Shape::Words(_) | Shape::List => {
                None
            }
        }
    }

    fn is_leaf(&self) -> bool {
        !matches!(self, Shape::Table(_) | Shape::Named(_))
    }
}
