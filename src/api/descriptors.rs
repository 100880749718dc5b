//! Descriptors beside a request: a namespace handed over as itself and not as a path, because paths mean nothing to a
//! daemon in another mount namespace.
//!
//! They come as `SCM_RIGHTS` of an empty line before the request; RFC 9112 § 2.2 lets a server skip such a line, and
//! hyper does. What a connection has brought belongs to its next request that asks for it. No more than
//! [`MOST`] are kept, the others are closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Descriptors that a connection may have in store.
const MOST: usize = 4;

/// Descriptors that one message can bring (`SCM_MAX_FD`, include/net/scm.h): with room for them none is lost, and so
/// leaked, on the way.
const MOST_AT_ONCE: usize = 253;

/// What a request's head follows.
const EMPTY_LINE: &[u8] = b"\r\n";

/// The descriptors that a connection has brought.
#[derive(Clone, Debug, Default)]
pub struct Descriptors(Arc<Mutex<Vec<OwnedFd>>>);

impl Descriptors {
    /// The first one; what else there is, is closed.
    pub fn take(&self) -> Option<OwnedFd> {
        let mut kept = std::mem::take(&mut *self.0.lock()).into_iter();
        kept.next()
    }

    fn keep(&self, new: impl Iterator<Item = OwnedFd>) {
        let mut kept = self.0.lock();
        for descriptor in new {
            if kept.len() < MOST {
                kept.push(descriptor);
            }
        }
    }
}

/// Hands a descriptor over, before the first request on this connection.
///
/// # Errors
/// The other end is gone.
pub async fn hand_over(stream: &UnixStream, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let line = [IoSlice::new(EMPTY_LINE)];
    let send = || {
        sendmsg::<()>(
            stream.as_raw_fd(),
            &line,
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(io::Error::from)
    };
    // Two octets into an empty buffer: never in part.
    stream.async_io(Interest::WRITABLE, send).await.map(drop)
}

/// A connection whose descriptors are kept.
#[derive(Debug)]
pub(super) struct Receiving {
    stream: UnixStream,
    kept: Descriptors,
}

impl Receiving {
    pub(super) fn new(stream: UnixStream, kept: Descriptors) -> Self {
        Self { stream, kept }
    }

    fn receive(&self, octets: &mut [u8]) -> io::Result<usize> {
        let mut space = nix::cmsg_space!([RawFd; MOST_AT_ONCE]);
        let mut into = [IoSliceMut::new(octets)];
        let received = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut into,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                // SAFETY: the kernel has just made them for us, nobody else knows their numbers.
                let owned = |number| unsafe { OwnedFd::from_raw_fd(number) };
                self.kept.keep(descriptors.into_iter().map(owned));
            }
        }
        Ok(received.bytes)
    }
}

impl AsyncRead for Receiving {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let octets = buffer.initialize_unfilled();
            let received = self
                .stream
                .try_io(Interest::READABLE, || self.receive(octets));
            match received {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Receiving {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, octets)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sys::stat::fstat;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn inode(descriptor: impl AsFd) -> u64 {
        fstat(descriptor).unwrap().st_ino
    }

    #[tokio::test]
    async fn a_descriptor_arrives_before_what_follows_it() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let kept = Descriptors::default();
        let mut far = Receiving::new(far, kept.clone());
        let file = File::open("/proc/self/ns/net").unwrap();
        hand_over(&near, file.as_fd()).await.unwrap();
        near.write_all(b"GET /").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "\r\nGET /");
        assert_eq!(inode(kept.take().unwrap()), inode(&file));
        assert!(kept.take().is_none());
    }

    #[tokio::test]
    async fn a_flood_of_descriptors_is_not_kept() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let kept = Descriptors::default();
        let mut far = Receiving::new(far, kept.clone());
        let file = File::open("/dev/null").unwrap();
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let many = [file.as_raw_fd(); MOST_AT_ONCE];
        for _ in 0..3 {
            let line = [IoSlice::new(EMPTY_LINE)];
            let rights = [ControlMessage::ScmRights(&many)];
            let number = near.as_raw_fd();
            sendmsg::<()>(number, &line, &rights, MsgFlags::empty(), None).unwrap();
        }
        near.shutdown().await.unwrap();
        far.read_to_end(&mut Vec::new()).await.unwrap();
        let after = std::fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests of this process open and close some, too.
        assert!(after < before + 100, "{before} and then {after}");
        assert_eq!(kept.0.lock().len(), MOST);
    }
}
