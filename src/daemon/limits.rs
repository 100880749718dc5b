//! How fast endpoints send and receive.
//!
//! | direction | what waits | what drops |
//! |---|---|---|
//! | towards the container | token bucket of the host's end | the same, when too much waits |
//! | from the container | token bucket of the container's end | steering, what a container sends that has taken its bucket away |
//!
//! The buckets are made with the interface ([`Core::plug`]), and looked after when a daemon starts; the rest comes with
//! steering's knowledge of the interface ([`Core::steer`]).

use std::os::fd::{AsFd, OwnedFd};

use super::core::Core;
use super::interfaces::{networking_failed, open};
use crate::api::server::ApiError;
use crate::api::types::{Bandwidth, LimitEndpoint, RateLimit};
use crate::control::EndpointPlace;
use crate::control::records::{Container, Endpoint, Network};
use crate::failpoint;
use crate::kernel::{Limits, Netlink, TokenBucket};
use crate::steering::Policer;

/// Frames of the container's bucket may come together when a processor was busy elsewhere, and a super-packet counts
/// at once: more may come in a while than the bucket lets through, though not for long.
const LENIENCE: u64 = 10;
const SUPER_PACKET: u64 = 1 << 16;

impl Core {
    /// A limit is in the record before it is in the kernel, and in the kernel no more when it goes from the record: what a daemon
    /// that dies in between leaves, the next one finds.
    pub(super) async fn limit_endpoint(&self, request: &LimitEndpoint) -> Result<(), ApiError> {
        let mut state = self.lock().await;
        let (place, former) = state.limited(request)?;
        let stored_last = request.bandwidth.is_unlimited();
        let mut limited = Ok(());
        if stored_last {
            limited = self.limit(&place).await;
            failpoint::reached("daemon.unlimited");
        }
        let mut stored = false;
        if limited.is_ok() {
            let storing = tokio::task::block_in_place(|| state.limit_endpoint(request));
            stored = storing.is_ok();
            limited = storing.map(drop).map_err(ApiError::from);
        }
        if !stored_last && stored {
            failpoint::reached("daemon.limiting");
            limited = self.limit(&place).await;
        }
        if limited.is_err() {
            let before = LimitEndpoint {
                bandwidth: former,
                ..request.clone()
            };
            let (place, _) = match stored {
                true => tokio::task::block_in_place(|| state.limit_endpoint(&before))?,
                false => state.limited(&before)?,
            };
            if let Err(error) = self.limit(&place).await {
                tracing::warn!(container = %place.container.name, error = %error.message, "bandwidth stays as it is");
            }
            return limited;
        }
        let EndpointPlace {
            container, network, ..
        } = &place;
        tracing::info!(
            container = %container.name, network = %network.name,
            bandwidth = ?request.bandwidth, "bandwidth set"
        );
        Ok(())
    }

    /// Makes everything about an endpoint's bandwidth as its record says.
    async fn limit(&self, place: &EndpointPlace) -> Result<(), ApiError> {
        let EndpointPlace {
            container,
            network,
            endpoint,
            ..
        } = place;
        // Unlimited before and now, and perhaps in no namespace of ours.
        if container.is_delegated() {
            return Ok(());
        }
        let link = self.netlink.link(&endpoint.host_interface).await;
        let link = link.map_err(networking_failed)?.ok_or_else(|| {
            networking_failed(format!("interface {} is gone", endpoint.host_interface))
        })?;
        self.keep_buckets(container, network, endpoint, link.index)
            .await?;
        self.steer(container, network, endpoint, link.index)
    }

    /// Makes the buckets of an endpoint as its record says, if they are not.
    pub(super) async fn keep_buckets(
        &self,
        container: &Container,
        network: &Network,
        endpoint: &Endpoint,
        if_index: u32,
    ) -> Result<(), ApiError> {
        if container.is_delegated() {
            return Ok(());
        }
        let wanted = limits(&bandwidth(container, network));
        let outside = self.netlink.limit(if_index, wanted.ingress).await;
        outside.map_err(networking_failed)?;
        let namespace = open(container)?;
        Netlink::limit_inside(namespace.as_fd(), &endpoint.interface, wanted.egress)
            .await
            .map_err(networking_failed)
    }

    /// Compares the buckets with an endpoint's record: what differs is an error. Of a container of which nothing is limited
    /// nothing is read.
    pub(super) async fn compare_buckets(
        &self,
        place: &EndpointPlace,
        namespace: &OwnedFd,
    ) -> Result<(), String> {
        let wanted = limits(&bandwidth(&place.container, &place.network));
        let (outside, inside) = (&place.endpoint.host_interface, &place.endpoint.interface);
        if wanted.ingress.is_some() {
            let link = self.netlink.link(outside).await;
            let link = link.map_err(|error| error.to_string())?;
            let index = link.map_or(0, |link| link.index);
            let limited = self.netlink.is_limited(index, wanted.ingress).await;
            expect_limited(limited.map_err(|error| error.to_string())?, outside)?;
        }
        if wanted.egress.is_some() {
            let limited =
                Netlink::is_limited_inside(namespace.as_fd(), inside, wanted.egress).await;
            expect_limited(limited.map_err(|error| error.to_string())?, inside)?;
        }
        Ok(())
    }
}

fn expect_limited(limited: bool, interface: &str) -> Result<(), String> {
    match limited {
        true => Ok(()),
        false => Err(format!(
            "the bandwidth of interface {interface} is not limited as it was asked for"
        )),
    }
}

/// What a container is limited to on a network.
pub(super) fn bandwidth(container: &Container, network: &Network) -> Bandwidth {
    let attachment = container.attachment(&network.id);
    attachment.map_or_else(Bandwidth::default, |attachment| attachment.bandwidth)
}

/// The kernel's buckets.
pub(super) fn limits(bandwidth: &Bandwidth) -> Limits {
    let bucket = |limit: RateLimit| TokenBucket {
        rate: limit.rate / 8,
        burst: u32::try_from(limit.burst / 8).unwrap_or(u32::MAX),
    };
    Limits {
        ingress: bandwidth.ingress.map(bucket),
        egress: bandwidth.egress.map(bucket),
    }
}

/// What steering drops: what an interface with its bucket never sends.
pub(super) fn policer(bandwidth: &Bandwidth) -> Option<Policer> {
    let limit = limits(bandwidth).egress?;
    let rate = limit.rate.saturating_add(limit.rate.div_ceil(LENIENCE));
    let late = rate / LENIENCE;
    Some(Policer {
        rate,
        burst: u64::from(limit.burst)
            .saturating_add(late)
            .saturating_add(SUPER_PACKET),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bucket_lets_through_is_never_dropped() {
        for (rate, burst) in [
            (8, 12_112),
            (20_000_000, 800_000),
            (1 << 40, 34_359_738_360),
            (u64::MAX, 1 << 34),
        ] {
            let bandwidth = Bandwidth {
                ingress: None,
                egress: Some(RateLimit { rate, burst }),
            };
            let bucket = limits(&bandwidth).egress.unwrap();
            assert_eq!(
                (bucket.rate, u64::from(bucket.burst)),
                (rate / 8, burst / 8)
            );
            let policer = policer(&bandwidth).unwrap();
            assert!(policer.rate > bucket.rate);
            // A tenth of a second late, and a super-packet that is counted at once.
            let most = u64::from(bucket.burst) + bucket.rate / 10 + 65_535;
            assert!(policer.burst > most, "{policer:?}");
        }
        assert_eq!(policer(&Bandwidth::default()), None);
    }
}
