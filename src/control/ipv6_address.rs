//! Which IPv6 address a container gets that did not ask for one.
//!
//! - `mac`: the prefix, and the MAC's six octets verbatim as the last 48 bits, as Docker up to 27 does on its default
//!   network (libnetwork's `deferIPv6Alloc`): 2001:db8:1::/64 and 02:42:ac:11:00:03 make 2001:db8:1::242:ac11:3. This
//!   is not EUI-64. A prefix longer than /80 has no room for it.
//! - `sequential`: the lowest free one.
//! - `stable`: RFC 7217 § 5 with SHA-256 as F. Network_ID is the network's name, Net_Iface the container's, so that
//!   a container of the same name on a network of the same name has the same address again, also after both
//!   were removed, and nobody outside can foretell it or follow it to another prefix. Reserved interface identifiers (RFC
//!   5453 and IANA's registry) and taken addresses are passed over by counting DAD_Counter up.
//!
//! With an allocation range, its host bits are chosen instead of the subnet's.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use sha2::{Digest, Sha256};

use super::ipam::{IpamError, Pool};
use super::mac::MacAddress;
use super::network_config::Ipv6Allocation;

/// Longest prefix after which a MAC fits.
const MAC_PREFIX: u8 = 80;

/// So often another stable address is tried. A pool in which all of them are taken is nearly full, and gives its
/// lowest free one.
const MAX_TRIES: u32 = 64;

/// Whose address it will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    /// Name of the network.
    pub(super) network: &'a str,
    /// Name of the container.
    pub(super) container: &'a str,
    /// Of the interface.
    pub(super) mac: MacAddress,
    /// See [`super::identity::Identity::secret`].
    pub(super) secret: &'a str,
}

/// Takes an address from an IPv6 pool.
///
/// # Errors
/// If all are in use, or the one that follows from the MAC is.
pub(super) fn choose(
    pool: &mut Pool,
    allocation: Ipv6Allocation,
    owner: &Owner<'_>,
) -> Result<IpAddr, IpamError> {
    let IpNet::V6(base) = pool.range().unwrap_or_else(|| pool.subnet()) else {
        return pool.allocate();
    };
    match allocation {
        Ipv6Allocation::Mac if base.prefix_len() <= MAC_PREFIX => {
            let address = IpAddr::V6(with_mac(base, owner.mac));
            pool.reserve(address).map_err(|error| {
                let IpamError::InUse {
                    address,
                    by,
                    subnet,
                } = error
                else {
                    return error;
                };
                let mac = owner.mac;
                IpamError::MacInUse {
                    address,
                    mac,
                    by,
                    subnet,
                }
            })?;
            Ok(address)
        }
        Ipv6Allocation::Mac | Ipv6Allocation::Sequential => pool.allocate(),
        Ipv6Allocation::Stable => (0..MAX_TRIES)
            .map(|counter| stable(base, owner, counter))
            .filter(|address| !is_reserved(base, *address))
            .map(IpAddr::V6)
            .find(|address| pool.reserve(*address).is_ok())
            .map_or_else(|| pool.allocate(), Ok),
    }
}

fn with_mac(base: Ipv6Net, mac: MacAddress) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    let low = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    Ipv6Addr::from(base.network().to_bits() | u128::from(low))
}

/// RID of RFC 7217: the least significant bits of F, as many as the prefix leaves.
fn stable(base: Ipv6Net, owner: &Owner<'_>, counter: u32) -> Ipv6Addr {
    let mut hash = Sha256::new();
    let prefix = base.network().octets();
    let inputs = [
        prefix.as_slice(),
        &[base.prefix_len()],
        owner.container.as_bytes(),
        owner.network.as_bytes(),
        &counter.to_be_bytes(),
        owner.secret.as_bytes(),
    ];
    for input in inputs {
        // With the lengths, "ab" and "c" are not "a" and "bc".
        hash.update((input.len() as u64).to_be_bytes());
        hash.update(input);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (_, low) = digest.split_at(16);
    let mut bits = [0; 16];
    bits.copy_from_slice(low);
    let host = u128::from_be_bytes(bits) & base.hostmask().to_bits();
    Ipv6Addr::from(base.network().to_bits() | host)
}

/// True for interface identifiers that stand for something else: the subnet-router anycast address (RFC 4291
/// § 2.6.1), subnet anycast addresses (RFC 2526 § 2), and IANA's own Ethernet block (registry *Reserved IPv6 Interface
/// Identifiers*).
fn is_reserved(base: Ipv6Net, address: Ipv6Addr) -> bool {
    /// Of `::` to `::7f` counted from the end.
    const SUBNET_ANYCAST: u128 = 0x7f;
    let host = address.to_bits() & base.hostmask().to_bits();
    if base.prefix_len() <= 64 {
        let identifier = address.to_bits() & u128::from(u64::MAX);
        return identifier == 0
            || (0x0200_5eff_fe00_0000..=0x0200_5eff_feff_ffff).contains(&identifier)
            || (0xfdff_ffff_ffff_ff80..=0xfdff_ffff_ffff_ffff).contains(&identifier);
    }
    // Of a small subnet the last 128 are too large a part to go without.
    let small = base.prefix_len() > 112;
    host == 0 || (!small && base.hostmask().to_bits() - host <= SUBNET_ANYCAST)
}

#[cfg(test)]
mod tests;
