//! Holding a port of the host, so that nobody else gets it while it is published.
//!
//! A held port is a real socket in the network namespace of the calling thread: TCP bound and
//! listening, UDP bound. Published traffic never reaches it, because steering diverts that earlier;
//! what does reach it (from an interface that is not steered, or before steering is in place) must not
//! be answered as if a service were there. So a classic BPF program that drops everything is
//! attached *before* the bind, and such packets vanish silently.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

use super::transport::Transport;

/// A way of holding ports. The real one is [`Sockets`]; tests of decisions use one without sockets.
pub trait HoldPorts: Debug + Send + Sync {
    /// Takes `port` on `address` (`0.0.0.0`: on all) until the result is dropped.
    ///
    /// # Errors
    /// [`HoldError`] if the kernel refuses.
    fn hold(&self, transport: Transport, address: IpAddr, port: u16)
    -> Result<HeldPort, HoldError>;

    /// Makes sure that nobody has `port` on `address` but a runtime that holds it for `container`, which is the runtime's
    /// own id; no socket of ours holds it then.
    ///
    /// # Errors
    /// [`HoldError`] if somebody else has it, or nobody can.
    fn check(
        &self,
        transport: Transport,
        address: IpAddr,
        port: u16,
        container: &str,
    ) -> Result<HeldPort, HoldError> {
        let _ = container;
        let held = self.hold(transport, address, port);
        held.map(|_| HeldPort::without_socket())
    }
}

/// How a container's ports are kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// By sockets of ours.
    Hold,
    /// Its runtime may hold them, and nobody else: the runtime's id of the container.
    Check(&'a str),
}

/// A port that is held until this value is dropped.
#[derive(Debug)]
pub struct HeldPort(#[expect(dead_code, reason = "held for its Drop")] Option<OwnedFd>);

impl HeldPort {
    /// Stands for a port that no socket holds, for tests of decisions.
    pub const fn without_socket() -> Self {
        Self(None)
    }
}

/// A process that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Its name.
    pub program: String,
    /// Its number.
    pub pid: u32,
}

/// Why a port cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Another program has it.
    #[error("address already in use")]
    InUse,
    /// This one has it.
    #[error("address already in use")]
    InUseBy(Box<Occupant>),
    /// The host does not have the address.
    #[error(
        "cannot assign requested address: give -p an address that this host has (see `ip address`), or none for all"
    )]
    NotLocal,
    /// One descriptor per port and host address, and there are no more.
    #[error(
        "too many open files: every published port needs one for each address family, and the daemon's limit is {limit}; raise it (`ulimit -n`, or LimitNOFILE= in its systemd unit)"
    )]
    TooManyOpenFiles {
        /// `RLIMIT_NOFILE`.
        limit: u64,
    },
    /// The same for the whole host.
    #[error("too many open files on this host: raise the sysctl fs.file-max")]
    TooManyOnHost,
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl From<Errno> for HoldError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "130 other error numbers")]
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EADDRINUSE => Self::InUse,
            Errno::EADDRNOTAVAIL => Self::NotLocal,
            Errno::EMFILE => Self::TooManyOpenFiles {
                limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit),
            },
            Errno::ENFILE => Self::TooManyOnHost,
            other => Self::Other(other.into()),
        }
    }
}

/// Holds ports with sockets in the calling thread's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets;

impl HoldPorts for Sockets {
    fn hold(
        &self,
        transport: Transport,
        address: IpAddr,
        port: u16,
    ) -> Result<HeldPort, HoldError> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let kind = match transport {
            Transport::Tcp => SockType::Stream,
            Transport::Udp => SockType::Datagram,
        };
        let held = socket(
            family,
            kind,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        leave_some(&held)?;
        drop_everything(&held)?;
        if address.is_ipv6() {
            setsockopt(&held, sockopt::Ipv6V6Only, &true)?;
        }
        if transport == Transport::Tcp {
            // Connections in TIME_WAIT on this port must not keep it from being published. A UDP socket
            // with this option could be joined by another program's.
            setsockopt(&held, sockopt::ReuseAddr, &true)?;
        }
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&held),
            &SockaddrStorage::from(SocketAddr::new(address, port)),
        )?;
        if transport == Transport::Tcp {
            // Without listening, two sockets with SO_REUSEADDR could share the port.
            listen(&held, Backlog::new(1)?)?;
        }
        Ok(HeldPort(Some(held)))
    }
}

/// Descriptors that ports never use up: without any, the daemon could not even be told to give ports back.
const SPARE_DESCRIPTORS: u64 = 64;

/// New descriptors have the lowest free number, so a high one means that there are few left.
fn leave_some(socket: &OwnedFd) -> Result<(), HoldError> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let number = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(socket)).unwrap_or_default();
    if number.saturating_add(SPARE_DESCRIPTORS) >= limit {
        return Err(HoldError::TooManyOpenFiles { limit });
    }
    Ok(())
}

/// Attaches the program `return 0`: keep no octet of any packet.
fn drop_everything(socket: &OwnedFd) -> Result<(), Errno> {
    let mut program = [libc::sock_filter {
        code: RETURN_CONSTANT,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    setsockopt(
        socket,
        AttachFilter,
        &libc::sock_fprog {
            len: 1,
            filter: program.as_mut_ptr(),
        },
    )
}

/// `BPF_RET | BPF_K`.
const RETURN_CONSTANT: u16 = 0x06;

/// `SO_ATTACH_FILTER`. Its value points to the program, so it is used by [`drop_everything`] alone,
/// where the program outlives the call.
#[derive(Clone, Copy, Debug)]
struct AttachFilter;

nix::setsockopt_impl!(
    AttachFilter,
    libc::SOL_SOCKET,
    libc::SO_ATTACH_FILTER,
    libc::sock_fprog,
    sockopt::SetStruct<'_, libc::sock_fprog>
);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;
    use crate::control::test_netns::in_fresh_netns;

    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_held_port_is_refused_to_others_until_it_is_dropped() {
        in_fresh_netns(|| {
            let tcp = Sockets.hold(Transport::Tcp, ANY, 8080).unwrap();
            let udp = Sockets.hold(Transport::Udp, ANY, 8080).unwrap();
            for address in ["0.0.0.0:8080", "127.0.0.1:8080"] {
                assert_eq!(
                    TcpListener::bind(address).unwrap_err().kind(),
                    io::ErrorKind::AddrInUse
                );
                assert_eq!(
                    UdpSocket::bind(address).unwrap_err().kind(),
                    io::ErrorKind::AddrInUse
                );
            }
            drop((tcp, udp));
            TcpListener::bind("0.0.0.0:8080").unwrap();
            UdpSocket::bind("0.0.0.0:8080").unwrap();
        });
    }

    #[test]
    fn what_others_have_is_refused_to_us() {
        in_fresh_netns(|| {
            let _tcp = TcpListener::bind("127.0.0.1:81").unwrap();
            let _udp = UdpSocket::bind("127.0.0.1:81").unwrap();
            for transport in [Transport::Tcp, Transport::Udp] {
                for address in [ANY, LOOPBACK] {
                    assert!(matches!(
                        Sockets.hold(transport, address, 81),
                        Err(HoldError::InUse)
                    ));
                }
                assert!(Sockets.hold(transport, ANY, 82).is_ok());
            }
            let foreign = Sockets.hold(Transport::Tcp, "192.0.2.77".parse().unwrap(), 83);
            assert!(matches!(foreign, Err(HoldError::NotLocal)));
        });
    }

    #[test]
    fn each_family_is_held_apart() {
        in_fresh_netns(|| {
            const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            for transport in [Transport::Tcp, Transport::Udp] {
                let _six = Sockets.hold(transport, ANY6, 8080).unwrap();
                let again = Sockets.hold(transport, IpAddr::V6(Ipv6Addr::LOCALHOST), 8080);
                assert!(matches!(again, Err(HoldError::InUse)));
                assert!(Sockets.hold(transport, ANY, 8080).is_ok());
            }
            // A socket of another program that takes both families has both ports.
            let _tcp = TcpListener::bind("[::]:81").unwrap();
            let _udp = UdpSocket::bind("[::]:81").unwrap();
            for transport in [Transport::Tcp, Transport::Udp] {
                for address in [ANY, LOOPBACK, ANY6] {
                    let held = Sockets.hold(transport, address, 81);
                    assert!(matches!(held, Err(HoldError::InUse)), "{address}");
                }
            }
            let foreign = Sockets.hold(Transport::Tcp, "2001:db8::77".parse().unwrap(), 83);
            assert!(matches!(foreign, Err(HoldError::NotLocal)));
        });
    }

    /// On Linux two UDP sockets share a port if both have SO_REUSEADDR, as many servers do.
    #[test]
    fn a_held_udp_port_cannot_be_joined() {
        in_fresh_netns(|| {
            let _udp = Sockets.hold(Transport::Udp, ANY, 8080).unwrap();
            let other = socket(
                AddressFamily::Inet,
                SockType::Datagram,
                SockFlag::empty(),
                None,
            )
            .unwrap();
            setsockopt(&other, sockopt::ReuseAddr, &true).unwrap();
            let address = SockaddrStorage::from(SocketAddr::new(ANY, 8080));
            let joined = bind(std::os::fd::AsRawFd::as_raw_fd(&other), &address);
            assert_eq!(joined, Err(Errno::EADDRINUSE));
        });
    }

    /// A server that has just been stopped leaves connections in TIME_WAIT; its port is free nevertheless.
    #[test]
    fn a_port_with_connections_in_time_wait_can_be_held() {
        in_fresh_netns(|| {
            let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
            let client = TcpStream::connect("127.0.0.1:8080").unwrap();
            let (server, _) = listener.accept().unwrap();
            // Who closes first has the TIME_WAIT.
            drop(server);
            drop((client, listener));
            Sockets.hold(Transport::Tcp, ANY, 8080).unwrap();
        });
    }

    #[test]
    fn a_held_port_answers_nothing() {
        in_fresh_netns(|| {
            let _tcp = Sockets.hold(Transport::Tcp, ANY, 8080).unwrap();
            let _udp = Sockets.hold(Transport::Udp, ANY, 8080).unwrap();
            let target = SocketAddr::new(LOOPBACK, 8080);
            // An unheld port refuses at once; a held one is silent.
            let refused = TcpStream::connect_timeout(
                &SocketAddr::new(LOOPBACK, 9),
                Duration::from_millis(500),
            );
            assert_eq!(
                refused.unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
            let silent = TcpStream::connect_timeout(&target, Duration::from_millis(300));
            assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(target).unwrap();
            client.send(b"x").unwrap();
            client
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            assert_eq!(
                client.recv(&mut [0; 8]).unwrap_err().kind(),
                io::ErrorKind::WouldBlock,
                "no ICMP error either"
            );
        });
    }
}
