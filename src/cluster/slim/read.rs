//! Reading JSON without keeping it: texts are cut off, lists and maps end early, and what is left out
//! is skipped by the parser and never in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::api::names;
use crate::decide::entries::Entries;

/// No name is longer, and no label.
pub(super) type Text = Cut<256>;
/// Bytes of a sentence that are kept, of its beginning and of its end.
const SAID: usize = 256;

/// The labels and the annotation that are read of what is kept.
const LABELS: [&str; 6] = [
    names::HOOK_LABEL,
    names::COMPLETED_LABEL,
    names::STAMP_ANNOTATION,
    names::OWNER_LABEL,
    names::CANARY_LABEL,
    names::MANAGED_BY_LABEL,
];
/// Prefix and name of a label.
const LONGEST_NAME: usize = 320;
/// Labels in the selector of a Service; one that asks for more is not called.
const SELECTED_BY: usize = 64;

/// A text, cut off after `N` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cut<const N: usize>(pub(super) String);

/// What the kubelet says of a container: what it tried comes first, and why it failed last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words(pub(super) String);

/// The first `N` of a list. What follows is read and forgotten.
#[derive(Clone, Debug)]
pub(super) struct Few<T, const N: usize>(pub(super) Vec<T>);

/// Our labels, or our annotation.
pub(super) struct Labels(pub(super) BTreeMap<String, String>);

/// The labels a Service asks for; none, if it asks for more than anybody does.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector(pub(super) BTreeMap<String, String>);

/// The entries of a ConfigMap that are ours.
pub(super) struct Data(pub(super) BTreeMap<String, String>);

impl<'de, const N: usize> Deserialize<'de> for Cut<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<const N: usize>;
        impl<const N: usize> Visitor<'_> for First<N> {
            type Value = Cut<N>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Cut<N>, E> {
                Ok(Cut(text[..text.floor_char_boundary(N)].to_owned()))
            }
        }
        deserializer.deserialize_str(First)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ends;
        impl Visitor<'_> for Ends {
            type Value = Words;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                if text.len() <= 2 * SAID {
                    return Ok(Words(text.to_owned()));
                }
                let first = &text[..text.floor_char_boundary(SAID)];
                let last = &text[text.ceil_char_boundary(text.len() - SAID)..];
                Ok(Words(format!("{first} … {last}")))
            }
        }
        deserializer.deserialize_str(Ends)
    }
}

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> Few<T, N> {
    /// Each of them as something else.
    pub(super) fn map<U>(&self, map: impl FnMut(&T) -> U) -> Vec<U> {
        self.0.iter().map(map).collect()
    }
}

/// What is in a list.
pub(super) trait Kept {
    /// Whether it is one of those that are kept.
    fn is_kept(&self) -> bool {
        true
    }
}

impl<const N: usize> Kept for Cut<N> {}

impl<'de, T: Deserialize<'de> + Kept, const N: usize> Deserialize<'de> for Few<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Kept, const N: usize> Visitor<'de> for First<T, N> {
            type Value = Few<T, N>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Few::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut few = Vec::new();
                while few.len() < N {
                    match list.next_element::<T>()? {
                        Some(next) if next.is_kept() => few.push(next),
                        Some(_) => {}
                        None => {
                            few.shrink_to_fit();
                            return Ok(Few(few));
                        }
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                few.shrink_to_fit();
                Ok(Few(few))
            }
        }
        deserializer.deserialize_any(First(PhantomData))
    }
}

/// The entries of a map whose names `wanted` likes, `most` at most, and whether there were more.
fn pick<'de, A: MapAccess<'de>>(
    mut map: A,
    most: usize,
    wanted: impl Fn(&str) -> bool,
    value: impl Fn(&mut A) -> Result<String, A::Error>,
) -> Result<(BTreeMap<String, String>, bool), A::Error> {
    let (mut picked, mut more) = (BTreeMap::new(), false);
    while let Some(Cut::<LONGEST_NAME>(name)) = map.next_key()? {
        let likes = wanted(&name);
        if likes && picked.len() < most {
            picked.insert(name, value(&mut map)?);
        } else {
            map.next_value::<IgnoredAny>()?;
            more |= likes;
        }
    }
    Ok((picked, more))
}

fn cut<'de, A: MapAccess<'de>>(map: &mut A) -> Result<String, A::Error> {
    map.next_value::<Option<Text>>()
        .map(|text| text.unwrap_or_default().0)
}

macro_rules! picked {
    ($($name:ident => $pick:expr;)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Picked;
                impl<'de> Visitor<'de> for Picked {
                    type Value = $name;

                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str("a map")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        let pick: fn(A) -> Result<$name, A::Error> = $pick;
                        pick(map)
                    }
                }
                deserializer.deserialize_map(Picked)
            }
        }
    )*};
}
picked! {
    Labels => |map| pick(map, usize::MAX, |name| LABELS.contains(&name), cut).map(|(all, _)| Labels(all));
    Selector => |map| {
        let (selector, more) = pick(map, SELECTED_BY, |_| true, cut)?;
        Ok(Selector(if more { BTreeMap::new() } else { selector }))
    };
    Data => |map| {
        let whole = |map: &mut A| map.next_value::<Option<String>>().map(Option::unwrap_or_default);
        pick(map, usize::MAX, Entries::has, whole).map(|(data, _)| Data(data))
    };
}
