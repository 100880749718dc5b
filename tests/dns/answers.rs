//! Names of the container's own networks.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tunbridge::dns::{DnsError, Resolver, View};

use super::message::{
    A, AAAA, NOERROR, PTR, answers, id, query, query_with_edns, rcode, truncated,
};
use super::{Container, on_a_host, receive, receive_tcp, run, send_tcp, view, view_of_many};

fn web() -> View {
    view(&[("web", &["172.18.0.2"]), ("six", &["fd00::2"])])
}

#[test]
fn names_are_answered_over_udp_and_tcp() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let container = Container::new();
        resolver
            .start("c1", container.netns(), web())
            .await
            .unwrap();
        for ask in [Container::ask, Container::ask_tcp] {
            let reply = ask(&container, &query(7, "WeB.net1", A));
            assert_eq!((id(&reply), rcode(&reply)), (7, NOERROR));
            assert_eq!(&reply[12..16], b"\x03WeB");
            assert_eq!(answers(&reply), [[172, 18, 0, 2]]);
            let reply = ask(&container, &query(8, "web", AAAA));
            assert_eq!(rcode(&reply), NOERROR);
            assert!(answers(&reply).is_empty());
            let reply = ask(&container, &query(9, "2.0.18.172.in-addr.arpa", PTR));
            assert_eq!(answers(&reply), [b"\x03web\x04net1\x00"]);
            let reply = ask(&container, &query(10, "SIX", AAAA));
            let six: [u8; 16] = "fd00::2".parse::<Ipv6Addr>().unwrap().octets();
            assert_eq!(answers(&reply), [six]);
            let reply = ask(&container, &query(11, "six.net1", A));
            assert_eq!((rcode(&reply), answers(&reply).len()), (NOERROR, 0));
            let nibbles = format!("2.{}0.0.d.f.ip6.ARPA", "0.".repeat(27));
            let reply = ask(&container, &query(12, &nibbles, PTR));
            assert_eq!(answers(&reply), [b"\x03six\x04net1\x00"]);
        }
        let stats = resolver.stats("c1").unwrap();
        assert_eq!((stats.queries, stats.answered), (12, 12));
        assert_eq!(stats.connections, 6);
    });
}

#[test]
fn a_change_of_names_takes_effect_with_the_next_query() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let container = Container::new();
        resolver
            .start("c1", container.netns(), web())
            .await
            .unwrap();
        let socket = container.udp();
        for last in 3..50 {
            let address = format!("172.18.0.{last}");
            resolver
                .update("c1", view(&[("web", &[address.as_str()])]))
                .unwrap();
            socket.send(&query(1, "web", A)).unwrap();
            assert_eq!(answers(&receive(&socket)), [[172, 18, 0, last]]);
        }
        let unknown = resolver.update("c2", View::default()).unwrap_err();
        assert!(matches!(unknown, DnsError::Unknown(_)));
        assert_eq!(unknown.to_string(), "container c2 has no resolver");
    });
}

#[test]
fn an_application_can_have_port_53_of_every_address() {
    on_a_host(async |_| {
        let container = Container::new();
        let udp = container.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        let tcp = container.inside(|| TcpListener::bind("0.0.0.0:53").unwrap());
        udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let resolver = Resolver::new();
        resolver
            .start("c1", container.netns(), web())
            .await
            .unwrap();

        assert_eq!(answers(&container.ask(&query(1, "web", A))).len(), 1);
        assert_eq!(answers(&container.ask_tcp(&query(1, "web", A))).len(), 1);

        // Its own clients reach the application, at whatever other address.
        run_client(&container, "127.0.0.1:53", b"to the application");
        let mut buffer = [0; 100];
        let (length, client) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"to the application");
        assert!(client.ip().is_loopback());
        assert!(tcp.accept().is_err(), "nothing for the resolver came here");
        container.inside(|| std::net::TcpStream::connect("127.0.0.2:53").unwrap());
        assert!(tcp.accept().is_ok());
    });
}

fn run_client(container: &Container, to: &str, text: &[u8]) {
    container.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(text, to).unwrap();
    });
}

#[test]
fn a_client_may_use_any_of_its_addresses() {
    on_a_host(async |_| {
        let container = Container::new();
        container.inside(|| run("ip addr add 172.18.0.2/32 dev lo"));
        let resolver = Resolver::new();
        resolver
            .start("c1", container.netns(), web())
            .await
            .unwrap();
        let socket = container.inside(|| UdpSocket::bind("172.18.0.2:0").unwrap());
        socket.connect(super::RESOLVER).unwrap();
        socket.send(&query(1, "web", A)).unwrap();
        assert_eq!(answers(&receive(&socket)).len(), 1);
    });
}

#[test]
fn long_answers_arrive_whole_over_tcp() {
    on_a_host(async |_| {
        let container = Container::new();
        let resolver = Resolver::new();
        resolver
            .start("c1", container.netns(), view_of_many(3000))
            .await
            .unwrap();
        let short = container.ask(&query(1, "many", A));
        assert!(truncated(&short) && short.len() <= 512);
        let longer = container.ask(&query_with_edns(1, "many", A, 4000));
        assert!(truncated(&longer) && longer.len() <= 4000 && longer.len() > 3900);
        let mut stream = container.tcp();
        for n in 0..20 {
            send_tcp(&mut stream, &query(n, "many", A));
            let reply = receive_tcp(&mut stream);
            assert!(!truncated(&reply) && id(&reply) == n);
            assert_eq!(answers(&reply).len(), 3000);
        }
    });
}

#[test]
fn containers_do_not_see_each_others_names() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let containers: Vec<Container> = (0..3).map(|_| Container::new()).collect();
        for (n, container) in containers.iter().enumerate() {
            let name = format!("only{n}");
            let view = view(&[(name.as_str(), &["172.18.0.9"])]);
            resolver
                .start(&n.to_string(), container.netns(), view)
                .await
                .unwrap();
        }
        for (n, container) in containers.iter().enumerate() {
            for other in 0..3 {
                let reply = container.ask(&query(1, &format!("only{other}"), A));
                assert_eq!(answers(&reply).len(), usize::from(n == other));
            }
        }
        assert_eq!(resolver.running(), ["0", "1", "2"]);
    });
}

#[test]
fn a_container_that_uses_the_common_port_gets_another() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let first = Container::new();
        resolver.start("c1", first.netns(), web()).await.unwrap();
        let port: u16 = first
            .inside(|| run("ss -Hlnu 'src 127.0.0.11' | awk '{print $4}'"))
            .trim()
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let second = Container::new();
        let taken = second.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        resolver.start("c2", second.netns(), web()).await.unwrap();
        for container in [&first, &second] {
            assert_eq!(answers(&container.ask(&query(1, "web", A))).len(), 1);
            assert_eq!(answers(&container.ask_tcp(&query(1, "web", A))).len(), 1);
        }
        drop(taken);
    });
}

#[test]
fn a_namespace_whose_loopback_comes_up_later_is_served() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let container = Container::new();
        container.inside(|| run("ip link set lo down"));
        resolver
            .start("c1", container.netns(), web())
            .await
            .unwrap();
        container.inside(|| run("ip link set lo up"));
        assert_eq!(answers(&container.ask(&query(1, "web", A))).len(), 1);
    });
}

#[test]
fn what_is_no_namespace_is_refused_in_one_sentence() {
    on_a_host(async |_| {
        let resolver = Resolver::new();
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let error = resolver.start("c1", file, web()).await.unwrap_err();
        assert!(
            error.to_string().contains("enter network namespace"),
            "{error}"
        );
        assert!(resolver.running().is_empty());
    });
}
