//! A blocking netlink socket for one question at a time. Every wait is bounded, so a caller on the
//! packet path can never hang in it.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_MULTI, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::wire::{HEADER_LEN, Message, Messages};

/// The kernel fills at most 32 KiB per datagram of a dump.
const BUFFER_LEN: usize = 64 * 1024;

/// How an answer is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is the state at one moment.
    Whole,
    /// What it lists changed while it was written: something may be missing, or be in it twice.
    Torn,
}

/// Asks the kernel and reads the answer.
#[derive(Debug)]
pub(super) struct QuestionSocket {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl QuestionSocket {
    /// Opens a socket in the calling thread's network namespace. `timeout` bounds each wait for a
    /// datagram.
    pub(super) fn new(protocol: isize, timeout: Duration) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
        let timeout = TimeVal::microseconds(micros);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
        Ok(Self {
            socket,
            sequence: 0,
            request: Vec::new(),
            answer: vec![0; BUFFER_LEN],
        })
    }

    /// Sends one request and hands each message of its answer to `on_message`. `body` appends what
    /// follows the netlink header.
    ///
    /// # Errors
    /// The kernel's error answer as its `errno`; `TimedOut` if it says nothing.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        dump: bool,
        body: impl FnOnce(&mut Vec<u8>),
        on_message: impl FnMut(&Message<'_>),
    ) -> io::Result<Answer> {
        self.exchange(kind, if dump { NLM_F_DUMP } else { 0 }, body, on_message)
    }

    /// Asks for a list and reads it until `on_message` has had enough. The kernel writes no more of it when the socket
    /// is closed, and answers nothing else before: it is the last question.
    ///
    /// # Errors
    /// As [`QuestionSocket::ask`].
    pub(super) fn ask_for_some(
        mut self,
        kind: u16,
        body: impl FnOnce(&mut Vec<u8>),
        on_message: impl FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<Answer> {
        self.exchange_until(kind, NLM_F_DUMP, body, on_message)
    }

    /// The same for what the kernel tells as a notification, to whoever has asked if that one wants an echo; perhaps nothing.
    ///
    /// # Errors
    /// As [`QuestionSocket::ask`].
    pub(super) fn ask_for_echo(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Vec<u8>),
        on_message: impl FnMut(&Message<'_>),
    ) -> io::Result<Answer> {
        self.exchange(kind, NLM_F_ACK | NLM_F_ECHO, body, on_message)
    }

    /// Has the kernel do something, and returns when it is done.
    ///
    /// # Errors
    /// As [`QuestionSocket::ask`].
    pub(super) fn order(&mut self, kind: u16, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.order_with(kind, 0, body)
    }

    /// The same with flags of the request (`NLM_F_CREATE`).
    ///
    /// # Errors
    /// As [`QuestionSocket::ask`].
    pub(super) fn order_with(
        &mut self,
        kind: u16,
        flags: i32,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<()> {
        self.exchange(kind, NLM_F_ACK | flags, body, |_| {})
            .map(drop)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: i32,
        body: impl FnOnce(&mut Vec<u8>),
        mut on_message: impl FnMut(&Message<'_>),
    ) -> io::Result<Answer> {
        self.exchange_until(kind, flags, body, |message| {
            on_message(message);
            ControlFlow::Continue(())
        })
    }

    fn exchange_until(
        &mut self,
        kind: u16,
        flags: i32,
        body: impl FnOnce(&mut Vec<u8>),
        mut on_message: impl FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(kind, NLM_F_REQUEST | flags, body)?;
        let mut answer = Answer::Whole;
        loop {
            let length = self.receive()?;
            let datagram = self.answer.get(..length).unwrap_or_default();
            for message in Messages(datagram) {
                // The late answer to a question that timed out.
                if message.sequence != self.sequence {
                    continue;
                }
                if i32::from(message.flags) & NLM_F_DUMP_INTR != 0 {
                    answer = Answer::Torn;
                }
                if let Some(code) = message.outcome() {
                    return match code {
                        0 => Ok(answer),
                        code => Err(io::Error::from_raw_os_error(code)),
                    };
                }
                let enough = on_message(&message).is_break();
                if enough || i32::from(message.flags) & NLM_F_MULTI == 0 {
                    return Ok(answer);
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: i32, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let flags = u16::try_from(flags).unwrap_or_default();
        self.request.clear();
        self.request.resize(HEADER_LEN, 0);
        body(&mut self.request);
        let length = u32::try_from(self.request.len()).map_err(io::Error::other)?;
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&length.to_ne_bytes());
        header.extend_from_slice(&kind.to_ne_bytes());
        header.extend_from_slice(&flags.to_ne_bytes());
        header.extend_from_slice(&self.sequence.to_ne_bytes());
        header.extend_from_slice(&[0; 4]);
        if let Some(place) = self.request.get_mut(..HEADER_LEN) {
            place.copy_from_slice(&header);
        }
        loop {
            match self.socket.send(&self.request, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.answer[..], libc::MSG_TRUNC) {
                Ok(length) if length > self.answer.len() => {
                    return Err(io::Error::other("netlink answer longer than 64 KiB"));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                result => return result,
            }
        }
    }
}
