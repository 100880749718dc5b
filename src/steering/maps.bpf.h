// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The maps shared with user space. maps.rs encodes the same layouts; all addresses and ports are
// big-endian.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

// Both families in one key: IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
struct address {
	__be32 word[4];
};

// A container's attachment. In two maps: by veth (who sends?) and by each address (who receives?).
struct endpoint {
	struct address ipv4; // zeros, which is nobody's: it has none
	struct address ipv6;
	__u32 veth;
	__u32 bridge;
	__u8 mac[ETH_ALEN];
	__u8 bridge_mac[ETH_ALEN];
	__u32 flags;     // enum endpoint_flag
	__u32 container; // the same for all interfaces of one container; 0: no other interface
};

enum endpoint_flag {
	ENDPOINT_ICC = 1,      // containers of the same network may talk to each other
	ENDPOINT_LINKED = 2,   // if not: whether some of them may, the forwarder knows
	ENDPOINT_INTERNAL = 4, // its network has no way out
	ENDPOINT_IPV6 = 8,     // its network has IPv6
	ENDPOINT_QUEUED = 16,  // what it gets goes through the queueing discipline of its veth
	ENDPOINT_POLICED = 32, // what it sends has a limit, see struct policer
};

// A token bucket, kept as the moment at which it will be full again. What costs `n` octets takes n/rate seconds to come
// back, so it is there unless it would be full only after more than `burst` from now.
struct policer {
	__u64 rate;    // octets per second
	__u64 burst;   // nanoseconds from empty to full
	__u64 full_at; // by bpf_ktime_get_ns(); user space writes 0: full
};

struct local {
	__u32 if_index;
	__u8 mac[ETH_ALEN];
	__u8 ethernet;
	__u8 unused;
};

struct prefix {
	__u32 length; // in bits of the 128
	struct address address;
};

struct subnet {
	__u32 bridge;
	__u8 bridge_mac[ETH_ALEN];
	__u8 routed; // the outside may know the containers' addresses: the forwarder judges
	__u8 unused;
};

struct published_port {
	struct address address; // 0.0.0.0 or ::, every address of that family
	__be16 port;
	__u8 protocol;
	__u8 unused;
};

struct uplink {
	__u32 ethernet;
};

// A MAC address of the host's own, whichever interface has it.
struct mac {
	__u8 octets[ETH_ALEN];
};

// A container, as its neighbours on the bridge address it. The value is its veth.
struct neighbour {
	__u32 bridge;
	__u8 mac[ETH_ALEN];
	__u8 unused[2];
};

struct settings {
	__u32 tun;
	__u32 loopback;
	__u32 default_uplink;      // IPv4's
	__u32 default_uplink_ipv6;
};

#define MAP(kind, key_type, value_type, entries, options)                                           \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__type(key, key_type);                                                             \
		__type(value, value_type);                                                         \
		__uint(max_entries, entries);                                                      \
		__uint(map_flags, options);                                                        \
	}

// Without preallocation an empty map of 131,072 entries costs its bucket array only.
MAP(BPF_MAP_TYPE_HASH, __u32, struct endpoint, 1 << 14, BPF_F_NO_PREALLOC)
containers SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, struct address, struct endpoint, 1 << 15, BPF_F_NO_PREALLOC)
endpoints SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, struct neighbour, __u32, 1 << 14, BPF_F_NO_PREALLOC) neighbours SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, __u32, struct policer, 1 << 14, BPF_F_NO_PREALLOC) policers SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, struct address, struct local, 1 << 12, BPF_F_NO_PREALLOC)
locals SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, struct mac, __u8, 1 << 12, BPF_F_NO_PREALLOC) local_macs SEC(".maps");
MAP(BPF_MAP_TYPE_LPM_TRIE, struct prefix, struct subnet, 1 << 12, BPF_F_NO_PREALLOC)
subnets SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, struct published_port, __u8, 1 << 17, BPF_F_NO_PREALLOC)
published SEC(".maps");
MAP(BPF_MAP_TYPE_HASH, __u32, struct uplink, 1 << 12, BPF_F_NO_PREALLOC) uplinks SEC(".maps");
MAP(BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1, 0) settings SEC(".maps");

// One bit per external port, ICMP identifiers first, then TCP, then UDP: set while a mapping of
// the forwarder uses it. User space writes the bits through mmap(), without a system call.
MAP(BPF_MAP_TYPE_ARRAY, __u32, __u64, 3 * 65536 / 64, BPF_F_MMAPABLE)
external_ports SEC(".maps");

// Same order as COUNTERS in src/steering/maps.rs (a test compares them).
enum counter {
	DIVERTED_CONTAINER,  // container -> TUN
	DIVERTED_UPLINK,     // outside -> TUN
	DIVERTED_LOOPBACK,   // host process -> TUN
	DELIVERED_CONTAINER, // TUN -> container
	DELIVERED_HOST,      // TUN -> the host's own stack
	DELIVERED_UPLINK,    // TUN -> outside
	PEER_REDIRECT,       // container -> container of the same network, past the bridge
	HOST_SOCKET_WON,     // left to the host: one of its sockets wants a port we map, too
	SPOOF_MAC,           // dropped: container used a foreign Ethernet source
	SPOOF_IP,            // dropped: container used a foreign IP source
	SPOOF_ARP,           // dropped: container claimed a foreign address in ARP
	SPOOF_ND,            // dropped: ... in Neighbour Discovery, or forged it otherwise
	ROGUE_RA,            // dropped: container posed as a router: advertisement or redirect
	IPV6_DISABLED,       // dropped: IPv6 from a container of an IPv4-only network
	VLAN_TAGGED,         // dropped: container sent an 802.1Q or 802.1ad tag
	OTHER_ETHERTYPE,     // dropped: container sent something that is neither IP nor ARP
	MALFORMED,           // dropped: container's frame is shorter than its headers say, or all headers
	ICC_DROP,            // dropped: container -> container where that is not allowed
	INTERNAL_DROP,       // dropped: container of an internal network sent beyond its subnet
	RATE_EXCEEDED,       // dropped: container sent faster than it may, past its own queue
	MARTIAN_CONTAINER,   // dropped: container sent to 127/8, 0/8, ::1, ::, or beyond the link as fe80::
	MARTIAN_UPLINK,      // dropped: the outside used one of our or the host's addresses
	DIRECT_ACCESS,       // dropped: the outside addressed a container directly
	NO_ENDPOINT,         // dropped: no such container, or the frame's veth is unknown
	NO_EGRESS,           // dropped: no way out for a packet from the forwarder
	TUN_MALFORMED,       // dropped: the forwarder's packet is no unicast IP packet
	COUNTERS,
};

MAP(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, COUNTERS, 0) counters SEC(".maps");
