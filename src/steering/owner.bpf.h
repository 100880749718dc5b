// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Telling whose a packet is: the forwarder's, the host's, a container's.

#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.bpf.h"
#include "packet.bpf.h"
#include "verdict.bpf.h"

// A container's link-local address: fe80::/64 and its MAC address as an EUI-64 (RFC 4291 appendix A).
static __always_inline struct address link_local_of(const __u8 *mac)
{
	struct address address = { { bpf_htonl(0xfe800000) } };
	__u8 *octets = (__u8 *)&address;

	octets[8] = mac[0] ^ 2;
	octets[9] = mac[1];
	octets[10] = mac[2];
	octets[11] = 0xff;
	octets[12] = 0xfe;
	octets[13] = mac[3];
	octets[14] = mac[4];
	octets[15] = mac[5];
	return address;
}

// The other way round; false if it is not made of a MAC address.
static __always_inline bool mac_of_link_local(const struct address *address, __u8 *mac)
{
	const __u8 *octets = (const __u8 *)address;
	struct address again;

	mac[0] = octets[8] ^ 2;
	mac[1] = octets[9];
	mac[2] = octets[10];
	mac[3] = octets[13];
	mac[4] = octets[14];
	mac[5] = octets[15];
	again = link_local_of(mac);
	return same_address(address, &again);
}

// An address that the sender has on this very interface.
static __noinline bool is_own(const struct endpoint *from, const struct address *address)
{
	struct address link_local;

	if (is_unspecified(address))
		return false;
	if (is_ipv4(address))
		return same_address(address, &from->ipv4);
	if (same_address(address, &from->ipv6))
		return true;
	link_local = link_local_of(from->mac);
	return same_address(address, &link_local);
}

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
	__u32 section = protocol == IPPROTO_TCP ? 1 : protocol == IPPROTO_UDP ? 2 : 0;
	__u32 bit = section * 65536 + bpf_ntohs(port);
	__u32 index = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&external_ports, &index);

	return word && (*(volatile __u64 *)word >> (bit % 64)) & 1;
}

// Does a socket of the host want what `remote` sends to `local`? Connected sockets match their
// peer only; listeners and unconnected UDP sockets match everybody (nat.md S2: the port shadow). A
// socket at :: that takes IPv4, too, is found for either.
static __always_inline bool host_socket(struct __sk_buff *skb, __u8 protocol,
					const struct address *remote, __be16 remote_port,
					const struct address *local, __be16 local_port)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 size;

	if (is_ipv4(local)) {
		tuple.ipv4.saddr = remote->word[3];
		tuple.ipv4.sport = remote_port;
		tuple.ipv4.daddr = local->word[3];
		tuple.ipv4.dport = local_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, remote, sizeof(*remote));
		tuple.ipv6.sport = remote_port;
		__builtin_memcpy(tuple.ipv6.daddr, local, sizeof(*local));
		tuple.ipv6.dport = local_port;
		size = sizeof(tuple.ipv6);
	}
	if (protocol == IPPROTO_TCP) {
		socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
		if (!socket)
			return false;
		bpf_sk_release(socket);
	} else if (protocol == IPPROTO_UDP) {
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
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
	if (is_published(protocol, local, port))
		return true;
	return is_external_port(protocol, port) &&
	       !host_socket(skb, protocol, remote, remote_port, local, port);
}

// An ICMP error quotes the packet it is about. It is ours if that packet was: sent from the local
// address that the error came to, with a port (or identifier) of ours.
static __noinline bool error_is_ours(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 at = packet->transport + ICMP_HEADER_LENGTH;
	struct packet quoted = {};

	if (packet->protocol == IPPROTO_ICMP ? !parse_ipv4(skb, at, &quoted) :
					       !parse_ipv6(skb, at, &quoted))
		return false;
	// RFC 792: the error quotes at least 64 bits of the transport header; RFC 4443: all it can.
	if (!quoted.has_ports || !same_address(&quoted.source, &packet->destination))
		return false;
	if (quoted.protocol == IPPROTO_TCP || quoted.protocol == IPPROTO_UDP)
		return port_is_ours(skb, quoted.protocol, &quoted.destination,
				    quoted.destination_port, &quoted.source, quoted.source_port);
	return is_external_port(quoted.protocol, quoted.destination_port);
}

// Is this packet, addressed to the host, for the forwarder?
static __noinline bool is_ours(struct __sk_buff *skb, const struct packet *packet)
{
	// Only who sees all fragments can tell where the later ones belong.
	if (packet->fragment)
		return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ||
		       (is_ipv4(&packet->destination) ?
				packet->protocol == IPPROTO_ICMP :
				packet->protocol == IPPROTO_ICMPV6 ||
					is_extension_header(packet->protocol));
	if (!packet->has_ports)
		return false;
	switch (packet->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		return port_is_ours(skb, packet->protocol, &packet->source, packet->source_port,
				    &packet->destination, packet->destination_port);
	case IPPROTO_ICMP:
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
		return false;
	case IPPROTO_ICMPV6:
		if (packet->icmp_type == ICMPV6_ECHO_REPLY)
			return is_external_port(IPPROTO_ICMPV6, packet->destination_port);
		return packet->icmp_type >= ICMPV6_DEST_UNREACH &&
		       packet->icmp_type <= ICMPV6_PARAMPROB && error_is_ours(skb, packet);
	}
	return false;
}

// Whose address is it: the sender's own, or one of its container on another network? A container
// answers on the interface that its routing table names, whichever it was called on. No address of
// an internal network leaves it that way, and none comes in.
static __always_inline const struct endpoint *speaker(const struct endpoint *from,
						      const struct address *source)
{
	const struct endpoint *other;

	if (is_own(from, source))
		return from;
	if (!from->container)
		return NULL;
	other = bpf_map_lookup_elem(&endpoints, source);
	if (!other || other->container != from->container ||
	    (other->flags | from->flags) & ENDPOINT_INTERNAL)
		return NULL;
	return other;
}

// The container on the sender's bridge that has this address.
static __noinline const struct endpoint *neighbour_at(const struct endpoint *from,
							   const struct address *address)
{
	struct neighbour key = { .bridge = from->bridge };
	const struct endpoint *to;
	__u32 *veth, if_index;

	if (is_link_local(address)) {
		if (!mac_of_link_local(address, key.mac))
			return NULL;
		veth = bpf_map_lookup_elem(&neighbours, &key);
		if (!veth)
			return NULL;
		if_index = *veth;
		to = bpf_map_lookup_elem(&containers, &if_index);
	} else {
		to = bpf_map_lookup_elem(&endpoints, address);
	}
	return to && to->bridge == from->bridge ? to : NULL;
}
