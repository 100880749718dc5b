//! The lab with nobody behind the TUN: what it gets can be read.

use tunbridge::steering::Steering;

use super::frames::{self, TYPE_IPV4};
use super::tun::{Tun, VNET};
use super::{Lab, counter};

/// See the module.
#[derive(Debug)]
pub struct Bench<'a> {
    pub lab: &'a Lab,
    pub tun: Tun,
    pub steering: Steering,
}

impl<'a> Bench<'a> {
    pub fn new(lab: &'a Lab) -> Self {
        let tun = Tun::open("tun0");
        lab.host.sysctl("net/ipv4/conf/tun0/forwarding", "1");
        let steering = lab.steering(tun.if_index);
        Self { lab, tun, steering }
    }

    pub fn run(test: impl FnOnce(Bench<'_>) + Send) {
        Lab::run(|lab| test(Bench::new(lab)));
    }

    /// Sends from the first container to the gateway's MAC.
    pub fn c1_sends(&self, packet: &[u8]) {
        self.c1_sends_frame(&frames::ethernet(
            self.mac(1),
            self.lab.host.mac("tb0"),
            TYPE_IPV4,
            packet,
        ));
    }

    pub fn c1_sends_frame(&self, frame: &[u8]) {
        self.lab.c1.run(|| frames::send("eth0", frame).unwrap());
    }

    /// Sends from the wan to the host's MAC.
    pub fn wan_sends(&self, packet: &[u8]) {
        let (wan, host) = (self.lab.wan.mac("up0"), self.lab.host.mac("up0"));
        let frame = frames::ethernet(wan, host, TYPE_IPV4, packet);
        self.lab.wan.run(|| frames::send("up0", &frame).unwrap());
    }

    pub const fn mac(&self, container: u8) -> [u8; 6] {
        [2, 0x42, 0xac, 0x11, 0, container + 1]
    }

    /// The next packet that the TUN gets.
    pub fn diverted(&self) -> Option<Vec<u8>> {
        self.tun.read(150).map(|frame| frame[VNET..].to_vec())
    }

    pub fn is_diverted(&self, packet: &[u8]) -> bool {
        match self.diverted() {
            Some(seen) => {
                assert_eq!(seen, packet);
                true
            }
            None => false,
        }
    }

    pub fn count(&self, name: &str) -> u64 {
        counter(&self.steering, name)
    }
}
