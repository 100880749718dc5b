//! `flows`, `stats`, `doctor`: what the data path does, as tables or JSON.

use std::time::Duration;

use clap::Args;

use super::containers::{print_table, table};
use super::{Outcome, print, print_json};
use crate::api::client::Client;
use crate::api::types::{Finding, Flow, Severity, Stats as Counters};
use crate::forwarder::DropReason;

/// `tunbridge flows`.
#[derive(Args, Clone, Debug)]
pub(super) struct Flows {
    /// Print again every second until interrupted
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Flows {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        loop {
            let flows: Vec<Flow> = client.get("/tunbridge/flows")?;
            if self.json {
                return print_json(&flows);
            }
            let text = flows_table(&flows);
            if !self.watch {
                return print(&text);
            }
            // Clear the screen and go to its top, as `watch` does.
            print(&format!("\x1b[2J\x1b[H{text}"))?;
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn flows_table(flows: &[Flow]) -> String {
    let mut table = table(&[
        "PROTO",
        "CONTAINER",
        "ORIGINAL",
        "TRANSLATED",
        "STATE",
        "PACKETS",
        "BYTES",
        "AGE",
        "TIMEOUT",
    ]);
    for flow in flows {
        table.add_row([
            flow.protocol.clone(),
            flow.container.clone(),
            format!("{} -> {}", flow.source, flow.destination),
            format!(
                "{} -> {}",
                flow.translated_source, flow.translated_destination
            ),
            flow.state.clone(),
            format!("{}/{}", flow.packets_original, flow.packets_reply),
            format!("{}/{}", bytes(flow.bytes_original), bytes(flow.bytes_reply)),
            seconds(flow.age),
            seconds(flow.timeout),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}

/// `tunbridge stats`.
#[derive(Args, Clone, Debug)]
pub(super) struct Stats {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    /// Show counters that are zero, too
    #[arg(short, long)]
    all: bool,
}

impl Stats {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let stats: Counters = client.get("/tunbridge/stats")?;
        if self.json {
            return print_json(&stats);
        }
        let mut table = table(&["WHERE", "COUNTER", "COUNT", "MEANING"]);
        let mut row = |place: &str, name: &str, count: u64, meaning: &str| {
            if self.all || count > 0 {
                table.add_row([place, name, &count.to_string(), meaning]);
            }
        };
        for (name, count, meaning) in [
            (
                "received",
                stats.received,
                "frames from the TUN; a super-packet is one",
            ),
            ("forwarded", stats.forwarded, "frames rewritten and sent on"),
            (
                "to_host",
                stats.to_host,
                "frames given to the host's own stack",
            ),
            (
                "consumed",
                stats.consumed,
                "frames held, such as fragments waiting for their first one",
            ),
            (
                "generated",
                stats.generated,
                "ICMP errors and fragments made here",
            ),
            ("flows", stats.flows, "live flows"),
            (
                "mappings",
                stats.mappings,
                "live endpoint-independent mappings",
            ),
        ] {
            row("forwarder", name, count, meaning);
        }
        for (name, count) in &stats.dropped {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            row(
                "dropped",
                name,
                *count,
                reason.map_or("", |reason| reason.meaning()),
            );
        }
        for (place, counters) in [
            ("steering", &stats.steering),
            ("engine", &stats.engine),
            ("ndp_proxy", &stats.ndp_proxy),
        ] {
            for (name, count) in counters {
                row(place, name, *count, meaning(name));
            }
        }
        print_table(&table)
    }
}

/// One line about a counter of steering, engine or NDP proxies; empty for one of a newer daemon.
fn meaning(counter: &str) -> &'static str {
    match counter {
        "diverted_container" => "from containers to the forwarder",
        "diverted_uplink" => "from outside to the forwarder",
        "diverted_loopback" => "from the host's own processes to the forwarder",
        "delivered_container" => "from the forwarder into containers",
        "delivered_host" => "from the forwarder to the host's own stack",
        "delivered_uplink" => "from the forwarder to the outside",
        "peer_redirect" => "straight from one container to another of its network",
        "host_socket_won" => "left to the host, as one of its sockets wants that port",
        "spoof_mac" => "dropped: a container used another MAC address than its own",
        "spoof_ip" => "dropped: a container used another IP address than its own",
        "spoof_arp" => "dropped: a container claimed another address in ARP",
        "spoof_nd" => "dropped: a container claimed another address in Neighbour Discovery",
        "rogue_ra" => "dropped: a container posed as an IPv6 router",
        "ipv6_disabled" => "dropped: IPv6 from a container of an IPv4-only network",
        "vlan_tagged" => "dropped: a container sent a VLAN tag",
        "other_ethertype" => "dropped: a container sent neither IP nor ARP",
        "malformed" => "dropped: a container's frame lacks a part of its headers",
        "icc_drop" => "dropped: container to container where icc is off and no link allows it",
        "internal_drop" => "dropped: a container of an internal network sent beyond its subnet",
        "rate_exceeded" => "dropped: a container sent faster than its bandwidth, past its queue",
        "martian_container" => {
            "dropped: a container sent to 127/8, 0/8, ::1 or ::, or off its link as fe80::"
        }
        "martian_uplink" => "dropped: from outside with one of our or the host's addresses",
        "direct_access" => "dropped: from outside straight to a container's address",
        "no_endpoint" => "dropped: to a container that is not there",
        "no_egress" => "dropped: no way out for it",
        "tun_malformed" => "dropped: the forwarder wrote what is no unicast IP packet",
        "read" => "frames read from the TUN",
        "written" => "frames written to the TUN",
        "write_invalid" => "frames that the kernel refused as invalid",
        "write_failed" => "frames that could not be written, for want of memory",
        "read_failed" => "reads from the TUN that failed",
        "answered" => "questions for a container's address on an uplink, answered",
        "foreign" => "questions for other addresses: left to their owners",
        "probes" => "probes whether a container's address is taken: not answered",
        "hop_limit" => "questions with a hop limit below 255: not answered",
        "checksum" => "questions with a wrong checksum: not answered",
        "malformed_question" => "questions with wrong lengths, options or addresses: not answered",
        "unsent" => "answers that could not be sent",
        _ => "",
    }
}

/// `tunbridge doctor`.
#[derive(Args, Clone, Debug)]
pub(super) struct Doctor {
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(&self, client: &Client) -> Outcome {
        let findings: Vec<Finding> = client.get("/tunbridge/doctor")?;
        if self.json {
            print_json(&findings)?;
        } else {
            print(&findings.iter().map(finding).collect::<String>())?;
        }
        Ok(u8::from(
            findings
                .iter()
                .any(|finding| finding.severity == Severity::Error),
        ))
    }
}

fn finding(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Ok => "ok     ",
        Severity::Note => "note   ",
        Severity::Warning => "WARNING",
        Severity::Error => "ERROR  ",
    };
    let mut text = format!("{mark} {}: {}\n", finding.subject, finding.found);
    if finding.severity != Severity::Ok {
        text += &format!("        why: {}\n", finding.why);
        if !finding.fix.is_empty() {
            text += &format!("        fix: {}\n", finding.fix);
        }
    }
    text
}

fn seconds(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0))
        .unwrap_or_default()
        .as_secs();
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut divisor: u64 = 1024;
    if bytes < divisor {
        return format!("{bytes}B");
    }
    for unit in UNITS {
        if bytes / divisor < 1024 {
            return format!(
                "{}.{}{unit}",
                bytes / divisor,
                bytes % divisor * 10 / divisor
            );
        }
        divisor *= 1024;
    }
    format!("{}PiB", bytes / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(5 * 1024 * 1024 * 1024), "5.0GiB");
        assert_eq!(seconds(59.9), "59s");
        assert_eq!(seconds(61.0), "1m01s");
        assert_eq!(seconds(7440.0), "2h04m");
        assert_eq!(seconds(-1.0), "0s");
    }
}
