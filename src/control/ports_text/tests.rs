use super::*;
use crate::api::types::CreateContainer;
use crate::control::test_state::{at, fresh, request};

fn made(state: &mut State, name: &str, publish: &[&str]) -> Container {
    state
        .create_container(&request(name, publish), at(0))
        .unwrap()
        .container
}

const WEB: [&str; 5] = [
    "8080:80",
    "8080:80/udp",
    "127.0.0.1:8081:80",
    "198.51.100.2:8082:80",
    "80",
];

#[test]
fn listings_are_those_of_the_transcript() {
    // Transcript 03, with the brackets of later versions.
    let (mut state, ..) = fresh();
    state.settings.has_ipv6 = true;
    let web = made(&mut state, "web", &WEB);
    assert_eq!(
        port_listing(&state, &web),
        "80/tcp -> 0.0.0.0:32768\n80/tcp -> [::]:32768\n80/tcp -> 198.51.100.2:8082\n80/tcp -> 127.0.0.1:8081\n\
         80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n80/udp -> 0.0.0.0:8080\n80/udp -> [::]:8080\n"
    );
    let by_port =
        "0.0.0.0:32768\n[::]:32768\n198.51.100.2:8082\n127.0.0.1:8081\n0.0.0.0:8080\n[::]:8080\n";
    assert_eq!(port_lookup(&state, &web, "80/tcp").as_deref(), Ok(by_port));
    assert_eq!(port_lookup(&state, &web, "80").as_deref(), Ok(by_port));
    assert_eq!(
        port_lookup(&state, &web, "80/udp").as_deref(),
        Ok("0.0.0.0:8080\n[::]:8080\n")
    );
    assert_eq!(
        port_lookup(&state, &web, "99"),
        Err("Error: No public port '99/tcp' published for web".into())
    );
    assert!(port_lookup(&state, &web, "x/y").is_err());
    // r3: a range, pairwise.
    let r3 = made(&mut state, "r3", &["9100-9102:7000-7002/udp"]);
    assert_eq!(
        port_listing(&state, &r3),
        "7000/udp -> 0.0.0.0:9100\n7000/udp -> [::]:9100\n7001/udp -> 0.0.0.0:9101\n7001/udp -> [::]:9101\n\
         7002/udp -> 0.0.0.0:9102\n7002/udp -> [::]:9102\n"
    );
    let r5 = made(&mut state, "r5", &["0:80", "[::1]:9200:80"]);
    assert_eq!(
        port_listing(&state, &r5),
        "80/tcp -> [::1]:9200\n80/tcp -> 0.0.0.0:32769\n80/tcp -> [::]:32769\n"
    );
}

#[test]
fn ps_column_is_that_of_the_transcript() {
    let (mut state, ..) = fresh();
    state.settings.has_ipv6 = true;
    let web = made(&mut state, "web", &WEB);
    assert_eq!(
        ps_column(&state, &web),
        "0.0.0.0:8080->80/tcp, 0.0.0.0:8080->80/udp, 0.0.0.0:32768->80/tcp, 127.0.0.1:8081->80/tcp, 198.51.100.2:8082->80/tcp, \
         [::]:8080->80/tcp, [::]:8080->80/udp, [::]:32768->80/tcp"
    );
    let same = made(&mut state, "same", &["443:443", "90-91:90-91/udp"]);
    assert_eq!(
        ps_column(&state, &same),
        "0.0.0.0:90-91->90-91/udp, [::]:90-91->90-91/udp, 0.0.0.0:443->443/tcp, [::]:443->443/tcp"
    );
    state.remove("same", true).unwrap();
    state.settings.has_ipv6 = false;
    let exposed = CreateContainer {
        expose: vec!["443-445".into(), "53/udp".into()],
        ..request("e1", &["90-99:90-99/udp"])
    };
    let exposed = state.create_container(&exposed, at(0)).unwrap().container;
    assert_eq!(
        ps_column(&state, &exposed),
        "53/udp, 0.0.0.0:90-99->90-99/udp, 443-445/tcp"
    );
    let holes = made(&mut state, "e2", &["100-101:100-101", "103:103"]);
    assert_eq!(
        ps_column(&state, &holes),
        "0.0.0.0:100-101->100-101/tcp, 0.0.0.0:103->103/tcp"
    );
    state.set_exited("e2", 0, at(1)).unwrap();
    assert_eq!(ps_column(&state, state.container("e2").unwrap()), "");
    assert_eq!(port_listing(&state, state.container("e2").unwrap()), "");
}
