// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// What can become of a packet.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"

#define LEAVE TC_ACT_UNSPEC // run the next tc program; the kernel's default after the last one

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

static __always_inline int drop(__u32 counter)
{
	count(counter);
	return TC_ACT_SHOT;
}

static __always_inline int to_forwarder(const struct settings *s, __u32 counter)
{
	count(counter);
	return bpf_redirect(s->tun, 0);
}

// Into the host as if the bridge had carried it, past the bridge's other ports.
static __always_inline int to_host(const struct endpoint *from)
{
	return bpf_redirect(from->bridge, BPF_F_INGRESS);
}

// Multicast and broadcast of a container. Without icc only the host may hear it: a unicast IP packet
// in a broadcast frame would be accepted by the other containers.
static __always_inline int to_group(const struct endpoint *from)
{
	return from->flags & ENDPOINT_ICC ? LEAVE : to_host(from);
}

static __always_inline bool may_meet(const struct endpoint *from, const struct endpoint *to)
{
	return from->flags & ENDPOINT_ICC || from->flags & to->flags & ENDPOINT_LINKED;
}

// Into a container's namespace: straight, or, if it is not to get all that comes, through the queueing discipline
// of its veth.
static __always_inline int into(const struct endpoint *to)
{
	if (to->flags & ENDPOINT_QUEUED)
		return bpf_redirect(to->veth, 0);
	return bpf_redirect_peer(to->veth, 0);
}

// Straight into the other container's namespace. This is faster than the bridge, and the FORWARD
// chains of bridge-nf-call-iptables=1 and bridge-nf-call-ip6tables=1 never see the packet.
static __always_inline int to_peer(struct __sk_buff *skb, const struct endpoint *to)
{
	// The veth takes a frame to another MAC than its own for a stranger's, and before Linux 6.16
	// that would still be so on the other side.
	bpf_skb_change_type(skb, PACKET_HOST);
	count(PEER_REDIRECT);
	return into(to);
}
