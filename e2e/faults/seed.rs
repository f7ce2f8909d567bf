//! Chance that can be had again.

use std::fmt;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// A seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The one that was asked for, else a new one.
    pub fn from(asked: Option<u64>) -> Self {
        Self(asked.unwrap_or_else(|| u64::from(rand::random::<u32>())))
    }

    /// The same order for the same seed.
    pub fn shuffle<T>(self, list: &mut [T]) {
        list.shuffle(&mut self.chance());
    }

    /// The same numbers for the same seed.
    pub fn chance(self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }

    /// One of a list.
    pub fn one_of<T: Copy>(chance: &mut StdRng, list: &[T]) -> T {
        list[chance.random_range(0..list.len())]
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} (again: --seed {})", self.0, self.0)
    }
}
