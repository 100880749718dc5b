//! Frames that the forwarder made or released while it handled another one.

use std::collections::VecDeque;

/// Buffers kept for reuse.
const SPARE_LIMIT: usize = 64;

/// Frames (virtio header ‖ packet) to be written to the TUN after the frame in hand.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The oldest frame. Give its buffer back with [`Outbox::recycle`] when it is written.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// All frames, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.frames.drain(..)
    }

    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Takes a buffer back for reuse.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_LIMIT {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// An empty buffer.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn push(&mut self, frame: Vec<u8>) {
        self.frames.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_in_order_and_buffers_return() {
        let mut out = Outbox::new();
        out.push(vec![1]);
        out.push(vec![2]);
        assert_eq!(out.len(), 2);
        let first = out.pop().unwrap();
        assert_eq!(first, [1]);
        out.recycle(first);
        assert_eq!(out.drain().collect::<Vec<_>>(), [[2]]);
        assert!(out.is_empty());
        let buffer = out.buffer();
        assert!(buffer.is_empty() && buffer.capacity() > 0);
    }
}
