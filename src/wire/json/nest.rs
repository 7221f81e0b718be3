//! Nested protobuf messages, written front to back without knowing their lengths.
//!
//! A message begins with a length of one byte left open. Most messages are shorter than 128 bytes, and theirs is
//! filled in when they end. Of the others it is noted where they begin and how long they are; one last copy widens
//! those lengths. So nothing is moved twice, however deep the nesting, and the notes are fewer than one per 128 bytes.

use super::super::reader::{LEN, put_varint, tag, varint_len};

#[derive(Default)]
pub(super) struct Nest {
    raw: Vec<u8>,
    open: Vec<Open>,
    /// Where a length of more than one byte belongs, and the length.
    long: Vec<(usize, usize)>,
    /// Bytes by which the finished message is longer than `raw`.
    extra: usize,
}

struct Open {
    at: usize,
    /// The same for this message, as far as it is known.
    extra: usize,
}

impl Nest {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Nest { raw: Vec::with_capacity(bytes), ..Nest::default() }
    }

    /// Where plain fields are appended.
    pub(super) fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    pub(super) fn open(&mut self, number: u32) {
        put_varint(&mut self.raw, u64::from(tag(number, LEN)));
        self.open.push(Open { at: self.raw.len(), extra: 0 });
        self.raw.push(0);
    }

    /// Ends the message that was opened last.
    pub(super) fn close(&mut self) {
        let Some(Open { at, extra }) = self.open.pop() else { return };
        let len = self.raw.len() - at - 1 + extra;
        match u8::try_from(len) {
            Ok(short @ 0..0x80) => self.raw[at] = short,
            _ => self.long.push((at, len)),
        }
        let extra = extra + varint_len(len as u64) - 1;
        match self.open.last_mut() {
            Some(outer) => outer.extra += extra,
            None => self.extra += extra,
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.long.is_empty() {
            return self.raw;
        }
        // Inner messages end before outer ones, but begin behind them.
        self.long.sort_unstable();
        let mut out = Vec::with_capacity(self.raw.len() + self.extra);
        let mut done = 0;
        for (at, len) in self.long {
            out.extend_from_slice(&self.raw[done..at]);
            put_varint(&mut out, len as u64);
            done = at + 1;
        }
        out.extend_from_slice(&self.raw[done..]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_at_every_depth() {
        for leaf in [0, 1, 100, 126, 127, 128, 129, 16_380, 16_383, 16_384] {
            let mut nest = Nest::default();
            let mut expected = vec![7; leaf];
            (0..5).for_each(|_| nest.open(1));
            nest.raw().extend(vec![7; leaf]);
            for _ in 0..5 {
                nest.close();
                let mut outer = vec![0x0a];
                put_varint(&mut outer, expected.len() as u64);
                outer.extend(expected);
                expected = outer;
            }
            assert_eq!(nest.finish(), expected, "{leaf}");
        }
    }
}
