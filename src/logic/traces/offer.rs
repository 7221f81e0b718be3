//! Spans come in: to their trace if it is open, after its verdict otherwise.

use super::arena::{MAX_PIECE, Record, piece_bytes, span_bytes};
use super::headers::Headers;
use super::keys::Keys;
use super::open::{Part, Trace};
use super::release::Release;
use super::seen::FEW;
use super::slab::NONE;
use super::verdicts::Remembered;
use super::{Cause, Traces};
use crate::model::{Fate, Receipt, SpanEntry, Spans, Tick, TraceId};

/// The headers of a batch's scopes and their resources, asked for once each, and held as long as the batch is at hand.
#[derive(Default)]
pub(super) struct Scopes {
    numbers: Vec<u32>,
    held: Vec<u32>,
    resources: Vec<u32>,
    held_resources: Vec<u32>,
}

impl Scopes {
    fn begin(&mut self, spans: &Spans) {
        for (numbers, count) in [(&mut self.numbers, spans.scopes.len()), (&mut self.resources, spans.resources.len())]
        {
            numbers.clear();
            numbers.resize(count, NONE);
        }
    }

    /// The number of a scope's header, and the bytes that it and its resource take if they are new.
    pub(super) fn number(&mut self, headers: &mut Headers, spans: &Spans, scope: u32, keys: &Keys) -> (u32, u64) {
        let known = self.numbers[scope as usize];
        if known != NONE {
            return (known, 0);
        }
        let at = spans.scopes[scope as usize].resource;
        let (mut resource, mut more) = (self.resources[at as usize], 0);
        if resource == NONE {
            (resource, more) = headers.intern_resource(spans, at, keys);
            self.resources[at as usize] = resource;
            self.held_resources.push(resource);
        }
        let (number, bytes) = headers.intern(spans, scope, resource, keys);
        self.numbers[scope as usize] = number;
        self.held.push(number);
        (number, more + bytes)
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        let lists = [&self.numbers, &self.held, &self.resources, &self.held_resources];
        lists.iter().map(|list| (list.capacity() * size_of::<u32>()) as u64).sum()
    }

    fn end(&mut self, headers: &mut Headers) {
        self.held.drain(..).for_each(|number| headers.release(number, 1));
        self.held_resources.drain(..).for_each(|number| headers.release_resource(number));
        if self.numbers.capacity().max(self.resources.capacity()) > 1 << 16 {
            *self = Scopes::default();
        }
    }
}

/// What is known of a trace whose spans come.
enum Standing {
    Open(u32),
    /// With its entry, if it has one still.
    Decided(Option<u32>, Remembered),
    Unknown,
}

impl Traces {
    /// All spans of a batch, by trace. The receipts are in `shares`.
    pub(super) fn take(&mut self, spans: &Spans, indexes: &[u32], out: &mut Vec<Release>) {
        let mut groups = std::mem::take(&mut self.groups);
        groups.sort(spans, indexes, &self.keys);
        self.scopes.begin(spans);
        self.came = groups.len();
        for (group, indexes) in groups.iter() {
            self.take_group(group.id, group.hash, spans, indexes, out);
        }
        self.scopes.end(&mut self.store.headers);
        self.groups = groups;
    }

    fn take_group(&mut self, id: TraceId, hash: u64, spans: &Spans, indexes: &[u32], out: &mut Vec<Release>) {
        let mut rest = indexes;
        let fresh: Vec<u32>;
        // Beyond what verdicts can tell, the filters still know what was settled.
        if !matches!(self.standing(&id, hash), Standing::Decided(..))
            && let Some(known) = self.known(spans, indexes)
        {
            self.counts.duplicates += known.len() as u64;
            self.shares.take(known.len() as u32).for_each(|receipt| receipt.resolve(Fate::Duplicate));
            let mut known = known.into_iter().peekable();
            let new = (0..).zip(indexes).filter(|(at, _)| known.next_if_eq(at).is_none());
            fresh = new.map(|(_, index)| *index).collect();
            rest = &fresh;
        }
        while !rest.is_empty() {
            match self.standing(&id, hash) {
                Standing::Open(number) => rest = self.add(number, spans, rest, out),
                Standing::Decided(number, verdict) => return self.late(number, verdict, spans, rest, out),
                Standing::Unknown => self.begin(id, hash, out),
            }
        }
    }

    fn standing(&self, id: &TraceId, hash: u64) -> Standing {
        match self.store.find(id, hash) {
            Some(number) => {
                let decided = self.store.traces.get(number).and_then(|trace| trace.decided.as_ref());
                decided.map_or(Standing::Open(number), |decided| Standing::Decided(Some(number), decided.verdict))
            }
            None => {
                let verdict = self.verdicts.find(hash);
                verdict.map_or(Standing::Unknown, |verdict| Standing::Decided(None, verdict))
            }
        }
    }

    /// Which of the spans of a trace without a verdict were settled, or are on their way out, since it had one that is
    /// forgotten. `None`: none, or that cannot be.
    fn known(&self, spans: &Spans, indexes: &[u32]) -> Option<Vec<u32>> {
        let dedup = self.dedup.as_ref()?;
        if self.verdicts.reach(self.now) >= dedup.window() {
            return None;
        }
        let span = |index: &u32| &spans.spans[*index as usize];
        let key = |span: &SpanEntry| dedup.key_of(&span.trace_id, span.span_id, span.kind, span.end);
        let keys: Vec<_> = indexes.iter().map(|index| key(span(index))).collect();
        Some(dedup.known(&keys, self.now)).filter(|known| !known.is_empty())
    }

    fn begin(&mut self, id: TraceId, hash: u64, out: &mut Vec<Release>) {
        while self.bounds.max_traces > 0
            && self.open.len() >= self.bounds.max_traces
            && let Some(oldest) = self.open.first()
        {
            self.decide(oldest, Cause::TooManyTraces, out);
        }
        let number = self.store.traces.insert(Trace::new(id, self.now));
        self.store.index.insert(hash, number);
        self.open.push(&mut self.store.traces, number);
        self.by_weight.push(&mut self.store.traces, number, 0);
        self.counts.new_traces += 1;
    }

    /// Adds spans to an open trace up to its caps. What is left when one is reached comes after the verdict.
    fn add<'i>(&mut self, number: u32, spans: &Spans, indexes: &'i [u32], out: &mut Vec<Release>) -> &'i [u32] {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.clear();
        let (over, rest) = self.pick(number, spans, indexes, &mut fresh);
        self.write(number, spans, &fresh);
        self.fresh = fresh;
        if let Some(cause) = over {
            self.decide(number, cause, out);
        }
        rest
    }

    /// Which of the spans are new and fit. Duplicates meet their fate.
    fn pick<'i>(
        &mut self,
        number: u32,
        spans: &Spans,
        indexes: &'i [u32],
        fresh: &mut Vec<u32>,
    ) -> (Option<Cause>, &'i [u32]) {
        let Traces { store, keys, bounds, shares, counts, .. } = self;
        let Some(trace) = store.traces.get_mut(number) else { return (None, &[]) };
        let arena = &store.arena;
        let extra = trace.extra_bytes();
        let (mut bytes, mut duplicates, before) = (0, 0, trace.bytes + u64::from(trace.headers));
        let (mut over, mut rest) = (None, &[][..]);
        for (at, index) in indexes.iter().enumerate() {
            let span = &spans.spans[*index as usize];
            let count = trace.spans as usize + fresh.len();
            if self.dedup.is_some() {
                let hash = |record: &Record| keys.span(record.span_id, record.kind, record.end);
                let records = trace.parts.iter().flat_map(|part| arena.piece(part.place).records());
                let waiting = fresh.iter().map(|index| Record::of(&spans.spans[*index as usize], 0));
                let mut all = records.chain(waiting);
                if count >= FEW && trace.seen.compares() {
                    trace.seen.keep(all.by_ref().map(|record| hash(&record)));
                }
                let record = Record::of(span, 0);
                let is =
                    |other: Record| (other.span_id, other.kind, other.end) == (record.span_id, record.kind, record.end);
                if !trace.seen.note(hash(&record), || all.any(is)) {
                    duplicates += 1;
                    continue;
                }
            }
            let len = span.body().len() as u64;
            if count > 0 {
                over = if count >= bounds.max_trace_spans as usize {
                    Some(Cause::TooManySpans)
                } else if before + bytes + len > bounds.max_trace_bytes {
                    Some(Cause::TooManyBytes)
                } else {
                    None
                };
                if over.is_some() {
                    rest = &indexes[at..];
                    break;
                }
            }
            bytes += len;
            fresh.push(*index);
        }
        if over.is_none() && before + bytes > bounds.max_trace_bytes {
            over = Some(Cause::TooManyBytes);
        }
        trace.duplicates = trace.duplicates.saturating_add(duplicates);
        store.extra = store.extra + trace.extra_bytes() - extra;
        counts.duplicates += u64::from(duplicates);
        shares.take(duplicates).for_each(|receipt| receipt.resolve(Fate::Duplicate));
        (over, rest)
    }

    /// Copies new spans of an open trace.
    fn write(&mut self, number: u32, spans: &Spans, fresh: &[u32]) {
        let Some(weight) = self.store.traces.get(number).map(|trace| trace.weight) else { return };
        let body = |index: &u32| spans.spans[*index as usize].body();
        let (mut rest, mut more, mut headers, mut bytes, mut root) = (fresh, 0, 0, 0, false);
        let receipts = if fresh.is_empty() { 0 } else { Receipt::BYTES.div_ceil(self.came.max(1)) as u32 };
        while !rest.is_empty() {
            let (mut count, mut bodies, mut taken) = (0, 0, piece_bytes(0, 0));
            for index in rest {
                let len = body(index).len();
                if count > 0 && taken + span_bytes(len) > MAX_PIECE {
                    break;
                }
                taken += span_bytes(len);
                bodies += len;
                count += 1;
                let span = &spans.spans[*index as usize];
                root |= span.parent_span_id.is_zero();
                let (header, new) = self.scopes.number(&mut self.store.headers, spans, span.scope, &self.keys);
                self.store.headers.hold(header, 1);
                headers += new;
            }
            let (piece, behind) = rest.split_at(count);
            let is_first = rest.len() == fresh.len();
            let receipt = is_first.then(|| self.shares.take(fresh.len() as u32).next()).flatten();
            let numbers = &self.scopes.numbers;
            let record = |index: &u32| {
                let span = &spans.spans[*index as usize];
                (Record::of(span, numbers[span.scope as usize]), span.body().of(&spans.bytes))
            };
            let arena = &mut self.store.arena;
            let position = self.store.traces.get(number).map_or(0, |trace| trace.parts.len() as u32);
            let place = arena.append(number, position, bodies, piece.iter().map(record));
            self.store.change(number, |trace| {
                trace.receipts = trace.receipts.saturating_add(if is_first { receipts } else { 0 });
                trace.parts.push(Part { place, receipt });
            });
            more += taken as u64;
            bytes += bodies as u64;
            rest = behind;
        }
        let traces = &mut self.store.traces;
        let Some(trace) = traces.get_mut(number) else { return };
        more += headers + u64::from(receipts);
        trace.spans += fresh.len() as u32;
        trace.bytes += bytes;
        trace.headers = trace.headers.saturating_add(u32::try_from(headers).unwrap_or(u32::MAX));
        trace.weight += more;
        self.open_spans += fresh.len() as u64;
        let root_due = self.now + self.bounds.wait_after_root;
        // A root that changes nothing is not noted.
        let sooner = !self.bounds.wait_after_root.is_zero() && root_due < trace.first_seen + self.bounds.wait;
        if root && sooner && trace.root_due == Tick(u64::MAX) {
            trace.root_due = root_due;
            self.rooted.push(traces, number);
        }
        self.by_weight.reweigh(traces, number, weight, weight + more);
    }
}
