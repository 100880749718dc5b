//! Questions about interfaces, read without rtnetlink.
//!
//! An interface is described in 1.2 KiB, nearly all of it per-family settings that nobody here wants.
//! rtnetlink decodes them all, which takes five times as long as the kernel needs to write them; with
//! hundreds of containers that is most of the time that following a change of the network costs. Here
//! everything unknown is skipped: 700 interfaces take 1 to 3 ms (the latter if the peers of most are in
//! namespaces of their own, which the kernel numbers by search), so that listing them anew at each change
//! is good enough, and nothing has to be kept current from notifications.
//!
//! The kernel writes a long list in several parts, and says so if interfaces came or went in between:
//! then one may be missing, and the list is read again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use parking_lot::Mutex;

use super::dump::{Ipv6Settings, Link};
use super::socket::{Answer, QuestionSocket};
use super::wire::{
    Attributes, IFINFOMSG_LEN, Message, RTEXT_FILTER_SKIP_STATS, i32_at, push_attribute, u16_at,
    u32_at,
};

/// The kernel answers link questions between other changes to the network; dismantling hundreds of
/// namespaces can take it seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a list that changed meanwhile is read. The last one is taken as it is: whoever follows
/// notifications looks again.
const ATTEMPTS: usize = 5;

/// `ARPHRD_ETHER`.
const TYPE_ETHERNET: u16 = 1;
/// `IFF_LOWER_UP`, which has no constant of the right type in libc.
const FLAG_LOWER_UP: i32 = 1 << 16;
/// `IFLA_INFO_KIND`, within `IFLA_LINKINFO`.
const INFO_KIND: u16 = 1;
/// `IFLA_INET6_CONF`, within `AF_INET6` within `IFLA_AF_SPEC`: an array of 32 bit integers.
const INET6_CONF: u16 = 2;
/// `IFLA_INET6_ADDR_GEN_MODE`, beside it, and its value `IN6_ADDR_GEN_MODE_EUI64`.
const INET6_ADDR_GEN_MODE: u16 = 8;
const GEN_MODE_EUI64: u8 = 0;
/// Places in that array: `DEVCONF_ACCEPT_RA`, `DEVCONF_DISABLE_IPV6` of linux/ipv6.h.
const CONF_ACCEPT_RA: usize = 3;
const CONF_DISABLE_IPV6: usize = 26;
/// `IF_OPER_UNKNOWN` (a driver that does not tell) and `IF_OPER_UP`.
const OPERATIONAL: [u8; 2] = [0, 6];

/// Asks about the interfaces of the namespace it was made in. Clones share the socket.
#[derive(Clone, Debug)]
pub(super) struct LinkQuestions {
    socket: Arc<Mutex<QuestionSocket>>,
}

impl LinkQuestions {
    /// In the calling thread's network namespace.
    pub(super) fn new() -> io::Result<Self> {
        let socket = QuestionSocket::new(NETLINK_ROUTE, TIMEOUT)?;
        Ok(Self {
            socket: Arc::new(Mutex::new(socket)),
        })
    }

    /// All interfaces, or those of one kind (`bridge`).
    pub(super) async fn all(&self, kind: Option<&'static str>) -> io::Result<Vec<Link>> {
        self.ask(move |socket| {
            let mut links = Vec::new();
            for _ in 0..ATTEMPTS {
                links.clear();
                let answer = socket.ask(
                    libc::RTM_GETLINK,
                    true,
                    |request| {
                        put_question(request, 0, None);
                        put_kind(request, kind);
                    },
                    |message| links.extend(read_link(message)),
                )?;
                match answer {
                    Answer::Whole => break,
                    Answer::Torn => {}
                }
            }
            Ok(links)
        })
        .await
    }

    /// The interface of a name.
    pub(super) async fn named(&self, name: &str) -> io::Result<Option<Link>> {
        // The kernel answers over-long names with ERANGE, and no interface can have one.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        self.one(0, Some(name.to_owned())).await
    }

    /// The interface of an index.
    pub(super) async fn numbered(&self, index: u32) -> io::Result<Option<Link>> {
        self.one(index, None).await
    }

    async fn one(&self, index: u32, name: Option<String>) -> io::Result<Option<Link>> {
        self.ask(move |socket| {
            let mut found = None;
            let asked = socket.ask(
                libc::RTM_GETLINK,
                false,
                |request| put_question(request, index, name.as_deref()),
                |message| found = read_link(message),
            );
            match asked {
                Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
                _ => Ok(found),
            }
        })
        .await
    }

    /// The kernel makes the answer within the call: it is work, and possibly a wait for a lock.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut QuestionSocket) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let socket = Arc::clone(&self.socket);
        tokio::task::spawn_blocking(move || question(&mut socket.lock()))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Deletes the interface of a name, which takes the kernel tens of milliseconds, and returns when it is gone: from a socket
/// of its own, so that several can go at once. False if there is none.
pub(super) fn delete(name: &str) -> io::Result<bool> {
    let mut socket = QuestionSocket::new(NETLINK_ROUTE, TIMEOUT)?;
    let deleted = socket.order(libc::RTM_DELLINK, |request| {
        put_question(request, 0, Some(name));
    });
    match deleted {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// With index 0 it is the name that counts, and with neither all are asked for.
fn put_question(request: &mut Vec<u8>, index: u32, name: Option<&str>) {
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    request.extend_from_slice(&header);
    push_attribute(
        request,
        libc::IFLA_EXT_MASK,
        &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
    );
    if let Some(name) = name {
        let terminated = [name.as_bytes(), &[0]].concat();
        push_attribute(request, libc::IFLA_IFNAME, &terminated);
    }
}

fn put_kind(request: &mut Vec<u8>, kind: Option<&str>) {
    if let Some(kind) = kind {
        let mut info = Vec::new();
        push_attribute(&mut info, INFO_KIND, kind.as_bytes());
        push_attribute(request, libc::IFLA_LINKINFO, &info);
    }
}

/// `struct ifinfomsg`: family, type at 2, index at 4, flags at 8; then attributes.
fn read_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let flags = i32_at(message.payload, 8)?;
    let mut link = Link {
        index: u32_at(message.payload, 4)?,
        name: String::new(),
        kind: None,
        mtu: 0,
        mac: None,
        up: flags & libc::IFF_UP != 0,
        running: flags & FLAG_LOWER_UP != 0,
        master: None,
        ethernet: u16_at(message.payload, 2)? == TYPE_ETHERNET,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        ipv6: None,
    };
    for (kind, value) in Attributes(message.payload.get(IFINFOMSG_LEN..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
            libc::IFLA_ADDRESS => link.mac = value.try_into().ok().filter(|_| link.ethernet),
            libc::IFLA_MASTER => link.master = u32_at(value, 0),
            libc::IFLA_OPERSTATE => {
                link.running &= value
                    .first()
                    .is_some_and(|state| OPERATIONAL.contains(state));
            }
            libc::IFLA_LINKINFO => {
                link.kind = attribute(value, INFO_KIND).map(text);
            }
            libc::IFLA_AF_SPEC => link.ipv6 = read_ipv6(value),
            _ => {}
        }
    }
    Some(link).filter(|link| !link.name.is_empty())
}

fn read_ipv6(families: &[u8]) -> Option<Ipv6Settings> {
    let family = u16::try_from(libc::AF_INET6).ok()?;
    let ipv6 = attribute(families, family)?;
    let settings = attribute(ipv6, INET6_CONF)?;
    let setting = |place: usize| i32_at(settings, place * size_of::<i32>());
    Some(Ipv6Settings {
        disabled: setting(CONF_DISABLE_IPV6)? != 0,
        accepts_advertisements: setting(CONF_ACCEPT_RA)? != 0,
        eui64: attribute(ipv6, INET6_ADDR_GEN_MODE)?.first() == Some(&GEN_MODE_EUI64),
    })
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = Attributes(attributes);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// A string that the kernel ends with a zero.
fn text(value: &[u8]) -> String {
    let end = value.iter().position(|octet| *octet == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(kind: u16, payload: &[u8]) -> Option<Link> {
        read_link(&Message {
            kind,
            flags: 0,
            sequence: 0,
            payload,
        })
    }

    fn payload(kind: u16, flags: i32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![0; IFINFOMSG_LEN];
        payload[2..4].copy_from_slice(&kind.to_ne_bytes());
        payload[4..8].copy_from_slice(&7u32.to_ne_bytes());
        payload[8..12].copy_from_slice(&flags.to_ne_bytes());
        for (kind, value) in attributes {
            push_attribute(&mut payload, *kind, value);
        }
        payload
    }

    #[test]
    fn a_port_of_a_bridge_is_read() {
        let mut info = Vec::new();
        push_attribute(&mut info, INFO_KIND, b"veth\0");
        let attributes: [(u16, &[u8]); 6] = [
            (libc::IFLA_IFNAME, b"tbv1\0"),
            (libc::IFLA_MTU, &1400u32.to_ne_bytes()),
            (libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]),
            (libc::IFLA_MASTER, &3u32.to_ne_bytes()),
            (libc::IFLA_OPERSTATE, &[6]),
            (libc::IFLA_LINKINFO, &info),
        ];
        let up = libc::IFF_UP | FLAG_LOWER_UP;
        let link = Link {
            index: 7,
            name: "tbv1".into(),
            kind: Some("veth".into()),
            mtu: 1400,
            mac: Some([2, 0, 0, 0, 0, 9]),
            up: true,
            running: true,
            master: Some(3),
            ethernet: true,
            loopback: false,
            ipv6: None,
        };
        let whole = payload(TYPE_ETHERNET, up, &attributes);
        assert_eq!(read(libc::RTM_NEWLINK, &whole), Some(link.clone()));
        assert_eq!(read(libc::RTM_DELLINK, &whole), None);

        // Up, with a carrier, but the bridge does not use it yet.
        let mut dormant = attributes;
        dormant[4].1 = &[5];
        let expected = Link {
            running: false,
            ..link
        };
        let dormant = payload(TYPE_ETHERNET, up, &dormant);
        assert_eq!(read(libc::RTM_NEWLINK, &dormant), Some(expected));
    }

    #[test]
    fn an_address_that_is_not_of_ethernet_is_none() {
        let attributes: [(u16, &[u8]); 2] =
            [(libc::IFLA_IFNAME, b"lo\0"), (libc::IFLA_ADDRESS, &[0; 6])];
        let link = read(
            libc::RTM_NEWLINK,
            &payload(772, libc::IFF_LOOPBACK, &attributes),
        );
        let link = link.unwrap();
        assert_eq!(
            (link.mac, link.ethernet, link.loopback),
            (None, false, true)
        );
    }

    proptest! {
        #[test]
        fn malformed_answers_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            read(libc::RTM_NEWLINK, &bytes);
        }
    }
}
