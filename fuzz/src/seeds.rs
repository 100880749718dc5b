//! Short conversations that a fuzzer would need long to invent: the seed corpus.

type Bytes = Vec<u8>;

fn ip(protocol: u8, src: [u8; 4], dst: [u8; 4], flags: u16, l4: &[u8]) -> Bytes {
    let mut bytes = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0];
    bytes[6..8].copy_from_slice(&flags.to_be_bytes());
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(l4);
    bytes
}

/// The same in IPv6, between addresses of 2001:db8::/32: network and host.
fn wide(next: u8, src: [u8; 2], dst: [u8; 2], l4: &[u8]) -> Bytes {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for [network, host] in [src, dst] {
        bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, network, 0, 0]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, host]);
    }
    bytes.extend(l4);
    bytes
}

/// `l4` behind an extension header.
fn extended(next: u8, octets: [u8; 7], l4: &[u8]) -> Bytes {
    let mut bytes = vec![next];
    bytes.extend(octets);
    bytes.extend(l4);
    bytes
}

fn udp(sport: u16, dport: u16, payload: &[u8]) -> Bytes {
    let mut l4 = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    l4.extend(
        u16::try_from(8 + payload.len())
            .expect("short")
            .to_be_bytes(),
    );
    l4.extend([0, 0]);
    l4.extend(payload);
    l4
}

fn tcp(sport: u16, dport: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut l4 = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    l4.extend([0, 0, 0, 9, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    l4
}

fn echo(ident: u16) -> Bytes {
    let mut l4 = vec![8, 0, 0, 0];
    l4.extend(ident.to_be_bytes());
    l4.extend([0, 1, b'p', b'i', b'n', b'g']);
    l4
}

/// An operation with octets.
fn with(opcode: u8, octets: &[u8]) -> Bytes {
    let mut bytes = vec![opcode, 0];
    bytes.extend(u16::try_from(octets.len()).expect("short").to_le_bytes());
    bytes.extend(octets);
    bytes
}

const C1: [u8; 4] = [172, 17, 0, 2];
const C2: [u8; 4] = [172, 18, 0, 2];
const HOST: [u8; 4] = [10, 9, 0, 10];
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const SERVER: [u8; 4] = [10, 20, 0, 1];
const NARROW: [u8; 4] = [10, 80, 0, 1];
const LAN: [u8; 4] = [10, 9, 0, 50];

const C1_6: [u8; 2] = [0x17, 2];
const HOST_6: [u8; 2] = [0, 10];
const SERVER_6: [u8; 2] = [0x20, 1];
const NARROW_6: [u8; 2] = [0x80, 1];

/// Names and inputs.
pub fn seeds() -> Vec<(&'static str, Bytes)> {
    let question = with(8, &ip(17, C1, SERVER, 0, &udp(4000, 9000, b"question")));
    let partial = with(7, &ip(17, C1, SERVER, 0, &udp(4000, 9000, b"question")));
    let syn = with(8, &ip(6, C1, SERVER, 0x4000, &tcp(4000, 80, 2, b"")));
    let answer = vec![9, 0x12];
    let ack = vec![9, 0x10];
    let fin = vec![9, 0x11];
    let reset = vec![9, 0x04];
    let error = |argument| vec![10, argument];
    let wait = |n| vec![11, n, 12, 0];
    let first = with(8, &ip(17, C1, SERVER, 0x2000, &udp(4000, 9000, &[1; 24])));
    let later = with(8, &ip(17, C1, SERVER, 4, &[2; 24]));
    let question6 = with(8, &wide(17, C1_6, SERVER_6, &udp(4000, 9000, b"question")));
    let syn6 = with(8, &wide(6, C1_6, SERVER_6, &tcp(4000, 80, 2, b"")));
    let first6 = extended(17, [0, 0, 1, 0, 0, 0, 9], &udp(4000, 9000, &[1; 24]));
    let first6 = with(8, &wide(44, C1_6, SERVER_6, &first6));
    let later6 = extended(17, [0, 0, 32, 0, 0, 0, 9], &[2; 24]);
    let later6 = with(8, &wide(44, C1_6, SERVER_6, &later6));
    let options6 = extended(17, [0, 1, 4, 0, 0, 0, 0], &udp(4000, 9000, b"question"));
    let mut gso = vec![1, 1, 40, 0, 100, 0, 20, 0, 16, 0];
    gso.extend(ip(6, C1, SERVER, 0x4000, &tcp(4000, 80, 0x10, &[3; 300])));
    vec![
        (
            "udp",
            [question.clone(), vec![9, 0], vec![9, 0], wait(200)].concat(),
        ),
        ("udp-partial", [partial, vec![9, 0], wait(90)].concat()),
        (
            "tcp",
            [
                syn.clone(),
                answer.clone(),
                ack.clone(),
                fin.clone(),
                fin,
                ack.clone(),
                wait(255),
            ]
            .concat(),
        ),
        (
            "tcp-reset",
            [
                syn.clone(),
                answer.clone(),
                ack.clone(),
                reset,
                syn.clone(),
                answer.clone(),
            ]
            .concat(),
        ),
        (
            "simultaneous-open",
            [syn.clone(), vec![9, 0x02], vec![9, 0x12], vec![9, 0x12]].concat(),
        ),
        (
            "ping",
            [
                with(8, &ip(1, C1, SERVER, 0, &echo(7))),
                vec![9, 0],
                error(0xff),
                wait(100),
            ]
            .concat(),
        ),
        (
            "errors",
            [
                question.clone(),
                error(0x1f),
                error(0x5f),
                error(0x9f),
                error(0xdf),
                error(0x3f),
            ]
            .concat(),
        ),
        (
            "fragments",
            [first.clone(), later.clone(), vec![9, 0]].concat(),
        ),
        ("fragments-out-of-order", [later, first, wait(60)].concat()),
        (
            "published",
            [
                with(8, &ip(6, LAN, HOST, 0x4000, &tcp(5000, 8080, 2, b""))),
                answer.clone(),
                ack,
            ]
            .concat(),
        ),
        (
            "loopback",
            [
                with(7, &ip(17, LOOPBACK, LOOPBACK, 0, &udp(5000, 8080, b"q"))),
                vec![9, 0],
            ]
            .concat(),
        ),
        (
            "hairpin",
            [
                with(8, &ip(17, C2, HOST, 0, &udp(5000, 8081, b"q"))),
                vec![9, 0],
                vec![9, 0],
            ]
            .concat(),
        ),
        (
            "fragmentation",
            with(8, &ip(17, C1, NARROW, 0, &udp(5000, 9000, &[5; 900]))),
        ),
        (
            "too-big",
            with(8, &ip(17, C1, NARROW, 0x4000, &udp(5000, 9000, &[5; 900]))),
        ),
        (
            "super-packet",
            [syn.clone(), answer.clone(), with(4, &gso)].concat(),
        ),
        (
            "udp-6",
            [
                question6.clone(),
                vec![9, 0],
                vec![9, 0],
                error(0x1f),
                error(0x5f),
                error(0x9f),
                error(0xdf),
                wait(200),
            ]
            .concat(),
        ),
        (
            "tcp-6",
            [
                syn6,
                answer.clone(),
                vec![9, 0x10],
                vec![9, 0x11],
                wait(255),
            ]
            .concat(),
        ),
        (
            "extensions-6",
            [
                with(8, &wide(60, C1_6, SERVER_6, &options6)),
                with(7, &wide(0, C1_6, SERVER_6, &options6)),
                question6,
                vec![9, 0],
            ]
            .concat(),
        ),
        (
            "fragments-6",
            [first6.clone(), later6.clone(), vec![9, 0]].concat(),
        ),
        (
            "fragments-out-of-order-6",
            [later6, first6, wait(60)].concat(),
        ),
        (
            "published-6",
            [
                with(8, &wide(6, SERVER_6, HOST_6, &tcp(5000, 8080, 2, b""))),
                answer.clone(),
                vec![9, 0x10],
            ]
            .concat(),
        ),
        (
            "across",
            [
                with(8, &wide(6, SERVER_6, HOST_6, &tcp(5000, 9090, 2, b""))),
                answer.clone(),
                vec![9, 0x10],
                error(0x1f),
                with(8, &wide(17, SERVER_6, HOST_6, &udp(5000, 9090, &[4; 700]))),
                error(0x5f),
                vec![9, 0],
            ]
            .concat(),
        ),
        (
            "too-big-6",
            with(8, &wide(17, C1_6, NARROW_6, &udp(5000, 9000, &[5; 1400]))),
        ),
        (
            "policy",
            [question, syn, vec![13, 1, 13, 3, 14, 255, 15, 2, 13, 0]].concat(),
        ),
    ]
}
