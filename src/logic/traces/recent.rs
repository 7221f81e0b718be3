//! Decided traces that can still be shown: with their spans as long as these fit, then as a few numbers.

use super::Traces;
use super::open::Decided;

impl Traces {
    /// Keeps a trace that was just decided for explanations, if there is room for any.
    pub(super) fn retain(&mut self, number: u32, decided: Decided) {
        if self.bounds.recent_traces == 0 {
            self.store.remove(number, &self.keys);
            return;
        }
        self.store.change(number, |trace| {
            trace.decided = Some(Box::new(decided));
            trace.parts.shrink_to_fit();
        });
        let store = &mut self.store;
        self.recent.push(&mut store.traces, number);
        self.shown.push(&mut store.traces, number);
        self.shown_bytes += store.traces.get(number).map_or(0, |trace| trace.weight);
        while self.shown_bytes > self.bounds.recent_bytes
            && let Some(oldest) = self.shown.first()
        {
            self.hide(oldest, true);
        }
        while self.recent.len() > self.bounds.recent_traces && self.forget_oldest() {}
    }

    /// Lets go of the spans of a decided trace; if it stays, with a summary of them.
    fn hide(&mut self, number: u32, stays: bool) {
        let store = &mut self.store;
        let Some(trace) = store.traces.get(number) else { return };
        let weight = trace.weight;
        let by_header = store.by_header(trace);
        if stays {
            let clusters = store.clusters(&by_header);
            store.change(number, |trace| {
                if let Some(decided) = &mut trace.decided {
                    decided.clusters = Some(clusters);
                }
            });
        }
        self.shown.remove(&mut store.traces, number);
        self.shown_bytes -= weight;
        store.free_spans(number, &by_header);
    }

    /// Lets go of the decided trace that was decided first. False: there is none.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.recent.first() else { return false };
        if self.shown.first() == Some(oldest) {
            self.hide(oldest, false);
        }
        self.recent.remove(&mut self.store.traces, oldest);
        self.store.remove(oldest, &self.keys);
        true
    }
}
