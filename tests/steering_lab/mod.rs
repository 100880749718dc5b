//! A small network for the steering tests, made of namespaces that vanish with it.
//!
//! ```text
//!   wan                       host                                   c1, c2
//!  ┌──────────────┐  veth  ┌───────────────────────────┐  veth  ┌───────────────┐
//!  │ up0          ├────────┤ up0            c1h ─┐      ├────────┤ eth0          │
//!  │ 192.0.2.2/24 │        │ 192.0.2.1/24   c2h ─┴ tb0 │        │ 172.17.0.2/16 │
//!  └──────────────┘        │ tun0    172.17.0.1/16     │        │ 172.17.0.3/16 │
//!                          └───────────────────────────┘        └───────────────┘
//! ```
//!
//! Tests run on a thread of the `host` namespace. Needs root.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "a test that cannot be set up has failed"
)]

pub mod bench;
pub mod frames;
pub mod frames6;
pub mod ipv6;
pub mod nat;
pub mod networks;
pub mod probe;
pub mod tun;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use tunbridge::steering::{ContainerPort, LocalAddress, Steering, Subnet};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const WAN: &str = "192.0.2.2";
pub const UPLINK: &str = "192.0.2.1";
pub const GATEWAY: &str = "172.17.0.1";
pub const C1: &str = "172.17.0.2";
pub const C2: &str = "172.17.0.3";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A named network namespace, deleted on drop.
#[derive(Debug)]
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("steer-{}-{number}-{role}", std::process::id());
        sh(&format!("ip netns add {name}"));
        let this = Self { name };
        this.sh("ip link set lo up");
        this
    }

    /// Runs a shell command inside; panics if it fails.
    pub fn sh(&self, command: &str) -> String {
        self.run(|| sh(command))
    }

    /// Whether a shell command succeeds inside.
    pub fn ok(&self, command: &str) -> bool {
        self.run(|| try_sh(command).0)
    }

    /// Runs `job` on a thread inside. Sockets that it returns stay inside.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let handle = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(handle, CloneFlags::CLONE_NEWNET).unwrap();
                    job()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a process inside that is killed on drop.
    pub fn spawn(&self, command: &str) -> Process {
        let mut shell = Command::new("ip");
        shell.args([
            "netns",
            "exec",
            &self.name,
            "sh",
            "-c",
            &format!("exec {command}"),
        ]);
        Process(
            shell
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    pub fn if_index(&self, interface: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(interface).unwrap())
    }

    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.sh(&format!("ip -br link show dev {interface}"));
        parse_mac(text.split_whitespace().nth(2).unwrap())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = try_sh(&format!("ip netns del {}", self.name));
    }
}

#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn parse_mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    mac
}

pub fn try_sh(command: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

pub fn sh(command: &str) -> String {
    let (success, text) = try_sh(command);
    assert!(success, "`{command}` failed: {text}");
    text
}

/// A firewall that lets nothing in and nothing through.
pub const DROP_ALL: &str = "chain i { type filter hook input priority 0; policy drop; }
    chain f { type filter hook forward priority 0; policy drop; }";

/// Loads nftables chains in the thread's namespace.
pub fn firewall(chains: &str) {
    let rules = chains.replace("; ", ";\n").replace("{ ", "{\n");
    sh(&format!(
        "nft -f - <<'END'\ntable ip test {{\n{rules}\n}}\nEND"
    ));
}

/// Waits until `condition` holds, for at most two seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The network drawn above, without steering.
#[derive(Debug)]
pub struct Lab {
    pub host: Netns,
    pub wan: Netns,
    pub c1: Netns,
    pub c2: Netns,
}

impl Lab {
    /// Builds the network and runs `test` in its host.
    pub fn run(test: impl FnOnce(&Self) + Send) {
        let lab = Self::build();
        lab.host.run(|| test(&lab));
    }

    fn build() -> Self {
        let lab = Self {
            host: Netns::new("host"),
            wan: Netns::new("wan"),
            c1: Netns::new("c1"),
            c2: Netns::new("c2"),
        };
        lab.host.sh(
            "ip link add tb0 type bridge && ip addr add 172.17.0.1/16 dev tb0 && \
                     ip link set tb0 address 02:42:ac:11:00:01 up",
        );
        lab.host.sh(&format!(
            "ip link add up0 type veth peer name up0 netns {} && \
                     ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up",
            lab.wan.name
        ));
        lab.wan
            .sh("ip addr add 192.0.2.2/24 dev up0 && ip link set up0 up");
        for (number, container) in [(1, &lab.c1), (2, &lab.c2)] {
            let last = number + 1;
            lab.host.sh(&format!(
                "ip link add c{number}h type veth peer name eth0 netns {} && \
                         ip link set c{number}h master tb0 up",
                container.name
            ));
            container.sh(&format!("ip link set eth0 address 02:42:ac:11:00:0{last} up && \
                         ip addr add 172.17.0.{last}/16 dev eth0 && ip route add default via 172.17.0.1"));
            container.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
        }
        lab.host.sysctl("net/ipv4/ip_forward", "0");
        lab
    }

    pub fn container_port(&self, number: u8, icc: bool) -> ContainerPort {
        ContainerPort {
            if_index: self.host.if_index(&format!("c{number}h")),
            addresses: vec![ip(&format!("172.17.0.{}", number + 1))],
            ipv6: false,
            mac: [2, 0x42, 0xac, 0x11, 0, number + 1],
            bridge_if_index: self.host.if_index("tb0"),
            bridge_mac: self.host.mac("tb0"),
            icc,
            linked: false,
            internal: false,
            container: 0,
            queued: false,
            policer: None,
        }
    }

    pub fn local_addresses(&self) -> Vec<LocalAddress> {
        let local = |address: &str, interface: &str, ethernet| LocalAddress {
            address: ip(address),
            if_index: self.host.if_index(interface),
            mac: if ethernet {
                self.host.mac(interface)
            } else {
                [0; 6]
            },
            ethernet,
        };
        vec![
            local("127.0.0.1", "lo", true),
            local(UPLINK, "up0", true),
            local(GATEWAY, "tb0", true),
        ]
    }

    pub fn subnet(&self) -> Subnet {
        Subnet {
            prefix: "172.17.0.0/16".parse().unwrap(),
            bridge_if_index: self.host.if_index("tb0"),
            bridge_mac: self.host.mac("tb0"),
            routed: false,
        }
    }

    /// Steering with all maps filled in and everything attached. Call it in the host namespace.
    pub fn steering(&self, tun: u32) -> Steering {
        self.steer(Steering::load().unwrap(), tun)
    }

    pub fn steer(&self, mut steering: Steering, tun: u32) -> Steering {
        self.host.sysctl("net/ipv4/conf/lo/accept_local", "1");
        self.host.sysctl("net/ipv4/conf/lo/route_localnet", "1");
        steering
            .set_local_addresses(&self.local_addresses())
            .unwrap();
        steering.set_subnets(&[self.subnet()]).unwrap();
        let uplink = self.host.if_index("up0");
        steering
            .set_default_uplinks(Some(uplink), Some(uplink))
            .unwrap();
        steering.attach_tun(tun).unwrap();
        steering.attach_loopback(self.host.if_index("lo")).unwrap();
        steering.attach_uplink(uplink, true).unwrap();
        steering
            .attach_container(&self.container_port(1, true))
            .unwrap();
        steering
            .attach_container(&self.container_port(2, true))
            .unwrap();
        steering
    }
}

/// A counter's value.
pub fn counter(steering: &Steering, name: &str) -> u64 {
    let counters = steering.counters().unwrap();
    *counters
        .get(name)
        .unwrap_or_else(|| panic!("no counter {name}"))
}

/// A TCP server that answers one connection at a time with the client's address, then the rest of
/// what it was sent.
pub fn echo_tcp(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let Ok(peer) = stream.peer_addr() else { return };
                if writeln!(stream, "{}", peer.ip()).is_err() {
                    return;
                }
                let mut buffer = vec![0; 1 << 16];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Serves TCP and UDP on `port` of a namespace.
pub fn serve(namespace: &Netns, port: u16) {
    serve_at(namespace, "0.0.0.0", port);
}

/// The same at one address, or at :: for both families.
pub fn serve_at(namespace: &Netns, address: &str, port: u16) {
    namespace.run(|| {
        echo_tcp(TcpListener::bind((address, port)).unwrap());
        echo_udp(UdpSocket::bind((address, port)).unwrap());
    });
}

/// Connects, and returns what the server calls us.
pub fn who_am_i(server: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&server.parse().unwrap(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reply = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        reply.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&reply).into_owned())
}

/// Sends `length` octets through a server of [`echo_tcp`]; how many came back within two seconds each.
pub fn echo_through(server: &str, length: usize) -> usize {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(&vec![b'x'; length]).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    let greeting = all.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    all.len() - greeting
}

/// A UDP server that answers each datagram with the sender's address and the datagram's length.
pub fn echo_udp(socket: UdpSocket) {
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{} {length}", from.ip()).as_bytes(), from);
        }
    });
}

/// Sends a datagram and returns the answer.
pub fn ask_udp(server: &str, length: usize) -> Result<String, std::io::Error> {
    let any = if server.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send(&vec![b'x'; length])?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
