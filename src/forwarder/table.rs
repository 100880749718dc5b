//! The flow table: two keys per flow, sharded, hashed with a secret.
//!
//! Lookups take one shard's read lock. Insertions and removals happen under the forwarder's slow
//! lock only, one shard write lock at a time, so that the check for a free key and the insertion
//! are one step for every other creator; a reader may see one key of a new flow before the other.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use parking_lot::RwLock;

use super::flow::Flow;
use super::key::{Direction, FlowKey};

const SHARDS: usize = 64;

/// One key of a flow.
#[derive(Debug)]
struct Entry {
    hash: u64,
    direction: Direction,
    flow: Arc<Flow>,
}

impl Entry {
    fn matches(&self, key: &FlowKey) -> bool {
        self.flow.key(self.direction) == key
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct FlowTable {
    shards: Box<[RwLock<HashTable<Entry>>]>,
    hasher: FixedState,
    flows: AtomicUsize,
}

impl FlowTable {
    /// `seed` must be secret: peers choose the keys.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect(),
            hasher: FixedState::with_seed(seed),
            flows: AtomicUsize::new(0),
        }
    }

    fn shard(&self, hash: u64) -> &RwLock<HashTable<Entry>> {
        // hashbrown uses the lowest and the highest bits.
        let index = usize::try_from(hash >> 40).unwrap_or(0) % SHARDS;
        &self.shards[index]
    }

    /// The flow that `key` belongs to, and the direction in which.
    pub(super) fn find(&self, key: &FlowKey) -> Option<(Arc<Flow>, Direction)> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash).read();
        let entry = shard.find(hash, |entry| entry.hash == hash && entry.matches(key))?;
        Some((Arc::clone(&entry.flow), entry.direction))
    }

    pub(super) fn contains(&self, key: &FlowKey) -> bool {
        let hash = self.hasher.hash_one(key);
        self.shard(hash)
            .read()
            .find(hash, |entry| entry.matches(key))
            .is_some()
    }

    /// Adds both keys of `flow`, which must be free.
    pub(super) fn insert(&self, flow: &Arc<Flow>) {
        // The reply key first: whoever sees the flow by its original key can count on both.
        for direction in [Direction::Reply, Direction::Original] {
            let hash = self.hasher.hash_one(flow.key(direction));
            let entry = Entry {
                hash,
                direction,
                flow: Arc::clone(flow),
            };
            self.shard(hash)
                .write()
                .insert_unique(hash, entry, |entry| entry.hash);
        }
        self.flows.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes both keys of `flow`.
    pub(super) fn remove(&self, flow: &Arc<Flow>) {
        for direction in [Direction::Original, Direction::Reply] {
            let hash = self.hasher.hash_one(flow.key(direction));
            let mut shard = self.shard(hash).write();
            if let Ok(entry) = shard.find_entry(hash, |entry| {
                Arc::ptr_eq(&entry.flow, flow) && entry.direction == direction
            }) {
                drop(entry.remove());
            }
        }
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }

    /// All flows, in no order.
    pub(super) fn flows(&self) -> Vec<Arc<Flow>> {
        let mut flows = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.read();
            let originals = shard
                .iter()
                .filter(|entry| entry.direction == Direction::Original);
            flows.extend(originals.map(|entry| Arc::clone(&entry.flow)));
        }
        flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_found_by_both_keys_until_it_is_removed() {
        let table = FlowTable::new(1);
        let flows: Vec<_> = (0..1000).map(Flow::sample).collect();
        flows.iter().for_each(|flow| table.insert(flow));
        assert_eq!((table.len(), table.flows().len()), (1000, 1000));
        for flow in &flows {
            for direction in [Direction::Original, Direction::Reply] {
                let (found, found_direction) = table.find(flow.key(direction)).unwrap();
                assert!(Arc::ptr_eq(&found, flow));
                assert_eq!(found_direction, direction);
            }
        }
        assert!(!table.contains(&flows[0].reply.mirror()));
        table.remove(&flows[0]);
        assert!(!table.contains(&flows[0].original) && !table.contains(&flows[0].reply));
        assert!(table.contains(&flows[1].original));
        assert_eq!(table.len(), 999);
    }
}
