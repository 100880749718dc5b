//! Messages by hand: what goes over the wire is asserted octet by octet, not by the library that
//! the resolver uses itself.

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;

pub(crate) const NOERROR: u8 = 0;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

/// A query with recursion desired.
pub(crate) fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(rtype.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// A query that announces how much it takes, with the DO bit and an option of unknown meaning.
pub(crate) fn query_with_edns(id: u16, name: &str, rtype: u16, size: u16) -> Vec<u8> {
    let mut message = query(id, name, rtype);
    message[11] = 1;
    message.extend([0, 0, 41]);
    message.extend(size.to_be_bytes());
    message.extend([0, 0, 0x80, 0, 0, 7, 0xfd, 0xe9, 0, 3, 1, 2, 3]);
    message
}

/// The reply to `query` with the answers given as type and data.
pub(crate) fn reply(query: &[u8], rcode: u8, answers: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = query[..question_end(query)].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | rcode;
    message[6..12].fill(0);
    let count = u16::try_from(answers.len()).unwrap();
    message[6..8].copy_from_slice(&count.to_be_bytes());
    for (rtype, data) in answers {
        message.extend([0xc0, 12]);
        message.extend(rtype.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60]);
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
    }
    message
}

fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += usize::from(message[at]) + 1;
    }
    at + 5
}

pub(crate) fn id(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

pub(crate) fn rcode(message: &[u8]) -> u8 {
    message[3] & 15
}

pub(crate) fn truncated(message: &[u8]) -> bool {
    message[2] & 2 != 0
}

/// The data of every answer whose name is a pointer to the question.
pub(crate) fn answers(message: &[u8]) -> Vec<Vec<u8>> {
    let count = u16::from_be_bytes([message[6], message[7]]);
    let mut at = question_end(message);
    (0..count)
        .map(|_| {
            assert_eq!(&message[at..at + 2], [0xc0, 12], "the question's own name");
            let length = usize::from(u16::from_be_bytes([message[at + 10], message[at + 11]]));
            let data = message[at + 12..at + 12 + length].to_vec();
            at += 12 + length;
            data
        })
        .collect()
}
