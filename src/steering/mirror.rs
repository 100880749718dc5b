//! Maps that are remembered here, so that only differences are written.

use std::borrow::{Borrow, BorrowMut};
use std::collections::BTreeMap;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError};

use super::SteeringError;
use super::maps::map_error;

/// A map, and what is in it.
pub(super) struct Mirror<M, K, V> {
    name: &'static str,
    map: M,
    pub(super) known: BTreeMap<K, V>,
}

impl<M: Table<K, V>, K: Ord + Copy, V: Eq + Copy> Mirror<M, K, V> {
    pub(super) const fn new(name: &'static str, map: M) -> Self {
        Self {
            name,
            map,
            known: BTreeMap::new(),
        }
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Result<(), SteeringError> {
        if self.known.get(&key) != Some(&value) {
            self.map.put(&key, &value).map_err(map_error(self.name))?;
            self.known.insert(key, value);
        }
        Ok(())
    }

    /// Removes `key`. Deleting from a hash map or a trie cannot fail but for a key that is absent.
    pub(super) fn forget(&mut self, key: &K) {
        if self.known.remove(key).is_some() {
            let _ = self.map.delete(key);
        }
    }

    /// Makes the map hold exactly `wanted`; new entries come before old ones go.
    pub(super) fn replace(&mut self, wanted: BTreeMap<K, V>) -> Result<(), SteeringError> {
        for (key, value) in &wanted {
            self.insert(*key, *value)?;
        }
        let stale: Vec<K> = self
            .known
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .copied()
            .collect();
        for key in &stale {
            self.forget(key);
        }
        Ok(())
    }
}

/// The two kinds of map that [`Mirror`] keeps.
pub(super) trait Table<K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError>;
    fn delete(&mut self, key: &K) -> Result<(), MapError>;
}

impl<T: Borrow<MapData> + BorrowMut<MapData>, K: Pod, V: Pod> Table<K, V> for HashMap<T, K, V> {
    fn put(&mut self, key: &K, value: &V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }
    fn delete(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

impl<T: Borrow<MapData> + BorrowMut<MapData>, K: Pod, V: Pod> Table<(u32, K), V>
    for LpmTrie<T, K, V>
{
    fn put(&mut self, key: &(u32, K), value: &V) -> Result<(), MapError> {
        self.insert(&Key::new(key.0, key.1), value, 0)
    }
    fn delete(&mut self, key: &(u32, K)) -> Result<(), MapError> {
        self.remove(&Key::new(key.0, key.1))
    }
}
