//! /etc/hosts: `localhost`, what `--add-host` and links say, and the container's own name at each of its addresses.

use std::fmt;
use std::net::IpAddr;

use super::ExtraHost;

/// A line that we wrote or will write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsLine {
    /// Address.
    pub address: IpAddr,
    /// Names, with a blank between two.
    pub names: String,
}

impl fmt::Display for HostsLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}", self.address, self.names)
    }
}

/// The container's own lines, one per address: its host name, or `hostname.domain hostname`. A host name with a dot in it
/// counts as one with a domain.
pub fn own_lines(
    hostname: &str,
    domainname: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Vec<HostsLine> {
    let mut names = hostname.to_owned();
    if !domainname.is_empty() {
        names = format!("{names}.{domainname}");
    }
    if let Some((host, _)) = names.split_once('.') {
        names = format!("{names} {host}");
    }
    let line = |address| HostsLine {
        address,
        names: names.clone(),
    };
    addresses.into_iter().map(line).collect()
}

/// The lines of `--add-host`, where `host_gateway` are the addresses that `host-gateway` stands for.
pub fn extra_lines(extra: &[ExtraHost], host_gateway: &[IpAddr]) -> Vec<HostsLine> {
    let lines = extra.iter().flat_map(|host| {
        let addresses = match host.address {
            Some(address) => vec![address],
            None => host_gateway.to_vec(),
        };
        addresses.into_iter().map(|address| HostsLine {
            address,
            names: host.name.clone(),
        })
    });
    lines.collect()
}

/// The whole file: `lines` are the extra ones, then those of links, then the container's own. `ipv6_loopback`: the container's
/// `lo` has `::1`; without it there are no IPv6 lines at all (an application that finds `::1 localhost` without IPv6 fails
/// to bind it).
pub fn hosts(ipv6_loopback: bool, lines: &[HostsLine]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if ipv6_loopback {
        text.push_str(
            "::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
    }
    for line in lines {
        if ipv6_loopback || line.address.is_ipv4() {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// The file after a change, given what it contains, the lines that we had in it (`before`) and those that we want in it
/// (`after`).
///
/// A line that is no longer wanted vanishes; if another one with the same names and an address of the same family comes in
/// its place, it comes exactly there. Other new lines come before the one of ours that follows them in `after`, or at the
/// end. All others stay as they are: what the user wrote, and also lines of ours that the user has changed or removed.
pub fn edit_hosts(current: &[u8], before: &[HostsLine], after: &[HostsLine]) -> Vec<u8> {
    let mut added: Vec<&HostsLine> = without(after, before);
    // With its successor.
    let mut removed: Vec<(&HostsLine, Option<&HostsLine>)> = without(before, after)
        .into_iter()
        .map(|old| {
            let successor = added.iter().position(|new| {
                new.names == old.names && new.address.is_ipv4() == old.address.is_ipv4()
            });
            (old, successor.map(|index| added.remove(index)))
        })
        .collect();
    // With the line that is there already and comes next.
    let mut added: Vec<(&HostsLine, Option<&HostsLine>)> = added
        .into_iter()
        .map(|new| {
            let mut rest = after.iter().skip_while(|line| *line != new).skip(1);
            (new, rest.find(|line| before.contains(line)))
        })
        .collect();
    let mut text = Vec::with_capacity(current.len() + added.len() * 64);
    for line in current.split_inclusive(|octet| *octet == b'\n') {
        added.retain(|(new, next)| {
            let here = next.is_some_and(|next| is_line(line, next));
            if here {
                text.extend_from_slice(format!("{new}\n").as_bytes());
            }
            !here
        });
        match removed.iter().position(|(old, _)| is_line(line, old)) {
            None => text.extend_from_slice(line),
            Some(index) => {
                if let (_, Some(new)) = removed.swap_remove(index) {
                    text.extend_from_slice(format!("{new}\n").as_bytes());
                }
            }
        }
    }
    for (line, _) in added {
        if text.last().is_some_and(|octet| *octet != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(format!("{line}\n").as_bytes());
    }
    text
}

/// What is in `lines` more often than in `others`, in its order.
fn without<'a>(lines: &'a [HostsLine], others: &[HostsLine]) -> Vec<&'a HostsLine> {
    let mut others: Vec<&HostsLine> = others.iter().collect();
    let mut left = Vec::new();
    for line in lines {
        match others.iter().position(|other| *other == line) {
            Some(index) => {
                others.swap_remove(index);
            }
            None => left.push(line),
        }
    }
    left
}

fn is_line(text: &[u8], line: &HostsLine) -> bool {
    text.strip_suffix(b"\n").unwrap_or(text) == line.to_string().as_bytes()
}
