//! Ports of the host for containers: held by sockets of ours, or only looked at.
//!
//! Some runtimes hold a container's ports themselves (podman's conmon listens on every one). Sockets of ours would be in
//! their way, and steering takes a published port's packets before any socket sees them. So for such a container a port
//! is only checked: nobody has it, or none but a process of our own user that has the container's id as an argument.
//!
//! A container may have thousands of ports, and who has them is found by looking at every process: what was seen is
//! believed for [`FRESH`].

use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::Transport;
use crate::control::port_holder::{HeldPort, HoldError, HoldPorts, Occupant, Sockets};
use crate::kernel::port_owners::{PortOwner, PortOwners};

/// A runtime binds its ports before or after we check them, but not in between.
const FRESH: Duration = Duration::from_secs(1);

/// The sockets of the host.
#[derive(Debug, Default)]
pub(super) struct HostSockets {
    seen: Mutex<Option<(Instant, PortOwners)>>,
}

impl HostSockets {
    /// Who has a port that cannot be bound.
    fn owners(
        &self,
        transport: Transport,
        address: IpAddr,
        port: u16,
    ) -> Result<Vec<Vec<PortOwner>>, HoldError> {
        let mut seen = self.seen.lock();
        let fresh = seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        let known = fresh.map(|(_, owners)| owners.of(transport.number(), address, port));
        let lives = |owners: &Vec<PortOwner>| owners.iter().any(|owner| owner.user.is_some());
        // Somebody has it: if nobody who is there had it when we looked, then somebody else.
        if let Some(known) = known.filter(|known| !known.is_empty() && known.iter().all(lives)) {
            return Ok(known);
        }
        let owners = PortOwners::read().map_err(HoldError::Other)?;
        let found = owners.of(transport.number(), address, port);
        *seen = Some((Instant::now(), owners));
        Ok(found)
    }
}

impl HoldPorts for HostSockets {
    fn hold(
        &self,
        transport: Transport,
        address: IpAddr,
        port: u16,
    ) -> Result<HeldPort, HoldError> {
        Sockets.hold(transport, address, port)
    }

    fn check(
        &self,
        transport: Transport,
        address: IpAddr,
        port: u16,
        container: &str,
    ) -> Result<HeldPort, HoldError> {
        match Sockets.hold(transport, address, port) {
            Err(HoldError::InUse) => {}
            other => return other.map(|_| HeldPort::without_socket()),
        }
        let sockets = self.owners(transport, address, port)?;
        let us = nix::unistd::geteuid().as_raw();
        let is_runtimes = |owner: &PortOwner| {
            let mut arguments = owner.arguments.iter();
            // Everybody can read a container's id and have it as an argument.
            owner.user == Some(us) && arguments.any(|argument| argument == container.as_bytes())
        };
        let strange = sockets
            .iter()
            .find(|owners| !owners.iter().any(is_runtimes));
        match strange.map(|owners| owners.first()) {
            // Nobody any more, say.
            None if sockets.is_empty() => {
                let held = Sockets.hold(transport, address, port);
                held.map(|_| HeldPort::without_socket())
            }
            None => Ok(HeldPort::without_socket()),
            Some(None) => Err(HoldError::InUse),
            Some(Some(owner)) => Err(HoldError::InUseBy(Box::new(Occupant {
                program: owner.program.clone(),
                pid: owner.pid,
            }))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn the_processes_are_looked_at_once_for_many_ports() {
        let sockets = HostSockets::default();
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners: Vec<TcpListener> = (0..100).map(|_| listen()).collect();
        let own = std::env::args().next().unwrap();
        let check = |listener: &TcpListener, container: &str| {
            let port = listener.local_addr().unwrap().port();
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            sockets.check(Transport::Tcp, address, port, container)
        };
        let looked = || sockets.seen.lock().as_ref().map(|(at, _)| *at);
        check(&listeners[0], &own).unwrap();
        let before = looked().unwrap();
        for (index, listener) in listeners.iter().enumerate() {
            check(listener, &own).unwrap();
            // However slow this machine is.
            assert!(
                looked() == Some(before) || before.elapsed() >= FRESH,
                "{index}"
            );
        }
        match check(&listeners[0], "somebody") {
            Err(HoldError::InUseBy(occupant)) => assert_eq!(occupant.pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        // One that was not there.
        let new = listen();
        check(&new, &own).unwrap();
        assert_ne!(looked(), Some(before));
    }
}
