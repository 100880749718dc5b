//! Limits of bandwidth, as the kernel keeps them.

use super::*;

const BUCKET: TokenBucket = TokenBucket {
    rate: 2_500_000,
    burst: 100_000,
};

fn queues(container: Option<&OwnedFd>) -> String {
    let list = "tc qdisc show | grep tbf || true";
    match container {
        Some(container) => run_inside(container, list),
        None => run(list),
    }
}

#[test]
fn both_ends_are_limited_from_the_beginning() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let ingress = Some(BUCKET);
        let egress = Some(TokenBucket {
            rate: 1_000_000,
            ..BUCKET
        });
        let spec = VethSpec {
            limits: Limits { ingress, egress },
            ..veth_spec(&container, &bridge)
        };
        let index = netlink.create_veth(&spec).await.unwrap();
        let (outside, inside) = (queues(None), queues(Some(&container)));
        assert!(
            outside.contains("dev klv1 root") && outside.contains("rate 20Mbit"),
            "{outside}"
        );
        assert!(
            inside.contains("dev eth0 root") && inside.contains("rate 8Mbit"),
            "{inside}"
        );
        assert!(netlink.is_limited(index, ingress).await.unwrap());
        for other in [None, egress] {
            assert!(!netlink.is_limited(index, other).await.unwrap());
        }
        let is_limited = |wanted| Netlink::is_limited_inside(container.as_fd(), "eth0", wanted);
        assert!(is_limited(egress).await.unwrap() && !is_limited(ingress).await.unwrap());

        // What its user may do to it.
        for spoil in [
            "tc qdisc delete dev eth0 root",
            "tc qdisc replace dev eth0 root pfifo limit 9",
            "tc qdisc delete dev eth0 root && tc qdisc add dev eth0 root handle 7462: pfifo limit 9",
            "tc qdisc change dev eth0 root handle 7462: tbf rate 1gbit burst 1m limit 1m",
        ] {
            run_inside(&container, spoil);
            assert!(!is_limited(egress).await.unwrap(), "{spoil}");
            let limit = Netlink::limit_inside(container.as_fd(), "eth0", egress);
            limit.await.unwrap();
            assert!(is_limited(egress).await.unwrap(), "{spoil}");
        }
        netlink.limit(index, None).await.unwrap();
        assert_eq!(queues(None), "");
        // Only ours is taken away.
        run("tc qdisc add dev klv1 root tbf rate 1mbit burst 10k limit 10k");
        netlink.limit(index, None).await.unwrap();
        assert!(netlink.is_limited(index, None).await.unwrap());
        assert!(queues(None).contains("rate 1Mbit"));
    });
}

#[test]
fn any_limit_can_be_set_and_read_again() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        run("ip link add kl1 type veth peer kl2");
        let index = netlink.link("kl1").await.unwrap().unwrap().index;
        for rate in [1, 1000, 12_500_000, u32::MAX.into(), 1 << 32, u64::MAX / 8] {
            for burst in [1514, 100_000, 268_435_455, u32::MAX] {
                let bucket = Some(TokenBucket { rate, burst });
                netlink.limit(index, bucket).await.unwrap();
                assert!(
                    netlink.is_limited(index, bucket).await.unwrap(),
                    "{bucket:?}"
                );
                // Whether or not the interface is up.
                run("ip link set kl1 up; ip link set kl1 down");
                assert!(
                    netlink.is_limited(index, bucket).await.unwrap(),
                    "{bucket:?}"
                );
            }
        }
        let missing = netlink.limit(9999, Some(BUCKET)).await.unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("limit bandwidth of interface 9999:"),
            "{missing}"
        );
    });
}

#[test]
fn a_limit_that_cannot_be_set_leaves_no_interface() {
    in_fresh_namespace(|| async {
        let netlink = Netlink::new().unwrap();
        let bridge = netlink.ensure_bridge(&bridge_spec()).await.unwrap();
        let container = anonymous_namespace();
        let spec = VethSpec {
            limits: Limits {
                ingress: Some(BUCKET),
                // The kernel takes no bucket without room.
                egress: Some(TokenBucket { burst: 0, ..BUCKET }),
            },
            ..veth_spec(&container, &bridge)
        };
        let error = netlink.create_veth(&spec).await.unwrap_err().to_string();
        assert!(error.starts_with("limit bandwidth of interface"), "{error}");
        assert!(netlink.link("klv1").await.unwrap().is_none());
        assert_eq!(
            run_inside(&container, "ip -br link | grep -vw lo || true"),
            ""
        );
    });
}
