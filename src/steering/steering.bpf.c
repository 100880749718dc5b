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

#include "discovery.bpf.h"
#include "maps.bpf.h"
#include "owner.bpf.h"
#include "packet.bpf.h"
#include "verdict.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define AF_INET 2
#define AF_INET6 10

// Marks a packet that tb_tun gives to an uplink's ingress, so that tb_uplink does not divert it
// again. Only ever seen between these two programs.
#define MARK_RETURNED 0x74627265

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

// What its MAC address says is for the host. A bridge gives its host what is sent to the MACs of its
// ports, too, and the host would route what is not its own.
static __always_inline int container_to_host(struct __sk_buff *skb, const struct endpoint *from,
					     const struct settings *s, bool gateway,
					     const struct packet *packet)
{
	const struct address *destination = &packet->destination;
	bool local = bpf_map_lookup_elem(&locals, destination);
	bool link_local = is_link_local(destination);

	if (!is_group(destination) && !link_local) {
		if (is_link_local(&packet->source)) {
			if (!local)
				return drop(MARTIAN_CONTAINER);
		} else if (!local || is_ours(skb, packet)) {
			return to_forwarder(s, DIVERTED_CONTAINER);
		}
	}
	// What is the host's elsewhere is nobody's here: the bridge gives it to all ports. And a
	// link-local address that is not the host's could be a neighbour's.
	if (!(from->flags & ENDPOINT_ICC) &&
	    (!gateway || (link_local && !local)))
		return drop(ICC_DROP);
	return LEAVE;
}

static __always_inline int container_ip(struct __sk_buff *skb, const struct endpoint *from,
					const __u8 *target_mac, const struct packet *packet)
{
	const struct address *destination = &packet->destination;
	const struct endpoint *source = speaker(from, &packet->source);
	struct settings *s = get_settings();
	const struct endpoint *to = NULL;
	bool gateway, on_link, neighbour = false;

	if (!source)
		return drop(SPOOF_IP);
	if (!s || is_loopback(destination) || is_unspecified(destination))
		return drop(MARTIAN_CONTAINER);
	if (from->flags & ENDPOINT_INTERNAL && !is_group(destination) &&
	    !is_link_local(destination)) {
		struct subnet *subnet = subnet_of(destination);

		if (!subnet || subnet->bridge != from->bridge)
			return drop(INTERNAL_DROP);
	}

	gateway = same_mac(target_mac, from->bridge_mac);
	if (!gateway) {
		to = neighbour_at(from, destination);
		neighbour = to && same_mac(to->mac, target_mac);
	}
	if (gateway || (!neighbour && bpf_map_lookup_elem(&local_macs, target_mac)))
		return container_to_host(skb, from, s, gateway, packet);
	// Link-local addresses mean something on their link only, so not to the forwarder.
	on_link = is_link_local(&packet->source) || is_link_local(destination);
	if (source != from && (target_mac[0] & 1 || on_link))
		return drop(SPOOF_IP);
	if (target_mac[0] & 1) // broadcast or multicast
		return to_group(from);
	if (source != from) // an answer, maybe, to what came by way of the other network
		return to_forwarder(s, DIVERTED_CONTAINER);
	if (!(from->flags & ENDPOINT_ICC)) {
		if (!to || on_link || !may_meet(from, to))
			return drop(ICC_DROP);
		return to_forwarder(s, DIVERTED_CONTAINER);
	}
	return neighbour ? to_peer(skb, to) : LEAVE;
}

// Before it has an address, a container may join a group (RFC 3590).
static __always_inline bool is_group_report(const struct packet *packet)
{
	return is_unspecified(&packet->source) && is_group(&packet->destination) &&
	       packet->protocol == IPPROTO_ICMPV6 && packet->has_ports &&
	       (packet->icmp_type == MLD2_REPORT || packet->icmp_type == MLD_REPORT ||
		packet->icmp_type == MLD_DONE);
}

// Ethernet, IPv4 and UDP: the least that a frame has in front of its payload.
#define LEAST_HEADERS 42

// What a packet takes on a link. A super-packet has its headers once and becomes a frame per `gso_size`, which may be
// a single octet if its sender wants to be small here and large there.
static __always_inline __u64 octets_on_link(struct __sk_buff *skb)
{
	__u64 octets = skb->len;

	if (skb->gso_size && octets > LEAST_HEADERS)
		octets += (octets - LEAST_HEADERS - 1) / skb->gso_size * LEAST_HEADERS;
	return octets;
}

// Whether a container may send this now. If two processors find the bucket full within the same few nanoseconds, one
// packet may cost nothing: the price of having no lock.
static __always_inline bool within_rate(struct __sk_buff *skb, __u32 veth)
{
	struct policer *policer = bpf_map_lookup_elem(&policers, &veth);
	__u64 now, full_at, cost;

	if (!policer || !policer->rate)
		return true;
	now = bpf_ktime_get_ns();
	cost = octets_on_link(skb) * 1000000000 / policer->rate;
	full_at = *(volatile __u64 *)&policer->full_at;
	if (full_at < now) {
		full_at = now;
		*(volatile __u64 *)&policer->full_at = now;
	}
	if (full_at - now + cost > policer->burst)
		return false;
	__sync_fetch_and_add(&policer->full_at, cost);
	return true;
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
	if (from->flags & ENDPOINT_POLICED && !within_rate(skb, if_index))
		return drop(RATE_EXCEEDED);
	switch (ethernet.h_proto) {
	case bpf_htons(ETH_P_IP):
		if (!parse_ipv4(skb, 0, &packet))
			return drop(MALFORMED);
		break;
	case bpf_htons(ETH_P_ARP):
		return container_arp(skb, from);
	case bpf_htons(ETH_P_IPV6):
		if (!(from->flags & ENDPOINT_IPV6))
			return drop(IPV6_DISABLED);
		if (!parse_ipv6(skb, 0, &packet))
			return drop(MALFORMED);
		if (is_discovery(&packet))
			return container_discovery(skb, from, ethernet.h_dest, &packet);
		if (is_group_report(&packet) && ethernet.h_dest[0] & 1)
			return to_group(from);
		break;
	default:
		return drop(OTHER_ETHERTYPE);
	}
	return container_ip(skb, from, ethernet.h_dest, &packet);
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

// What parse() refuses, a chain of headers that is too long for one, a router passes on all the same.
static __always_inline int not_understood(struct __sk_buff *skb, const struct address *destination)
{
	struct subnet *subnet;

	if (bpf_map_lookup_elem(&locals, destination))
		return LEAVE;
	subnet = subnet_of(destination);
	return subnet && subnet->bridge != skb->ifindex ? drop(DIRECT_ACCESS) : LEAVE;
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
	if (!s || !s->tun || skb->pkt_type != PACKET_HOST)
		return LEAVE;
	if (skb->vlan_present) {
		// Belongs to a VLAN interface, which has its own program; VLAN 0 is a mere priority tag.
		if (skb->vlan_tci & 0xfff)
			return LEAVE;
		bpf_skb_vlan_pop(skb);
	}
	if (!parse(skb, &packet) || is_discovery(&packet))
		return not_understood(skb, &packet.destination);
	// 127/8 on the wire is the kernel's to refuse: a port published on 127.0.0.1 stays private.
	// What is link-local concerns the host alone.
	if (is_loopback(&packet.destination) || is_link_local(&packet.destination) ||
	    is_link_local(&packet.source))
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
		return to_forwarder(s, DIVERTED_UPLINK);
	}
	if (!is_ours(skb, &packet))
		return LEAVE;
	// A gateway address belongs to the containers' side; from here it is a plain host address.
	subnet = subnet_of(&packet.destination);
	if (subnet && subnet->bridge != skb->ifindex)
		return LEAVE;
	if (is_martian(skb, &packet.source))
		return packet.fragment ? LEAVE : drop(MARTIAN_UPLINK);
	return to_forwarder(s, DIVERTED_UPLINK);
}

// ---------------------------------------------------------------------------------------------
// What the host sends to itself. What tb_tun injects enters at lo's ingress and is not seen here.

SEC("classifier/loopback")
int tb_loopback(struct __sk_buff *skb)
{
	struct settings *s = get_settings();
	struct packet packet = {};

	if (!s || !s->tun || !parse(skb, &packet) || !packet.has_ports || packet.fragment)
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
	case IPPROTO_ICMPV6:
		if (packet.icmp_type != ICMPV6_DEST_UNREACH || !error_is_ours(skb, &packet))
			return LEAVE;
		break;
	default:
		return LEAVE;
	}
	if (!is_local(&packet.source) || !is_local(&packet.destination))
		return LEAVE;
	return to_forwarder(s, DIVERTED_LOOPBACK);
}

// ---------------------------------------------------------------------------------------------
// What the forwarder hands back: sorted by destination.

// The TUN has no link-layer header, and redirecting to an Ethernet device drops a packet whose
// MAC header is not in front of its network header: so put one there.
static __always_inline bool push_ethernet(struct __sk_buff *skb, const __u8 *target,
					  const __u8 *source)
{
	struct ethhdr ethernet = { .h_proto = skb->protocol };

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
	return into(to);
}

// The kernel's routing decision for a packet from `source` to `destination`. It is refused unless
// net.ipv4.conf.<tun>.forwarding is set (net.ipv6... for IPv6), which the host-wide switch resets.
static __always_inline int route(struct __sk_buff *skb, struct bpf_fib_lookup *fib, __u8 protocol,
				 const struct address *source, const struct address *destination)
{
	fib->l4_protocol = protocol;
	fib->ifindex = skb->ifindex;
	if (is_ipv4(destination)) {
		fib->family = AF_INET;
		fib->ipv4_src = source->word[3];
		fib->ipv4_dst = destination->word[3];
	} else {
		fib->family = AF_INET6;
		__builtin_memcpy(fib->ipv6_src, source, sizeof(*source));
		__builtin_memcpy(fib->ipv6_dst, destination, sizeof(*destination));
	}
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
		return drop(TUN_MALFORMED); // to 127/8 or ::1 from elsewhere
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
	__u32 family = is_ipv4(&packet->destination) ? AF_INET : AF_INET6;
	struct bpf_redir_neigh next_hop = { .nh_family = family };
	struct bpf_fib_lookup fib = {};
	bool known_next_hop = false;
	struct uplink *uplink = NULL;
	__u32 target = 0;
	int result;

	result = route(skb, &fib, packet->protocol, &packet->source, &packet->destination);
	if (route_found(result)) {
		target = fib.ifindex;
		uplink = bpf_map_lookup_elem(&uplinks, &target);
		known_next_hop = fib.family == family;
		__builtin_memcpy(next_hop.ipv6_nh, fib.ipv6_dst, sizeof(fib.ipv6_dst));
	} else if (result < 0 || result == BPF_FIB_LKUP_RET_FWD_DISABLED ||
		   result == BPF_FIB_LKUP_RET_UNSUPP_LWT) {
		// Out of the interface whose address the forwarder chose as source.
		struct local *from = bpf_map_lookup_elem(&locals, &packet->source);

		if (from) {
			target = from->if_index;
			uplink = bpf_map_lookup_elem(&uplinks, &target);
		}
		if (!uplink) {
			target = family == AF_INET ? s->default_uplink : s->default_uplink_ipv6;
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

	if (!s || !parse_addresses(skb, &packet) || is_group(&packet.destination) ||
	    is_unspecified(&packet.destination) || is_link_local(&packet.destination))
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
