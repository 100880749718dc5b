//! What the daemon tells about its data path, in the API's words.

use std::collections::BTreeMap;

use super::core::Core;
use crate::api::types::{Flow, Stats};
use crate::engine::Engine;
use crate::forwarder::{EndpointId, FlowReport, Forwarder, Protocol};

/// One row of `tunbridge flows`; `names` gives the containers' names.
pub(super) fn flow(report: &FlowReport, names: &BTreeMap<EndpointId, String>) -> Flow {
    let text = |address: &std::net::SocketAddr| address.to_string();
    Flow {
        protocol: protocol_name(report.protocol).to_owned(),
        container: names.get(&report.endpoint).cloned().unwrap_or_default(),
        source: text(&report.original.0),
        destination: text(&report.original.1),
        translated_source: text(&report.translated.0),
        translated_destination: text(&report.translated.1),
        state: report.state.to_owned(),
        packets_original: report.packets_original,
        bytes_original: report.bytes_original,
        packets_reply: report.packets_reply,
        bytes_reply: report.bytes_reply,
        age: report.age.as_secs_f64(),
        timeout: report.timeout.as_secs_f64(),
    }
}

/// Everything `tunbridge stats` shows.
pub(super) fn stats(
    forwarder: &Forwarder,
    engine: &Engine,
    steering: BTreeMap<String, u64>,
) -> Stats {
    let stats = forwarder.stats();
    Stats {
        received: stats.received,
        forwarded: stats.forwarded,
        to_host: stats.to_host,
        consumed: stats.consumed,
        generated: stats.generated,
        flows: u64::try_from(stats.flows).unwrap_or(u64::MAX),
        mappings: u64::try_from(stats.mappings).unwrap_or(u64::MAX),
        dropped: stats
            .dropped
            .iter()
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect(),
        steering,
        engine: engine
            .counters()
            .report()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        ndp_proxy: BTreeMap::new(),
        held: BTreeMap::new(),
    }
}

impl Core {
    /// How much the daemon holds for its containers and networks. When all are gone each is what it was at the start.
    pub(super) fn held(&self) -> BTreeMap<String, u64> {
        let mut held = self.steering.lock().entries();
        let projected = self.projected.lock();
        let sizes = [
            ("announcements", self.announcements.lock().len()),
            ("broken_networks", self.facts.lock().broken.len()),
            ("files", projected.files.len()),
            ("ndp_proxies", self.ndp_proxies.lock().len()),
            ("resolvers", self.resolver.running().len()),
            (
                "tasks",
                tokio::runtime::Handle::current()
                    .metrics()
                    .num_alive_tasks(),
            ),
            ("watches", self.watches.lock().len()),
        ];
        for (name, size) in sizes {
            held.insert(name.to_owned(), u64::try_from(size).unwrap_or(u64::MAX));
        }
        held
    }
}

/// Name of a protocol in the CLI.
pub(super) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Icmp => "icmp",
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
