// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Reading packets, and telling whose they are. Nothing here changes a packet or decides its fate.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"

#define IP_OFFSET_MASK 0x1fff
#define IP_MORE_FRAGMENTS 0x2000
#define ICMP_HEADER_LENGTH 8

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

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

// ---------------------------------------------------------------------------------------------
// Reading packets.

struct packet {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port; // for an ICMP query or reply: the identifier
	__u16 transport;         // offset of the transport header from the network header
	__u8 protocol;
	__u8 icmp_type;
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

static __always_inline bool parse_ipv4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;
	__u8 head[8];

	if (!load(skb, 0, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	packet->source = ipv4(ip.saddr);
	packet->destination = ipv4(ip.daddr);
	packet->protocol = ip.protocol;
	packet->transport = ip.ihl * 4;
	packet->fragment = ip.frag_off & bpf_htons(IP_OFFSET_MASK | IP_MORE_FRAGMENTS);
	packet->has_ports = false;
	if (ip.frag_off & bpf_htons(IP_OFFSET_MASK) || !load(skb, packet->transport, head, sizeof(head)))
		return true;
	switch (ip.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		__builtin_memcpy(&packet->source_port, head, 2);
		__builtin_memcpy(&packet->destination_port, head + 2, 2);
		packet->has_ports = true;
		break;
	case IPPROTO_ICMP:
		packet->icmp_type = head[0];
		__builtin_memcpy(&packet->destination_port, head + 4, 2);
		packet->source_port = packet->destination_port;
		packet->has_ports = true;
		break;
	}
	return true;
}

// ---------------------------------------------------------------------------------------------
// Whose is it?

static __always_inline struct settings *get_settings(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline bool is_local(const struct address *address)
{
	return is_loopback(address) || bpf_map_lookup_elem(&locals, address);
}

static __always_inline struct subnet *subnet_of(const struct address *address)
{
	struct prefix prefix = { .length = 128, .address = *address };
	return bpf_map_lookup_elem(&subnets, &prefix);
}

static __always_inline bool is_published(__u8 protocol, const struct address *address, __be16 port)
{
	struct published_port key = { .address = *address, .port = port, .protocol = protocol };

	if (bpf_map_lookup_elem(&published, &key))
		return true;
	key.address.word[3] = 0;
	if (!is_ipv4(address))
		key.address.word[0] = key.address.word[1] = key.address.word[2] = 0;
	return bpf_map_lookup_elem(&published, &key);
}

static __always_inline bool is_external_port(__u8 protocol, __be16 port)
{
	__u32 family = protocol == IPPROTO_ICMP ? 0 : protocol == IPPROTO_TCP ? 1 : 2;
	__u32 bit = family * 65536 + bpf_ntohs(port);
	__u32 index = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&external_ports, &index);

	return word && (*(volatile __u64 *)word >> (bit % 64)) & 1;
}

// Does a socket of the host want what `remote` sends to `local`? Connected sockets match their
// peer only; listeners and unconnected UDP sockets match everybody (nat.md S2: the port shadow).
static __always_inline bool host_socket(struct __sk_buff *skb, __u8 protocol,
					const struct address *remote, __be16 remote_port,
					const struct address *local, __be16 local_port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;

	tuple.ipv4.saddr = remote->word[3];
	tuple.ipv4.sport = remote_port;
	tuple.ipv4.daddr = local->word[3];
	tuple.ipv4.dport = local_port;
	if (protocol == IPPROTO_TCP) {
		socket = bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return false;
		bpf_sk_release(socket);
	} else if (protocol == IPPROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return false;
		bpf_sk_release(socket);
	} else {
		return false; // ping sockets cannot be looked up; the forwarder sorts by remote address
	}
	count(HOST_SOCKET_WON);
	return true;
}

// Is `port` of the host's address `local` the forwarder's, as far as `remote` is concerned?
static __always_inline bool port_is_ours(struct __sk_buff *skb, __u8 protocol,
					 const struct address *remote, __be16 remote_port,
					 const struct address *local, __be16 port)
{
	if (protocol != IPPROTO_ICMP && is_published(protocol, local, port))
		return true;
	return is_external_port(protocol, port) &&
	       !host_socket(skb, protocol, remote, remote_port, local, port);
}

// An ICMP error quotes the packet it is about. It is ours if that packet was: sent from the local
// address that the error came to, with a port (or identifier) of ours.
static __always_inline bool error_is_ours(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 quoted = packet->transport + ICMP_HEADER_LENGTH;
	struct address source, destination;
	struct iphdr ip;
	__be16 word[4];

	if (!load(skb, quoted, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	source = ipv4(ip.saddr);
	destination = ipv4(ip.daddr);
	if (!same_address(&source, &packet->destination) ||
	    ip.frag_off & bpf_htons(IP_OFFSET_MASK) ||
	    !load(skb, quoted + ip.ihl * 4, word, sizeof(word))) // RFC 792: at least 64 bits
		return false;
	switch (ip.protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return port_is_ours(skb, ip.protocol, &destination, word[1], &source, word[0]);
	case IPPROTO_ICMP:
		return is_external_port(IPPROTO_ICMP, word[2]);
	}
	return false;
}

// Is this packet, addressed to the host, for the forwarder?
static __always_inline bool is_ours(struct __sk_buff *skb, const struct packet *packet)
{
	switch (packet->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		// Only who sees all fragments can tell where the later ones belong.
		if (packet->fragment)
			return true;
		return packet->has_ports &&
		       port_is_ours(skb, packet->protocol, &packet->source, packet->source_port,
				    &packet->destination, packet->destination_port);
	case IPPROTO_ICMP:
		if (packet->fragment)
			return true;
		if (!packet->has_ports)
			return false;
		switch (packet->icmp_type) {
		case ICMP_ECHOREPLY:
		case ICMP_TIMESTAMPREPLY:
		case ICMP_INFO_REPLY:
		case ICMP_ADDRESSREPLY:
			return is_external_port(IPPROTO_ICMP, packet->destination_port);
		case ICMP_DEST_UNREACH:
		case ICMP_SOURCE_QUENCH:
		case ICMP_TIME_EXCEEDED:
		case ICMP_PARAMETERPROB:
			return error_is_ours(skb, packet);
		}
	}
	return false;
}
