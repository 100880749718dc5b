//! Who holds the host's ports of other runtimes' containers.

use std::time::Duration;

use tunbridge::api::types::{AttachEndpoint, AttachedEndpoint, Runtime};

use super::{ENDPOINTS, Foreign, holder, holder_as, id, left};
use crate::lab::{HOST, Lab, eventually};

#[test]
fn a_port_may_be_held_by_the_runtime_and_by_nobody_else() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let wanted = |network: &str| AttachEndpoint {
        publish: vec!["8080:80".to_owned(), "8080:80/udp".to_owned()],
        ..one.wants(network)
    };
    let stranger = holder(&lab, "somebody", 8080);
    let problem = one.refused(&wanted("bridge"), 500);
    assert!(
        problem.contains("failed to bind host port 0.0.0.0:8080/tcp: address already in use")
            && problem.contains(&format!("stop python3 (process {})", stranger.pid())),
        "{problem}"
    );
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
    drop(stranger);
    // Whoever can list processes knows the container's id.
    let user = holder_as(&lab, "65534", &one.id, 8080);
    let problem = one.refused(&wanted("bridge"), 500);
    assert!(
        problem.contains(&format!("stop python3 (process {})", user.pid())),
        "{problem}"
    );
    drop(user);
    one.attached(&wanted("bridge"));
    let holder = holder(&lab, &one.id, 8080);
    let _server = one.place.serve(&["80"]);
    let answers = || {
        assert!(lab.lan().tcp(&format!("{HOST}:8080")).is_ok());
        assert!(lab.lan().udp(&format!("{HOST}:8080")).is_ok());
        assert!(lab.host().tcp("127.0.0.1:8080").is_ok());
    };
    answers();
    // The host's sockets are looked at once a second.
    std::thread::sleep(Duration::from_millis(1500));
    answers();
    tunbridge
        .cli(&["network", "create", "aaa"])
        .expect_success();
    one.attached(&wanted("aaa"));
    answers();
    // Another container is refused in any case.
    let two = Foreign::new(&lab, &id('2'));
    let second = AttachEndpoint {
        publish: vec!["8080:80".to_owned()],
        ..two.wants("bridge")
    };
    let problem = two.refused(&second, 500);
    assert!(problem.contains("port is already allocated"), "{problem}");
    one.detach(None);
    drop(holder);
    two.attached(&second);
}

/// A client that keeps its port must reach the new container with its next datagram.
#[test]
fn udp_reaches_the_next_container_that_has_the_port() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let [one, two] = ['1', '2'].map(|digit| Foreign::new(&lab, &id(digit)));
    let wanted = |container: &Foreign<'_>| AttachEndpoint {
        publish: vec!["5353:80/udp".to_owned()],
        ..container.wants("bridge")
    };
    let ask = || {
        lab.lan()
            .ask_from_port("udp", 40_000, &format!("{HOST}:5353"))
    };
    let first = one.attached(&wanted(&one));
    let _server = one.place.serve(&["80"]);
    assert_eq!(ask().unwrap().at.ip(), first.addresses[0].addr());
    // The second container has another address: the first one's is taken while it is there.
    let mut request = wanted(&two);
    request.publish.clear();
    request.runtime = Runtime::Oci;
    let second = two.attached(&request);
    let _server = two.place.serve(&["80"]);
    lab.host().shell("nft flush ruleset").expect_success();
    one.detach(None);
    assert!(
        tunbridge
            .flows()
            .iter()
            .all(|flow| !flow.destination.contains(":5353")),
        "no flow of the former container is left"
    );
    tunbridge
        .cli(&["publish", &second.name, "5353:80/udp"])
        .expect_success();
    assert_eq!(ask().unwrap().at.ip(), second.addresses[0].addr());
}

/// `flock` needs no more than to read.
#[test]
fn no_user_can_keep_the_daemon_waiting_for_a_lock() {
    let lab = Lab::plain();
    let tunbridge = lab.start_daemon(&[]);
    let one = Foreign::new(&lab, &id('1'));
    let _lock = lab.host().start(&[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "flock",
        "/run/netns",
        "sleep",
        "1000",
    ]);
    assert!(eventually(Duration::from_secs(10), || lab
        .host()
        .run(&["flock", "-n", "/run/netns", "true"])
        .code
        == Some(1)));
    let client = one.client().with_limit(Duration::from_secs(20));
    let attached: AttachedEndpoint = client.post(ENDPOINTS, &one.wants("bridge")).unwrap();
    assert!(attached.first, "{attached:?}");
    one.detach(None);
    assert_eq!(left(&lab, &tunbridge), Vec::<String>::new());
}
