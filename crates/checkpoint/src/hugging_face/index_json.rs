//! `model.safetensors.index.json`: which shard holds which tensor, held against the shards themselves.

use crate::{
    Error,
    config::ConfigError,
    error::shown,
    json::{self, Object, Text, at, nested, skip},
    safetensors::Header,
};
use serde::de::MapAccess;
use std::{borrow::Cow, collections::BTreeSet, path::Path};

/// The checked index.
#[derive(Debug)]
pub struct Index<'a> {
    /// Tensor and file, sorted by tensor.
    map: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Index<'a> {
    /// Reads the JSON.
    ///
    /// # Errors
    /// When it is no index, names a tensor twice, or names a file by more than a plain name.
    pub fn parse(bytes: &'a [u8]) -> Result<Index<'a>, ConfigError> {
        // Counted before it is collected, so that memory is what the entries need.
        let mut n = 0usize;
        json::read(bytes, Top { each: &mut |_, _| n += 1, found: false })?;
        let mut map = Vec::with_capacity(n);
        let found = json::read(bytes, Top { each: &mut |tensor, file| map.push((tensor, file)), found: false })?.found;
        if !found {
            return Err(ConfigError::Missing("weight_map"));
        }
        map.sort_unstable();
        if let Some([(tensor, _), _]) = map.array_windows::<2>().find(|[(a, _), (b, _)]| a == b) {
            return Err(ConfigError::Json(format!("weight_map: tensor `{}` occurs twice", shown(tensor))));
        }
        Ok(Index { map })
    }

    /// The shards, sorted.
    pub fn files(&self) -> BTreeSet<&str> {
        let mut files = BTreeSet::new();
        // One by one: collecting would first make a list as long as the map.
        for (_, file) in &self.map {
            files.insert(file.as_ref());
        }
        files
    }

    /// Holds the index against the header of the shard `file`: both must name the same tensors.
    pub(crate) fn agrees(&self, index_path: &Path, path: &Path, file: &str, header: &Header<'_>) -> Result<(), Error> {
        let disagree = |tensor: &str, found: &str, expected: &str| Error::Disagree {
            path: path.to_owned(),
            other: index_path.to_owned(),
            what: format!("tensor `{}`", shown(tensor)),
            found: found.to_owned(),
            expected: expected.to_owned(),
        };
        for entry in &header.entries {
            let listed = self.map.binary_search_by(|(tensor, _)| tensor.cmp(&entry.name)).ok();
            match listed.and_then(|i| self.map.get(i)) {
                Some((_, listed)) if listed == file => {}
                Some((_, listed)) => return Err(disagree(&entry.name, "in this file", &shown(listed))),
                None => return Err(disagree(&entry.name, "in this file", "nowhere")),
            }
        }
        match self.map.iter().find(|(tensor, listed)| listed == file && header.get(tensor).is_none()) {
            Some((tensor, _)) => Err(disagree(tensor, "absent", "in this file")),
            None => Ok(()),
        }
    }
}

type Each<'f, 'a> = &'f mut dyn FnMut(Cow<'a, str>, Cow<'a, str>);

struct Top<'f, 'a> {
    each: Each<'f, 'a>,
    found: bool,
}

impl<'a> Object<'a> for Top<'_, 'a> {
    const WHAT: &'static str = "an index of safetensors files";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        if key != "weight_map" {
            return skip(map);
        }
        if std::mem::replace(&mut self.found, true) {
            return Err(at(key, &"occurs twice"));
        }
        nested(key, map, WeightMap { each: self.each })?.map(|_| ()).ok_or_else(|| at(key, &"null"))
    }
}

struct WeightMap<'f, 'a> {
    each: Each<'f, 'a>,
}

impl<'a> Object<'a> for WeightMap<'_, 'a> {
    const WHAT: &'static str = "an object from tensors to files";

    fn key<A: MapAccess<'a>>(&mut self, key: &Cow<'a, str>, map: &mut A) -> Result<(), A::Error> {
        let file = map.next_value_seed(Text).map_err(|e| at(key, &e))?;
        if !is_plain(&file) {
            return Err(at(
                key,
                &format_args!("`{}`, expected a plain file name ending in .safetensors", shown(&file)),
            ));
        }
        (self.each)(key.clone(), file);
        Ok(())
    }
}

/// A name that can't lead out of the directory, on any system.
fn is_plain(file: &str) -> bool {
    file.ends_with(".safetensors")
        && !file.starts_with('.')
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}
