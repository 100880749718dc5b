//! Telling the neighbours who has an address now: gratuitous ARP, and for IPv6 unsolicited neighbour advertisements.
//!
//! Addresses are used again soon after a container has gone, with another MAC address; neighbours that
//! remember the old one would send into the void until they ask again. So a container's interface sends
//! an ARP request for its own address to everybody, a few times in case one is lost (RFC 5227 calls it an
//! announcement; Docker sends three, one second apart). For an IPv6 address it sends an advertisement that overrides
//! what they remember (RFC 4861 section 7.2.6), to all nodes.
//!
//! Both leave through a packet socket made inside the container's namespace. A socket keeps its
//! namespace alive, so it is closed after the last frame, and at once when the [`Announcement`] is
//! dropped: the caller drops it when the container leaves the network or ends. The socket receives nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::ndisc;
use super::netlink::{NetlinkError, request_error};
use super::netns::{self, frame_socket_mac, open_frame_socket};

const FRAME_LEN: usize = 42;

/// An announcement under way; dropping it ends it.
#[must_use = "dropping it ends the announcement"]
#[derive(Debug)]
pub struct Announcement {
    /// `None` when it is over.
    socket: Arc<Mutex<Option<OwnedFd>>>,
    task: Option<JoinHandle<()>>,
}

impl Announcement {
    /// Everything is sent, or cannot be any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.socket.lock().is_none()
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Not left to the task, which ends when the runtime gets to it.
        self.socket.lock().take();
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Announces that `addresses` are at `mac`, `count` times with `interval` between, from an interface inside
/// a container's namespace. The first time is before this returns; the others follow by themselves, until
/// the interface goes or gets another MAC address.
///
/// # Errors
/// There is no such interface, it is down, or has another MAC address.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn announce(
    namespace: BorrowedFd<'_>,
    interface: &str,
    mac: [u8; 6],
    addresses: &[IpAddr],
    count: u8,
    interval: Duration,
) -> Result<Announcement, NetlinkError> {
    let Some(later) = count.checked_sub(1) else {
        return Ok(Announcement {
            socket: Arc::default(),
            task: None,
        });
    };
    let list = addresses.iter().map(IpAddr::to_string);
    let list = list.collect::<Vec<_>>().join(" and ");
    let doing = || format!("announce {list} on interface {interface}");
    let namespace = namespace
        .try_clone_to_owned()
        .map_err(|error| request_error(doing(), error))?;
    let name = interface.to_owned();
    let frames: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(address) => arp_request(mac, *address).to_vec(),
            IpAddr::V6(address) => ndisc::announcement(mac, *address).to_vec(),
        })
        .collect();
    let first_frames = frames.clone();
    let first = move || -> io::Result<OwnedFd> {
        let if_index = nix::net::if_::if_nametoindex(name.as_str())?;
        let socket = open_frame_socket(if_index)?;
        send_frames(&socket, mac, &first_frames)?;
        Ok(socket)
    };
    let socket = netns::run_in_async(namespace, first)
        .await?
        .map_err(|error| request_error(doing(), error))?;
    let socket = Arc::new(Mutex::new(Some(socket).filter(|_| later > 0)));
    let task = (later > 0).then(|| {
        let socket = Arc::clone(&socket);
        tokio::spawn(async move {
            for _ in 0..later {
                tokio::time::sleep(interval).await;
                let sent = match socket.lock().as_ref() {
                    Some(socket) => send_frames(socket, mac, &frames),
                    None => return,
                };
                if let Err(error) = sent {
                    tracing::debug!(addresses = list, %error, "announcement ends early");
                    break;
                }
            }
            socket.lock().take();
        })
    });
    Ok(Announcement { socket, task })
}

/// Does not block. An address must not be announced with a MAC address that is no longer the interface's.
fn send_frames(socket: &OwnedFd, mac: [u8; 6], frames: &[Vec<u8>]) -> io::Result<()> {
    if frame_socket_mac(socket.as_fd())? != mac {
        return Err(io::Error::other("it has another MAC address"));
    }
    for frame in frames {
        send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
    }
    Ok(())
}

/// An Ethernet frame to everybody: "who has `address`? Tell `address` at `mac`" (RFC 826).
fn arp_request(mac: [u8; 6], address: Ipv4Addr) -> [u8; FRAME_LEN] {
    const EVERYBODY: [u8; 6] = [0xff; 6];
    const UNKNOWN: [u8; 6] = [0; 6];
    const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
    // Ethernet, IPv4, address lengths, request.
    const KIND: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let address = address.octets();
    let parts: [&[u8]; 8] = [
        &EVERYBODY,
        &mac,
        &ETHERTYPE_ARP,
        &KIND,
        &mac,
        &address,
        &UNKNOWN,
        &address,
    ];
    let mut frame = [0; FRAME_LEN];
    for (place, octet) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *octet;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_42_octets() {
        let frame = arp_request([2, 0x42, 1, 2, 3, 4], Ipv4Addr::new(172, 18, 0, 2));
        let text: String = frame.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(
            text,
            "ffffffffffff\
             024201020304\
             0806\
             0001080006040001\
             024201020304\
             ac120002\
             000000000000\
             ac120002"
        );
    }
}
