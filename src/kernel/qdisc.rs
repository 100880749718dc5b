//! Limits of bandwidth: a token bucket filter (`tbf`) as the root queueing discipline of an interface.
//!
//! It limits what the interface sends: on the host's end of a veth pair what the container gets, on the container's end
//! what the container sends. What comes faster waits for up to [`LATENCY`] and a burst more, and is dropped then; a program
//! that sends through a socket of the same namespace is slowed down instead. Super-packets that the bucket has no room for
//! are cut by the kernel.
//!
//! Ours is known by its handle. On a container's end its user may put another one in its place, or none.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Netlink, NetlinkError, request_error};
use super::socket::QuestionSocket;
use super::wire::{Attributes, Message, push_attribute, u32_at};

/// The kernel does this under the same lock as everything else about interfaces.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a packet may wait, as with the stock CNI plugin.
pub const LATENCY: Duration = Duration::from_millis(25);

/// What may wait besides is the burst, as with the stock plugin, but not more than this. Runtimes send bursts of
/// 256 MiB, which would let packets wait for minutes.
const MOST_ROOM: u32 = 256 << 10;

/// "tb".
const HANDLE: u32 = 0x7462_0000;
/// `TC_H_ROOT`.
const ROOT: u32 = u32::MAX;
const KIND: &[u8] = b"tbf\0";
/// Octets of `struct tcmsg`: family, index at 4, handle at 8, parent at 12.
const TCMSG_LEN: usize = 20;
/// Attributes of linux/pkt_sched.h within `TCA_OPTIONS`.
const TBF_PARMS: u16 = 1;
const TBF_RATE64: u16 = 4;
const TBF_BURST: u16 = 6;
/// `TC_LINKLAYER_ETHERNET`: the kernel needs no table of rates.
const LINKLAYER_ETHERNET: u8 = 1;
/// Octets of `struct tc_tbf_qopt`: two of `struct tc_ratespec`, limit at 24, buffer at 28, mtu at 32.
const QOPT_LEN: usize = 36;
/// A tick of the packet scheduler is 64 ns.
const TICK_SHIFT: u32 = 6;

/// How fast an interface sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Octets per second, not 0.
    pub rate: u64,
    /// Octets that it holds; at least one frame.
    pub burst: u32,
}

/// Of a veth pair: what the container gets, and what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of the host's end.
    pub ingress: Option<TokenBucket>,
    /// Of the container's end.
    pub egress: Option<TokenBucket>,
}

impl TokenBucket {
    /// Octets that may wait.
    fn room(self) -> u32 {
        let late = u128::from(self.rate) * LATENCY.as_millis() / 1000;
        let room = late + u128::from(self.burst.min(MOST_ROOM));
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    /// How long it takes to fill, as the kernel tells it: in ticks, the lower 32 bits.
    fn ticks(self) -> u128 {
        (u128::from(self.burst) * 1_000_000_000 / u128::from(self.rate.max(1))) >> TICK_SHIFT
    }
}

/// The root queueing discipline of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Root {
    handle: u32,
    /// Rate, room, and ticks of a bucket.
    bucket: Option<(u64, u32, u32)>,
}

impl Root {
    fn is(&self, wanted: TokenBucket) -> bool {
        let Some((rate, room, ticks)) = self.bucket else {
            return false;
        };
        let expected = wanted.ticks();
        // The kernel calculates with less than 64 bits.
        let near =
            expected > u32::MAX.into() || expected.abs_diff(ticks.into()) <= 16.max(expected >> 8);
        self.handle == HANDLE && rate == wanted.rate && room == wanted.room() && near
    }
}

impl Netlink {
    /// Makes an interface send as fast as `wanted` says; `None`: takes our limit away, if it has one.
    ///
    /// # Errors
    /// [`NetlinkError::NoTokenBucket`], or a request failed.
    pub async fn limit(
        &self,
        if_index: u32,
        wanted: Option<TokenBucket>,
    ) -> Result<(), NetlinkError> {
        let limited = self.blocking(move || limit(if_index, wanted)).await?;
        limited.map_err(|error| limit_error(if_index, error))
    }

    /// Whether an interface has this limit of ours, or none of ours.
    ///
    /// # Errors
    /// A request failed.
    pub async fn is_limited(
        &self,
        if_index: u32,
        wanted: Option<TokenBucket>,
    ) -> Result<bool, NetlinkError> {
        let root = self.blocking(move || root(&mut open()?, if_index)).await?;
        let doing = format!("read queueing discipline of interface {if_index}");
        let root = root.map_err(|error| request_error(doing, error))?;
        Ok(is_as_wanted(root, wanted))
    }

    /// The same as [`Netlink::limit`] inside a container.
    ///
    /// # Errors
    /// There is no such namespace or interface; and as there.
    pub async fn limit_inside(
        namespace: BorrowedFd<'_>,
        interface: &str,
        wanted: Option<TokenBucket>,
    ) -> Result<(), NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let link = inside.existing_link(interface).await?;
        inside.limit(link.index, wanted).await
    }

    /// The same as [`Netlink::is_limited`] inside a container.
    ///
    /// # Errors
    /// There is no such namespace or interface; and as there.
    pub async fn is_limited_inside(
        namespace: BorrowedFd<'_>,
        interface: &str,
        wanted: Option<TokenBucket>,
    ) -> Result<bool, NetlinkError> {
        let inside = Self::in_namespace(namespace)?;
        let link = inside.existing_link(interface).await?;
        inside.is_limited(link.index, wanted).await
    }
}

fn limit_error(if_index: u32, error: io::Error) -> NetlinkError {
    match error.raw_os_error() {
        // Of a kind that the kernel does not know.
        Some(libc::ENOENT) => NetlinkError::NoTokenBucket,
        _ => request_error(format!("limit bandwidth of interface {if_index}"), error),
    }
}

fn is_as_wanted(root: Option<Root>, wanted: Option<TokenBucket>) -> bool {
    match wanted {
        Some(wanted) => root.is_some_and(|root| root.is(wanted)),
        None => root.is_none_or(|root| root.handle != HANDLE),
    }
}

fn open() -> io::Result<QuestionSocket> {
    QuestionSocket::new(NETLINK_ROUTE, TIMEOUT)
}

fn limit(if_index: u32, wanted: Option<TokenBucket>) -> io::Result<()> {
    let mut socket = open()?;
    let root = root(&mut socket, if_index)?;
    if is_as_wanted(root, wanted) {
        return Ok(());
    }
    let Some(wanted) = wanted else {
        return delete(&mut socket, if_index);
    };
    let created = create(&mut socket, if_index, wanted);
    // Of another kind, but with our handle.
    if created
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
        && root.is_some_and(|root| root.handle == HANDLE)
    {
        delete(&mut socket, if_index)?;
        return create(&mut socket, if_index, wanted);
    }
    created
}

fn create(socket: &mut QuestionSocket, if_index: u32, wanted: TokenBucket) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    socket.order_with(libc::RTM_NEWQDISC, flags, |request| {
        put_header(request, if_index, HANDLE);
        put_bucket(request, wanted);
    })
}

fn delete(socket: &mut QuestionSocket, if_index: u32) -> io::Result<()> {
    socket.order(libc::RTM_DELQDISC, |request| {
        put_header(request, if_index, HANDLE);
    })
}

fn root(socket: &mut QuestionSocket, if_index: u32) -> io::Result<Option<Root>> {
    let mut found = None;
    let asked = socket.ask_for_echo(
        libc::RTM_GETQDISC,
        |request| put_header(request, if_index, 0),
        |message| found = read_root(message),
    );
    match asked {
        // That is how the kernel says that it is the one every interface has.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(None),
        Err(error) => Err(error),
        Ok(_) => Ok(found),
    }
}

fn put_header(request: &mut Vec<u8>, if_index: u32, handle: u32) {
    let mut header = [0; TCMSG_LEN];
    header[4..8].copy_from_slice(&if_index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    request.extend_from_slice(&header);
}

fn put_bucket(request: &mut Vec<u8>, bucket: TokenBucket) {
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    let mut parameters = [0; QOPT_LEN];
    parameters[1] = LINKLAYER_ETHERNET;
    parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&bucket.room().to_ne_bytes());
    let mut options = Vec::new();
    push_attribute(&mut options, TBF_PARMS, &parameters);
    push_attribute(&mut options, TBF_BURST, &bucket.burst.to_ne_bytes());
    if bucket.rate > rate.into() {
        push_attribute(&mut options, TBF_RATE64, &bucket.rate.to_ne_bytes());
    }
    push_attribute(request, libc::TCA_KIND, KIND);
    push_attribute(request, libc::TCA_OPTIONS, &options);
}

fn read_root(message: &Message<'_>) -> Option<Root> {
    if message.kind != libc::RTM_NEWQDISC {
        return None;
    }
    let handle = u32_at(message.payload, 8)?;
    let (mut is_bucket, mut options) = (false, None);
    for (kind, value) in Attributes(message.payload.get(TCMSG_LEN..)?) {
        match kind {
            libc::TCA_KIND => is_bucket = value == KIND,
            libc::TCA_OPTIONS => options = Some(value),
            _ => {}
        }
    }
    let bucket = options.filter(|_| is_bucket).and_then(read_bucket);
    Some(Root { handle, bucket })
}

fn read_bucket(options: &[u8]) -> Option<(u64, u32, u32)> {
    let (mut parameters, mut rate64) = (None, None);
    for (kind, value) in Attributes(options) {
        match kind {
            TBF_PARMS => parameters = Some(value),
            TBF_RATE64 => rate64 = value.first_chunk().copied().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    let parameters = parameters?;
    let rate = rate64.or_else(|| u32_at(parameters, 8).map(u64::from))?;
    Some((rate, u32_at(parameters, 24)?, u32_at(parameters, 28)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUCKET: TokenBucket = TokenBucket {
        rate: 2_500_000,
        burst: 100_000,
    };

    /// What the kernel answers to [`put_bucket`], but for the ticks, which it calculates.
    fn answered(bucket: TokenBucket, ticks: u32) -> Option<Root> {
        let mut payload = Vec::new();
        put_header(&mut payload, 7, HANDLE);
        put_bucket(&mut payload, bucket);
        // Behind the kind and the headers of both attributes around it.
        let at = TCMSG_LEN + 8 + 4 + 4 + 28;
        payload[at..at + 4].copy_from_slice(&ticks.to_ne_bytes());
        read(libc::RTM_NEWQDISC, &payload)
    }

    fn read(kind: u16, payload: &[u8]) -> Option<Root> {
        read_root(&Message {
            kind,
            flags: 0,
            sequence: 0,
            payload,
        })
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let mut request = Vec::new();
        put_header(&mut request, 7, HANDLE);
        put_bucket(&mut request, BUCKET);
        assert_eq!(request[4..8], 7_u32.to_ne_bytes());
        assert_eq!(request[8..16], [0, 0, 0x62, 0x74, 255, 255, 255, 255]);
        let attributes: Vec<_> = Attributes(&request[TCMSG_LEN..]).collect();
        assert_eq!(attributes[0], (1, &b"tbf\0"[..]));
        let options: Vec<_> = Attributes(attributes[1].1).collect();
        let [(TBF_PARMS, parameters), (TBF_BURST, burst)] = options[..] else {
            panic!("{options:?}");
        };
        assert_eq!(parameters.len(), QOPT_LEN);
        assert_eq!(parameters[8..12], 2_500_000_u32.to_ne_bytes());
        // 25 ms of the rate, and the burst.
        assert_eq!(parameters[24..28], 162_500_u32.to_ne_bytes());
        assert_eq!(burst, 100_000_u32.to_ne_bytes());
    }

    #[test]
    fn a_rate_beyond_32_bits_has_an_attribute_of_its_own() {
        let fast = TokenBucket {
            rate: 1 << 33,
            burst: u32::MAX,
        };
        let root = answered(fast, u32::try_from(fast.ticks()).unwrap()).unwrap();
        assert_eq!(root.bucket.unwrap().0, 1 << 33);
        assert!(root.is(fast));
        let slower = TokenBucket {
            rate: u32::MAX.into(),
            ..fast
        };
        assert!(!root.is(slower));
    }

    #[test]
    fn a_long_burst_does_not_make_packets_wait_long() {
        let bucket = TokenBucket {
            rate: 125_000,
            burst: 268_435_455,
        };
        assert_eq!(bucket.room(), 3125 + (256 << 10));
        let most = TokenBucket {
            rate: u64::MAX,
            burst: u32::MAX,
        };
        assert_eq!(most.room(), u32::MAX);
    }

    #[test]
    fn another_bucket_is_told_from_the_wanted_one() {
        let ticks = u32::try_from(BUCKET.ticks()).unwrap();
        assert_eq!(ticks, 625_000);
        let root = answered(BUCKET, ticks - 3);
        assert!(is_as_wanted(root, Some(BUCKET)) && !is_as_wanted(root, None));
        let rate = TokenBucket { rate: 1, ..BUCKET };
        let burst = TokenBucket {
            burst: 200_000,
            ..BUCKET
        };
        for other in [rate, burst] {
            assert!(!is_as_wanted(root, Some(other)));
        }
        assert!(!is_as_wanted(answered(BUCKET, ticks / 2), Some(BUCKET)));
        let foreign = root.map(|root| Root {
            handle: 0x1_0000,
            ..root
        });
        assert!(!is_as_wanted(foreign, Some(BUCKET)) && is_as_wanted(foreign, None));
        assert!(!is_as_wanted(None, Some(BUCKET)) && is_as_wanted(None, None));
        let mut noqueue = Vec::new();
        put_header(&mut noqueue, 7, 0);
        push_attribute(&mut noqueue, libc::TCA_KIND, b"noqueue\0");
        let expected = Root {
            handle: 0,
            bucket: None,
        };
        assert_eq!(read(libc::RTM_NEWQDISC, &noqueue), Some(expected));
    }

    #[test]
    fn a_kernel_without_it_is_told_from_other_trouble() {
        let text = |code| limit_error(7, io::Error::from_raw_os_error(code)).to_string();
        let missing = text(libc::ENOENT);
        for words in [
            "cannot limit bandwidth",
            "load the module sch_tbf",
            "(bandwidth)",
        ] {
            assert!(missing.contains(words), "{missing}");
        }
        assert!(text(libc::ENODEV).starts_with("limit bandwidth of interface 7: "));
    }

    proptest! {
        #[test]
        fn malformed_answers_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            read(libc::RTM_NEWQDISC, &bytes);
        }
    }
}
