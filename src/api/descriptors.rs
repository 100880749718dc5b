//! Descriptors beside a request: a namespace handed over as itself and not as a path, because paths mean nothing to a
//! daemon in another mount namespace.
//!
//! They come as `SCM_RIGHTS` of an empty line before the request; RFC 9112 § 2.2 lets a server skip such a line, and
//! hyper does. What a connection has brought belongs to its next request that asks for it. No more than
//! [`MOST`] are kept.
//!
//! A message may bring 253. Those for which there is no room, or no free number, the kernel drops, and says so
//! (`MSG_CTRUNC`); those before them are made nevertheless, so what has arrived is looked at all the same.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Descriptors that a connection may have in store.
const MOST: usize = 4;

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
        let (count, new) = receive_with_descriptors(self.stream.as_fd(), octets)?;
        self.kept.keep(new.into_iter());
        Ok(count)
    }
}

/// Room for one control message.
#[repr(C)]
struct Control {
    head: libc::cmsghdr,
    descriptors: [RawFd; MOST],
}

/// `recvmsg` of octets and descriptors. Not nix's, which gives none of a truncated message, so that they would never be
/// closed.
fn receive_with_descriptors(
    socket: BorrowedFd<'_>,
    octets: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut vector = libc::iovec {
        iov_base: octets.as_mut_ptr().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: numbers and null pointers, for all of which zero is a value.
    let (mut control, mut message) = unsafe {
        (
            std::mem::zeroed::<Control>(),
            std::mem::zeroed::<libc::msghdr>(),
        )
    };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: all that the message points to is ours, as large as it says, and lives until the call returns.
    let received =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let has_one = message.msg_controllen >= size_of::<libc::cmsghdr>();
    let is_rights =
        (control.head.cmsg_level, control.head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    if !(has_one && is_rights) {
        return Ok((count, Vec::new()));
    }
    let length = control
        .head
        .cmsg_len
        .saturating_sub(size_of::<libc::cmsghdr>());
    let made = control.descriptors.iter().take(length / size_of::<RawFd>());
    // SAFETY: the kernel has just made them for us, nobody else knows their numbers.
    let owned = made.map(|number| unsafe { OwnedFd::from_raw_fd(*number) });
    Ok((count, owned.collect()))
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
        let file = tempfile::NamedTempFile::new().unwrap();
        // As many as a message can bring.
        let many = [file.as_raw_fd(); 253];
        for _ in 0..3 {
            let line = [IoSlice::new(EMPTY_LINE)];
            let rights = [ControlMessage::ScmRights(&many)];
            let number = near.as_raw_fd();
            sendmsg::<()>(number, &line, &rights, MsgFlags::empty(), None).unwrap();
        }
        near.shutdown().await.unwrap();
        far.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(kept.0.lock().len(), MOST);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let is_it = |path: &std::path::Path| path == file.path();
        let open = open.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|path| is_it(&path)));
        assert_eq!(open.count(), 1 + MOST, "its own, and those that are kept");
    }
}
