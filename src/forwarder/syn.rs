//! Unsolicited SYNs to a mapping, held until an outgoing SYN makes them part of a simultaneous open
//! or their time is over.
// RFC 5382 REQ-4: no answer to an unsolicited SYN for 6 s; none at all if an outgoing SYN follows.

use std::collections::VecDeque;

use super::Instant;
use super::key::FlowKey;

/// A SYN that waits.
#[derive(Debug)]
pub(super) struct HeldSyn {
    due: Instant,
    pub(super) key: FlowKey,
    /// The start of the packet, for the error message.
    pub(super) quote: Vec<u8>,
}

/// The SYNs in the order of their ends.
#[derive(Debug)]
pub(super) struct HeldSyns {
    limit: usize,
    held: VecDeque<HeldSyn>,
}

impl HeldSyns {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            held: VecDeque::new(),
        }
    }

    /// Holds the SYN with `key` until `due`. False if there is no room; a retransmission joins the
    /// first one.
    pub(super) fn hold(&mut self, key: FlowKey, quote: &[u8], due: Instant) -> bool {
        if self.held.iter().any(|held| held.key == key) {
            return true;
        }
        if self.held.len() >= self.limit {
            return false;
        }
        self.held.push_back(HeldSyn {
            due,
            key,
            quote: quote.to_vec(),
        });
        true
    }

    /// A flow whose replies have `key` opens: its SYN is no longer unsolicited.
    pub(super) fn solicited(&mut self, key: &FlowKey) {
        if !self.held.is_empty() {
            self.held.retain(|held| held.key != *key);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.held.front().map(|held| held.due)
    }

    /// The next SYN whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Option<HeldSyn> {
        if self.held.front()?.due > now {
            return None;
        }
        self.held.pop_front()
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
    }
}
