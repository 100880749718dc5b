//! Limits of an endpoint's bandwidth: what they may be, and changing them.
//!
//! A limit is a token bucket, in CNI's units: `rate` fills it, `burst` is what it holds. Less than one frame would let
//! nothing through.

use super::error::ControlError;
use super::records::{Container, Network};
use super::requests::invalid;
use super::runtimes::EndpointPlace;
use super::state::State;
use crate::api::types::{Bandwidth, LimitEndpoint, RateLimit};

/// The kernel counts octets.
const LEAST_RATE: u64 = 8;

/// In octets the kernel's number has 32 bits.
const MOST_BURST: u64 = u32::MAX as u64 * 8;

/// What a frame has beside its packet.
const ETHERNET_HEADER: u64 = 14;

impl State {
    /// Limits an endpoint that a runtime asked for in another way, as [`State::limited`] says.
    ///
    /// # Errors
    /// As there, or if the change cannot be stored.
    pub fn limit_endpoint(
        &mut self,
        request: &LimitEndpoint,
    ) -> Result<(EndpointPlace, Bandwidth), ControlError> {
        let (place, former) = self.limited(request)?;
        self.put(place.container.clone())?;
        Ok((place, former))
    }

    /// What an endpoint would be with other limits, and what limits it has.
    ///
    /// # Errors
    /// If there is no such endpoint, or the limits cannot be.
    pub fn limited(
        &self,
        request: &LimitEndpoint,
    ) -> Result<(EndpointPlace, Bandwidth), ControlError> {
        let reference = &request.endpoint;
        let unknown = || ControlError::NoSuchEndpoint(reference.container.clone());
        let found = self.referenced(reference).next();
        let (container, attachment, endpoint) = found.ok_or_else(unknown)?;
        let network = self
            .network_by_id(&attachment.network)
            .ok_or_else(|| ControlError::NoSuchNetwork(attachment.network_name.clone()))?
            .clone();
        check(&request.bandwidth, &network, container.is_delegated())?;
        let (former, endpoint) = (attachment.bandwidth, endpoint.clone());
        let mut record: Container = container.clone();
        let mut attachments = record.attachments.iter_mut();
        if let Some(attachment) = attachments.find(|found| found.network == network.id) {
            attachment.bandwidth = request.bandwidth;
        }
        let place = EndpointPlace {
            container: record,
            network,
            endpoint,
            first: false,
            warnings: Vec::new(),
        };
        Ok((place, former))
    }
}

/// Whether an endpoint on this network can be limited so. `delegated`: a runtime moves its interface.
pub(super) fn check(
    bandwidth: &Bandwidth,
    network: &Network,
    delegated: bool,
) -> Result<(), ControlError> {
    if delegated && !bandwidth.is_unlimited() {
        return Err(invalid(
            "bandwidth",
            "limited",
            "an interface loses its limit when its runtime moves it: give no limit with placement \"host\"",
        ));
    }
    let frame = (u64::from(network.config.mtu) + ETHERNET_HEADER) * 8;
    check_limit(bandwidth.ingress, frame, INGRESS)?;
    check_limit(bandwidth.egress, frame, EGRESS)
}

/// Names of a rate and its burst.
type Names = [&'static str; 2];

const INGRESS: Names = ["bandwidth.ingress.rate", "bandwidth.ingress.burst"];
const EGRESS: Names = ["bandwidth.egress.rate", "bandwidth.egress.burst"];

fn check_limit(
    limit: Option<RateLimit>,
    frame: u64,
    [rate, burst]: Names,
) -> Result<(), ControlError> {
    let Some(limit) = limit else {
        return Ok(());
    };
    let outside = |what, value, (least, most)| ControlError::Bandwidth {
        what,
        value,
        least,
        most,
    };
    if limit.rate < LEAST_RATE {
        return Err(outside(rate, limit.rate, (LEAST_RATE, u64::MAX)));
    }
    if !(frame..=MOST_BURST).contains(&limit.burst) {
        return Err(outside(burst, limit.burst, (frame, MOST_BURST)));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
