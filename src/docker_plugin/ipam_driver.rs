//! libnetwork's IPAM driver: the daemon's leases.
//!
//! With `--ipam-opt com.tunbridge.network=NAME` a pool is the subnet of that network, whose containers of all doors
//! get their addresses from one place. Else it is a subnet that no other network has, of which a network is made later,
//! by us or by another driver of dockerd.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::protocol::{AddressCall, PoolReference, Refusal, RequestPool, address, identifier, net};
use super::{NETWORK_OPTION, Plugin};
use crate::api::client::{ClientError, segment};
use crate::api::types::{
    LeasedAddress, LeasedPool, ReleaseAddress, RequestAddress, RequestLeasedPool,
};
use crate::failpoint;

/// The one address space, local and global.
pub(super) const ADDRESS_SPACE: &str = "tunbridge";

/// Option that says what an address is for.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

impl Plugin {
    pub(super) async fn request_pool(&self, request: RequestPool) -> Result<Value, Refusal> {
        if !matches!(request.address_space.as_str(), "" | ADDRESS_SPACE) {
            let shown = request.address_space.escape_debug();
            return Err(Refusal::new(format!(
                "invalid AddressSpace \"{shown}\": give {ADDRESS_SPACE}"
            )));
        }
        if let Some(unknown) = request
            .options
            .keys()
            .find(|name| name.starts_with("com.tunbridge.") && name.as_str() != NETWORK_OPTION)
        {
            return Err(Refusal::new(format!(
                "--ipam-opt {} is not known: give {NETWORK_OPTION}=NAME, or none",
                unknown.escape_debug()
            )));
        }
        let subnet = net("Pool", &request.pool)?;
        let range = net("SubPool", &request.sub_pool)?;
        let wrong = [subnet, range].into_iter().flatten();
        if let Some(wrong) = wrong
            .into_iter()
            .find(|net| net.addr().is_ipv6() != request.v6)
        {
            let version = if request.v6 { 6 } else { 4 };
            return Err(Refusal::new(format!(
                "invalid pool {wrong}: an IPv{version} one was asked for"
            )));
        }
        if let Some(name) = request.options.get(NETWORK_OPTION) {
            self.check_subnet(name, request.v6, subnet).await?;
        }
        let wanted = RequestLeasedPool {
            subnet,
            range,
            network: request.options.get(NETWORK_OPTION).cloned(),
            ipv6: request.v6,
            owner: Some(self.owner.clone()),
        };
        let ask = || {
            let wanted = wanted.clone();
            self.daemon
                .ask_once(move |client| client.post("/tunbridge/pools", &wanted))
        };
        let pool: LeasedPool = match (ask().await, subnet) {
            // A network that was never made may have it.
            (Err(ClientError::Refused { .. }), Some(subnet))
                if wanted.network.is_none() && self.free_subnet(subnet).await? =>
            {
                ask().await
            }
            (outcome, _) => outcome,
        }?;
        self.note(&pool.id);
        failpoint::reached("docker.pool");
        Ok(json!({"PoolID": pool.id, "Pool": pool.subnet.to_string(), "Data": {}}))
    }

    /// A subnet that nobody has named and that is on an interface of the host, dockerd does not take: it asks for another
    /// one, for ever. That of a network is on its bridge.
    async fn check_subnet(
        &self,
        name: &str,
        ipv6: bool,
        given: Option<IpNet>,
    ) -> Result<(), Refusal> {
        let network = self.named_network(name).await?;
        let mut subnets = network.subnets().iter().map(|subnet| subnet.subnet);
        let subnet = subnets.find(|subnet| subnet.addr().is_ipv6() == ipv6);
        let name = network.name.escape_debug();
        Err(Refusal::new(match (subnet, given) {
            (Some(subnet), Some(given)) if subnet == given => return Ok(()),
            (Some(subnet), Some(given)) => format!(
                "{NETWORK_OPTION}: network {name} has subnet {subnet}, not {given}: give --subnet {subnet}"
            ),
            (Some(subnet), None) => format!(
                "{NETWORK_OPTION}: give the subnet of network {name}, too: --subnet {subnet}"
            ),
            (None, _) => format!(
                "{NETWORK_OPTION}: network {name} has no IPv{} subnet: {}",
                if ipv6 { 6 } else { 4 },
                if ipv6 {
                    "leave --ipv6 out"
                } else {
                    "choose another network"
                },
            ),
        }))
    }

    pub(super) async fn release_pool(&self, request: PoolReference) -> Result<Value, Refusal> {
        let id = identifier("PoolID", &request.pool_id)?;
        let target = format!("/tunbridge/pools/{}", segment(id));
        gone(self.daemon.ask(move |client| client.delete(&target)).await)
    }

    pub(super) async fn request_address(&self, request: AddressCall) -> Result<Value, Refusal> {
        let id = identifier("PoolID", &request.pool_id)?;
        let target = format!("/tunbridge/pools/{}/addresses", segment(id));
        let wanted = RequestAddress {
            address: address("Address", &request.address)?,
            gateway: request
                .options
                .get(ADDRESS_TYPE)
                .is_some_and(|kind| kind == GATEWAY),
        };
        let ask = || {
            let target = target.clone();
            self.daemon
                .ask_once(move |client| client.post(&target, &wanted))
        };
        let mut asked = ask().await;
        if matches!(asked, Err(ClientError::Broken { .. })) {
            // It is waited for.
            self.pools().await?;
            asked = ask().await;
        }
        let leased: LeasedAddress = match (asked, wanted.address) {
            // A former dockerd may have died with it, or the daemon just now.
            (Err(ClientError::Refused { status: 409, .. }), Some(address))
                if self.free_lease(id, address).await? =>
            {
                ask().await
            }
            (outcome, _) => outcome,
        }?;
        failpoint::reached("docker.address");
        let net: IpNet = leased.address;
        self.note(net.addr());
        Ok(json!({"Address": net.to_string(), "Data": {}}))
    }

    /// Frees an address of a pool that dockerd does not know to be in use.
    async fn free_lease(&self, pool: &str, address: IpAddr) -> Result<bool, ClientError> {
        let pools: Vec<LeasedPool> = self
            .daemon
            .ask(|client| client.get("/tunbridge/pools"))
            .await?;
        let mut pools = pools.into_iter().filter(|known| known.id == pool);
        let Some(network) = pools.find_map(|pool| pool.network) else {
            return Ok(false);
        };
        match self.daemon.network(&network).await? {
            Some(network) => self.free(&network, &[address]).await,
            None => Ok(false),
        }
    }

    pub(super) async fn release_address(&self, request: AddressCall) -> Result<Value, Refusal> {
        let id = identifier("PoolID", &request.pool_id)?;
        let Some(address) = address("Address", &request.address)? else {
            return Err(Refusal::new("Address is missing from the request"));
        };
        self.forget(&address.to_string());
        let target = format!("/tunbridge/pools/{}/release", segment(id));
        let released = ReleaseAddress { address };
        gone(
            self.daemon
                .ask(move |client| client.tell(&target, &released))
                .await,
        )
    }
}

/// What is not there need not be given back.
fn gone(outcome: Result<(), ClientError>) -> Result<Value, Refusal> {
    match outcome {
        Ok(()) | Err(ClientError::Refused { status: 404, .. }) => Ok(json!({})),
        Err(error) => Err(error.into()),
    }
}
