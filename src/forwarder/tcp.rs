//! TCP session tracking: only as strict as it must be to choose the right idle time and not to be
//! fooled. Read RFC 5382, RFC 6146 §3.5.2, RFC 7857 §2 and RFC 5961 first.
//!
//! ```text
//!                     SYN both ways, each acknowledged
//!   SynSent ──► SynReceived ──────────────────────────► Established ◄──── PickedUp
//!      ▲             │                                      │ FIN     both ways
//!      │  SYN        ▼ FIN                                  ▼
//!      └───────── Closing ──── FIN of the other side ──► TimeWait
//!                 Reset   ◄──── believable RST from any state
//! ```
//!
//! * The literal machine of RFC 7857 leaves spurious established sessions; as VPP found in the
//!   field, an established session needs the whole handshake, one FIN makes it transitory, and
//!   nothing but a SYN leads back.
//! * Segments outside the window (which off-path attackers send) pass, because the end host judges
//!   them, but they change nothing here.
//! * A segment picked up in the middle (the daemon was restarted) makes an established session once
//!   segments went both ways.

use super::key::Direction;

/// Window assumed while the scale is unknown, and slack for old segments.
const UNKNOWN_SCALE: u8 = 14;
const SLACK: u32 = 66_000;
const MAX_SCALE: u8 = 14;

/// What the machine sees of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    /// Octets of payload.
    pub(super) len: u32,
    /// Window scale option of a SYN.
    pub(super) window_scale: Option<u8>,
}

impl Segment {
    pub(super) const FIN: u8 = 0x01;
    pub(super) const SYN: u8 = 0x02;
    pub(super) const RST: u8 = 0x04;
    pub(super) const ACK: u8 = 0x10;

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// A SYN that is not an answer.
    pub(super) const fn is_initial(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// May start tracking in the middle of a connection.
    pub(super) const fn is_midstream(&self) -> bool {
        self.flags & (Self::SYN | Self::ACK | Self::RST) == Self::ACK
    }

    /// Sequence number after the segment.
    fn end(&self) -> u32 {
        self.seq
            .wrapping_add(self.len)
            .wrapping_add(u32::from(self.has(Self::SYN)))
            .wrapping_add(u32::from(self.has(Self::FIN)))
    }
}

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcpState {
    SynSent,
    SynReceived,
    PickedUp,
    Established,
    Closing,
    TimeWait,
    Reset,
}

impl TcpState {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::PickedUp => "picked_up",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
        }
    }
}

/// What one side has sent.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// It sent something; `end` counts.
    seen: bool,
    /// It acknowledged something; `acked` and `edge` count.
    acked_any: bool,
    /// It sent a SYN, `isn` counts.
    syn: bool,
    /// The other side acknowledged that SYN.
    syn_acked: bool,
    fin: bool,
    isn: u32,
    /// Sequence number after the last octet it sent.
    end: u32,
    /// Last acknowledgement it sent.
    acked: u32,
    /// Sequence number after the last octet it is ready to receive.
    edge: u32,
    /// Largest window it offered.
    max_window: u32,
    scale: Option<u8>,
}

/// A session.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpTrack {
    state: TcpState,
    sides: [Side; 2],
}

/// `a` is not before `b` in sequence space.
const fn not_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

impl TcpTrack {
    /// Tracks the session that `segment` starts.
    pub(super) fn new(segment: &Segment, direction: Direction) -> Self {
        let initial = segment.is_initial();
        let mut track = Self {
            state: if initial {
                TcpState::SynSent
            } else {
                TcpState::PickedUp
            },
            sides: [Side::default(); 2],
        };
        track.note(segment, direction);
        if !initial && segment.has(Segment::FIN) {
            track.fin(direction);
        }
        track
    }

    pub(super) const fn state(&self) -> TcpState {
        self.state
    }

    /// A segment goes in `direction`.
    pub(super) fn update(&mut self, segment: &Segment, direction: Direction) {
        if segment.has(Segment::RST) {
            // RFC 7857 §2.2: a RST is translated in any case; the state is kept for late data.
            if self.believes_reset(segment, direction) {
                self.state = TcpState::Reset;
            }
            return;
        }
        if segment.has(Segment::SYN) {
            self.syn(segment, direction);
            return;
        }
        if !self.is_in_window(segment, direction) {
            return;
        }
        self.note(segment, direction);
        self.advance();
        if segment.has(Segment::FIN) {
            self.fin(direction);
        }
    }

    fn syn(&mut self, segment: &Segment, direction: Direction) {
        let peer = self.sides[direction.reverse().index()];
        match self.state {
            // RFC 5961 §4: a SYN never re-opens an established session; the end host answers it
            // with a challenge ACK.
            TcpState::Established | TcpState::PickedUp => {}
            TcpState::Closing | TcpState::TimeWait | TcpState::Reset => {
                if segment.is_initial() {
                    *self = Self::new(segment, direction);
                }
            }
            TcpState::SynSent | TcpState::SynReceived => {
                let answers = segment.has(Segment::ACK);
                let right = peer.syn
                    && not_before(segment.ack, peer.isn.wrapping_add(1))
                    && not_before(peer.end, segment.ack);
                if answers && !right {
                    return;
                }
                let me = &mut self.sides[direction.index()];
                if me.syn && me.isn != segment.seq {
                    if me.syn_acked {
                        return;
                    }
                    *me = Side::default();
                }
                // RFC 5382 REQ-2: SYN and SYN/ACK from either side, simultaneous open included.
                self.note(segment, direction);
                self.advance();
            }
        }
    }

    /// Records what `segment` says about both sides.
    fn note(&mut self, segment: &Segment, direction: Direction) {
        let (me, peer) = match direction {
            Direction::Original => {
                let [original, reply] = &mut self.sides;
                (original, reply)
            }
            Direction::Reply => {
                let [original, reply] = &mut self.sides;
                (reply, original)
            }
        };
        let end = segment.end();
        if !me.seen || not_before(end, me.end) {
            me.end = end;
        }
        me.seen = true;
        if segment.has(Segment::SYN) {
            me.syn = true;
            me.isn = segment.seq;
            me.scale = segment.window_scale.map(|scale| scale.min(MAX_SCALE));
        }
        let scale = if segment.has(Segment::SYN) {
            0
        } else {
            match (me.syn, peer.syn) {
                (true, true) => match (me.scale, peer.scale) {
                    (Some(scale), Some(_)) => scale,
                    _ => 0,
                },
                _ => UNKNOWN_SCALE,
            }
        };
        let window = u32::from(segment.window) << scale;
        me.max_window = me.max_window.max(window);
        if segment.has(Segment::ACK) {
            if !me.acked_any || not_before(segment.ack, me.acked) {
                me.acked = segment.ack;
            }
            let edge = segment.ack.wrapping_add(window);
            if !me.acked_any || not_before(edge, me.edge) {
                me.edge = edge;
            }
            me.acked_any = true;
            if peer.syn && not_before(segment.ack, peer.isn.wrapping_add(1)) {
                peer.syn_acked = true;
            }
        }
    }

    /// Steps of the handshake.
    fn advance(&mut self) {
        let [a, b] = &self.sides;
        let opening = matches!(self.state, TcpState::SynSent | TcpState::SynReceived);
        let picked_up = self.state == TcpState::PickedUp;
        if (opening && a.syn_acked && b.syn_acked) || (picked_up && a.acked_any && b.acked_any) {
            self.state = TcpState::Established;
        } else if opening && a.syn && b.syn {
            self.state = TcpState::SynReceived;
        }
    }

    fn fin(&mut self, direction: Direction) {
        self.sides[direction.index()].fin = true;
        if self.state == TcpState::Reset {
            return;
        }
        let [a, b] = &self.sides;
        // RFC 7857 §2.1, as VPP has it: one FIN makes the session transitory.
        self.state = if a.fin && b.fin {
            TcpState::TimeWait
        } else {
            TcpState::Closing
        };
    }

    /// A host with the state that both sides showed would accept the segment.
    fn is_in_window(&self, segment: &Segment, direction: Direction) -> bool {
        let me = &self.sides[direction.index()];
        let peer = &self.sides[direction.reverse().index()];
        if peer.acked_any && !not_before(peer.edge, segment.end()) {
            return false;
        }
        if me.seen && !not_before(segment.seq, me.end.wrapping_sub(peer.max_window.max(SLACK))) {
            return false;
        }
        if !segment.has(Segment::ACK) || !peer.seen {
            return true;
        }
        not_before(peer.end, segment.ack)
            && not_before(segment.ack, peer.end.wrapping_sub(me.max_window.max(SLACK)))
    }

    /// A segment that went in `direction` with `seq` may have been sent lately.
    pub(super) fn may_have_sent(&self, direction: Direction, seq: u32) -> bool {
        let me = &self.sides[direction.index()];
        let peer = &self.sides[direction.reverse().index()];
        !me.seen
            || (not_before(me.end, seq)
                && not_before(seq, me.end.wrapping_sub(peer.max_window.max(SLACK))))
    }

    /// RFC 5961 §3: only a RST at exactly the next expected sequence number ends a connection. What
    /// the receiver expects lies between its last acknowledgement and what its peer sent.
    fn believes_reset(&self, segment: &Segment, direction: Direction) -> bool {
        let me = &self.sides[direction.index()];
        let peer = &self.sides[direction.reverse().index()];
        if !peer.acked_any {
            // Refusal of a SYN: the acknowledgement proves that the SYN was seen.
            let refuses = segment.has(Segment::ACK)
                && peer.syn
                && not_before(segment.ack, peer.isn.wrapping_add(1))
                && not_before(peer.end, segment.ack);
            return refuses || (me.seen && segment.seq == me.end);
        }
        if !me.seen {
            return segment.seq == peer.acked;
        }
        not_before(segment.seq, peer.acked) && not_before(me.end, segment.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original, Reply};

    const S: u8 = Segment::SYN;
    const A: u8 = Segment::ACK;
    const F: u8 = Segment::FIN;
    const R: u8 = Segment::RST;

    fn segment(flags: u8, seq: u32, ack: u32, len: u32) -> Segment {
        Segment {
            flags,
            seq,
            ack,
            window: 65_000,
            len,
            window_scale: None,
        }
    }

    fn established() -> TcpTrack {
        let mut track = TcpTrack::new(&segment(S, 1000, 0, 0), Original);
        track.update(&segment(S | A, 5000, 1001, 0), Reply);
        assert_eq!(track.state(), TcpState::SynReceived);
        track.update(&segment(A, 1001, 5001, 0), Original);
        assert_eq!(track.state(), TcpState::Established);
        track
    }

    #[test]
    fn handshake_is_needed() {
        let mut track = established();
        track.update(&segment(A, 1001, 5001, 100), Original);
        assert_eq!(track.state(), TcpState::Established);
        // A SYN/ACK that does not acknowledge the SYN, or an ACK alone, establishes nothing.
        let mut track = TcpTrack::new(&segment(S, 1000, 0, 0), Original);
        track.update(&segment(S | A, 5000, 999, 0), Reply);
        track.update(&segment(A, 5000, 1001, 0), Reply);
        track.update(&segment(A, 1001, 5001, 0), Original);
        assert_eq!(track.state(), TcpState::SynSent);
    }

    #[test]
    fn simultaneous_open() {
        // RFC 5382 REQ-2
        let mut track = TcpTrack::new(&segment(S, 1000, 0, 0), Original);
        track.update(&segment(S, 5000, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::SynReceived);
        track.update(&segment(S | A, 1000, 5001, 0), Original);
        track.update(&segment(S | A, 5000, 1001, 0), Reply);
        assert_eq!(track.state(), TcpState::Established);
    }

    #[test]
    fn one_fin_is_transitory_and_two_are_time_wait() {
        // RFC 7857 §2.1
        let mut track = established();
        track.update(&segment(F | A, 1001, 5001, 0), Original);
        assert_eq!(track.state(), TcpState::Closing);
        track.update(&segment(A, 5001, 1002, 500), Reply);
        assert_eq!(track.state(), TcpState::Closing);
        track.update(&segment(F | A, 5501, 1002, 0), Reply);
        assert_eq!(track.state(), TcpState::TimeWait);
        track.update(&segment(A, 1002, 5502, 0), Original);
        assert_eq!(track.state(), TcpState::TimeWait);
    }

    #[test]
    fn the_sequence_that_fooled_the_literal_machine() {
        // FIN,ACK / ACK / ACK / RST,ACK must not end up established (VPP field note).
        let mut track = established();
        track.update(&segment(F | A, 1001, 5001, 0), Original);
        track.update(&segment(A, 5001, 1002, 0), Reply);
        track.update(&segment(A, 1002, 5001, 0), Original);
        track.update(&segment(R | A, 5001, 1002, 0), Reply);
        assert_eq!(track.state(), TcpState::Reset);
        track.update(&segment(A, 1002, 5001, 0), Original);
        assert_eq!(track.state(), TcpState::Reset);
    }

    #[test]
    fn blind_resets_change_nothing() {
        let mut track = established();
        track.update(&segment(A, 5001, 1001, 1000), Reply);
        for seq in (0..1000u32).map(|n| 0x1234_5678u32.wrapping_mul(n + 3)) {
            track.update(&segment(R, seq, 0, 0), Reply);
        }
        track.update(&segment(R, 5000, 0, 0), Reply);
        track.update(&segment(R, 6002, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::Established);
        // Exactly the next expected octet: the receiver has not acknowledged the 1000 octets.
        track.update(&segment(R, 6001, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::Reset);
    }

    #[test]
    fn forged_data_does_not_widen_the_window_for_resets() {
        let mut track = established();
        track.update(&segment(A, 0x8000_0000, 0x9000_0000, 10), Reply);
        track.update(&segment(A, 5001 + 3_000_000, 1001, 10), Reply);
        track.update(&segment(R, 100_000, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::Established);
    }

    #[test]
    fn refused_and_aborted_connections_are_reset() {
        let mut track = TcpTrack::new(&segment(S, 1000, 0, 0), Original);
        track.update(&segment(R | A, 0, 7, 0), Reply);
        assert_eq!(track.state(), TcpState::SynSent);
        track.update(&segment(R | A, 0, 1001, 0), Reply);
        assert_eq!(track.state(), TcpState::Reset);
        let mut track = TcpTrack::new(&segment(S, 1000, 0, 0), Original);
        track.update(&segment(R, 1001, 0, 0), Original);
        assert_eq!(track.state(), TcpState::Reset);
    }

    #[test]
    fn syn_reopens_only_what_is_closing() {
        let mut track = established();
        track.update(&segment(S, 77, 0, 0), Original);
        track.update(&segment(S, 77, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::Established);
        track.update(&segment(F | A, 1001, 5001, 0), Original);
        track.update(&segment(F | A, 5001, 1002, 0), Reply);
        track.update(&segment(S, 900_000, 0, 0), Original);
        assert_eq!(track.state(), TcpState::SynSent);
        track.update(&segment(S | A, 1, 900_001, 0), Reply);
        track.update(&segment(A, 900_001, 2, 0), Original);
        assert_eq!(track.state(), TcpState::Established);
    }

    #[test]
    fn scaled_windows_are_honoured() {
        let syn = Segment {
            window_scale: Some(7),
            ..segment(S, 1000, 0, 0)
        };
        let mut track = TcpTrack::new(&syn, Original);
        track.update(
            &Segment {
                window_scale: Some(7),
                ..segment(S | A, 5000, 1001, 0)
            },
            Reply,
        );
        track.update(&segment(A, 1001, 5001, 0), Original);
        // A megabyte in flight, then the FIN.
        for n in 0..20 {
            track.update(&segment(A, 5001 + n * 50_000, 1001, 50_000), Reply);
        }
        track.update(&segment(F | A, 1_005_001, 1001, 0), Reply);
        assert_eq!(track.state(), TcpState::Closing);
    }

    #[test]
    fn picked_up_sessions_need_both_ways() {
        let mut track = TcpTrack::new(&segment(A, 1000, 5000, 100), Original);
        track.update(&segment(A, 1100, 5000, 100), Original);
        assert_eq!(track.state(), TcpState::PickedUp);
        track.update(&segment(R, 9, 0, 0), Reply);
        assert_eq!(track.state(), TcpState::PickedUp);
        let mut refused = track;
        refused.update(&segment(R, 5000, 0, 0), Reply);
        assert_eq!(refused.state(), TcpState::Reset);
        track.update(&segment(A, 5000, 1200, 0), Reply);
        assert_eq!(track.state(), TcpState::Established);
    }
}
