//! Routes inside a container beside its default one, which [`super::container`] makes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
};
use rtnetlink::RouteMessageBuilder;

use super::dump::{NextHop, Route, RouteKind, TABLE_MAIN};
use super::netlink::{Netlink, NetlinkError, errno, failed};

/// A route by an interface of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerRoute {
    /// Without host bits.
    pub destination: IpNet,
    /// Router; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Largest packet in octets.
    pub mtu: Option<u32>,
    /// Largest TCP segment that is announced.
    pub advmss: Option<u32>,
    /// Metric.
    pub priority: Option<u32>,
    /// Routing table; `None`: the main one.
    pub table: Option<u32>,
}

impl Netlink {
    /// Adds a route by `interface`; one that is there already is no error.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses the route.
    pub async fn add_route(
        &self,
        interface: &str,
        route: &ContainerRoute,
    ) -> Result<(), NetlinkError> {
        let link = self.existing_link(interface).await?;
        let message = message(route, link.index);
        match self.handle().route().add(message).execute().await {
            Err(error) if errno(&error) != Some(libc::EEXIST) => {
                let doing = format!("add a route to {} by {interface}", route.destination);
                Err(failed(doing, error))
            }
            _ => Ok(()),
        }
    }

    /// The first of these routes that is not there by `interface`. A metric that was not asked for is any.
    ///
    /// # Errors
    /// There is no such interface, or the routes cannot be listed.
    pub async fn missing_route<'a>(
        &self,
        interface: &str,
        wanted: &'a [ContainerRoute],
    ) -> Result<Option<&'a ContainerRoute>, NetlinkError> {
        let link = self.existing_link(interface).await?;
        let mut present: HashMap<(IpNet, u32), Vec<Route>> = HashMap::new();
        for route in self.routes().await? {
            let key = (route.destination, route.table);
            present.entry(key).or_default().push(route);
        }
        let is_there = |route: &ContainerRoute| {
            let hop = NextHop {
                if_index: link.index,
                gateway: route.gateway,
            };
            let key = (route.destination, route.table.unwrap_or(TABLE_MAIN));
            let same = |present: &Route| {
                present.kind == RouteKind::Unicast
                    && route
                        .priority
                        .is_none_or(|priority| present.priority == priority)
                    && route
                        .mtu
                        .is_none_or(|mtu| present.mtu == Some(mtu.min(MOST_MTU)))
                    && present.next_hops.contains(&hop)
            };
            present
                .get(&key)
                .is_some_and(|routes| routes.iter().any(same))
        };
        Ok(wanted.iter().find(|route| !is_there(route)))
    }
}

/// What the kernel makes of more (`ip_metrics_convert`, net/ipv4/metrics.c).
const MOST_MTU: u32 = 65_535 - 15;

fn message(route: &ContainerRoute, if_index: u32) -> RouteMessage {
    let length = route.destination.prefix_len();
    let mut message = match route.destination.addr() {
        IpAddr::V4(destination) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(destination, length)
                .output_interface(if_index)
                .protocol(RouteProtocol::Boot);
            match route.gateway {
                Some(IpAddr::V4(gateway)) => builder = builder.gateway(gateway),
                Some(IpAddr::V6(gateway)) => builder = builder.via(gateway),
                None => builder = builder.scope(RouteScope::Link),
            }
            builder.build()
        }
        IpAddr::V6(destination) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(destination, length)
                .output_interface(if_index)
                .protocol(RouteProtocol::Boot);
            if let Some(IpAddr::V6(gateway)) = route.gateway {
                builder = builder.gateway(gateway);
            }
            builder.build()
        }
    };
    let attributes = &mut message.attributes;
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    if let Some(table) = route.table {
        message.header.table = RouteMessage::default().header.table;
        attributes.push(RouteAttribute::Table(table));
    }
    let mtu = route.mtu.map(RouteMetric::Mtu);
    let metrics: Vec<RouteMetric> = mtu
        .into_iter()
        .chain(route.advmss.map(RouteMetric::Advmss))
        .collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}
