//! Kernel notifications, reduced to "what kind of thing has changed".
//!
//! Events carry no data that a dump would give better (except which interface's forwarding flag
//! flipped): the receiver looks at the present state, not at a history that may have holes. Several
//! changes of one kind that arrive together are one event.
//!
//! **Order of use.** Make the [`Watcher`] first, dump second. A change in between is then seen twice,
//! which is harmless; the other way round it would be lost.
//!
//! **Overrun.** The kernel drops notifications when the socket's buffer is full and says so once
//! ([`Event::Overrun`]); everything has to be looked at again then. The buffer is large
//! (8 MiB, beyond `net.core.rmem_max` if we are allowed to), so this takes thousands of changes
//! within one scheduling delay.
//!
//! `RTM_NEWNETCONF` is what `sysctl net.ipv4.ip_forward=0` causes: one message for `all`, one for
//! `default`, one per interface. rtnetlink cannot decode it, hence the parser here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};

use super::wire::{Attributes, Message, Messages, i32_at};

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// An interface came, went or changed.
    LinkChanged,
    /// An address came or went, either family.
    AddressChanged,
    /// A route came or went, either family.
    RouteChanged,
    /// A policy routing rule came or went, either family.
    RuleChanged,
    /// A forwarding flag was set or cleared. (Written, that is: the value may be as before.)
    Forwarding {
        /// IPv4, and not IPv6.
        ipv4: bool,
        /// The interface; `None` is `all`, which is `net.ipv4.ip_forward` or `net.ipv6.conf.all.forwarding`.
        if_index: Option<u32>,
        /// Forwarding is on now.
        on: bool,
    },
    /// Notifications were lost: look at everything again.
    Overrun,
}

const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
/// Longest datagram read whole; the kernel sends one message per notification, a few KiB at most.
const DATAGRAM_LEN: usize = 64 * 1024;

/// `RTNLGRP_*` of linux/rtnetlink.h.
const GROUPS: [u32; 9] = [
    1,  // LINK
    5,  // IPV4_IFADDR
    7,  // IPV4_ROUTE
    8,  // IPV4_RULE
    9,  // IPV6_IFADDR
    11, // IPV6_ROUTE
    19, // IPV6_RULE
    24, // IPV4_NETCONF
    25, // IPV6_NETCONF
];

const RTM_NEWNETCONF: u16 = 80;
/// `struct netconfmsg` is one octet, padded.
const NETCONF_HEADER_LEN: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// `NETCONFA_IFINDEX_ALL`; -2 is `default`, which concerns interfaces that do not exist yet.
const IF_INDEX_ALL: i32 = -1;

/// A subscription to the changes of one network namespace.
pub struct Watcher {
    socket: TokioSocket,
    buffer: Vec<u8>,
    pending: VecDeque<Event>,
}

impl Watcher {
    /// Subscribes in the calling thread's network namespace. Changes from now on are seen.
    ///
    /// # Errors
    /// No socket could be made or registered with the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let mut watched = TokioSocket::new(NETLINK_ROUTE)?;
        let socket = watched.socket_mut();
        // Needs CAP_NET_ADMIN; without it the smaller default has to do.
        if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self {
            socket: watched,
            buffer: vec![0; DATAGRAM_LEN],
            pending: VecDeque::new(),
        })
    }

    /// The next change. Cancel safe.
    ///
    /// # Errors
    /// The socket failed; a lost notification is [`Event::Overrun`], not an error.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            let mut spare = self.buffer.as_mut_slice();
            let received = poll_fn(|context| self.socket.poll_recv_from(context, &mut spare)).await;
            let length = DATAGRAM_LEN - spare.len();
            match received {
                // Only the kernel is port 0; other processes may send to us as well.
                Ok(sender) if sender.port_number() == 0 => self.read_datagram(length),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.pending.push_back(Event::Overrun);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn read_datagram(&mut self, length: usize) {
        // A full buffer: the datagram may have been cut, and what was behind the cut is lost.
        if length >= DATAGRAM_LEN {
            self.pending.push_back(Event::Overrun);
            return;
        }
        for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
            if let Some(event) = read_event(&message)
                && self.pending.back() != Some(&event)
            {
                self.pending.push_back(event);
            }
        }
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

fn read_event(message: &Message<'_>) -> Option<Event> {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK => Some(Event::LinkChanged),
        libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Event::AddressChanged),
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => Some(Event::RouteChanged),
        libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Event::RuleChanged),
        RTM_NEWNETCONF => read_netconf(message.payload),
        _ => None,
    }
}

fn read_netconf(payload: &[u8]) -> Option<Event> {
    let ipv4 = match i32::from(*payload.first()?) {
        libc::AF_INET => true,
        libc::AF_INET6 => false,
        _ => return None,
    };
    let mut if_index = None;
    let mut forwarding = None;
    for (kind, value) in Attributes(payload.get(NETCONF_HEADER_LEN..)?) {
        match kind {
            NETCONFA_IFINDEX => if_index = i32_at(value, 0),
            NETCONFA_FORWARDING => forwarding = i32_at(value, 0),
            _ => {}
        }
    }
    let on = forwarding? != 0;
    match if_index? {
        IF_INDEX_ALL => Some(Event::Forwarding {
            ipv4,
            if_index: None,
            on,
        }),
        if_index => {
            let if_index = u32::try_from(if_index).ok()?;
            Some(Event::Forwarding {
                ipv4,
                if_index: Some(if_index),
                on,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::push_attribute;
    use super::*;

    fn netconf(family: u8, if_index: i32, forwarding: Option<i32>) -> Vec<u8> {
        let mut payload = vec![family, 0, 0, 0];
        push_attribute(&mut payload, NETCONFA_IFINDEX, &if_index.to_ne_bytes());
        if let Some(value) = forwarding {
            push_attribute(&mut payload, NETCONFA_FORWARDING, &value.to_ne_bytes());
        }
        payload
    }

    #[test]
    fn netconf_tells_interface_and_state() {
        let all = Event::Forwarding {
            ipv4: true,
            if_index: None,
            on: false,
        };
        assert_eq!(read_netconf(&netconf(2, -1, Some(0))), Some(all));
        let one = |ipv4| Event::Forwarding {
            ipv4,
            if_index: Some(7),
            on: true,
        };
        assert_eq!(read_netconf(&netconf(2, 7, Some(1))), Some(one(true)));
        assert_eq!(read_netconf(&netconf(10, 7, Some(1))), Some(one(false)));
    }

    #[test]
    fn other_netconf_messages_are_not_ours() {
        assert_eq!(read_netconf(&netconf(2, -2, Some(0))), None, "default");
        assert_eq!(read_netconf(&netconf(28, -1, Some(0))), None, "MPLS");
        assert_eq!(read_netconf(&netconf(2, 7, None)), None, "rp_filter, say");
    }

    proptest! {
        #[test]
        fn malformed_messages_do_no_harm(
            kind in prop_oneof![Just(80u16), any::<u16>()],
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let message = Message { kind, flags: 0, sequence: 0, payload: &payload };
            read_event(&message);
        }
    }
}
