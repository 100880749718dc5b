//! A single-queue TUN with virtio headers and offloads, for tests.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Length of the legacy `virtio_net_hdr` in front of each packet.
pub const VNET: usize = 10;
pub const NEEDS_CSUM: u8 = 1;

nix::ioctl_write_ptr_bad!(tunsetiff, libc::TUNSETIFF, libc::ifreq);
nix::ioctl_write_int!(tunsetoffload, b'T', 208);

/// An open TUN in the thread's namespace.
#[derive(Debug)]
pub struct Tun {
    pub file: File,
    pub if_index: u32,
}

impl Tun {
    /// Creates `name`, with checksum and TCP segmentation offload, and sets it up.
    pub fn open(name: &str) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .unwrap();
        // SAFETY: an all-zero ifreq is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::try_from(from).unwrap();
        }
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap();
        // SAFETY: the descriptor is open and `request` is a valid ifreq.
        unsafe { tunsetiff(file.as_raw_fd(), &request) }.unwrap();
        // CSUM | TSO4 | TSO6. SAFETY: the descriptor is a TUN.
        unsafe { tunsetoffload(file.as_raw_fd(), 0x1 | 0x2 | 0x4) }.unwrap();
        // Without a link-local address the kernel solicits no routers there.
        super::sh(&format!(
            "ip link set {name} addrgenmode none && ip link set {name} mtu 65535 txqueuelen 10000 up"
        ));
        let if_index = nix::net::if_::if_nametoindex(name).unwrap();
        Self { file, if_index }
    }

    /// The next frame (virtio header and packet), or `None` after `milliseconds` of silence.
    pub fn read(&self, milliseconds: u16) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        loop {
            let length = self.read_into(&mut frame, milliseconds)?;
            // The kernel itself reports the IPv6 groups of a new interface.
            if frame[VNET] >> 4 == 4 || frame[VNET + 24] != 0xff {
                frame.truncate(length);
                return Some(frame);
            }
        }
    }

    fn read_into(&self, frame: &mut [u8], milliseconds: u16) -> Option<usize> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(1) => Some((&self.file).read(frame).unwrap()),
            _ => None,
        }
    }

    /// Writes a packet behind an empty virtio header.
    pub fn write_packet(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_all(&[&[0; VNET], packet].concat())
    }

    /// Hands each frame to `judge` on a thread of its own, and writes it back if told to.
    pub fn serve(self, mut judge: impl FnMut(&mut [u8]) -> bool + Send + 'static) -> Served {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let if_index = self.if_index;
        let thread = thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            while !stopped.load(Ordering::Relaxed) {
                let Some(length) = self.read_into(&mut frame, 50) else {
                    continue;
                };
                if judge(&mut frame[..length]) {
                    let _ = (&self.file).write_all(&frame[..length]);
                }
            }
        });
        Served {
            if_index,
            stop,
            thread: Some(thread),
        }
    }
}

/// A TUN with somebody behind it; stops on drop.
#[derive(Debug)]
pub struct Served {
    pub if_index: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
