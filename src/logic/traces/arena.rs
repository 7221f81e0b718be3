//! Where the spans of all traces lie: segments that are only ever appended to, and given back whole.
//!
//! An allocation per span costs a header, rounding and a cold `free` each; slices of the senders' buffers cost nothing until
//! one kept span pins a request of hundreds of kilobytes. So spans are copied once, behind each other, in *pieces*: the
//! spans of one trace in one batch, their records first and then their bodies. What a trace leaves behind when it is
//! decided is a hole. Traces end about as they began, so that mostly whole segments empty; where they do not, the live
//! pieces of the emptiest segment are moved, and a piece knows whose it is, so that its owner can be told.

use crate::model::{SpanEntry, SpanId, UnixNanos};

/// The smallest and the largest segment. Little is held in small ones: an idle shard holds nearly nothing. Not a whole
/// mebibyte: the allocator hands out 64 KiB at a time and takes one more of those for itself then, 6 % of all that is held.
const SMALL: usize = 64 << 10;
const LARGE: usize = 15 << 16;
/// What is larger gets a segment of its own: so little of a segment stays unused at its end.
pub(super) const MAX_PIECE: usize = 16 << 10;
/// Total length, owner, position and spans.
const HEAD: usize = 16;
const DEAD: [u8; 4] = u32::MAX.to_le_bytes();

/// What is noted of a span, besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) span_id: SpanId,
    pub(super) parent_span_id: SpanId,
    pub(super) start: UnixNanos,
    pub(super) end: UnixNanos,
    pub(super) header: u32,
    pub(super) body: u32,
    pub(super) kind: u8,
    pub(super) status: u8,
}

impl Record {
    pub(super) const BYTES: usize = 42;

    pub(super) fn of(span: &SpanEntry, header: u32) -> Record {
        Record {
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            start: span.start,
            end: span.end,
            header,
            body: span.body().len() as u32,
            kind: span.kind,
            status: span.status,
        }
    }

    fn encode(&self) -> [u8; Record::BYTES] {
        let mut bytes = [0; Record::BYTES];
        bytes[..8].copy_from_slice(&self.span_id.0);
        bytes[8..16].copy_from_slice(&self.parent_span_id.0);
        bytes[16..24].copy_from_slice(&self.start.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.end.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.header.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.body.to_le_bytes());
        bytes[40] = self.kind;
        bytes[41] = self.status;
        bytes
    }

    fn decode(bytes: &[u8; Record::BYTES]) -> Record {
        let eight = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Record {
            span_id: SpanId(eight(0)),
            parent_span_id: SpanId(eight(8)),
            start: UnixNanos(u64::from_le_bytes(eight(16))),
            end: UnixNanos(u64::from_le_bytes(eight(24))),
            header: four(32),
            body: four(36),
            kind: bytes[40],
            status: bytes[41],
        }
    }
}

/// Where a piece lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    segment: u32,
    offset: u32,
}

struct Segment {
    /// Never grows beyond the capacity that it was made with.
    bytes: Vec<u8>,
    live: usize,
}

pub(super) struct Arena {
    segments: Vec<Option<Segment>>,
    vacant: Vec<u32>,
    open: Option<u32>,
    /// Empty ones of the largest size: giving back and getting memory in this size costs page faults.
    spares: Vec<Vec<u8>>,
    largest: usize,
    allocated: u64,
    live: u64,
    /// Of segments that are no longer appended to all that is not live; of the open one what is dead.
    wasted: u64,
}

/// Bytes that a span with such a body takes.
pub(super) fn span_bytes(body: usize) -> usize {
    Record::BYTES + body
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(u32::MAX, u32::from_le_bytes)
}

impl Arena {
    /// For about `max_bytes` at most.
    pub(super) fn new(max_bytes: u64) -> Arena {
        let share = usize::try_from(max_bytes / 64).unwrap_or(usize::MAX).min(LARGE);
        let largest = (share + 1).next_power_of_two() / 2;
        Arena {
            segments: Vec::new(),
            vacant: Vec::new(),
            open: None,
            spares: Vec::new(),
            largest: largest.max(SMALL),
            allocated: 0,
            live: 0,
            wasted: 0,
        }
    }

    /// Memory in use.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated + (self.segments.capacity() * size_of::<Option<Segment>>()) as u64
    }

    /// How much of it could be had back by moving pieces together.
    pub(super) fn wasted(&self) -> u64 {
        self.wasted
    }

    /// How much of it is kept for the next segments.
    pub(super) fn spare(&self) -> u64 {
        (self.spares.len() * self.largest) as u64
    }

    pub(super) fn drop_spares(&mut self) {
        self.allocated -= self.spares.iter().map(|bytes| bytes.capacity() as u64).sum::<u64>();
        self.spares.clear();
    }

    /// Writes a piece: `spans` spans, whose bodies have `bodies` bytes together.
    pub(super) fn append<'a>(
        &mut self,
        owner: u32,
        position: u32,
        bodies: usize,
        spans: impl ExactSizeIterator<Item = (Record, &'a [u8])> + Clone,
    ) -> Place {
        let count = spans.len();
        let len = piece_bytes(count, bodies);
        let place = self.room(len);
        if let Some(Some(segment)) = self.segments.get_mut(place.segment as usize) {
            let bytes = &mut segment.bytes;
            for value in [len as u32, owner, position, count as u32] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            spans.clone().for_each(|(record, _)| bytes.extend_from_slice(&record.encode()));
            spans.for_each(|(_, body)| bytes.extend_from_slice(body));
            debug_assert_eq!(bytes.len() - place.offset as usize, len);
        }
        place
    }

    /// Finds a place for `len` bytes that are appended at once.
    fn room(&mut self, len: usize) -> Place {
        self.live += len as u64;
        if len > MAX_PIECE {
            let bytes = Vec::with_capacity(len);
            self.wasted += (bytes.capacity() - len) as u64;
            return Place { segment: self.add(bytes, len), offset: 0 };
        }
        if let Some(segment) = self.open
            && let Some(Some(open)) = self.segments.get_mut(segment as usize)
        {
            if open.bytes.capacity() - open.bytes.len() >= len {
                open.live += len;
                return Place { segment, offset: open.bytes.len() as u32 };
            }
            self.wasted += self.unused(segment);
        }
        let size = usize::try_from(self.live / 16).unwrap_or(LARGE).next_power_of_two().clamp(SMALL, self.largest);
        let bytes = match self.spares.pop() {
            Some(spare) => {
                self.allocated -= spare.capacity() as u64;
                spare
            }
            None => Vec::with_capacity(size),
        };
        let segment = self.add(bytes, len);
        self.open = Some(segment);
        Place { segment, offset: 0 }
    }

    /// Room at the end of a segment.
    fn unused(&self, segment: u32) -> u64 {
        let segment = self.segments.get(segment as usize).and_then(Option::as_ref);
        segment.map_or(0, |segment| (segment.bytes.capacity() - segment.bytes.len()) as u64)
    }

    fn add(&mut self, bytes: Vec<u8>, live: usize) -> u32 {
        self.allocated += bytes.capacity() as u64;
        let segment = Some(Segment { bytes, live });
        if let Some(number) = self.vacant.pop() {
            self.segments[number as usize] = segment;
            number
        } else {
            self.segments.push(segment);
            self.segments.len() as u32 - 1
        }
    }

    /// A piece; empty if there is none.
    pub(super) fn piece(&self, place: Place) -> Piece<'_> {
        let segment = self.segments.get(place.segment as usize).and_then(Option::as_ref);
        let bytes = segment.and_then(|segment| segment.bytes.get(place.offset as usize..)).unwrap_or_default();
        Piece::read(bytes).unwrap_or(Piece { records: &[], bodies: &[] })
    }

    pub(super) fn free(&mut self, place: Place) {
        let Some(Some(segment)) = self.segments.get_mut(place.segment as usize) else { return };
        let at = place.offset as usize;
        let len = number(&segment.bytes, at) as usize;
        if let Some(owner) = segment.bytes.get_mut(at + 4..at + 8) {
            owner.copy_from_slice(&DEAD);
        }
        segment.live = segment.live.saturating_sub(len);
        self.live = self.live.saturating_sub(len as u64);
        self.wasted += len as u64;
        if segment.live == 0 {
            self.retire(place.segment);
        }
    }

    /// Gives an empty segment back.
    fn retire(&mut self, number: u32) {
        let Some(Segment { mut bytes, .. }) = self.segments.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        self.vacant.push(number);
        if self.open == Some(number) {
            self.open = None;
            self.wasted -= bytes.len() as u64;
        } else {
            self.wasted -= bytes.capacity() as u64;
        }
        let reserve = self.live / 16;
        if bytes.capacity() == self.largest && self.spare() + self.largest as u64 <= reserve {
            bytes.clear();
            self.spares.push(bytes);
        } else {
            self.allocated -= bytes.capacity() as u64;
        }
        while self.spare() > reserve {
            self.allocated -= self.spares.pop().map_or(0, |bytes| bytes.capacity() as u64);
        }
    }

    /// Moves the pieces of the segment that has the most to gain, and gives it back. `moved` learns owner, position and new
    /// place of each. How many bytes were moved; `None`: nothing can be gained.
    pub(super) fn evacuate(&mut self, mut moved: impl FnMut(u32, u32, Place)) -> Option<usize> {
        let closed = self.segments.iter().enumerate().filter(|(number, _)| self.open != Some(*number as u32));
        let share = |segment: &Segment| segment.live as f64 / segment.bytes.capacity().max(1) as f64;
        let candidates =
            closed.filter_map(|(number, segment)| segment.as_ref().map(|segment| (number, share(segment))));
        let (from, share) = candidates.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        if share > 0.97 {
            return None;
        }
        let Segment { bytes, live } = self.segments[from].take()?;
        self.vacant.push(from as u32);
        self.allocated -= bytes.capacity() as u64;
        self.wasted -= (bytes.capacity() - live) as u64;
        self.live -= live as u64;
        let mut rest = &bytes[..];
        while rest.len() >= HEAD {
            let len = (number(rest, 0) as usize).clamp(HEAD, rest.len());
            let (piece, behind) = rest.split_at(len);
            if piece[4..8] != DEAD {
                let place = self.room(len);
                if let Some(Some(segment)) = self.segments.get_mut(place.segment as usize) {
                    segment.bytes.extend_from_slice(piece);
                }
                moved(number(piece, 4), number(piece, 8), place);
            }
            rest = behind;
        }
        Some(live)
    }
}

/// Bytes that a piece takes.
pub(super) fn piece_bytes(spans: usize, bodies: usize) -> usize {
    HEAD + spans * Record::BYTES + bodies
}

/// Spans of one trace that came together.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    records: &'a [[u8; Record::BYTES]],
    bodies: &'a [u8],
}

impl<'a> Piece<'a> {
    fn read(bytes: &'a [u8]) -> Option<Piece<'a>> {
        let (len, spans) = (number(bytes, 0) as usize, number(bytes, 12) as usize);
        let piece = bytes.get(HEAD..len)?;
        let (records, bodies) = piece.split_at_checked(spans * Record::BYTES)?;
        Some(Piece { records: records.as_chunks().0, bodies })
    }

    pub(super) fn records(self) -> impl Iterator<Item = Record> + 'a {
        self.records.iter().map(Record::decode)
    }

    /// Each span with its body.
    pub(super) fn spans(self) -> impl Iterator<Item = (Record, &'a [u8])> {
        let mut rest = self.bodies;
        self.records().map(move |record| {
            let (body, behind) = rest.split_at(rest.len().min(record.body as usize));
            rest = behind;
            (record, body)
        })
    }
}

#[cfg(test)]
mod tests;
