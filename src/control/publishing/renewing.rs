//! Published ports after a restart of the daemon with other flags, or on a host that has IPv6 now: which host addresses
//! a `-p` value means follows from the networks' families and modes, and the default network's may be others now.

use std::net::IpAddr;

use super::{Leases, bindings, same_ports};
use crate::control::error::ControlError;
use crate::control::port_allocator::{PortError, PortRequest};
use crate::control::portspec::PortSpec;
use crate::control::records::PortBinding;
use crate::control::state::State;

impl State {
    /// Makes the ports of a container those of the families that its networks have now, after the ones in its stored
    /// record, `before`, have been taken again: the flags may say something else since, or the host has IPv6 now. What is
    /// still wanted stays, on another host address with the same numbers; what cannot be had becomes a warning.
    pub(in crate::control) fn renew_ports(
        &mut self,
        id: &str,
        before: &[PortBinding],
        warnings: &mut Vec<String>,
    ) -> Result<(), ControlError> {
        let Some(entry) = self.containers.get_mut(id) else {
            return Ok(());
        };
        let mut record = entry.record.clone();
        let mut all = std::mem::take(&mut entry.leases);
        if record.endpoint().is_none() {
            return Ok(());
        }
        let mut refused = |error: PortError| {
            warnings.push(format!("container {}: not published: {error}", record.name));
        };
        let defaults = self.host_defaults(&record);
        for Leases { spec, ports } in &mut all {
            let parsed = spec.parse::<PortSpec>().ok();
            // What the host has not, has been told.
            let Some(Ok(request)) = parsed.map(|parsed| defaults.request(spec, &parsed)) else {
                continue;
            };
            let numbers = same_ports(ports);
            let wanted = request.as_ref().map_or(&[][..], |one| &one.addresses);
            ports.retain(|lease| wanted.contains(&lease.address()));
            let had = |address: &IpAddr| {
                let mut of_spec = before.iter().filter(|binding| binding.spec == *spec);
                of_spec.any(|binding| binding.host_address == *address)
            };
            let missing: Vec<IpAddr> = wanted.iter().copied().filter(|a| !had(a)).collect();
            let (Some(request), false) = (request, missing.is_empty()) else {
                continue;
            };
            let requests: Vec<PortRequest> = match &numbers[..] {
                [] => vec![PortRequest {
                    addresses: missing,
                    ..request
                }],
                numbers => numbers
                    .iter()
                    .map(|port| PortRequest {
                        spec: spec.clone(),
                        addresses: missing.clone(),
                        ..port.clone()
                    })
                    .collect(),
            };
            match self.ports.allocate_as(record.claim(), &requests) {
                Ok(taken) => ports.extend(taken.into_iter().flatten()),
                Err(error) => refused(error),
            }
            ports.sort_by_key(|lease| lease.address().is_ipv6());
        }
        for request in self.port_requests(&record).unwrap_or_default() {
            if before.iter().any(|binding| binding.spec == request.spec) {
                continue;
            }
            match self
                .ports
                .allocate_as(record.claim(), std::slice::from_ref(&request))
            {
                Ok(ports) => all.push(Leases {
                    spec: request.spec,
                    ports: ports.into_iter().flatten().collect(),
                }),
                Err(error) => refused(error),
            }
        }
        all.retain(|leases| !leases.ports.is_empty());
        let bindings = bindings(&all);
        if bindings != record.bindings {
            record.bindings = bindings;
            self.put(record)?;
        }
        if let Some(entry) = self.containers.get_mut(id) {
            entry.leases = all;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
