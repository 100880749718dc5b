//! Addresses that another program gives its containers: dockerd, with our IPAM driver.
//!
//! A leased pool is a subnet. It is that of a network, and then its leases and the addresses of containers of all doors
//! come from one place; or it is of none yet, and kept from other networks. A network that is made of it (IPAM option
//! [`LEASED_POOLS`]) takes the leases along, a network that is removed takes the pool with it.
//!
//! Nobody but a container of docker's gets a leased address, and it still does after the daemon was restarted: leases are
//! records. Given back while a container has it, an address is free when the container has gone, too.
//!
//! ```text
//!            request_address ─► leased ── container of docker's ─► leased, in use
//!   free ◄── release_address ──┘   ▲──────────── gone ───────────────┘ │
//!     ▲───────────────── gone ───────────── in use ◄── release_address ┘
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::daemon_options::HostFacts;
use super::endpoints::address_error;
use super::error::ControlError;
use super::ipam::{Gateway, IpamError, Pool, PoolConfig};
use super::names;
use super::network_options::{self, Context, Neighbour};
use super::records::{Attachment, Container, Network};
use super::state::State;
use super::store::Change;
use crate::api::types::{
    CreateNetwork, LEASED_POOLS, Lease, LeasedAddress, LeasedPool, RequestAddress,
    RequestLeasedPool, Runtime,
};

/// A leased pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without host bits.
    pub subnet: IpNet,
    /// Where addresses come from that nobody names.
    pub range: Option<IpNet>,
    /// Id of the network whose subnet it is.
    pub network: Option<String>,
    /// Who asked for it.
    #[serde(default)]
    pub owner: Option<String>,
    /// What is leased; true: as the gateway's.
    pub leases: BTreeMap<IpAddr, bool>,
}

/// Nobody has as many networks; who asks for more, asks for ever.
const MAX_POOLS: usize = 1024;

/// A leased pool and, while it is of no network, its addresses.
#[derive(Debug)]
pub(super) struct PoolEntry {
    pub(super) record: PoolRecord,
    own: Option<Pool>,
}

impl PoolEntry {
    fn new(record: PoolRecord) -> Result<Self, IpamError> {
        let own = match record.network {
            Some(_) => None,
            None => Some(own_pool(&record)?),
        };
        Ok(Self { record, own })
    }
}

fn own_pool(record: &PoolRecord) -> Result<Pool, IpamError> {
    let mut pool = Pool::new(&PoolConfig {
        subnet: record.subnet,
        range: record.range,
        gateway: Gateway::Absent,
        auxiliary: BTreeMap::new(),
    })?;
    for address in record.leases.keys() {
        pool.lease(Some(*address))?;
    }
    Ok(pool)
}

impl State {
    /// Takes the stored pools, before the addresses of containers. The texts are warnings.
    pub(super) fn retake_pools(&mut self, records: Vec<PoolRecord>, warnings: &mut Vec<String>) {
        for record in records {
            if let Some(network) = &record.network {
                let entry = self.networks.get_mut(network);
                let pool = entry.and_then(|entry| entry.pool(record.subnet.addr().is_ipv4()));
                let Some(pool) = pool else {
                    warnings.push(format!("address pool {}: its network is gone", record.id));
                    continue;
                };
                lease_all(pool, &record, warnings);
            }
            match PoolEntry::new(record) {
                Ok(entry) => {
                    self.leased_pools.insert(entry.record.id.clone(), entry);
                }
                Err(error) => warnings.push(format!("address pool: {error}")),
            }
        }
    }

    /// Sets a subnet aside.
    ///
    /// # Errors
    /// If it is not to be had; Docker's words.
    pub fn request_pool(
        &mut self,
        request: &RequestLeasedPool,
        host: &HostFacts,
    ) -> Result<LeasedPool, ControlError> {
        if self.leased_pools.len() >= MAX_POOLS {
            return Err(ControlError::ManyPools(MAX_POOLS));
        }
        let id = names::new_id().map_err(ControlError::Random)?;
        let record = match &request.network {
            Some(network) => self.pool_of_network(id, network, request)?,
            None => {
                let neighbours = self.neighbours(&[]);
                let context = Context {
                    id: &id,
                    host,
                    pools: &self.settings.pools,
                    networks: &neighbours,
                    default_options: &BTreeMap::new(),
                };
                let subnet = network_options::choose_subnet(
                    request.subnet,
                    request.range,
                    request.ipv6,
                    &context,
                )?;
                PoolRecord {
                    id: id.clone(),
                    subnet,
                    range: request.range,
                    network: None,
                    owner: request.owner.clone(),
                    leases: BTreeMap::new(),
                }
            }
        };
        let entry = PoolEntry::new(record).map_err(ControlError::Address)?;
        self.journal.commit(&[Change::PutPool(&entry.record)])?;
        let shown = self.shown(&entry.record);
        self.leased_pools.insert(entry.record.id.clone(), entry);
        Ok(shown)
    }

    fn pool_of_network(
        &self,
        id: String,
        network: &str,
        request: &RequestLeasedPool,
    ) -> Result<PoolRecord, ControlError> {
        let network = self.network(network)?;
        if network_options::is_predefined(&network.name) {
            return Err(ControlError::LeaseOfPredefined(network.name.clone()));
        }
        let family = network.config.family(!request.ipv6);
        let subnet = family.map(|family| family.subnet);
        let subnet = subnet.ok_or_else(|| ControlError::NoSuchFamily {
            network: network.name.clone(),
            version: if request.ipv6 { 6 } else { 4 },
        })?;
        if let Some(wanted) = request.subnet.filter(|wanted| *wanted != subnet) {
            return Err(ControlError::OtherSubnet {
                network: network.name.clone(),
                subnet,
                wanted,
            });
        }
        if let Some(range) = request.range.filter(|range| !subnet.contains(range)) {
            return Err(ControlError::Address(IpamError::RangeOutside {
                range,
                subnet,
            }));
        }
        Ok(PoolRecord {
            id,
            subnet,
            range: request.range,
            network: Some(network.id.clone()),
            owner: request.owner.clone(),
            leases: BTreeMap::new(),
        })
    }

    /// All leased pools, by id.
    pub fn leased_pools(&self) -> Vec<LeasedPool> {
        let pools = self.leased_pools.values();
        pools.map(|entry| self.shown(&entry.record)).collect()
    }

    fn shown(&self, record: &PoolRecord) -> LeasedPool {
        let used: Vec<IpAddr> = match &record.network {
            None => Vec::new(),
            Some(network) => {
                let endpoints = self.users(network).map(|(_, endpoint)| endpoint);
                let nets = endpoints.flat_map(|endpoint| &endpoint.addresses);
                nets.map(IpNet::addr).collect()
            }
        };
        let lease = |(address, gateway): (&IpAddr, &bool)| Lease {
            address: *address,
            gateway: *gateway,
            in_use: used.contains(address),
        };
        LeasedPool {
            id: record.id.clone(),
            subnet: record.subnet,
            network: record.network.clone(),
            owner: record.owner.clone(),
            leases: record.leases.iter().map(lease).collect(),
        }
    }

    /// Gives a pool back, with all leases.
    ///
    /// # Errors
    /// If there is no such pool, or the change cannot be stored.
    pub fn release_pool(&mut self, id: &str) -> Result<(), ControlError> {
        let record = self.leased_pool(id)?.record.clone();
        self.journal.commit(&[Change::DeletePool(id)])?;
        self.leased_pools.remove(id);
        for address in record.leases.keys() {
            self.unlease(&record, *address);
        }
        Ok(())
    }

    /// Leases an address of a pool: the given one, or the lowest that is free.
    ///
    /// # Errors
    /// If there is no such pool, the address is not to be had, or the change cannot be stored.
    pub fn request_address(
        &mut self,
        id: &str,
        request: RequestAddress,
    ) -> Result<LeasedAddress, ControlError> {
        let mut record = self.leased_pool(id)?.record.clone();
        let range = record.range;
        let holder = request.address.and_then(|address| {
            let network = record.network.as_deref()?;
            self.holder_of(network, address)
        });
        let pool = self.pool_behind(&record)?;
        let subnet = pool.subnet();
        // The gateway of a network that there is, is the bridge's.
        let gateway = pool.gateway().filter(|_| request.gateway);
        let address = match (gateway, request.address) {
            (Some(gateway), None) => gateway,
            (Some(gateway), Some(wanted)) if wanted == gateway => gateway,
            (Some(gateway), Some(wanted)) => {
                return Err(ControlError::OtherGateway { gateway, wanted });
            }
            (None, Some(wanted)) => {
                let leased = pool.lease(Some(wanted));
                leased.map_err(|source| address_error(source, holder))?
            }
            (None, None) => pool.lease_from(range).map_err(ControlError::Address)?,
        };
        record.leases.insert(address, request.gateway);
        if let Err(error) = self.journal.commit(&[Change::PutPool(&record)]) {
            if gateway.is_none() {
                self.unlease(&record, address);
            }
            return Err(error.into());
        }
        if let Some(entry) = self.leased_pools.get_mut(id) {
            entry.record = record;
        }
        let address = IpNet::new(address, subnet.prefix_len());
        Ok(LeasedAddress {
            address: address.unwrap_or(subnet),
        })
    }

    /// Gives an address back; one that is not leased is no error.
    ///
    /// # Errors
    /// If there is no such pool, or the change cannot be stored.
    pub fn release_address(&mut self, id: &str, address: IpAddr) -> Result<(), ControlError> {
        let mut record = self.leased_pool(id)?.record.clone();
        if record.leases.remove(&address).is_none() {
            return Ok(());
        }
        self.journal.commit(&[Change::PutPool(&record)])?;
        self.unlease(&record, address);
        if let Some(entry) = self.leased_pools.get_mut(id) {
            entry.record = record;
        }
        Ok(())
    }

    fn leased_pool(&self, id: &str) -> Result<&PoolEntry, ControlError> {
        let entry = self.leased_pools.get(id);
        entry.ok_or_else(|| ControlError::NoSuchPool(id.escape_debug().to_string()))
    }

    /// Where a pool's addresses are counted.
    fn pool_behind(&mut self, record: &PoolRecord) -> Result<&mut Pool, ControlError> {
        let pool = match &record.network {
            Some(network) => {
                let entry = self.networks.get_mut(network);
                entry.and_then(|entry| entry.pool(record.subnet.addr().is_ipv4()))
            }
            None => {
                let entry = self.leased_pools.get_mut(&record.id);
                entry.and_then(|entry| entry.own.as_mut())
            }
        };
        pool.ok_or_else(|| ControlError::NoSuchPool(record.id.clone()))
    }

    fn unlease(&mut self, record: &PoolRecord, address: IpAddr) {
        // Without its network there is nothing left to be freed.
        if let Ok(pool) = self.pool_behind(record) {
            pool.unlease(address);
        }
    }

    /// What a new network must not overlap. `own`: pools of which it is made.
    pub(super) fn neighbours(&self, own: &[String]) -> Vec<Neighbour> {
        let networks = self.networks().map(|network| Neighbour {
            id: network.id.clone(),
            name: network.name.clone(),
            bridge: network.config.bridge.clone(),
            subnets: network.subnets(),
        });
        let pools = self.leased_pools.values().map(|entry| &entry.record);
        let pools = pools.filter(|record| record.network.is_none() && !own.contains(&record.id));
        let pools = pools.map(|record| Neighbour {
            id: record.id.clone(),
            name: format!("(leased address pool {})", names::short_id(&record.id)),
            bridge: String::new(),
            subnets: vec![record.subnet],
        });
        networks.chain(pools).collect()
    }

    /// The pools of which a network is to be made; their ranges become its own.
    pub(super) fn pools_of_request(&self, request: &mut CreateNetwork) -> Vec<String> {
        if !request.ipam.options.contains_key(LEASED_POOLS) {
            return Vec::new();
        }
        let mut found = Vec::new();
        for config in &mut request.ipam.config {
            let subnet = config.subnet.as_deref();
            let subnet = subnet.and_then(|text| text.parse::<IpNet>().ok());
            let mut pools = self.leased_pools.values().map(|entry| &entry.record);
            let pool = pools.find(|pool| pool.network.is_none() && Some(pool.subnet) == subnet);
            if let Some(pool) = pool {
                config.ip_range = pool.range.map(|range| range.to_string());
                found.push(pool.id.clone());
            }
        }
        found
    }

    /// The records of pools as those of a new network.
    pub(super) fn given_to(&self, pools: &[String], network: &Network) -> Vec<PoolRecord> {
        let entries = pools.iter().filter_map(|id| self.leased_pools.get(id));
        let records = entries.map(|entry| PoolRecord {
            network: Some(network.id.clone()),
            ..entry.record.clone()
        });
        records.collect()
    }

    /// A new network has these pools now.
    pub(super) fn put_pools(&mut self, records: Vec<PoolRecord>) {
        let mut warnings = Vec::new();
        self.retake_pools(records, &mut warnings);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Ids of the pools of a network.
    pub(super) fn pools_of_network(&self, network: &str) -> Vec<String> {
        let pools = self.leased_pools.values().map(|entry| &entry.record);
        let pools = pools.filter(|record| record.network.as_deref() == Some(network));
        pools.map(|record| record.id.clone()).collect()
    }

    /// Lets a container have the leased addresses that it asks for, if it is one for which they were leased. Gives
    /// those, to be taken back ([`State::refuse_leases`]) if it does not take them.
    pub(super) fn allow_leases(
        &mut self,
        container: &Container,
        attachment: &Attachment,
    ) -> Vec<IpAddr> {
        if !has_leases(container) {
            return Vec::new();
        }
        let Some(entry) = self.networks.get_mut(&attachment.network) else {
            return Vec::new();
        };
        let requested = attachment.requested_addresses.iter().copied();
        requested
            .filter(|address| {
                let pool = entry.pool(address.is_ipv4());
                pool.is_some_and(|pool| pool.lend(*address))
            })
            .collect()
    }

    /// Takes back what [`State::allow_leases`] gave, where it was not used.
    pub(super) fn refuse_leases(&mut self, network: &str, addresses: &[IpAddr]) {
        let Some(entry) = self.networks.get_mut(network) else {
            return;
        };
        for address in addresses {
            if let Some(pool) = entry.pool(address.is_ipv4()) {
                pool.take_back(*address);
            }
        }
    }
}

/// Leases are for docker's containers only.
pub(super) fn has_leases(container: &Container) -> bool {
    let known = container.runtime.as_ref();
    known.is_some_and(|known| known.runtime == Runtime::Docker)
}

fn lease_all(pool: &mut Pool, record: &PoolRecord, warnings: &mut Vec<String>) {
    for (address, gateway) in &record.leases {
        // The bridge's gateway is nobody's to have, leased or not.
        if *gateway && pool.gateway() == Some(*address) {
            continue;
        }
        // Nor are auxiliary addresses, which dockerd has leased, too.
        if pool.is_reserved(*address) {
            continue;
        }
        if let Err(error) = pool.lease(Some(*address)) {
            warnings.push(format!("cannot keep lease of {address}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests;
