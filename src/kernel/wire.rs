//! Netlink messages and attributes as byte slices, for the five places where rtnetlink does not
//! serve: notifications it cannot decode, route questions from packet workers (no allocation, no
//! async), lists of interfaces (time), socket diagnostics, and queueing disciplines. Readers never panic: a malformed rest ends the iteration.

use libc::{NLMSG_DONE, NLMSG_ERROR};

/// Octets of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Octets of `struct ifinfomsg`, which starts each message about an interface.
pub(super) const IFINFOMSG_LEN: usize = 16;
/// A value of `IFLA_EXT_MASK`: leave the packet counters out, a quarter of the answer.
pub(super) const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
/// The two top bits of an attribute's type are flags (nested, network byte order).
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// One netlink message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

impl Message<'_> {
    /// How the answer ended, if this message ends it: 0 or an `errno`. An error message may be an
    /// acknowledgement (0); the end of a dump carries an error if the dump broke off.
    pub(super) fn outcome(&self) -> Option<i32> {
        let missing = match i32::from(self.kind) {
            // A cut error message is still an error.
            NLMSG_ERROR => -libc::EPROTO,
            NLMSG_DONE => 0,
            _ => return None,
        };
        let code = i32_at(self.payload, 0).unwrap_or(missing);
        Some(code.checked_neg().unwrap_or(libc::EPROTO))
    }
}

/// The messages in one datagram.
#[derive(Clone, Debug)]
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let buffer = std::mem::take(&mut self.0);
        let length = usize::try_from(u32_at(buffer, 0)?).ok()?;
        let message = Message {
            kind: u16_at(buffer, 4)?,
            flags: u16_at(buffer, 6)?,
            sequence: u32_at(buffer, 8)?,
            payload: buffer.get(HEADER_LEN..length)?,
        };
        self.0 = length
            .checked_next_multiple_of(4)
            .and_then(|next| buffer.get(next..))
            .unwrap_or_default();
        Some(message)
    }
}

/// The attributes behind a message's fixed header: (type, value).
#[derive(Clone, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let buffer = std::mem::take(&mut self.0);
        let length = usize::from(u16_at(buffer, 0)?);
        let kind = u16_at(buffer, 2)? & ATTRIBUTE_TYPE_MASK;
        let value = buffer.get(ATTRIBUTE_HEADER_LEN..length)?;
        self.0 = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Appends an attribute.
pub(super) fn push_attribute(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = ATTRIBUTE_HEADER_LEN + value.len();
    debug_assert!(
        length <= usize::from(u16::MAX),
        "attributes of ours are short"
    );
    buffer.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}

pub(super) fn u16_at(buffer: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*buffer.get(offset..)?.first_chunk()?))
}

pub(super) fn u32_at(buffer: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*buffer.get(offset..)?.first_chunk()?))
}

pub(super) fn i32_at(buffer: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*buffer.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut buffer = Vec::new();
        let length = u32::try_from(HEADER_LEN + payload.len()).unwrap();
        buffer.extend_from_slice(&length.to_ne_bytes());
        buffer.extend_from_slice(&kind.to_ne_bytes());
        buffer.extend_from_slice(&[0; 2]);
        buffer.extend_from_slice(&7u32.to_ne_bytes());
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(payload);
        buffer.resize(buffer.len().next_multiple_of(4), 0);
        buffer
    }

    #[test]
    fn several_messages_in_one_datagram() {
        let mut datagram = message(80, b"abcde");
        datagram.extend(message(3, b"wxyz"));
        let read: Vec<_> = Messages(&datagram)
            .map(|m| (m.kind, m.sequence, m.payload.to_vec()))
            .collect();
        assert_eq!(read, [(80, 7, b"abcde".to_vec()), (3, 7, b"wxyz".to_vec())]);
    }

    #[test]
    fn attributes_round_trip() {
        let mut buffer = Vec::new();
        push_attribute(&mut buffer, 1, b"abc");
        push_attribute(&mut buffer, 0x8002, b"");
        push_attribute(&mut buffer, 3, &[9; 8]);
        let read: Vec<_> = Attributes(&buffer).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (2, &b""[..]), (3, &[9; 8][..])]);
    }

    #[test]
    fn the_end_of_an_answer_carries_an_errno() {
        let outcome =
            |kind, payload: &[u8]| Messages(&message(kind, payload)).next().unwrap().outcome();
        assert_eq!(
            outcome(2, &(-libc::ENODEV).to_ne_bytes()),
            Some(libc::ENODEV)
        );
        assert_eq!(outcome(2, &i32::MIN.to_ne_bytes()), Some(libc::EPROTO));
        assert_eq!(outcome(2, &[]), Some(libc::EPROTO));
        assert_eq!(outcome(2, &[0; 4]), Some(0));
        assert_eq!(
            outcome(3, &(-libc::ENOENT).to_ne_bytes()),
            Some(libc::ENOENT)
        );
        assert_eq!(outcome(3, &[]), Some(0));
        assert_eq!(outcome(16, &[1; 4]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_to_an_end(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(Messages(&bytes).count() <= bytes.len() / HEADER_LEN);
            prop_assert!(Attributes(&bytes).count() <= bytes.len() / ATTRIBUTE_HEADER_LEN + 1);
            for message in Messages(&bytes) {
                message.outcome();
                prop_assert!(Attributes(message.payload).count() <= bytes.len());
            }
        }
    }
}
