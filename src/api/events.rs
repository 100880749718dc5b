//! Events: what `docker events` shows.
//!
//! ```text
//!  daemon ── publish ─► [ last 256 ] ─┬─ broadcast ─► one receiver per GET /events ─► filter ─► a line of JSON
//!                                     └─ since ──────►
//! ```
//!
//! [`EventBus::subscribe`] takes the past and the place in the broadcast under one lock, so that no event is
//! lost or told twice between the two. Nobody waits for a reader: one that falls 256 events behind loses its
//! stream.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::filters::Filters;

/// How many events are kept for `since`, and how far a reader may fall behind.
pub const KEPT: usize = 256;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `create`, `start`, `kill`, `die`, `stop`, `destroy`.
    Container,
    /// `create`, `connect`, `disconnect`, `destroy`.
    Network,
}

impl EventKind {
    /// Docker's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Network => "network",
        }
    }
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// About what.
    pub kind: EventKind,
    /// What happened, Docker's word.
    pub action: &'static str,
    /// Id of the container or network.
    pub id: String,
    /// `name`; of a network `type`, and for `connect` and `disconnect` `container` (its id); of a container
    /// its labels, for `die` `exitCode`, for `kill` `signal`.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970-01-01T00:00:00Z. No two events of a bus have the same.
    pub time: i64,
}

impl Event {
    /// Docker's JSON. `legacy`: with `status`, `id` and `from` of container events, as up to API 1.51.
    pub fn json(&self, legacy: bool) -> Value {
        let mut body = Map::new();
        if legacy && self.kind == EventKind::Container {
            body.insert("status".to_owned(), json!(self.action));
            body.insert("id".to_owned(), json!(self.id));
            if let Some(image) = self.attributes.get("image") {
                body.insert("from".to_owned(), json!(image));
            }
        }
        body.insert("Type".to_owned(), json!(self.kind.name()));
        body.insert("Action".to_owned(), json!(self.action));
        body.insert(
            "Actor".to_owned(),
            json!({ "ID": self.id, "Attributes": self.attributes }),
        );
        body.insert("scope".to_owned(), json!("local"));
        body.insert(
            "time".to_owned(),
            json!(self.time.div_euclid(1_000_000_000)),
        );
        body.insert("timeNano".to_owned(), json!(self.time));
        Value::Object(body)
    }

    /// Whether `filters` let it through: alternatives within a key, all keys together (`daemon/events/filter.go`).
    /// Keys that Docker does not know are ignored, as Docker does.
    pub fn passes(&self, filters: &Filters) -> bool {
        let exact = |key: &str, value: &str| {
            !filters.has(key) || filters.values(key).any(|wanted| wanted == value)
        };
        // Whatever the kind of the event, Docker compares with its id and its name.
        let name = self.attributes.get("name").map_or("", String::as_str);
        let object = |key: &str| {
            let begins = |wanted: &str| self.id.starts_with(wanted) || name.starts_with(wanted);
            !filters.has(key) || filters.values(key).any(begins)
        };
        let label = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => self.attributes.get(key).is_some_and(|v| v == value),
            None => self.attributes.contains_key(wanted),
        };
        const OBJECTS: [&str; 10] = [
            "container",
            "network",
            "image",
            "volume",
            "plugin",
            "daemon",
            "service",
            "node",
            "secret",
            "config",
        ];
        exact("event", self.action)
            && exact("type", self.kind.name())
            && exact("scope", "local")
            && OBJECTS.into_iter().all(object)
            && filters.values("label").all(label)
    }
}

/// Where the daemon tells what happened, and readers hear it.
#[derive(Debug)]
pub struct EventBus {
    kept: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            sender: broadcast::Sender::new(KEPT),
        }
    }
}

impl EventBus {
    /// Tells that `action` happened to the container or network `id`. Never waits for a reader.
    pub fn publish<const N: usize>(
        &self,
        kind: EventKind,
        action: &'static str,
        id: &str,
        attributes: [(&str, &str); N],
    ) {
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.publish_at(
            now(),
            Event {
                kind,
                action,
                id: id.to_owned(),
                attributes: attributes.into(),
                time: 0,
            },
        );
    }

    /// As [`EventBus::publish`], with a map of attributes (labels).
    pub fn publish_with(
        &self,
        kind: EventKind,
        action: &'static str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        self.publish_at(
            now(),
            Event {
                kind,
                action,
                id: id.to_owned(),
                attributes,
                time: 0,
            },
        );
    }

    fn publish_at(&self, now: i64, mut event: Event) {
        let mut kept = self.kept.lock();
        // The wall clock may go back; the order of events does not.
        let last = kept.back().map(|event| event.time.saturating_add(1));
        event.time = last.map_or(now, |last| last.max(now));
        let event = Arc::new(event);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(&event));
        // No reader is no error.
        let _ = self.sender.send(event);
    }

    /// The kept events, oldest first, and a receiver of all that come after them.
    pub fn subscribe(&self) -> (VecDeque<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock();
        (kept.clone(), self.sender.subscribe())
    }
}

/// The wall clock in nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, action: &'static str) -> Event {
        let attributes = [("name", "web"), ("tier", "front")];
        Event {
            kind,
            action,
            id: "ab12".to_owned(),
            attributes: attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            time: 1_700_000_000_000_000_005,
        }
    }

    #[test]
    fn json_is_dockers() {
        assert_eq!(
            event(EventKind::Network, "connect").json(true).to_string(),
            r#"{"Type":"network","Action":"connect","Actor":{"ID":"ab12","Attributes":{"name":"web","tier":"front"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005}"#
        );
        let container = event(EventKind::Container, "die");
        assert!(container.json(true).to_string().starts_with(
            r#"{"status":"die","id":"ab12","Type":"container","Action":"die","Actor":"#
        ));
        assert!(container.json(false).get("status").is_none());
    }

    #[test]
    fn filters_select() {
        let container = event(EventKind::Container, "die");
        let network = event(EventKind::Network, "connect");
        for (filters, expected) in [
            ("", [true, true]),
            (r#"{"type":["network"]}"#, [false, true]),
            (r#"{"type":["network","container"]}"#, [true, true]),
            (r#"{"event":["die","start"]}"#, [true, false]),
            (r#"{"event":["die"],"type":["network"]}"#, [false, false]),
            (r#"{"container":["we"]}"#, [true, true]),
            (r#"{"container":["ab"]}"#, [true, true]),
            (r#"{"network":["b12"]}"#, [false, false]),
            (r#"{"image":["busybox"]}"#, [false, false]),
            (r#"{"scope":["swarm"]}"#, [false, false]),
            (r#"{"scope":["local"]}"#, [true, true]),
            (r#"{"label":["tier"]}"#, [true, true]),
            (r#"{"label":["tier=front","name=web"]}"#, [true, true]),
            (r#"{"label":["tier=front","other"]}"#, [false, false]),
            (r#"{"nonsense":["x"]}"#, [true, true]),
        ] {
            let parsed = Filters::parse(filters).unwrap();
            let passed = [&container, &network].map(|event| event.passes(&parsed));
            assert_eq!(passed, expected, "{filters}");
        }
    }

    #[test]
    fn the_last_ones_are_kept_in_order_even_if_the_clock_goes_back() {
        let bus = EventBus::default();
        for time in [10, 5, 5] {
            bus.publish_at(time, event(EventKind::Network, "create"));
        }
        let times = |kept: &VecDeque<Arc<Event>>| kept.iter().map(|e| e.time).collect::<Vec<_>>();
        let (kept, mut receiver) = bus.subscribe();
        assert_eq!(times(&kept), [10, 11, 12]);
        for time in 20..276 {
            bus.publish_at(time, event(EventKind::Network, "create"));
        }
        let (kept, _) = bus.subscribe();
        assert_eq!((kept.len(), kept[0].time, kept[255].time), (256, 20, 275));
        assert_eq!(receiver.try_recv().unwrap().time, 20, "not what was kept");
        bus.publish_at(276, event(EventKind::Network, "create"));
        bus.publish_at(277, event(EventKind::Network, "create"));
        assert!(
            matches!(
                receiver.try_recv(),
                Err(broadcast::error::TryRecvError::Lagged(1))
            ),
            "who falls behind is told"
        );
    }
}
