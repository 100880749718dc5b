// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Reading packets: addresses and ports, whatever options or extension headers come before them.
// Nothing here changes a packet or decides its fate.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"

#define IP_OFFSET_MASK 0x1fff
#define IP_MORE_FRAGMENTS 0x2000
#define ICMP_HEADER_LENGTH 8
#define IPV6_OFFSET_MASK 0xfff8
#define IPV6_MORE_FRAGMENTS 0x0001

// Hardly any packet has more than two, and who walks a longer chain can be made to walk for ever.
#define MOST_EXTENSION_HEADERS 8

// <linux/icmp.h> has these, but it drags in the C library's headers.
enum icmp_type {
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_SOURCE_QUENCH = 4,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
	ICMP_TIMESTAMPREPLY = 14,
	ICMP_INFO_REPLY = 16,
	ICMP_ADDRESSREPLY = 18,
};

// RFC 4443, 2710, 3810, 4861.
enum icmpv6_type {
	ICMPV6_DEST_UNREACH = 1,
	ICMPV6_PARAMPROB = 4,
	ICMPV6_ECHO_REPLY = 129,
	MLD_REPORT = 131,
	MLD_DONE = 132,
	ND_ROUTER_SOLICITATION = 133,
	ND_ROUTER_ADVERTISEMENT = 134,
	ND_NEIGHBOUR_SOLICITATION = 135,
	ND_NEIGHBOUR_ADVERTISEMENT = 136,
	ND_REDIRECT = 137,
	MLD2_REPORT = 143,
};

struct packet {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port; // for an ICMP query or reply: the identifier
	__u32 transport;         // offset of the transport header from the network header
	__u32 end;               // IPv6: where its header says that the packet ends
	__u8 protocol;           // IPv6: the one behind the extension headers
	__u8 icmp_type;
	__u8 hop_limit; // IPv6
	bool fragment;
	bool has_ports; // false if the transport header is cut short, or in another fragment
};

static __always_inline struct address ipv4(__be32 address)
{
	struct address mapped = { { 0, 0, bpf_htonl(0xffff), address } };
	return mapped;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		(a[5] ^ b[5])) == 0;
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
	return ((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) |
		(a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3])) == 0;
}

static __always_inline bool is_ipv4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_loopback(const struct address *a)
{
	if (is_ipv4(a))
		return (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

// 0.0.0.0/8 or ::, never the address of anybody.
static __always_inline bool is_unspecified(const struct address *a)
{
	if (is_ipv4(a))
		return !(a->word[3] & bpf_htonl(0xff000000));
	return !a->word[0] && !a->word[1] && !a->word[2] && !a->word[3];
}

// Multicast or limited broadcast. Subnet broadcast addresses are not known here; nothing depends
// on it, because they are neither local addresses nor endpoints.
static __always_inline bool is_group(const struct address *a)
{
	if (is_ipv4(a))
		return (a->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       a->word[3] == 0xffffffff;
	return (a->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

// Copies bytes at `offset` from the network header. The helper reads the linear part of the skb
// only; headers that arrive in page fragments (some drivers, some senders) are pulled in first.
static __always_inline bool load(struct __sk_buff *skb, __u32 offset, void *to, __u32 length)
{
	if (!bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET))
		return true;
	if (bpf_skb_pull_data(skb, skb->len < 256 ? skb->len : 256))
		return false;
	return !bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET);
}

// `icmp`: the number of ICMP in the packet's family; the other family's is a protocol without ports.
static __always_inline void read_ports(struct packet *packet, const __u8 *head, __u8 icmp)
{
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP) {
		__builtin_memcpy(&packet->source_port, head, 2);
		__builtin_memcpy(&packet->destination_port, head + 2, 2);
		packet->has_ports = true;
	} else if (packet->protocol == icmp) {
		packet->icmp_type = head[0];
		__builtin_memcpy(&packet->destination_port, head + 4, 2);
		packet->source_port = packet->destination_port;
		packet->has_ports = true;
	}
}

// Reads the packet whose header is at `at`: 0, or where an ICMP error quotes one.
static __always_inline bool parse_ipv4(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
	struct iphdr ip;
	__u8 head[8];

	if (!load(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	packet->source = ipv4(ip.saddr);
	packet->destination = ipv4(ip.daddr);
	packet->protocol = ip.protocol;
	packet->transport = at + ip.ihl * 4;
	packet->fragment = ip.frag_off & bpf_htons(IP_OFFSET_MASK | IP_MORE_FRAGMENTS);
	packet->has_ports = false;
	if (!(ip.frag_off & bpf_htons(IP_OFFSET_MASK)) &&
	    load(skb, packet->transport, head, sizeof(head)))
		read_ports(packet, head, IPPROTO_ICMP);
	return true;
}

static __always_inline bool is_extension_header(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_DSTOPTS ||
	       protocol == IPPROTO_AH;
}

// Finds the transport header (RFC 8200 section 4). `later` is set in a fragment that is not the
// first: what it begins with is no header. False if the chain is cut short or too long.
static __always_inline bool skip_extension_headers(struct __sk_buff *skb, struct packet *packet,
						   bool *later)
{
	__u8 head[8]; // next header, length, and of a fragment header the offset

#pragma clang loop unroll(disable)
	for (int i = 0; i < MOST_EXTENSION_HEADERS; i++) {
		__u8 kind = packet->protocol;

		if (!is_extension_header(kind))
			return true;
		if (packet->transport + sizeof(head) > packet->end ||
		    !load(skb, packet->transport, head, sizeof(head)))
			return false;
		packet->protocol = head[0];
		if (kind == IPPROTO_FRAGMENT) {
			__be16 offset;

			__builtin_memcpy(&offset, head + 2, sizeof(offset));
			packet->transport += sizeof(head);
			if (offset & bpf_htons(IPV6_OFFSET_MASK | IPV6_MORE_FRAGMENTS))
				packet->fragment = true; // and not just "atomic" (RFC 6946)
			if (offset & bpf_htons(IPV6_OFFSET_MASK)) {
				*later = true;
				return true;
			}
		} else if (kind == IPPROTO_AH) { // RFC 4302 section 2.2
			packet->transport += (head[1] + 2) * 4;
		} else {
			packet->transport += (head[1] + 1) * 8;
		}
	}
	return !is_extension_header(packet->protocol);
}

// A function of its own, as it is long, and most packets that are judged are no ICMP errors.
static __noinline bool parse_ipv6(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
	bool later = false;
	struct ipv6hdr ip;
	__u8 head[8];

	if (!load(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(&packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip.daddr, sizeof(packet->destination));
	// On the wire these are nobody's (nat.md S14); here they would be taken for IPv4.
	if (is_ipv4(&packet->source) || is_ipv4(&packet->destination))
		return false;
	packet->protocol = ip.nexthdr;
	packet->hop_limit = ip.hop_limit;
	packet->transport = at + sizeof(ip);
	// No length: a jumbogram (RFC 2675), or a super-packet too long for the field.
	packet->end = ip.payload_len ? packet->transport + bpf_ntohs(ip.payload_len) : skb->len;
	packet->fragment = false;
	packet->has_ports = false;
	if (!skip_extension_headers(skb, packet, &later))
		return false;
	if (later)
		return true;
	// The first fragment holds all headers (RFC 7112), or what follows could be anything.
	if (packet->transport + sizeof(head) > packet->end ||
	    !load(skb, packet->transport, head, sizeof(head)))
		return !packet->fragment;
	read_ports(packet, head, IPPROTO_ICMPV6);
	return true;
}

static __always_inline bool parse(struct __sk_buff *skb, struct packet *packet)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return parse_ipv4(skb, 0, packet);
	case bpf_htons(ETH_P_IPV6):
		return parse_ipv6(skb, 0, packet);
	}
	return false;
}

// Addresses and protocol only, which is all that matters to a packet from the forwarder.
static __always_inline bool parse_addresses(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (!load(skb, 0, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return false;
		packet->source = ipv4(ip.saddr);
		packet->destination = ipv4(ip.daddr);
		packet->protocol = ip.protocol;
		return true;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (!load(skb, 0, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(&packet->source, &ip.saddr, sizeof(packet->source));
		__builtin_memcpy(&packet->destination, &ip.daddr, sizeof(packet->destination));
		packet->protocol = ip.nexthdr;
		return !is_ipv4(&packet->source) && !is_ipv4(&packet->destination);
	}
	return false;
}
