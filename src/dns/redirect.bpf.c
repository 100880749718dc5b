// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Containers ask 127.0.0.11:53, and the resolver listens there at another port, so that a program
// in the container can have every address's port 53 (`*:53`) for itself. This program, at the
// egress of the container's lo, changes the one port number that differs:
//
//	query:  x:y -> 127.0.0.11:53      becomes  x:y -> 127.0.0.11:port
//	reply:  127.0.0.11:port -> x:y    becomes  127.0.0.11:53 -> x:y
//
// Both directions leave through lo, so one program sees both. It keeps no state: sockets do.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define RESOLVER bpf_htonl(0x7f00000b)
#define DNS bpf_htons(53)
#define FRAGMENT_MASK bpf_htons(0x3fff)

// Where the resolver listens, in network order; the loader sets it before the program is verified.
const volatile __be16 port = 0;

SEC("classifier/tb_dns_redirect")
int tb_dns_redirect(struct __sk_buff *skb)
{
	struct iphdr ip;
	struct {
		__be16 source;
		__be16 destination;
	} ports;
	__u32 transport, checksum, field;
	__u64 flags = sizeof(__be16);
	__be16 old, new;

	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return TC_ACT_UNSPEC;
	if (ip.daddr != RESOLVER && ip.saddr != RESOLVER)
		return TC_ACT_UNSPEC;
	// A fragment's checksum is not all here. lo's MTU is above that of any DNS message.
	if (ip.frag_off & FRAGMENT_MASK)
		return TC_ACT_UNSPEC;

	transport = ETH_HLEN + ip.ihl * 4;
	if (ip.protocol == IPPROTO_UDP) {
		checksum = transport + offsetof(struct udphdr, check);
		// No checksum stays none, and a sum of zero is written as 0xffff.
		flags |= BPF_F_MARK_MANGLED_0;
	} else if (ip.protocol == IPPROTO_TCP) {
		checksum = transport + offsetof(struct tcphdr, check);
	} else {
		return TC_ACT_UNSPEC;
	}
	if (bpf_skb_load_bytes(skb, transport, &ports, sizeof(ports)))
		return TC_ACT_UNSPEC;

	if (ip.daddr == RESOLVER && ports.destination == DNS) {
		field = transport + sizeof(__be16);
		old = DNS;
		new = port;
	} else if (ip.saddr == RESOLVER && ports.source == port) {
		field = transport;
		old = port;
		new = DNS;
	} else {
		return TC_ACT_UNSPEC;
	}
	// The checksum first: storing marks the packet as changed behind its back.
	if (bpf_l4_csum_replace(skb, checksum, old, new, flags) == 0)
		bpf_skb_store_bytes(skb, field, &new, sizeof(new), 0);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
