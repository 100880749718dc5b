//! The kernel's routing decision for one destination, for packet workers.
//!
//! Asking costs a few microseconds, so answers are cached: at most [`CACHE_CAPACITY`] of them, each
//! for at most [`CACHE_LIFETIME`]. The daemon calls [`RouteResolver::clear`] on every link, address,
//! route or rule event, so the lifetime only bounds what no event tells: a path MTU that the kernel
//! learned or forgot.
//!
//! Route questions take no lock that configuration work holds. Link questions do (the kernel's RTNL
//! mutex, which deleting an interface can hold for milliseconds), so an interface's MTU is asked for
//! once and kept until `clear`. The wait for an answer is bounded by a socket timeout. "No route" is
//! an answer and cached; silence of the kernel is not cached.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use netlink_sys::protocols::NETLINK_ROUTE;
use parking_lot::{Mutex, RwLock};

use super::socket::QuestionSocket;
use super::wire::{
    Attributes, IFINFOMSG_LEN, Message, RTEXT_FILTER_SKIP_STATS, push_attribute, u32_at,
};

/// Most destinations remembered; when it is full, all are forgotten.
pub const CACHE_CAPACITY: usize = 65_536;
/// Longest time an answer is believed.
pub const CACHE_LIFETIME: Duration = Duration::from_secs(10);

const TIMEOUT: Duration = Duration::from_millis(100);

const RTMSG_LEN: usize = 12;
/// Offset of `rtm_type` in `struct rtmsg`.
const RTMSG_TYPE: usize = 7;
/// `RTAX_MTU`.
const METRIC_MTU: u16 = 2;

/// Where packets to a destination leave this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Interface index.
    pub if_index: u32,
    /// Source address that the kernel prefers there.
    pub source: IpAddr,
    /// Largest IP packet in octets: the interface's MTU or the route's, whichever is less.
    pub mtu: u32,
}

/// Answers routing questions in the network namespace it was made in. Shared by all workers.
#[derive(Debug)]
pub struct RouteResolver {
    socket: Mutex<QuestionSocket>,
    cache: RwLock<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    /// Counts `clear` calls: an answer that was asked for before one must not be stored after it.
    generation: u64,
    answers: HashMap<IpAddr, (Option<Resolved>, Instant)>,
    /// MTU by interface index.
    link_mtus: HashMap<u32, u32>,
}

impl RouteResolver {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// No socket could be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            socket: Mutex::new(QuestionSocket::new(NETLINK_ROUTE, TIMEOUT)?),
            cache: RwLock::default(),
        })
    }

    /// Where a packet to `destination` would leave. `None`: the destination is this host itself, a
    /// broadcast or multicast address, unreachable or prohibited, or the kernel did not answer.
    #[must_use]
    pub fn route(&self, destination: IpAddr) -> Option<Resolved> {
        let now = Instant::now();
        let generation = {
            let cache = self.cache.read();
            if let Some((answer, asked)) = cache.answers.get(&destination)
                && now.duration_since(*asked) < CACHE_LIFETIME
            {
                return *answer;
            }
            cache.generation
        };
        let answer = match self.ask(destination, generation) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return None,
            // ENETUNREACH, EHOSTUNREACH, EACCES (prohibit), EINVAL (blackhole).
            Err(_) => None,
        };
        let mut cache = self.cache.write();
        if cache.generation == generation {
            if cache.answers.len() >= CACHE_CAPACITY {
                cache.answers.clear();
            }
            cache.answers.insert(destination, (answer, now));
        }
        answer
    }

    /// Forgets all answers. To be called when links, addresses, routes or rules change.
    pub fn clear(&self) {
        let mut cache = self.cache.write();
        cache.generation = cache.generation.wrapping_add(1);
        cache.answers.clear();
        cache.link_mtus.clear();
    }

    /// Number of answers remembered.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cache.read().answers.len()
    }

    fn ask(&self, destination: IpAddr, generation: u64) -> io::Result<Option<Resolved>> {
        let mut found = None;
        self.socket.lock().ask(
            libc::RTM_GETROUTE,
            false,
            |request| put_question(request, destination),
            |message| found = read_route(message),
        )?;
        let Some(mut route) = found else {
            return Ok(None);
        };
        match self.link_mtu(route.if_index, generation)? {
            Some(mtu) => route.mtu = route.mtu.min(mtu),
            // The interface went away between the two questions.
            None => return Ok(None),
        }
        Ok(Some(route))
    }

    fn link_mtu(&self, if_index: u32, generation: u64) -> io::Result<Option<u32>> {
        let known = self.cache.read().link_mtus.get(&if_index).copied();
        if known.is_some() {
            return Ok(known);
        }
        let mut found = None;
        self.socket.lock().ask(
            libc::RTM_GETLINK,
            false,
            |request| put_link_question(request, if_index),
            |message| found = read_link_mtu(message),
        )?;
        let mut cache = self.cache.write();
        if let Some(mtu) = found
            && cache.generation == generation
        {
            cache.link_mtus.insert(if_index, mtu);
        }
        Ok(found)
    }
}

fn put_question(request: &mut Vec<u8>, destination: IpAddr) {
    let mut header = [0; RTMSG_LEN];
    let octets: &[u8] = match &destination {
        IpAddr::V4(address) => {
            header[0] = family(libc::AF_INET);
            header[1] = 32;
            &address.octets()
        }
        IpAddr::V6(address) => {
            header[0] = family(libc::AF_INET6);
            header[1] = 128;
            &address.octets()
        }
    };
    request.extend_from_slice(&header);
    push_attribute(request, libc::RTA_DST, octets);
}

fn put_link_question(request: &mut Vec<u8>, if_index: u32) {
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&if_index.to_ne_bytes());
    request.extend_from_slice(&header);
    push_attribute(
        request,
        libc::IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
}

fn family(family: libc::c_int) -> u8 {
    u8::try_from(family).unwrap_or_default()
}

/// The answer, its `mtu` being the route's (or `u32::MAX`). `None` unless it is a unicast route.
fn read_route(message: &Message<'_>) -> Option<Resolved> {
    if message.kind != libc::RTM_NEWROUTE
        || message.payload.get(RTMSG_TYPE) != Some(&libc::RTN_UNICAST)
    {
        return None;
    }
    let mut if_index = None;
    let mut source = None;
    let mut mtu = u32::MAX;
    for (kind, value) in Attributes(message.payload.get(RTMSG_LEN..)?) {
        match kind {
            libc::RTA_OIF => if_index = u32_at(value, 0),
            libc::RTA_PREFSRC => source = read_address(value),
            libc::RTA_METRICS => {
                for (metric, value) in Attributes(value) {
                    if metric == METRIC_MTU {
                        // 0 is "not set".
                        mtu = u32_at(value, 0).filter(|mtu| *mtu > 0).unwrap_or(mtu);
                    }
                }
            }
            _ => {}
        }
    }
    Some(Resolved {
        if_index: if_index?,
        source: source?,
        mtu,
    })
}

fn read_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    } else {
        <[u8; 16]>::try_from(octets)
            .ok()
            .map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
    }
}

fn read_link_mtu(message: &Message<'_>) -> Option<u32> {
    Attributes(message.payload.get(IFINFOMSG_LEN..)?)
        .find(|(kind, _)| *kind == libc::IFLA_MTU)
        .and_then(|(_, value)| u32_at(value, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![0; RTMSG_LEN];
        payload[RTMSG_TYPE] = kind;
        for (kind, value) in attributes {
            push_attribute(&mut payload, *kind, value);
        }
        payload
    }

    fn read(payload: &[u8]) -> Option<Resolved> {
        read_route(&Message {
            kind: libc::RTM_NEWROUTE,
            flags: 0,
            sequence: 0,
            payload,
        })
    }

    #[test]
    fn only_complete_unicast_answers_count() {
        let oif: (u16, &[u8]) = (libc::RTA_OIF, &5u32.to_ne_bytes());
        let source: (u16, &[u8]) = (libc::RTA_PREFSRC, &[10, 0, 0, 1]);
        let expected = Resolved {
            if_index: 5,
            source: IpAddr::from([10, 0, 0, 1]),
            mtu: u32::MAX,
        };
        assert_eq!(
            read(&answer(libc::RTN_UNICAST, &[oif, source])),
            Some(expected)
        );
        assert_eq!(read(&answer(libc::RTN_LOCAL, &[oif, source])), None);
        assert_eq!(read(&answer(libc::RTN_MULTICAST, &[oif, source])), None);
        assert_eq!(
            read(&answer(libc::RTN_UNICAST, &[oif])),
            None,
            "no source address"
        );
        assert_eq!(
            read(&answer(libc::RTN_UNICAST, &[source])),
            None,
            "no interface"
        );
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn the_route_may_limit_the_packet_size() {
        let mut metrics = Vec::new();
        push_attribute(&mut metrics, 4, &99u32.to_ne_bytes());
        push_attribute(&mut metrics, METRIC_MTU, &1280u32.to_ne_bytes());
        let payload = answer(
            libc::RTN_UNICAST,
            &[
                (libc::RTA_OIF, &5u32.to_ne_bytes()),
                (libc::RTA_PREFSRC, &[10, 0, 0, 1]),
                (libc::RTA_METRICS, &metrics),
            ],
        );
        assert_eq!(read(&payload).unwrap().mtu, 1280);
    }
}
