//! Opening a multi-queue TUN with virtio headers.
//!
//! The `tun` crate opens one queue and knows no `TUNSETOFFLOAD`, so those two ioctls are made here
//! and the first queue is handed to it for everything else (`tun::Configuration::raw_fd`).
//! Source: `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc;
use thiserror::Error;
use tun::AbstractDevice;

const TUN_PATH: &str = "/dev/net/tun";

/// The largest MTU a TUN can have; no network's MTU may exceed it.
pub const TUN_MTU: u16 = 65_535;

const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO4: u64 = 0x20;
const TUN_F_USO6: u64 = 0x40;

nix::ioctl_write_ptr_bad!(
    tunsetiff,
    nix::request_code_write!(b'T', 202, 4),
    libc::ifreq
);
nix::ioctl_write_int_bad!(tunsetoffload, nix::request_code_write!(b'T', 208, 4));

/// Why the TUN could not be opened.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// `/dev/net/tun` is not there.
    #[error(
        "{TUN_PATH} does not exist: load it with `modprobe tun`, or create it with `mkdir -p /dev/net && mknod {TUN_PATH} c 10 200`"
    )]
    Missing,
    /// Not allowed to open it or to make a device.
    #[error("no permission to create a TUN device: run tunbridge as root (CAP_NET_ADMIN)")]
    Permission,
    /// The name is in use by somebody else's device.
    #[error(
        "interface name {0} is taken by another device: stop the program that has it open; if there is none, remove it with `ip link delete {0}`"
    )]
    Busy(String),
    /// The name does not fit `IFNAMSIZ`.
    #[error("interface name {0:?} must have 1 to 15 bytes")]
    Name(String),
    /// Any other failure.
    #[error("{step} on {TUN_PATH}: {source}")]
    Io {
        /// The system call that failed.
        step: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// What the kernel may leave to us on this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// TCP super-packets arrive whole.
    pub tcp_segmentation: bool,
    /// UDP super-packets arrive whole (Linux 6.2 and later).
    pub udp_segmentation: bool,
}

/// An open TUN device: its queues. Closing the last one removes the interface.
pub struct Device {
    /// Name of the interface.
    pub name: String,
    /// Index of the interface.
    pub if_index: u32,
    /// What was negotiated.
    pub offloads: Offloads,
    pub(super) queues: Vec<OwnedFd>,
    /// Keeps the `tun` crate's view of queue 0 (and its descriptor) alive.
    _control: tun::Device,
}

impl Device {
    /// Makes the TUN `name` with `queues` queues in the current network namespace, sets its MTU to
    /// 65,535. It is left down, so that it can be prepared.
    ///
    /// # Errors
    /// [`DeviceError`], each with what to do about it.
    pub fn open(name: &str, queues: usize) -> Result<Self, DeviceError> {
        // Without IFF_TUN_EXCL the first queue, too, would be added to a device that is there: another
        // daemon's, whose packets we would share.
        let first = interface_request(name, libc::IFF_TUN_EXCL)?;
        let further = interface_request(name, 0)?;
        let fds = std::iter::once(&first)
            .chain(std::iter::repeat(&further))
            .take(queues.max(1))
            .map(|request| open_queue(name, request))
            .collect::<Result<Vec<_>, _>>()?;
        let offloads = negotiate(&fds[0])?;

        let control_fd = fds[0].try_clone().map_err(io_error("dup"))?;
        let mut configuration = tun::Configuration::default();
        configuration
            .raw_fd(control_fd.into_raw_fd())
            .tun_name(name)
            .mtu(TUN_MTU);
        let mut control = tun::create(&configuration).map_err(tun_error("adopt"))?;
        control
            .configure(&configuration)
            .map_err(tun_error("configure"))?;
        let if_index = nix::net::if_::if_nametoindex(name).map_err(|errno| DeviceError::Io {
            step: "if_nametoindex",
            source: errno.into(),
        })?;

        Ok(Self {
            name: name.to_owned(),
            if_index,
            offloads,
            queues: fds,
            _control: control,
        })
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("name", &self.name)
            .field("if_index", &self.if_index)
            .field("offloads", &self.offloads)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

fn interface_request(name: &str, more_flags: libc::c_int) -> Result<libc::ifreq, DeviceError> {
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || !name.is_ascii() {
        return Err(DeviceError::Name(name.to_owned()));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    // IFF_TUN_EXCL is the sign bit of the kernel's 16.
    let [low, high, ..] = (flags | more_flags).to_le_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_le_bytes([low, high]);
    Ok(request)
}

fn open_queue(name: &str, request: &libc::ifreq) -> Result<OwnedFd, DeviceError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_PATH)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => DeviceError::Missing,
            Some(libc::EPERM | libc::EACCES) => DeviceError::Permission,
            _ => DeviceError::Io {
                step: "open",
                source: error,
            },
        })?;
    // SAFETY: the descriptor is open and the request is a valid, NUL-terminated ifreq.
    match unsafe { tunsetiff(file.as_raw_fd(), request) } {
        Ok(_) => Ok(file.into()),
        Err(Errno::EPERM | Errno::EACCES) => Err(DeviceError::Permission),
        Err(Errno::EBUSY | Errno::EINVAL | Errno::EEXIST) => {
            Err(DeviceError::Busy(name.to_owned()))
        }
        Err(errno) => Err(DeviceError::Io {
            step: "TUNSETIFF",
            source: errno.into(),
        }),
    }
}

/// Asks for everything and goes down to what the kernel knows.
fn negotiate(queue: &OwnedFd) -> Result<Offloads, DeviceError> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let candidates = [
        (tcp | TUN_F_USO4 | TUN_F_USO6, true, true),
        (tcp, true, false),
        (TUN_F_CSUM, false, false),
        (0, false, false),
    ];
    let mut last = Errno::EINVAL;
    for (mask, tcp_segmentation, udp_segmentation) in candidates {
        let mask = libc::c_int::try_from(mask).unwrap_or(0);
        // SAFETY: the descriptor is an attached TUN queue and the argument is passed by value.
        match unsafe { tunsetoffload(queue.as_raw_fd(), mask) } {
            Ok(_) => {
                return Ok(Offloads {
                    tcp_segmentation,
                    udp_segmentation,
                });
            }
            Err(errno) => last = errno,
        }
    }
    Err(DeviceError::Io {
        step: "TUNSETOFFLOAD",
        source: last.into(),
    })
}

fn io_error(step: &'static str) -> impl FnOnce(io::Error) -> DeviceError {
    move |source| DeviceError::Io { step, source }
}

fn tun_error(step: &'static str) -> impl FnOnce(tun::Error) -> DeviceError {
    move |error| DeviceError::Io {
        step,
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(matches!(
            interface_request("", 0),
            Err(DeviceError::Name(_))
        ));
        assert!(matches!(
            interface_request("a-name-of-16-byt", 0),
            Err(DeviceError::Name(_))
        ));
        assert!(interface_request("a-name-of-15-by", 0).is_ok());
    }
}
