//! Ports of the host for containers: held by sockets of ours, or only looked at.
//!
//! Some runtimes hold a container's ports themselves (podman's conmon listens on every one). Sockets of ours would be in
//! their way, and steering takes a published port's packets before any socket sees them. So for such a container a port
//! is only checked: nobody has it, or none but a process that has the container's id as an argument.

use std::net::IpAddr;

use crate::control::Transport;
use crate::control::port_holder::{HeldPort, HoldError, HoldPorts, Occupant, Sockets};
use crate::kernel::port_owners::{PortOwner, port_owners};

/// The sockets of the host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostSockets;

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
        let sockets = port_owners(transport.number(), address, port).map_err(HoldError::Other)?;
        let has_id = |owner: &PortOwner| {
            let mut arguments = owner.arguments.iter();
            arguments.any(|argument| argument == container.as_bytes())
        };
        let strange = sockets.iter().find(|owners| !owners.iter().any(has_id));
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
