//! What a query is worth: an answer from the container's view, a question to the upstreams, or
//! nothing. Pure: octets and a [`View`] in, octets out. What is forwarded is forwarded as it came,
//! so nothing here needs to understand more than the question.
//!
//! Bounds: a reply has one question and at most the octets that the client can take; malformed
//! messages get FORMERR without an echo of what was malformed. Names are parsed by `domain`, which
//! follows compression pointers backwards only, and at most 255.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message_builder::{AnswerBuilder, PushError};
use domain::base::{Message, MessageBuilder, Name, Question, Rtype, StaticCompressor, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ptr};

use super::zone::View;

/// How long an answer may be kept, as Docker says: ten minutes.
const TTL: Ttl = Ttl::from_secs(600);

/// What every client can take over UDP, octets (RFC 1035 §4.2.1).
const MIN_UDP_SIZE: u16 = 512;

/// The largest payload of a UDP datagram over IPv4, octets.
const MAX_UDP_SIZE: u16 = 65_507;

/// The largest message over TCP, octets.
const MAX_TCP_SIZE: u16 = u16::MAX;

/// What we say that we can take over UDP, octets: the size of the server's buffer.
pub(super) const OWN_UDP_SIZE: u16 = 4096;

/// An OPT record without options, octets.
const OPT_SIZE: u16 = 11;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram each.
    Udp,
    /// Each behind two octets that say how long it is.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this message back.
    Reply(Vec<u8>),
    /// Ask the upstreams, with the query as it is.
    Forward,
    /// Stay silent: the query is no query (a response, too short, or without a question), and
    /// whoever sends such things may be a server that would answer our answer.
    Drop,
}

type Builder = AnswerBuilder<StaticCompressor<Vec<u8>>>;
type ParsedQuestion<'a> = Question<domain::base::ParsedName<&'a [u8]>>;

/// Judges `query`. `seed` is random, and decides the order of several addresses.
#[must_use]
pub fn answer(query: &[u8], view: &View, transport: Transport, seed: u64) -> Answer {
    let Ok(message) = Message::from_octets(query) else {
        return Answer::Drop;
    };
    if message.header().qr() {
        return Answer::Drop;
    }
    if message.header().opcode() != Opcode::QUERY {
        return Answer::Reply(bare_reply(&message, Rcode::NOTIMP));
    }
    if message.header_counts().qdcount() == 0 {
        return Answer::Drop;
    }
    let Ok(question) = message.sole_question() else {
        return Answer::Reply(bare_reply(&message, Rcode::FORMERR));
    };
    if question.qclass() != Class::IN {
        return Answer::Forward;
    }
    let Some(name) = text(&question) else {
        return Answer::Forward;
    };
    let request = Request {
        message,
        transport,
        seed,
    };
    match question.qtype() {
        Rtype::A | Rtype::AAAA => match view.addresses(&name) {
            Some(addresses) => request.addresses(&question, addresses),
            None if view.ndots_set && !name.contains('.') => request.empty(),
            None => Answer::Forward,
        },
        // Mail for a host without MX goes to the host's address (RFC 5321 §5.1).
        Rtype::MX if view.addresses(&name).is_some() => request.empty(),
        Rtype::PTR => match reverse(&name).and_then(|address| view.pointer(&address)) {
            Some(target) => request.pointer(&question, &target),
            None => Answer::Forward,
        },
        _ => Answer::Forward,
    }
}

/// The reply to a query that nobody answered. `None` if it is too short to have a reply.
pub(super) fn failure(query: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let request = Request {
        message: Message::from_octets(query).ok()?,
        transport: Transport::Udp,
        seed: 0,
    };
    Some(request.finish(request.start(rcode)?))
}

/// Whether `reply` answers `query`: same identifier, and same question. A server that cannot read
/// the question may leave it out of its complaint.
pub(super) fn is_reply_to(reply: &[u8], query: &[u8]) -> bool {
    let (Ok(reply), Ok(query)) = (Message::from_octets(reply), Message::from_octets(query)) else {
        return false;
    };
    if reply.header_counts().qdcount() == 0 {
        return reply.header().qr()
            && reply.header().id() == query.header().id()
            && !matches!(reply.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN);
    }
    reply.is_answer(&query)
}

/// Whether another upstream may do better than the one that sent `reply`.
pub(super) fn is_failure(reply: &[u8]) -> bool {
    Message::from_octets(reply).map_or(true, |reply| {
        matches!(reply.header().rcode(), Rcode::SERVFAIL | Rcode::REFUSED)
    })
}

/// The header alone, for a message whose question is not worth repeating.
fn bare_reply(query: &Message<&[u8]>, rcode: Rcode) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    let header = builder.header_mut();
    header.set_id(query.header().id());
    header.set_qr(true);
    header.set_opcode(query.header().opcode());
    header.set_rd(query.header().rd());
    header.set_ra(true);
    header.set_rcode(rcode);
    builder.finish()
}

/// The name asked for, in lower case without the last dot. `None` if it cannot be one of ours:
/// not text, or with a dot inside a label.
fn text(question: &ParsedQuestion<'_>) -> Option<String> {
    let mut name = String::new();
    for label in question.qname().iter().filter(|label| !label.is_root()) {
        let label = std::str::from_utf8(label.as_slice()).ok()?;
        if label.contains('.') {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(label);
    }
    name.make_ascii_lowercase();
    Some(name)
}

/// The address that a name in `in-addr.arpa` or `ip6.arpa` stands for, if it is a whole one.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(name) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0_u8; 4];
        let mut labels = name.rsplit('.');
        for octet in &mut octets {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let name = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut labels = name.rsplit('.');
    for _ in 0..32 {
        let label = labels.next()?;
        let nibble = u128::from_str_radix(label, 16).ok()?;
        if label.len() != 1 {
            return None;
        }
        bits = bits << 4 | nibble;
    }
    labels
        .next()
        .is_none()
        .then(|| Ipv6Addr::from_bits(bits).into())
}

/// A query that is answered here.
struct Request<'a> {
    message: Message<&'a [u8]>,
    transport: Transport,
    seed: u64,
}

impl Request<'_> {
    fn addresses(&self, question: &ParsedQuestion<'_>, addresses: &[IpAddr]) -> Answer {
        let wanted = |address: &&IpAddr| match address {
            IpAddr::V4(_) => question.qtype() == Rtype::A,
            IpAddr::V6(_) => question.qtype() == Rtype::AAAA,
        };
        let mut addresses: Vec<IpAddr> = addresses.iter().filter(wanted).copied().collect();
        shuffle(&mut addresses, self.seed);
        self.records(|answer| {
            let name = question.qname();
            addresses.iter().try_for_each(|address| match *address {
                IpAddr::V4(address) => answer.push((name, TTL, A::new(address))),
                IpAddr::V6(address) => answer.push((name, TTL, Aaaa::new(address))),
            })
        })
    }

    fn pointer(&self, question: &ParsedQuestion<'_>, target: &str) -> Answer {
        // A container's name may be longer than a label can be (moby#46928).
        let Ok(target) = Name::<Vec<u8>>::from_chars(target.chars()) else {
            return self.servfail();
        };
        self.records(|answer| {
            answer.push((question.qname(), TTL, Ptr::new(target.to_name::<Vec<u8>>())))
        })
    }

    /// NOERROR without records: the name exists, what was asked for does not.
    fn empty(&self) -> Answer {
        self.records(|_| Ok(()))
    }

    fn servfail(&self) -> Answer {
        match self.start(Rcode::SERVFAIL) {
            Some(builder) => Answer::Reply(self.finish(builder)),
            None => Answer::Drop,
        }
    }

    fn records(&self, push: impl FnOnce(&mut Builder) -> Result<(), PushError>) -> Answer {
        let Some(mut builder) = self.start(Rcode::NOERROR) else {
            return Answer::Drop;
        };
        // What was pushed until then stays: some addresses are better than none.
        if push(&mut builder).is_err() {
            builder.header_mut().set_tc(true);
        }
        Answer::Reply(self.finish(builder))
    }

    /// The beginning of a reply, limited to what the client can take.
    fn start(&self, rcode: Rcode) -> Option<Builder> {
        let mut builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).ok()?;
        builder.set_push_limit(usize::from(self.limit()));
        let mut answer = builder.start_answer(&self.message, rcode).ok()?;
        let header = answer.header_mut();
        header.set_ra(true);
        header.set_cd(self.message.header().cd());
        Some(answer)
    }

    /// The end of a reply: who speaks EDNS is answered in EDNS (RFC 6891 §6.1.1).
    fn finish(&self, builder: Builder) -> Vec<u8> {
        let mut builder = builder.additional();
        if self.message.opt().is_some() {
            builder.clear_push_limit();
            // Vectors grow, so this cannot fail; and the reply is right without it.
            let _ = builder.opt(|opt| {
                opt.set_udp_payload_size(OWN_UDP_SIZE);
                Ok(())
            });
        }
        builder.finish().into_target()
    }

    /// How long the reply may be, octets, apart from its OPT record.
    fn limit(&self) -> u16 {
        let opt = self.message.opt();
        let limit = match self.transport {
            Transport::Tcp => MAX_TCP_SIZE,
            Transport::Udp => opt.as_ref().map_or(MIN_UDP_SIZE, |opt| {
                opt.udp_payload_size().clamp(MIN_UDP_SIZE, MAX_UDP_SIZE)
            }),
        };
        if opt.is_some() {
            limit - OPT_SIZE
        } else {
            limit
        }
    }
}

/// Fisher and Yates with the generator `xorshift64*`: every client gets another order.
fn shuffle(addresses: &mut [IpAddr], seed: u64) {
    let mut state = seed | 1;
    for last in (1..addresses.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        let other = usize::try_from(random).unwrap_or(0) % (last + 1);
        addresses.swap(last, other);
    }
}

#[cfg(test)]
mod tests;
