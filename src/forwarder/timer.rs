//! A lazy timer wheel for flows.
//!
//! A packet that refreshes a flow does not touch the wheel: when a flow's slot comes up, whoever
//! turns the wheel looks at the flow and puts it back if it was refreshed. A flow that is to end
//! *sooner* than planned is put in a second time; the entry whose tick is not [`Flow::due`] is
//! stale.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Instant;
use super::flow::Flow;

const SLOTS: u64 = 512;

#[derive(Debug)]
struct Entry {
    tick: u64,
    flow: Arc<Flow>,
}

/// The wheel: one slot per second.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// The last tick that was handled.
    current: u64,
    entries: usize,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            current: 0,
            entries: 0,
        }
    }

    /// Plans to look at `flow` at `due` or soon after.
    pub(super) fn insert(&mut self, flow: &Arc<Flow>, due: Instant) {
        let due = due.since_origin();
        let tick = due.as_secs() + u64::from(due.subsec_nanos() > 0);
        let tick = tick.clamp(self.current + 1, self.current + SLOTS - 1);
        let planned = flow.due.load(Ordering::Relaxed);
        if planned > self.current && planned <= tick {
            return;
        }
        flow.due.store(tick, Ordering::Relaxed);
        self.slot(tick).push(Entry {
            tick,
            flow: Arc::clone(flow),
        });
        self.entries += 1;
    }

    fn slot(&mut self, tick: u64) -> &mut Vec<Entry> {
        let index = usize::try_from(tick % SLOTS).unwrap_or(0);
        &mut self.slots[index]
    }

    /// Before anything is planned the wheel may jump to `now`.
    pub(super) fn start(&mut self, now: Instant) {
        if self.entries == 0 {
            self.current = self.current.max(now.since_origin().as_secs());
        }
    }

    /// When the next slot with an entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.entries == 0 {
            return None;
        }
        (self.current + 1..=self.current + SLOTS)
            .find(|tick| !self.slots[usize::try_from(tick % SLOTS).unwrap_or(0)].is_empty())
            .map(|tick| Instant::from_origin(Duration::from_secs(tick)))
    }

    /// Takes out the flows whose time to be looked at has come.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<Arc<Flow>> {
        let target = now.since_origin().as_secs();
        let mut due = Vec::new();
        let turns = target.saturating_sub(self.current).min(SLOTS);
        for tick in self.current + 1..=self.current + turns {
            for entry in std::mem::take(self.slot(tick)) {
                self.entries -= 1;
                if entry.flow.due.load(Ordering::Relaxed) == entry.tick && !entry.flow.is_dead() {
                    due.push(entry.flow);
                }
            }
        }
        self.current = self.current.max(target);
        for flow in &due {
            flow.due.store(0, Ordering::Relaxed);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn flows_come_up_in_time_and_once() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.next(), None);
        let (soon, late) = (Flow::sample(1), Flow::sample(2));
        wheel.insert(&soon, at(10) + Duration::from_millis(1));
        wheel.insert(&late, at(7440));
        assert_eq!(wheel.next(), Some(at(11)));
        assert!(wheel.advance(at(10)).is_empty());
        let due = wheel.advance(at(11));
        assert!(due.len() == 1 && Arc::ptr_eq(&due[0], &soon));
        // Beyond the wheel's reach: looked at on the way.
        let next = wheel.next().unwrap();
        assert_eq!(next, at(511));
        assert_eq!(wheel.advance(next).len(), 1);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn a_sooner_end_replaces_the_later_one() {
        let mut wheel = Wheel::new();
        let flow = Flow::sample(1);
        wheel.insert(&flow, at(300));
        wheel.insert(&flow, at(20));
        wheel.insert(&flow, at(200));
        assert_eq!(wheel.advance(at(20)).len(), 1);
        assert!(wheel.advance(at(400)).is_empty());
        assert_eq!(wheel.entries, 0);
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = Wheel::new();
        for port in 0..100 {
            wheel.insert(&Flow::sample(port), at(1 + u64::from(port) * 5));
        }
        assert_eq!(wheel.advance(at(1_000_000)).len(), 100);
        assert_eq!(wheel.next(), None);
    }
}
