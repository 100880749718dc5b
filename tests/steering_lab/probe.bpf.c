// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Programs that do one thing each, to ask the kernel single questions.

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

volatile const __u32 target;  // interface index
volatile const __u32 flags;   // of bpf_redirect()
volatile const __u32 address; // big-endian
volatile const __u32 address6[4];

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 2);
} seen SEC(".maps");

static __always_inline void note(__u32 index, __u32 value)
{
	bpf_map_update_elem(&seen, &index, &value, BPF_ANY);
}

static __always_inline bool push_header(struct __sk_buff *skb)
{
	__be16 type = skb->protocol;

	return !bpf_skb_change_head(skb, ETH_HLEN, 0) &&
	       !bpf_skb_store_bytes(skb, 12, &type, sizeof(type), 0);
}

SEC("classifier/redirect")
int redirect(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? bpf_redirect(target, flags) : TC_ACT_UNSPEC;
}

SEC("classifier/redirect6")
int redirect6(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) ? bpf_redirect(target, flags) : TC_ACT_UNSPEC;
}

SEC("classifier/redirect_with_header")
int redirect_with_header(struct __sk_buff *skb)
{
	skb->mark = 0x1234;
	return push_header(skb) ? bpf_redirect(target, flags) : TC_ACT_SHOT;
}

SEC("classifier/neigh_bare")
int neigh_bare(struct __sk_buff *skb)
{
	return bpf_redirect_neigh(target, NULL, 0, 0);
}

SEC("classifier/neigh_with_header")
int neigh_with_header(struct __sk_buff *skb)
{
	return push_header(skb) ? bpf_redirect_neigh(target, NULL, 0, 0) : TC_ACT_SHOT;
}

SEC("classifier/neigh6_by_way_of")
int neigh6_by_way_of(struct __sk_buff *skb)
{
	struct bpf_redir_neigh next_hop = { .nh_family = 10 }; // AF_INET6

	for (int i = 0; i < 4; i++)
		next_hop.ipv6_nh[i] = address6[i];
	return push_header(skb) ? bpf_redirect_neigh(target, &next_hop, sizeof(next_hop), 0) :
				  TC_ACT_SHOT;
}

SEC("classifier/peer")
int peer(struct __sk_buff *skb)
{
	return bpf_redirect_peer(target, 0);
}

SEC("classifier/fib")
int fib(struct __sk_buff *skb)
{
	struct bpf_fib_lookup lookup = {
		.family = 2, // AF_INET
		.ifindex = target,
		.ipv4_dst = address,
	};
	int result = bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0);

	note(0, result);
	note(1, lookup.ifindex);
	return TC_ACT_UNSPEC;
}

SEC("classifier/fib6")
int fib6(struct __sk_buff *skb)
{
	struct bpf_fib_lookup lookup = { .family = 10, .ifindex = target }; // AF_INET6
	int result;

	for (int i = 0; i < 4; i++)
		lookup.ipv6_dst[i] = address6[i];
	result = bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0);
	note(0, result);
	note(1, lookup.ifindex);
	return TC_ACT_UNSPEC;
}

SEC("classifier/note_mark")
int note_mark(struct __sk_buff *skb)
{
	if (skb->mark)
		note(0, skb->mark);
	note(1, skb->vlan_present);
	return TC_ACT_UNSPEC;
}
