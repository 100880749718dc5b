//! Flow keys: what a packet says about itself, and its mirror image.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use super::Protocol;

/// Direction of a packet within its flow, relative to the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// As the first packet.
    Original,
    /// The other way.
    Reply,
}

impl Direction {
    pub(super) const fn reverse(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }

    /// Index into an array of two.
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Original => 0,
            Self::Reply => 1,
        }
    }
}

/// Addresses and ports of a packet. For an ICMP query the port on the asking side is the
/// identifier and the one on the answering side the request's type, so that request and answer
/// are mirror images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowKey {
    pub(super) protocol: Protocol,
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
}

impl FlowKey {
    /// The key of the packet's answer.
    pub(super) const fn mirror(&self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }

    pub(super) const fn source(&self) -> SocketAddr {
        SocketAddr::new(self.src, self.src_port)
    }

    pub(super) const fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.dst, self.dst_port)
    }
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                state.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                state.write_u128(src.to_bits());
                state.write_u128(dst.to_bits());
            }
            (src, dst) => {
                src.hash(state);
                dst.hash(state);
            }
        }
        let ports = u64::from(self.src_port) << 16 | u64::from(self.dst_port);
        state.write_u64((self.protocol as u64) << 32 | ports);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_its_own_inverse() {
        let key = FlowKey {
            protocol: Protocol::Udp,
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            src_port: 1,
            dst_port: 2,
        };
        assert_eq!(key.mirror().source(), key.destination());
        assert_eq!(key.mirror().mirror(), key);
    }
}
