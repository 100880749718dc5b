//! Worker threads: read, judge, write.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

use super::Device;
use crate::forwarder::{Forwarder, Instant, Outbox, VNET_HDR_LEN, Verdict};

/// Frames read in a row before timers and the stop signal are looked at again.
const BUDGET: usize = 64;

/// Longest sleep of worker 0, so that a new, earlier timer is never late by more than this.
const MAX_TIMER_SLEEP: Duration = Duration::from_millis(100);

/// The engine's monotonic clock: every [`Instant`] the forwarder sees comes from one of these.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts at [`Instant::ZERO`].
    pub fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
        }
    }

    /// The present.
    pub fn now(&self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }
}

/// What went wrong at the device, and how much went through.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames read.
    pub read: AtomicU64,
    /// Frames written.
    pub written: AtomicU64,
    /// Frames the kernel refused with `EINVAL` (a header it does not like).
    pub write_invalid: AtomicU64,
    /// Frames lost because the kernel had no room or memory for them.
    pub write_failed: AtomicU64,
    /// Reads that failed.
    pub read_failed: AtomicU64,
}

impl Counters {
    /// Names and values, for `tunbridge stats`.
    pub fn report(&self) -> Vec<(&'static str, u64)> {
        [
            ("read", &self.read),
            ("written", &self.written),
            ("write_invalid", &self.write_invalid),
            ("write_failed", &self.write_failed),
            ("read_failed", &self.read_failed),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .to_vec()
    }
}

/// Running workers. Dropping it stops and joins them and closes the TUN.
#[derive(Debug)]
pub struct Engine {
    stop: Arc<EventFd>,
    workers: Vec<JoinHandle<()>>,
    counters: Arc<Counters>,
    _device: Device,
}

impl Engine {
    /// Starts one worker per queue of `device`.
    ///
    /// # Errors
    /// If a descriptor or thread cannot be made.
    pub fn start(mut device: Device, forwarder: &Arc<Forwarder>, clock: Clock) -> io::Result<Self> {
        let stop = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let counters = Arc::new(Counters::default());
        let queues = std::mem::take(&mut device.queues);
        let mut engine = Self {
            stop: Arc::clone(&stop),
            workers: Vec::with_capacity(queues.len()),
            counters: Arc::clone(&counters),
            _device: device,
        };
        for (number, queue) in queues.into_iter().enumerate() {
            let worker = Worker {
                queue,
                stop: Arc::clone(&stop),
                forwarder: Arc::clone(forwarder),
                counters: Arc::clone(&counters),
                clock,
                turns_timers: number == 0,
                out: Outbox::new(),
            };
            engine.workers.push(
                thread::Builder::new()
                    .name(format!("forward-{number}"))
                    .spawn(move || worker.run())?,
            );
        }
        Ok(engine)
    }

    /// The engine's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(errno) = self.stop.write(1) {
            tracing::error!(%errno, "cannot signal the workers to stop");
        }
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

struct Worker {
    queue: OwnedFd,
    stop: Arc<EventFd>,
    forwarder: Arc<Forwarder>,
    counters: Arc<Counters>,
    clock: Clock,
    turns_timers: bool,
    out: Outbox,
}

impl Worker {
    fn run(mut self) {
        let mut buffer = vec![0; VNET_HDR_LEN + 40 + 65_535];
        loop {
            if self.stopped_while_waiting() {
                return;
            }
            for _ in 0..BUDGET {
                match read(&self.queue, &mut buffer) {
                    Ok(length) => self.carry(&mut buffer[..length]),
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    // EBADFD: the interface was deleted under us; reconciliation will notice.
                    Err(errno) => {
                        count(&self.counters.read_failed);
                        tracing::debug!(%errno, "read from the TUN failed");
                        thread::sleep(Duration::from_millis(50));
                        break;
                    }
                }
            }
            if self.turns_timers {
                let now = self.clock.now();
                if self.forwarder.poll_timeout().is_some_and(|due| due <= now) {
                    self.forwarder.handle_timeout(now, &mut self.out);
                    self.flush();
                }
            }
        }
    }

    fn carry(&mut self, frame: &mut [u8]) {
        count(&self.counters.read);
        match self
            .forwarder
            .handle_packet(frame, self.clock.now(), &mut self.out)
        {
            Verdict::Forward | Verdict::ToHost => send(&self.queue, &self.counters, frame),
            Verdict::Consumed | Verdict::Drop(_) => {}
        }
        if !self.out.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        while let Some(frame) = self.out.pop() {
            send(&self.queue, &self.counters, &frame);
            self.out.recycle(frame);
        }
    }

    /// Sleeps until the queue is readable or a timer is due.
    fn stopped_while_waiting(&self) -> bool {
        let timeout = if self.turns_timers {
            let sleep = self
                .forwarder
                .poll_timeout()
                .map_or(MAX_TIMER_SLEEP, |due| {
                    due.saturating_since(self.clock.now())
                })
                .clamp(Duration::from_millis(1), MAX_TIMER_SLEEP);
            PollTimeout::try_from(sleep).unwrap_or(PollTimeout::ZERO)
        } else {
            PollTimeout::NONE
        };
        let mut fds = [
            PollFd::new(self.queue.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                tracing::error!(%errno, "poll on the TUN failed");
                thread::sleep(Duration::from_millis(50));
            }
        }
        fds[1].revents().is_some_and(|events| !events.is_empty())
    }
}

fn send(queue: &OwnedFd, counters: &Counters, frame: &[u8]) {
    match write(queue, frame) {
        Ok(_) => count(&counters.written),
        Err(Errno::EINVAL) => {
            count(&counters.write_invalid);
            tracing::trace!(length = frame.len(), "the kernel refused a frame");
        }
        Err(_) => count(&counters.write_failed),
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
