//! What is counted for an [`Owner`], and which of its flows can be taken when something is short:
//! first sessions that are over, then flows that others opened and nobody answered.
// RFC 6888 REQ-4, REQ-5: ports and state per subscriber are limited.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::flow::{Flow, Hot, Owner};

#[derive(Debug, Default)]
struct Account {
    flows: usize,
    /// Sessions that were over when they were put here.
    finished: VecDeque<Arc<Flow>>,
    /// Flows opened by others that were not answered when they were put here.
    embryonic: VecDeque<Arc<Flow>>,
}

/// The accounts of all owners.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: HashMap<Owner, Account>,
}

/// Takes flows from the front until one is alive and in the state that put it there.
fn next(queue: &mut VecDeque<Arc<Flow>>, is_so: fn(&Hot) -> bool) -> Option<Arc<Flow>> {
    std::iter::from_fn(|| queue.pop_front()).find(|flow| !flow.is_dead() && is_so(&flow.hot.lock()))
}

/// Appends `flow`, and forgets what need not be remembered at the front.
fn append(queue: &mut VecDeque<Arc<Flow>>, flow: &Arc<Flow>, is_so: fn(&Hot) -> bool) {
    while queue
        .front()
        .is_some_and(|old| old.is_dead() || !is_so(&old.hot.lock()))
    {
        queue.pop_front();
    }
    queue.push_back(Arc::clone(flow));
}

impl Accounts {
    /// Number of flows of `owner`.
    pub(super) fn flows(&self, owner: Owner) -> usize {
        self.accounts.get(&owner).map_or(0, |account| account.flows)
    }

    pub(super) fn opened(&mut self, flow: &Arc<Flow>) {
        let account = self.accounts.entry(flow.owner).or_default();
        account.flows += 1;
        if !matches!(flow.owner, Owner::Endpoint(_)) {
            append(&mut account.embryonic, flow, Hot::is_embryonic);
        }
    }

    /// The session of `flow` is over; its time is not.
    pub(super) fn finished(&mut self, flow: &Arc<Flow>) {
        if let Some(account) = self.accounts.get_mut(&flow.owner) {
            append(&mut account.finished, flow, Hot::is_finished);
        }
    }

    pub(super) fn closed(&mut self, owner: Owner) {
        if let Some(account) = self.accounts.get_mut(&owner) {
            account.flows -= 1;
            if account.flows == 0 {
                self.accounts.remove(&owner);
            }
        }
    }

    /// A session of `owner` that is over.
    pub(super) fn take_finished(&mut self, owner: Owner) -> Option<Arc<Flow>> {
        next(
            &mut self.accounts.get_mut(&owner)?.finished,
            Hot::is_finished,
        )
    }

    /// A flow towards `owner` that nobody answered.
    pub(super) fn take_embryonic(&mut self, owner: Owner) -> Option<Arc<Flow>> {
        next(
            &mut self.accounts.get_mut(&owner)?.embryonic,
            Hot::is_embryonic,
        )
    }

    /// Who has most sessions that are over.
    pub(super) fn most_finished(&self) -> Option<Owner> {
        self.most(|account| account.finished.len())
    }

    /// Who has most flows that nobody answered.
    pub(super) fn most_embryonic(&self) -> Option<Owner> {
        self.most(|account| account.embryonic.len())
    }

    fn most(&self, number: fn(&Account) -> usize) -> Option<Owner> {
        let owners = self
            .accounts
            .iter()
            .filter(|(_, account)| number(account) > 0);
        owners
            .max_by_key(|(_, account)| number(account))
            .map(|(&owner, _)| owner)
    }
}
