// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// IPv6 Neighbour Discovery (RFC 4861) of containers: who may say what, and who hears it.
//
//   router advertisement, redirect   dropped: a container is no router (nat.md S12, CVE-2020-13401)
//   router solicitation              heard by the host alone
//   neighbour solicitation           any address may be asked for, and who has it hears the question,
//                                    alone, if it is the host or a container; :: asks for its own only
//                                    (duplicate address detection)
//   neighbour advertisement          of its own addresses only
//
// Whatever link-layer address a message carries must be the sender's own. What comes from further
// away than the link (hop limit below 255), or in fragments (RFC 6980), is nobody's.
//
// Neighbours' messages go straight from namespace to namespace: the FORWARD chain of
// bridge-nf-call-ip6tables=1, which most firewalls let drop what they do not know, would lose them.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"
#include "owner.bpf.h"
#include "packet.bpf.h"
#include "verdict.bpf.h"

#define ND_HOP_LIMIT 255
#define ND_SOURCE_LINK_LAYER 1
#define ND_TARGET_LINK_LAYER 2
#define MOST_ND_OPTIONS 8

// Of solicitations and advertisements of neighbours; options follow.
struct nd_message {
	__u8 type, code;
	__be16 checksum;
	__be32 flags;
	struct address target;
};

static __always_inline bool is_discovery(const struct packet *packet)
{
	return packet->protocol == IPPROTO_ICMPV6 && packet->has_ports &&
	       packet->icmp_type >= ND_ROUTER_SOLICITATION && packet->icmp_type <= ND_REDIRECT;
}

// Do the options from `offset` on make sense, and give no MAC address but `mac`?
static __noinline bool options_are_true(struct __sk_buff *skb, __u32 offset, __u32 end,
					     const __u8 *mac)
{
	struct {
		__u8 type, length; // in units of eight octets
		__u8 mac[ETH_ALEN];
	} option;

	if (offset > end)
		return false;
#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_ND_OPTIONS; i++) {
		if (offset == end)
			return true;
		if (offset + sizeof(option) > end || !load(skb, offset, &option, sizeof(option)) ||
		    !option.length)
			return false;
		if ((option.type == ND_SOURCE_LINK_LAYER || option.type == ND_TARGET_LINK_LAYER) &&
		    (option.length != 1 || !same_mac(option.mac, mac)))
			return false;
		offset += option.length * 8;
	}
	return offset == end;
}

// A question for `target`, to its solicited-node group: to nobody but who has that address.
static __noinline int solicit(struct __sk_buff *skb, const struct endpoint *from,
				   const struct address *target)
{
	const struct endpoint *to;

	if (bpf_map_lookup_elem(&locals, target))
		return to_host(from);
	to = neighbour_at(from, target);
	if (!to || to->veth == from->veth)
		return to_group(from);
	return may_meet(from, to) ? to_peer(skb, to) : drop(ICC_DROP);
}

static __always_inline int container_discovery(struct __sk_buff *skb, const struct endpoint *from,
					       const __u8 *target_mac, const struct packet *packet)
{
	const struct address *destination = &packet->destination;
	bool probe = is_unspecified(&packet->source);
	struct nd_message message = {};
	const struct endpoint *to;
	bool host;

	if (packet->icmp_type == ND_ROUTER_ADVERTISEMENT || packet->icmp_type == ND_REDIRECT)
		return drop(ROGUE_RA);
	if (!probe && !is_own(from, &packet->source))
		return drop(SPOOF_IP);
	if (packet->fragment || packet->hop_limit != ND_HOP_LIMIT)
		return drop(SPOOF_ND);
	if (packet->icmp_type == ND_ROUTER_SOLICITATION) {
		if (!options_are_true(skb, packet->transport + ICMP_HEADER_LENGTH, packet->end,
				      from->mac))
			return drop(SPOOF_ND);
		return to_host(from);
	}
	if (!load(skb, packet->transport, &message, sizeof(message)) ||
	    !options_are_true(skb, packet->transport + sizeof(message), packet->end, from->mac))
		return drop(SPOOF_ND);
	if (packet->icmp_type == ND_NEIGHBOUR_SOLICITATION) {
		if (probe && (!is_group(destination) || !is_own(from, &message.target)))
			return drop(SPOOF_ND);
		if (is_group(destination))
			return solicit(skb, from, &message.target);
	} else if (probe || !is_own(from, &message.target)) {
		return drop(SPOOF_ND);
	}

	if (target_mac[0] & 1)
		return to_group(from);
	to = neighbour_at(from, destination);
	if (to && same_mac(to->mac, target_mac))
		return may_meet(from, to) ? to_peer(skb, to) : drop(ICC_DROP);
	host = same_mac(target_mac, from->bridge_mac);
	if (!host && !(from->flags & ENDPOINT_ICC))
		return drop(ICC_DROP);
	// The host would route what is not its own. Its link-local addresses need not all be known here.
	if ((host || bpf_map_lookup_elem(&local_macs, target_mac)) &&
	    (to || !(is_link_local(destination) || is_group(destination) ||
		     bpf_map_lookup_elem(&locals, destination))))
		return drop(SPOOF_ND);
	return LEAVE;
}
