//! Everything that is not a name of the container's networks.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tunbridge::dns::{Resolver, Upstream, View};

use super::message::{
    A, NOERROR, NXDOMAIN, REFUSED, SERVFAIL, answers, id, query, query_with_edns, rcode, reply,
    truncated,
};
use super::upstream::Server;
use super::{Container, Host, container, host, inside, on_a_host, view_with};

const ANY_PORT: &str = "127.0.0.1:0";

fn address(last: u8) -> Vec<(u16, Vec<u8>)> {
    vec![(A, vec![203, 0, 113, last])]
}

fn good(host: &Host, last: u8) -> Server {
    Server::udp(&host.netns, ANY_PORT, move |query, _| {
        vec![reply(query, NOERROR, &address(last))]
    })
}

fn failing(host: &Host, rcode: u8) -> Server {
    Server::udp(&host.netns, ANY_PORT, move |query, _| {
        vec![reply(query, rcode, &[])]
    })
}

fn silent(host: &Host) -> Server {
    Server::udp(&host.netns, ANY_PORT, |_, _| Vec::new())
}

/// A port at which nobody listens.
fn closed(host: &Host) -> SocketAddr {
    inside(host.netns.as_fd(), || {
        UdpSocket::bind(ANY_PORT).unwrap().local_addr().unwrap()
    })
}

/// A container with a resolver that forwards to these.
async fn resolver(upstreams: &[Upstream]) -> (Resolver, Container) {
    let resolver = Resolver::new();
    let container = Container::new();
    resolver
        .start("c1", container.netns(), view_with(upstreams))
        .await
        .unwrap();
    (resolver, container)
}

#[test]
fn test_dns_proxy_serv_fail() {
    on_a_host(async |lab| {
        let once = Server::udp(&lab.netns, ANY_PORT, |query, before| {
            let rcode = if before == 0 { SERVFAIL } else { NOERROR };
            vec![reply(query, rcode, &address(1))]
        });
        let (_resolver, container) = resolver(&[host(once.address), host(once.address)]).await;
        let reply = container.ask(&query(1, "name1", A));
        assert_eq!((rcode(&reply), once.count()), (NOERROR, 2));
    });
}

#[test]
fn test_proxy_nxdomain() {
    on_a_host(async |lab| {
        let soa = (6, b"\x01a\x00\x01b\x00aaaabbbbccccddddeeee".to_vec());
        let sent = soa.clone();
        let nobody = Server::udp(&lab.netns, ANY_PORT, move |query, _| {
            let mut message = reply(query, NXDOMAIN, std::slice::from_ref(&sent));
            message[6..10].copy_from_slice(&[0, 0, 0, 1]); // in the authority section
            vec![message]
        });
        let next = good(&lab, 1);
        let (_resolver, container) = resolver(&[host(nobody.address), host(next.address)]).await;
        let reply = container.ask(&query(1, "example.net", A));
        assert_eq!(rcode(&reply), NXDOMAIN);
        assert_eq!(&reply[6..10], [0, 0, 0, 1]);
        assert!(reply.ends_with(&soa.1));
        assert_eq!(next.count(), 0, "no is an answer");
    });
}

#[test]
fn test_oversized_dns_reply() {
    on_a_host(async |lab| {
        let many: Vec<_> = (0..200).flat_map(address).collect();
        let long = Server::udp(&lab.netns, ANY_PORT, move |query, _| {
            vec![reply(query, NOERROR, &many)]
        });
        let (_resolver, container) = resolver(&[host(long.address)]).await;
        let reply = container.ask(&query(1, "s3.amazonaws.com", A));
        assert!(reply.len() > 3000, "more than the client asked for");
        assert_eq!(answers(&reply).len(), 200);
    });
}

#[test]
fn test_reply_servfail() {
    on_a_host(async |lab| {
        let (resolver, container) = resolver(&[]).await;
        for ask in [Container::ask, Container::ask_tcp] {
            let reply = ask(&container, &query(77, "example.com", A));
            assert_eq!((id(&reply), rcode(&reply)), (77, SERVFAIL));
        }
        let (refusing, failing) = (failing(&lab, REFUSED), failing(&lab, SERVFAIL));
        let upstreams = [refusing.address, failing.address, closed(&lab)].map(host);
        resolver.update("c1", view_with(&upstreams)).unwrap();
        let started = Instant::now();
        let reply = container.ask(&query(78, "example.com", A));
        assert_eq!((id(&reply), rcode(&reply)), (78, SERVFAIL));
        assert_eq!((refusing.count(), failing.count()), (1, 1));
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "none was silent"
        );
        assert_eq!(resolver.stats("c1").unwrap().failed, 3);
    });
}

#[test]
fn a_silent_server_costs_four_seconds() {
    on_a_host(async |lab| {
        let (silent, good) = (silent(&lab), good(&lab, 1));
        let (_resolver, container) = resolver(&[host(silent.address), host(good.address)]).await;
        let started = Instant::now();
        let reply = container.ask(&query(1, "example.com", A));
        assert_eq!(answers(&reply).len(), 1);
        let took = started.elapsed().as_millis();
        assert!((3900..8000).contains(&took), "{took} ms");
    });
}

#[test]
fn at_most_three_servers_are_asked() {
    on_a_host(async |lab| {
        let failing: Vec<Server> = (0..3).map(|_| failing(&lab, SERVFAIL)).collect();
        let fourth = good(&lab, 4);
        let upstreams: Vec<Upstream> = failing
            .iter()
            .chain([&fourth])
            .map(|server| host(server.address))
            .collect();
        let (_resolver, container) = resolver(&upstreams).await;
        let reply = container.ask(&query(1, "example.com", A));
        assert_eq!(rcode(&reply), SERVFAIL);
        assert!(failing.iter().all(|server| server.count() == 1));
        assert_eq!(fourth.count(), 0);
    });
}

#[test]
fn queries_and_replies_travel_as_they_are() {
    on_a_host(async |lab| {
        // A reply with records and bits that nothing here knows, longer than it announced.
        let odd = |query: &[u8]| {
            let mut message = reply(
                query,
                NOERROR,
                &[(65_333, vec![1, 2, 3]), (65, vec![9; 700])],
            );
            message[2] |= 0x06; // authoritative, truncated
            message[3] |= 0x70; // the reserved bit, authentic data, checking disabled
            message.extend(b"trailing octets");
            message
        };
        let udp = Server::udp(&lab.netns, ANY_PORT, move |query, _| vec![odd(query)]);
        let at = udp.address.to_string();
        let tcp = Server::tcp(&lab.netns, &at, move |query, _| vec![odd(query)]);
        let (_resolver, container) = resolver(&[host(udp.address)]).await;
        for (server, ask) in [
            (&udp, Container::ask as fn(&Container, &[u8]) -> Vec<u8>),
            (&tcp, Container::ask_tcp),
        ] {
            let query = query_with_edns(0x1234, "wEb.eXample.com", 65_333, 1232);
            let reply = ask(&container, &query);
            assert_eq!(reply, odd(&query));
            let (_, seen) = server.seen().pop().unwrap();
            assert_eq!(&seen[2..], &query[2..], "but for the identifier");
        }
    });
}

#[test]
fn a_truncated_reply_sends_the_client_to_tcp() {
    on_a_host(async |lab| {
        let short = Server::udp(&lab.netns, ANY_PORT, |query, _| {
            let mut message = reply(query, NOERROR, &[]);
            message[2] |= 2;
            vec![message]
        });
        let at = short.address.to_string();
        let many: Vec<_> = (0..255).cycle().take(4000).flat_map(address).collect();
        let whole = Server::tcp(&lab.netns, &at, move |query, _| {
            vec![reply(query, NOERROR, &many)]
        });
        let (_resolver, container) = resolver(&[host(short.address)]).await;
        let question = query(1, "big.example.com", A);
        let cut = container.ask(&question);
        assert!(truncated(&cut) && answers(&cut).is_empty());
        assert_eq!(whole.count(), 0);
        let reply = container.ask_tcp(&question);
        assert!(!truncated(&reply));
        assert_eq!(answers(&reply).len(), 4000);
        assert_eq!((short.count(), whole.count()), (1, 1));
    });
}

#[test]
fn a_server_that_speaks_tcp_only_serves_tcp_clients() {
    on_a_host(async |lab| {
        let only = Server::tcp(&lab.netns, ANY_PORT, |query, _| {
            vec![reply(query, NOERROR, &address(1))]
        });
        let (_resolver, container) = resolver(&[host(only.address)]).await;
        let question = query(1, "example.com", A);
        assert_eq!(rcode(&container.ask(&question)), SERVFAIL);
        assert_eq!(answers(&container.ask_tcp(&question)).len(), 1);
    });
}

#[test]
fn only_the_reply_to_the_question_counts() {
    on_a_host(async |lab| {
        let netns = lab.netns.try_clone().unwrap();
        let liar = Server::udp(&lab.netns, ANY_PORT, move |query, _| {
            let right = reply(query, NOERROR, &address(1));
            let wrong = reply(query, NOERROR, &address(66));
            let mut other_id = wrong.clone();
            other_id[1] ^= 1;
            let mut other_question = wrong.clone();
            other_question[14] ^= 1;
            let mut query_again = wrong.clone();
            query_again[2] &= 0x7f;
            let mut no_question = wrong[..12].to_vec();
            no_question[5] = 0;
            vec![
                Vec::new(),
                vec![0; 11],
                other_id,
                other_question,
                query_again,
                no_question,
                right,
            ]
        });
        let (_resolver, container) = resolver(&[host(liar.address)]).await;
        let got = container.ask(&query(1, "example.com", A));
        assert_eq!(answers(&got), [[203, 0, 113, 1]]);

        // The right reply from another port and from another address.
        let spoofer = Server::udp(&lab.netns, ANY_PORT, |_, _| Vec::new());
        let (_resolver, container) = resolver(&[host(spoofer.address)]).await;
        let client = container.udp();
        client.send(&query(2, "example.com", A)).unwrap();
        super::eventually("the query", || spoofer.count() == 1);
        let (asker, question) = spoofer.seen().remove(0);
        inside(netns.as_fd(), || {
            for from in [
                "127.0.0.1:0".to_owned(),
                format!("127.0.0.2:{}", spoofer.address.port()),
            ] {
                let socket = UdpSocket::bind(from).unwrap();
                let forged = reply(&question, NOERROR, &address(66));
                socket.send_to(&forged, asker).unwrap();
            }
        });
        assert_eq!(rcode(&super::receive(&client)), SERVFAIL);
    });
}

#[test]
fn ports_and_identifiers_cannot_be_guessed() {
    on_a_host(async |lab| {
        let good = good(&lab, 1);
        let (_resolver, container) = resolver(&[host(good.address)]).await;
        let socket = container.udp();
        for _ in 0..200 {
            socket.send(&query(1, "example.com", A)).unwrap();
            super::receive(&socket);
        }
        let seen = good.seen();
        let ports: BTreeSet<u16> = seen.iter().map(|(client, _)| client.port()).collect();
        let ids: BTreeSet<u16> = seen.iter().map(|(_, query)| id(query)).collect();
        assert!(ports.len() > 180, "{} ports", ports.len());
        assert!(ids.len() > 190, "{} identifiers", ids.len());
        let apart = |values: Vec<u16>| {
            values
                .windows(2)
                .filter(|w| w[0].abs_diff(w[1]) < 16)
                .count()
        };
        assert!(apart(seen.iter().map(|(client, _)| client.port()).collect()) < 10);
        assert!(apart(seen.iter().map(|(_, query)| id(query)).collect()) < 10);
    });
}

#[test]
fn servers_are_asked_from_the_right_namespace() {
    on_a_host(async |lab| {
        let (resolver, inner) = resolver(&[]).await;
        let at = "127.0.0.1:5300";
        let servers = [(&lab.netns, 1), (&inner.netns, 2)].map(|(netns, last)| {
            let behaviour = move |query: &[u8], _| vec![reply(query, NOERROR, &address(last))];
            (
                Server::udp(netns, at, behaviour),
                Server::tcp(netns, at, behaviour),
            )
        });
        let at: SocketAddr = at.parse().unwrap();
        for (upstream, last) in [(host(at), 1), (container(at), 2)] {
            resolver.update("c1", view_with(&[upstream])).unwrap();
            for n in 0..40 {
                let got = inner.ask(&query(n, "example.com", A));
                assert_eq!(answers(&got), [[203, 0, 113, last]]);
            }
            let got = inner.ask_tcp(&query(1, "example.com", A));
            assert_eq!(answers(&got), [[203, 0, 113, last]]);
        }
        for (udp, tcp) in &servers {
            assert_eq!((udp.count(), tcp.count()), (40, 1));
        }
    });
}

/// CVE-2024-29018: names are a way out of an internal network.
#[test]
fn test_internal_network_dns() {
    on_a_host(async |lab| {
        let sink = good(&lab, 1);
        let at = sink.address.to_string();
        let sink_tcp = Server::tcp(&lab.netns, &at, |query, _| vec![query.to_vec()]);
        let (resolver, inner) = resolver(&[]).await;
        let on_net = Server::udp(&inner.netns, "127.0.0.1:5300", |query, _| {
            vec![reply(query, NOERROR, &address(2))]
        });
        let internal = |upstreams: &[Upstream]| View {
            forward: false,
            ..view_with(upstreams)
        };
        resolver
            .update("c1", internal(&[host(sink.address)]))
            .unwrap();
        for name in ["example.com", "secret.example.com", "web.net2", "nobody"] {
            for rtype in [A, 16, 255, 6] {
                for ask in [Container::ask, Container::ask_tcp] {
                    let reply = ask(&inner, &query(1, name, rtype));
                    assert_eq!(rcode(&reply), SERVFAIL, "{name} {rtype}");
                }
            }
        }
        assert_eq!(answers(&inner.ask(&query(1, "web", A))).len(), 1);
        // A server of the network itself may be asked.
        let both = internal(&[host(sink.address), container(on_net.address)]);
        resolver.update("c1", both).unwrap();
        let got = inner.ask(&query(1, "example.com", A));
        assert_eq!(answers(&got), [[203, 0, 113, 2]]);
        assert_eq!((sink.count(), sink_tcp.count()), (0, 0));
    });
}

#[test]
fn test_int_dns_as_ext_dns() {
    on_a_host(async |_| {
        let itself = Upstream::container("127.0.0.11".parse().unwrap());
        let (resolver, container) = resolver(&[itself]).await;
        let reply = container.ask(&query(1, "example.com", A));
        assert_eq!(rcode(&reply), SERVFAIL);
        let stats = resolver.stats("c1").unwrap();
        assert_eq!(stats.queries, 1, "it does not ask itself");
    });
}

#[test]
fn test_ext_dns_in_ipv6_only_nw() {
    on_a_host(async |lab| {
        let at = "[::1]:5300";
        let (resolver, inner) = resolver(&[]).await;
        let behaviour = |last| move |query: &[u8], _| vec![reply(query, NOERROR, &address(last))];
        let _servers = [(&lab.netns, 6), (&inner.netns, 7)].map(|(netns, last)| {
            let udp = Server::udp(netns, at, behaviour(last));
            (udp, Server::tcp(netns, at, behaviour(last)))
        });
        let at: SocketAddr = at.parse().unwrap();
        // Of the host's file, and of --dns; after one of IPv4 that is not there.
        for (upstream, last) in [(host(at), 6), (container(at), 7)] {
            let nobody = Upstream {
                address: closed(&lab),
                ..upstream
            };
            resolver
                .update("c1", view_with(&[nobody, upstream]))
                .unwrap();
            for ask in [Container::ask, Container::ask_tcp] {
                let got = ask(&inner, &query(1, "test.example", A));
                assert_eq!(answers(&got), [[203, 0, 113, last]]);
            }
        }
        // Without its interface a link-local server cannot be asked, and does not keep others from being asked.
        let scopeless = host("[fe80::53]:53".parse().unwrap());
        resolver
            .update("c1", view_with(&[scopeless, host(at)]))
            .unwrap();
        let got = inner.ask(&query(1, "test.example", A));
        assert_eq!(answers(&got), [[203, 0, 113, 6]]);
    });
}
