// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The four tc programs that take packets out of the kernel's path and put them back.
//
//   tb_container   ingress of a container's host-side veth    what a container sends
//   tb_uplink      ingress of every other interface           what the outside sends
//   tb_loopback    egress of lo                               what the host sends to itself
//   tb_tun         ingress of the TUN                         what the forwarder hands back
//
// Each one answers a single question, "whose packet is this?", with one of four verdicts:
//
//   LEAVE      not ours: the next tc program, then the kernel, as if we were not here
//   redirect   to the TUN (the forwarder judges it), or from the TUN to where it belongs
//   drop()     a lie (a spoofed source) or a way around the isolation; counted by name
//
// They never rewrite an address or a port. The forwarder tells packets apart by their addresses
// alone, so what these programs guarantee is that the *source* address of a diverted packet is
// true: a container's packet bears the container's address, the host's a local address, and the
// outside's neither of the two.
//
// Headers are read with bpf_skb_load_bytes_relative(): offsets count from the network header, so
// the same code serves interfaces with and without a link-layer header. Every packet may be a
// super-packet (GSO) with its checksum still to be filled in (CHECKSUM_PARTIAL): nothing here
// looks at lengths or checksums, both travel with the skb and reach the TUN's virtio header.
//
// The license string below is needed because bpf_fib_lookup() is reserved to GPL-compatible
// programs. Oldest kernel: 5.10 (bpf_redirect_neigh, bpf_redirect_peer).

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"
#include "packet.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define LEAVE TC_ACT_UNSPEC // run the next tc program; the kernel's default after the last one
#define AF_INET 2

// Marks a packet that tb_tun gives to an uplink's ingress, so that tb_uplink does not divert it
// again. Only ever seen between these two programs.
#define MARK_RETURNED 0x74627265

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return TC_ACT_SHOT;
}

// ---------------------------------------------------------------------------------------------
// What a container sends.

struct arp_ipv4 {
	__be16 hardware_type, protocol_type;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender_address;
	__u8 target_mac[ETH_ALEN];
	__be32 target_address;
} __attribute__((packed));

// Whose address is it: the sender's own, or one of its container on another network? A container
// answers on the interface that its routing table names, whichever it was called on. No address of
// an internal network leaves it that way, and none comes in.
static __always_inline const struct endpoint *speaker(const struct endpoint *from,
						      const struct address *source)
{
	const struct endpoint *other;

	if (same_address(source, &from->ipv4))
		return from;
	if (!from->container)
		return NULL;
	other = bpf_map_lookup_elem(&endpoints, source);
	if (!other || other->container != from->container ||
	    (other->flags | from->flags) & ENDPOINT_INTERNAL)
		return NULL;
	return other;
}

// A container may speak ARP for its own addresses, or for none (a probe, RFC 5227).
static __always_inline int container_arp(struct __sk_buff *skb, const struct endpoint *from)
{
	struct address sender;
	struct arp_ipv4 arp;

	if (!load(skb, 0, &arp, sizeof(arp)))
		return drop(MALFORMED);
	sender = ipv4(arp.sender_address);
	if (arp.protocol_type != bpf_htons(ETH_P_IP) || arp.hardware_length != ETH_ALEN ||
	    arp.protocol_length != 4 || !same_mac(arp.sender_mac, from->mac) ||
	    (arp.sender_address && !speaker(from, &sender)))
		return drop(SPOOF_ARP);
	return LEAVE;
}

static __always_inline int container_ip(struct __sk_buff *skb, const struct endpoint *from,
					const __u8 *target_mac, const struct packet *packet)
{
	const struct address *destination = &packet->destination;
	const struct endpoint *source = speaker(from, &packet->source);
	struct settings *s = get_settings();
	const struct endpoint *to = NULL;
	bool gateway;

	if (!source)
		return drop(SPOOF_IP);
	if (!s || is_loopback(destination) || is_unspecified(destination))
		return drop(MARTIAN_CONTAINER);
	if (from->flags & ENDPOINT_INTERNAL && !is_group(destination)) {
		struct subnet *subnet = subnet_of(destination);

		if (!subnet || subnet->bridge != from->bridge)
			return drop(INTERNAL_DROP);
	}

	gateway = same_mac(target_mac, from->bridge_mac);
	if (!gateway) {
		to = bpf_map_lookup_elem(&endpoints, destination);
		if (to && to->bridge != from->bridge)
			to = NULL; // no neighbour
		// A bridge gives its host what is sent to the MACs of its ports, too, and the host
		// would route what is not its own.
		gateway = !(to && same_mac(to->mac, target_mac)) &&
			  bpf_map_lookup_elem(&local_macs, target_mac);
	}
	if (gateway) {
		if (!is_group(destination) &&
		    (!bpf_map_lookup_elem(&locals, destination) || is_ours(skb, packet))) {
			count(DIVERTED_CONTAINER);
			return bpf_redirect(s->tun, 0);
		}
		// What is the host's elsewhere is nobody's here: the bridge gives it to all ports.
		if (!(from->flags & ENDPOINT_ICC) && !same_mac(target_mac, from->bridge_mac))
			return drop(ICC_DROP);
		return LEAVE;
	}
	if (target_mac[0] & 1) { // broadcast or multicast
		if (source != from)
			return drop(SPOOF_IP);
		if (from->flags & ENDPOINT_ICC)
			return LEAVE;
		// Only the host may hear it: a unicast IP packet in a broadcast frame would be
		// accepted by the other containers.
		return bpf_redirect(from->bridge, BPF_F_INGRESS);
	}
	// To a neighbour.
	if (source != from) { // an answer, maybe, to what came by way of the other network
		count(DIVERTED_CONTAINER);
		return bpf_redirect(s->tun, 0);
	}
	if (!(from->flags & ENDPOINT_ICC)) {
		if (!to || !(from->flags & to->flags & ENDPOINT_LINKED))
			return drop(ICC_DROP);
		count(DIVERTED_CONTAINER);
		return bpf_redirect(s->tun, 0);
	}
	// Straight into its namespace. This is faster than the bridge, and the FORWARD chain of
	// bridge-nf-call-iptables=1 never sees the packet.
	if (!to || !same_mac(to->mac, target_mac))
		return LEAVE;
	count(PEER_REDIRECT);
	return bpf_redirect_peer(to->veth, 0);
}

SEC("classifier/container")
int tb_container(struct __sk_buff *skb)
{
	__u32 if_index = skb->ifindex;
	struct endpoint *from = bpf_map_lookup_elem(&containers, &if_index);
	struct packet packet = {};
	struct ethhdr ethernet;

	if (!from)
		return drop(NO_ENDPOINT);
	// The bridge would carry a tagged frame to the other ports, past everything below.
	if (skb->vlan_present)
		return drop(VLAN_TAGGED);
	if (bpf_skb_load_bytes(skb, 0, &ethernet, sizeof(ethernet)))
		return drop(MALFORMED);
	if (!same_mac(ethernet.h_source, from->mac))
		return drop(SPOOF_MAC);
	switch (ethernet.h_proto) {
	case bpf_htons(ETH_P_IP):
		if (!parse_ipv4(skb, &packet))
			return drop(MALFORMED);
		return container_ip(skb, from, ethernet.h_dest, &packet);
	case bpf_htons(ETH_P_ARP):
		return container_arp(skb, from);
	case bpf_htons(ETH_P_IPV6):
		return drop(IPV6_DISABLED);
	}
	return drop(OTHER_ETHERTYPE);
}

// ---------------------------------------------------------------------------------------------
// What the outside sends.

// Would this source make the forwarder mistake an outsider for a container or for the host?
static __always_inline bool is_martian(struct __sk_buff *skb, const struct address *source)
{
	struct subnet *subnet = subnet_of(source);

	return is_local(source) || is_group(source) || is_unspecified(source) ||
	       (subnet && subnet->bridge != skb->ifindex);
}

SEC("classifier/uplink")
int tb_uplink(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct packet packet = {};
	struct subnet *subnet;

	if (skb->mark == MARK_RETURNED) {
		skb->mark = 0;
		// The interface that leads to the sender need not be the one whose MAC was used.
		bpf_skb_change_type(skb, PACKET_HOST);
		return LEAVE;
	}
	if (!s || !s->tun || skb->pkt_type != PACKET_HOST || skb->protocol != bpf_htons(ETH_P_IP))
		return LEAVE;
	if (skb->vlan_present) {
		// Belongs to a VLAN interface, which has its own program; VLAN 0 is a mere priority tag.
		if (skb->vlan_tci & 0xfff)
			return LEAVE;
		bpf_skb_vlan_pop(skb);
	}
	if (!parse_ipv4(skb, &packet))
		return LEAVE;

	// 127/8 on the wire is the kernel's to refuse: a port published on 127.0.0.1 stays private.
	if (is_loopback(&packet.destination))
		return LEAVE;
	if (!bpf_map_lookup_elem(&locals, &packet.destination)) {
		subnet = subnet_of(&packet.destination);
		if (!subnet || subnet->bridge == skb->ifindex)
			return LEAVE; // the host routes it, or not
		if (!subnet->routed)
			return drop(DIRECT_ACCESS);
		// Without masquerading, replies come this way: which ones, the forwarder knows.
		if (is_martian(skb, &packet.source))
			return drop(MARTIAN_UPLINK);
		count(DIVERTED_UPLINK);
		return bpf_redirect(s->tun, 0);
	}
	if (!is_ours(skb, &packet))
		return LEAVE;
	// A gateway address belongs to the containers' side; from here it is a plain host address.
	subnet = subnet_of(&packet.destination);
	if (subnet && subnet->bridge != skb->ifindex)
		return LEAVE;
	if (is_martian(skb, &packet.source))
		return packet.fragment ? LEAVE : drop(MARTIAN_UPLINK);
	count(DIVERTED_UPLINK);
	return bpf_redirect(s->tun, 0);
}

// ---------------------------------------------------------------------------------------------
// What the host sends to itself. What tb_tun injects enters at lo's ingress and is not seen here.

SEC("classifier/loopback")
int tb_loopback(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct packet packet = {};

	if (!s || !s->tun || skb->protocol != bpf_htons(ETH_P_IP) || !parse_ipv4(skb, &packet))
		return LEAVE;
	if (!packet.has_ports || packet.fragment)
		return LEAVE;
	switch (packet.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		if (!is_published(packet.protocol, &packet.destination, packet.destination_port))
			return LEAVE;
		break;
	case IPPROTO_ICMP: // "port unreachable" about what a container sent to a host process
		if (packet.icmp_type != ICMP_DEST_UNREACH || !error_is_ours(skb, &packet))
			return LEAVE;
		break;
	default:
		return LEAVE;
	}
	if (!is_local(&packet.source) || !is_local(&packet.destination))
		return LEAVE;
	count(DIVERTED_LOOPBACK);
	return bpf_redirect(s->tun, 0);
}

// ---------------------------------------------------------------------------------------------
// What the forwarder hands back: sorted by destination.

// The TUN has no link-layer header, and redirecting to an Ethernet device drops a packet whose
// MAC header is not in front of its network header: so put one there.
static __always_inline bool push_ethernet(struct __sk_buff *skb, const __u8 *target,
					  const __u8 *source)
{
	struct ethhdr ethernet = { .h_proto = bpf_htons(ETH_P_IP) };

	if (target)
		__builtin_memcpy(ethernet.h_dest, target, ETH_ALEN);
	if (source)
		__builtin_memcpy(ethernet.h_source, source, ETH_ALEN);
	return !bpf_skb_change_head(skb, ETH_HLEN, 0) &&
	       !bpf_skb_store_bytes(skb, 0, &ethernet, sizeof(ethernet), 0);
}

static __always_inline int deliver_container(struct __sk_buff *skb, const struct endpoint *to)
{
	if (!push_ethernet(skb, to->mac, to->bridge_mac))
		return drop(NO_ENDPOINT);
	count(DELIVERED_CONTAINER);
	return bpf_redirect_peer(to->veth, 0);
}

// The kernel's routing decision for a packet from `source` to `destination`. It is refused unless
// net.ipv4.conf.<tun>.forwarding is set, which `sysctl net.ipv4.ip_forward=0` resets.
static __always_inline int route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 protocol,
				 const struct address *source, const struct address *destination)
{
	fib->family = AF_INET;
	fib->l4_protocol = protocol;
	fib->ifindex = skb->ifindex;
	fib->ipv4_src = source->word[3];
	fib->ipv4_dst = destination->word[3];
	return bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
}

static __always_inline bool route_found(int result)
{
	// The neighbour is looked up later, and the MTU is the forwarder's business.
	return result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH ||
	       result == BPF_FIB_LKUP_RET_FRAG_NEEDED;
}

// Into the host's stack, at the interface where a packet with this source would have arrived,
// so that the reverse path filter and the host's firewall judge it as they would have.
static __always_inline int deliver_host(struct __sk_buff *skb, struct settings *s,
					const struct packet *packet, const struct local *to)
{
	struct bpf_fib_lookup fib = {};
	struct endpoint *from;
	__u32 target;
	bool ethernet;

	if (is_local(&packet->source)) { // from the host itself
		if (!push_ethernet(skb, NULL, NULL))
			return drop(TUN_MALFORMED);
		count(DELIVERED_HOST);
		return bpf_redirect(s->loopback, BPF_F_INGRESS);
	}
	if (!to || is_loopback(&packet->destination))
		return drop(TUN_MALFORMED); // to 127/8 from elsewhere
	from = bpf_map_lookup_elem(&endpoints, &packet->source);
	if (from) {
		target = from->bridge;
		if (!push_ethernet(skb, from->bridge_mac, from->mac))
			return drop(TUN_MALFORMED);
	} else {
		struct uplink *uplink;

		target = to->if_index;
		ethernet = to->ethernet;
		if (route_found(route(skb, &fib, packet->protocol, &packet->destination,
				      &packet->source)) &&
		    bpf_map_lookup_elem(&uplinks, &fib.ifindex))
			target = fib.ifindex;
		uplink = bpf_map_lookup_elem(&uplinks, &target);
		if (uplink) {
			skb->mark = MARK_RETURNED;
			ethernet = uplink->ethernet;
		}
		if (ethernet && !push_ethernet(skb, to->mac, NULL))
			return drop(TUN_MALFORMED);
	}
	count(DELIVERED_HOST);
	return bpf_redirect(target, BPF_F_INGRESS);
}

static __always_inline int deliver_uplink(struct __sk_buff *skb, struct settings *s,
					  const struct packet *packet)
{
	struct bpf_redir_neigh next_hop = { .nh_family = AF_INET };
	struct bpf_fib_lookup fib = {};
	bool known_next_hop = false;
	struct uplink *uplink = NULL;
	__u32 target = 0;
	int result;

	result = route(skb, &fib, packet->protocol, &packet->source, &packet->destination);
	if (route_found(result)) {
		target = fib.ifindex;
		uplink = bpf_map_lookup_elem(&uplinks, &target);
		known_next_hop = fib.family == AF_INET;
		next_hop.ipv4_nh = fib.ipv4_dst;
	} else if (result < 0 || result == BPF_FIB_LKUP_RET_FWD_DISABLED ||
		   result == BPF_FIB_LKUP_RET_UNSUPP_LWT) {
		// Out of the interface whose address the forwarder chose as source.
		struct local *from = bpf_map_lookup_elem(&locals, &packet->source);

		if (from) {
			target = from->if_index;
			uplink = bpf_map_lookup_elem(&uplinks, &target);
		}
		if (!uplink) {
			target = s->default_uplink;
			uplink = bpf_map_lookup_elem(&uplinks, &target);
		}
	}
	if (!uplink)
		return drop(NO_EGRESS);
	if (!uplink->ethernet) {
		count(DELIVERED_UPLINK);
		return bpf_redirect(target, 0);
	}
	if (!push_ethernet(skb, NULL, NULL)) // bpf_redirect_neigh() fills in both addresses
		return drop(NO_EGRESS);
	count(DELIVERED_UPLINK);
	if (known_next_hop)
		return bpf_redirect_neigh(target, &next_hop, sizeof(next_hop), 0);
	return bpf_redirect_neigh(target, NULL, 0, 0);
}

SEC("classifier/tun")
int tb_tun(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct packet packet = {};
	struct endpoint *to;
	struct local *local;

	if (!s || skb->protocol != bpf_htons(ETH_P_IP) || !parse_ipv4(skb, &packet) ||
	    is_group(&packet.destination) || is_unspecified(&packet.destination))
		return drop(TUN_MALFORMED);
	to = bpf_map_lookup_elem(&endpoints, &packet.destination);
	if (to)
		return deliver_container(skb, to);
	local = bpf_map_lookup_elem(&locals, &packet.destination);
	if (local || is_loopback(&packet.destination))
		return deliver_host(skb, s, &packet, local);
	if (subnet_of(&packet.destination))
		return drop(NO_ENDPOINT);
	return deliver_uplink(skb, s, &packet);
}
