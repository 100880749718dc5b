//! Endpoints at the same time, and the daemon killed meanwhile.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tunbridge::api::types::{AttachEndpoint, AttachedEndpoint, CreateNetwork, Placement, Runtime};

use super::{ENDPOINTS, Foreign, client, holder, id, left, wants};
use crate::lab::{HOST, Lab};

/// Whatever is killed when, a detach leaves nothing.
#[test]
fn a_daemon_that_is_killed_in_the_middle_leaves_nothing() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for milliseconds in (1..=28).step_by(3) {
        let containers: Vec<Foreign<'_>> =
            ('0'..='5').map(|n| Foreign::new(&lab, &id(n))).collect();
        std::thread::scope(|scope| {
            for container in &containers {
                // Whether it succeeds is a matter of luck.
                scope.spawn(|| container.attach(&container.wants("bridge")).is_ok());
            }
            std::thread::sleep(Duration::from_millis(milliseconds));
            tunbridge.kill();
        });
        tunbridge.start_again();
        for container in &containers {
            container.detach(None);
        }
        assert_eq!(
            left(&lab, &tunbridge),
            Vec::<String>::new(),
            "after {milliseconds} ms"
        );
        for container in &containers {
            assert!(container.interfaces().is_empty(), "after {milliseconds} ms");
        }
    }
}

/// A runtime that gives up takes its own name away while it waits for an answer.
#[test]
fn a_namespace_that_has_lost_its_own_name_is_let_go() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for killed in [false, true] {
        let container = Foreign::new(&lab, &id('0'));
        let handed_over = client(&lab).with_descriptor(container.descriptor());
        let name = container.place.name().to_owned();
        lab.host()
            .run(&["ip", "netns", "delete", &name])
            .expect_success();
        let attached: AttachedEndpoint = handed_over
            .post(ENDPOINTS, &container.wants("bridge"))
            .unwrap();
        drop(handed_over);
        if killed {
            tunbridge.kill();
            tunbridge.start_again();
        }
        container.detach(None);
        assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
        let mounts = lab.host().run(&["cat", "/proc/self/mountinfo"]).stdout;
        assert!(!mounts.contains(&attached.name), "{mounts}");
    }
}

/// What is taken away while the daemon is killed is taken away by the next one, or by saying it again.
#[test]
fn a_daemon_that_is_killed_while_it_detaches_leaves_nothing() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    for milliseconds in [3, 15, 30, 45, 60, 80] {
        let containers: Vec<Foreign<'_>> =
            ('0'..='5').map(|n| Foreign::new(&lab, &id(n))).collect();
        for container in &containers {
            container.attached(&container.wants("bridge"));
        }
        std::thread::scope(|scope| {
            for container in &containers {
                let client = client(&lab);
                let reference = container.reference(None);
                scope.spawn(move || {
                    client
                        .tell(&format!("{ENDPOINTS}/detach"), &reference)
                        .is_ok()
                });
            }
            std::thread::sleep(Duration::from_millis(milliseconds));
            tunbridge.kill();
        });
        tunbridge.start_again();
        for container in &containers {
            container.detach(None);
            assert!(container.interfaces().is_empty(), "after {milliseconds} ms");
        }
        assert_eq!(
            left(&lab, &tunbridge),
            Vec::<String>::new(),
            "after {milliseconds} ms"
        );
    }
}

#[test]
fn endpoints_outlive_the_daemon_and_go_with_their_namespace() {
    let lab = Lab::plain();
    let mut tunbridge = lab.start_daemon(&[]);
    let containers = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    let [one, two] = &containers;
    let published = AttachEndpoint {
        publish: vec!["8080:80".to_owned(), "8080:80/udp".to_owned()],
        ..one.wants("bridge")
    };
    one.attached(&published);
    two.attached(&two.wants("bridge"));
    let delegated = AttachEndpoint {
        runtime: Runtime::Docker,
        placement: Placement::Host,
        ..wants("docker-1", "bridge")
    };
    let delegated: AttachedEndpoint = client(&lab).post(ENDPOINTS, &delegated).unwrap();
    let _server = one.place.serve(&["80"]);
    tunbridge.kill();
    // As at a restart of the machine.
    lab.host()
        .shell(&format!(
            "umount /run/netns/{0} && rm /run/netns/{0}",
            &id('2')[..12]
        ))
        .expect_success();
    lab.host()
        .run(&["ip", "link", "delete", &delegated.host.name])
        .expect_success();
    // As its runtime does.
    let _holder = holder(&lab, &one.id, 8080);
    tunbridge.start_again();
    assert_eq!(tunbridge.names(&["-a"]), [&id('1')[..12]]);
    assert!(lab.lan().tcp(&format!("{HOST}:8080")).is_ok());
    assert!(lab.lan().udp(&format!("{HOST}:8080")).is_ok());
    one.detach(None);
    two.detach(None);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}

/// As many as fit at once, again and again: none fails, no two get one address, nothing is left.
#[test]
fn endpoints_come_and_go_in_parallel() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let containers: Vec<Foreign<'_>> = (0..8)
        .map(|n| Foreign::new(&lab, &format!("c{n}-parallel")))
        .collect();
    let addresses = Mutex::new(BTreeSet::new());
    let held = tunbridge.stats().held;
    std::thread::scope(|scope| {
        for (number, container) in containers.iter().enumerate() {
            let addresses = &addresses;
            scope.spawn(move || {
                for _ in 0..25 {
                    let port = 9000 + number;
                    let request = AttachEndpoint {
                        publish: vec![format!("{port}:80")],
                        create_network: Some(CreateNetwork {
                            name: "racing".to_owned(),
                            ..CreateNetwork::default()
                        }),
                        ..container.wants("racing")
                    };
                    let attached = container.attached(&request);
                    let address = attached.addresses[0];
                    assert!(addresses.lock().unwrap().insert(address), "{address} twice");
                    assert!(addresses.lock().unwrap().remove(&address));
                    container.detach(Some("racing"));
                    assert!(container.interfaces().is_empty());
                }
            });
        }
    });
    tunbridge.cli(&["network", "rm", "racing"]).expect_success();
    assert_eq!(tunbridge.stats().held, held);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}
