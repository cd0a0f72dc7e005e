//! Small JSON files: mapped, bounded in size, and objects read key by key into typed slots, each key once.
//!
//! No tree of values is built, so memory stays below what the file holds.

use crate::{Error, config::ConfigError, error::shown, mapped::Bytes};
use serde::{
    Deserialize, Deserializer as _,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{borrow::Cow, fmt, path::Path};

/// Largest JSON file that is read.
const MAX_FILE: u64 = 16 << 20;

/// Maps a JSON file of a reasonable size.
pub(crate) fn map(path: &Path) -> Result<Bytes, Error> {
    let bytes = Bytes::map(path)?;
    let found = bytes.len() as u64;
    if found > MAX_FILE {
        return Err(Error::TooLarge { path: path.to_owned(), found, limit: MAX_FILE });
    }
    Ok(bytes)
}

/// An object being read.
pub(crate) trait Object<'a> {
    /// What it is, for messages.
    const WHAT: &'static str;

    /// Takes the value of `key` from `map`, or refuses the key.
    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error>;
}

/// Reads a whole file as one object.
pub(crate) fn read<'a, O: Object<'a>>(json: &'a [u8], mut object: O) -> Result<O, ConfigError> {
    let mut json = serde_json::Deserializer::from_slice(json);
    json.deserialize_map(Reading(&mut object))
        .and_then(|()| json.end())
        .map_err(|e| ConfigError::Json(e.to_string()))?;
    Ok(object)
}

/// Reads the value of `key` as an object, or `null` as `None`.
pub(crate) fn nested<'a, A: MapAccess<'a>, O: Object<'a>>(
    key: &str,
    map: &mut A,
    mut object: O,
) -> Result<Option<O>, A::Error> {
    let some = map.next_value_seed(Nullable(Reading(&mut object))).map_err(|e| at(key, &e))?;
    Ok(some.map(|()| object))
}

/// A nested object that may occur once.
pub(crate) fn once<'a, A: MapAccess<'a>, O: Object<'a> + Default>(
    slot: &mut Option<O>,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(at(key, &"occurs twice"));
    }
    *slot = nested(key, map, O::default())?;
    Ok(())
}

/// Reads the value of `key` into its slot; a second value is refused, `null` leaves it empty.
pub(crate) fn set<'a, A: MapAccess<'a>, T: Deserialize<'a>>(
    slot: &mut Option<T>,
    key: &str,
    map: &mut A,
) -> Result<(), A::Error> {
    let value: Option<T> = map.next_value().map_err(|e| at(key, &e))?;
    if slot.is_some() {
        return Err(de::Error::custom(format_args!("key `{}` occurs twice", shown(key))));
    }
    *slot = value;
    Ok(())
}

/// Reads past the value of `key`.
pub(crate) fn skip<'a, A: MapAccess<'a>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// The error that names a key.
pub(crate) fn at<E: de::Error>(key: &str, what: &dyn fmt::Display) -> E {
    E::custom(format_args!("key `{}`: {what}", shown(key)))
}

struct Reading<'o, O>(&'o mut O);

impl<'a, O: Object<'a>> Visitor<'a> for Reading<'_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(O::WHAT)
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            self.0.key(&key, &mut map)?;
        }
        Ok(())
    }
}

impl<'a, O: Object<'a>> DeserializeSeed<'a> for Reading<'_, O> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

struct Nullable<S>(S);

impl<'a, S: DeserializeSeed<'a>> DeserializeSeed<'a> for Nullable<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_option(self)
    }
}

impl<'a, S: DeserializeSeed<'a>> Visitor<'a> for Nullable<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or null")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: de::Deserializer<'a>>(self, d: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(d).map(Some)
    }
}

/// A string, borrowed from the file where it has no escapes.
pub(crate) struct Text;

impl<'a> DeserializeSeed<'a> for Text {
    type Value = Cow<'a, str>;

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Text {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, s: &'a str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(s))
    }

    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(s.to_owned()))
    }
}

/// One token id or several.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ids(pub(crate) Vec<u32>);

/// More end tokens than any model has.
const MAX_IDS: usize = 64;

impl<'a> Deserialize<'a> for Ids {
    fn deserialize<D: de::Deserializer<'a>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'a> Visitor<'a> for OneOrMany {
            type Value = Ids;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a token id or at most {MAX_IDS} of them")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Ids, E> {
                let id = u32::try_from(id).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(id), &self))?;
                Ok(Ids(vec![id]))
            }

            fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Ids, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    if ids.len() == MAX_IDS {
                        return Err(de::Error::invalid_length(MAX_IDS + 1, &self));
                    }
                    ids.push(id);
                }
                Ok(Ids(ids))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}
