use std::collections::BTreeSet;
use std::sync::{Mutex, mpsc};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::*;
use crate::config::settings::{DedupSettings, GroupByTraceSettings};
use crate::export::testing::{batch, names};
use crate::logic::traces::TraceState;
use crate::model::DropReason;
use crate::pipeline::testing::{End, Watched};
use crate::pipeline::{Ledger, Source};
use crate::wire::{Limits, walk};

const FOREVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(20);

/// An encoded request with a span for each `trace/span`.
fn request(names: &[&str]) -> Vec<u8> {
    let span = |name: &&str| Span {
        trace_id: trace_of(name).0.to_vec(),
        span_id: xxh3_64(name.as_bytes()).to_be_bytes().to_vec(),
        name: (*name).to_owned(),
        ..Span::default()
    };
    let scope = ScopeSpans { spans: names.iter().map(span).collect(), ..ScopeSpans::default() };
    let resource = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }.encode_to_vec()
}

fn trace_of(name: &str) -> TraceId {
    let trace = name.split('/').next().unwrap_or_default();
    TraceId(xxh3_128(trace.as_bytes()).to_be_bytes())
}

/// A trace buffer of 1 MiB before an end.
struct Stage {
    end: Arc<End>,
    budget: Budget,
    failures: Failures,
    clock: Clock,
    assemble: Arc<Assemble>,
}

impl Stage {
    fn start(wait: Duration) -> Stage {
        let end = End::new();
        Stage::before(end.clone(), end, wait, 4)
    }

    fn before(next: Arc<dyn Consume>, end: Arc<End>, wait_duration: Duration, shards: usize) -> Stage {
        end.accepting.store(true, Relaxed);
        let group = GroupByTraceSettings { wait_duration, num_traces: 1_000_000, max_memory_bytes: 1 << 20 };
        let dedup = DedupSettings { wait_duration: Duration::from_secs(300), max_memory_bytes: 1 << 20 };
        let machine = Arc::new(Dedup::new(&dedup, 1));
        let settings = AssembleSettings { dedup: Some(dedup), group: Some(group), ..AssembleSettings::default() };
        let (clock, budget, failures) = (Clock::start(), Budget::default(), Failures::default());
        let node = Surroundings {
            clock,
            budget: budget.clone(),
            seed: 1,
            owner: "us-east-1/node-1".to_owned(),
            failures: failures.clone(),
        };
        let started = Assemble::start_with("traces".to_owned(), &settings, Some(machine), node, next, shards);
        Stage { end, budget, failures, clock, assemble: started.unwrap() }
    }

    fn refuse(&self, refuse: bool) {
        *self.end.refusing.lock().unwrap() = refuse.then(|| Refusal::passing(Reason::QueueFull));
    }

    fn send(&self, names: &[&str]) -> Watched {
        self.send_over(names, 0)
    }

    fn send_over(&self, names: &[&str], hops: u8) -> Watched {
        let sender = Watched::default();
        self.assemble.consume(Batch { hops, ..batch(&request(names), &sender) });
        sender
    }

    /// Names of what has arrived at the end, by batch; it is exported.
    fn exported(&self) -> Vec<BTreeSet<String>> {
        let batches = self.end.take().into_iter();
        let export = |batch: Batch| {
            let all = names(&batch.spans.bytes).into_iter().collect();
            batch.receipt.resolve(Fate::Exported);
            all
        };
        batches.map(export).collect()
    }

    async fn stop(&self, within: Duration) -> u64 {
        self.assemble.stop(self.clock.now() + within).await
    }
}

/// How many of the sender's spans met each fate.
fn fates(sender: &Watched) -> Vec<(u32, Fate)> {
    let mut all: Vec<(u32, Fate)> = Vec::new();
    for (spans, fate) in sender.fates().into_iter().filter(|(spans, _)| *spans > 0) {
        match all.iter_mut().find(|(_, known)| *known == fate) {
            Some((count, _)) => *count += spans,
            None => all.push((spans, fate)),
        }
    }
    all
}

fn all(batches: Vec<BTreeSet<String>>) -> BTreeSet<String> {
    batches.into_iter().flatten().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn spans_of_a_trace_that_come_one_by_one_go_on_together() {
    let stage = Stage::start(SOON);
    let senders = [stage.send(&["one/a", "two/a"]), stage.send(&["one/b"])];
    // Its sender need not wait for the whole trace.
    assert!(senders.iter().all(|sender| sender.answer() == Some(Ok(()))));
    let mut seen = Vec::new();
    while seen.iter().map(BTreeSet::len).sum::<usize>() < 3 {
        stage.end.wait_for(seen.len() + 1).await;
        seen.extend(stage.exported());
    }
    let whole = seen.iter().find(|batch| batch.contains("one/a")).unwrap();
    assert!(whole.contains("one/b"), "{seen:?}");
    for sender in senders {
        assert_eq!(sender.fate().await, Fate::Exported);
    }
    let status = stage.assemble.status().traces;
    assert_eq!((status.new_traces, status.open_traces, status.kept_spans), (2, 0, 3));
    assert_eq!(stage.stop(LONG).await, 0);
}

/// Sends what it gets through a channel of the standard library's, which a test can wait for without a runtime.
struct Out(Mutex<mpsc::Sender<Batch>>);

impl Consume for Out {
    fn consume(&self, batch: Batch) {
        let _ = self.0.lock().unwrap().send(batch);
    }
}

#[tokio::test]
async fn traces_are_decided_in_time_while_every_worker_is_busy() {
    let (to, from) = mpsc::channel();
    let stage = Stage::before(Arc::new(Out(Mutex::new(to))), End::new(), SOON, 2);
    let sender = stage.send(&["one/a"]);
    // The runtime's only thread stands still here.
    let batch = from.recv_timeout(LONG).unwrap();
    batch.receipt.resolve(Fate::Exported);
    assert_eq!(sender.finished(), Some(Fate::Exported));
    assert_eq!(stage.stop(LONG).await, 0);
}

#[test]
fn with_no_open_trace_the_thread_sleeps_as_long_as_one_that_comes_can_wait() {
    let of = |millis| decide::idle(Duration::from_millis(millis)).as_millis();
    assert_eq!([0, 20, 50, 200, 1_000, 30_000].map(of), [50, 50, 50, 200, 1_000, 1_000]);
}

#[tokio::test]
async fn a_duplicate_ends_in_the_buffer_of_its_trace() {
    let stage = Stage::start(FOREVER);
    let (first, again) = (stage.send(&["one/a"]), stage.send(&["one/a", "one/b"]));
    assert_eq!(fates(&again), [(1, Fate::Duplicate)]);
    assert_eq!(stage.assemble.status().traces.duplicates, 1);
    assert_eq!(stage.stop(LONG).await, 0);
    assert_eq!(all(stage.exported()), set(&["one/a", "one/b"]));
    assert_eq!(fates(&first), [(1, Fate::Exported)]);
    assert_eq!(fates(&again), [(1, Fate::Duplicate), (1, Fate::Exported)]);
}

#[tokio::test]
async fn what_is_held_counts_in_the_nodes_budget() {
    let stage = Stage::start(FOREVER);
    let sender = stage.send(&["one/a", "two/a", "three/a"]);
    assert_eq!(sender.budget().bytes(), 0, "the batch itself is gone");
    let held = stage.assemble.status().traces.held_bytes;
    assert!(held > 0 && stage.budget.bytes() == held, "{held}");
    assert_eq!(stage.stop(LONG).await, 0);
    stage.exported();
    let Stage { assemble, budget, .. } = stage;
    drop(assemble);
    assert_eq!(budget.bytes(), 0);
}

#[tokio::test]
async fn a_full_exporter_loses_nothing_and_new_spans_are_refused_before_any_is_taken() {
    let stage = Stage::start(SOON);
    stage.refuse(true);
    // A quarter of the buffer is 256 KiB.
    let large = |trace: &str| format!("{trace}/{}", "x".repeat(300 << 10));
    let first = stage.send(&[&large("one")]);
    stage.end.wait_for_refusals(1).await;
    let waiting = stage.assemble.status().waiting_bytes;
    assert!(waiting > 300 << 10, "{waiting}");

    let refused = stage.send(&["two/a", "three/a"]);
    assert_eq!(refused.answer(), Some(Err(Refusal::passing(Reason::QueueFull))));
    assert_eq!(fates(&refused), [(2, Fate::Refused(Refusal::passing(Reason::QueueFull)))]);
    assert_eq!(stage.assemble.status().refused_spans, 2);
    assert_eq!(stage.assemble.status().traces.new_traces, 1);
    // Other nodes' spans have been accepted by somebody and have a share of their own.
    let from_peer = stage.send_over(&[&format!("four/{}", "x".repeat(100 << 10))], 1);
    assert_eq!(from_peer.answer(), Some(Ok(())));
    assert_eq!(fates(&first), []);

    stage.refuse(false);
    stage.end.wait_for(2).await;
    let exported = all(stage.exported());
    assert_eq!(exported.len(), 2);
    assert!(exported.contains(&large("one")));
    assert_eq!((first.fate().await, from_peer.fate().await), (Fate::Exported, Fate::Exported));
    assert_eq!(stage.assemble.status().waiting_bytes, 0);
    assert_eq!(stage.send(&["two/a"]).answer(), Some(Ok(())));
    assert_eq!(stage.stop(LONG).await, 0);
    stage.exported();
}

#[tokio::test]
async fn a_stop_decides_all_open_traces_and_what_comes_later_is_refused() {
    let stage = Stage::start(FOREVER);
    let names: Vec<String> = (0..3_000).map(|n| format!("{n}/a")).collect();
    let sender = stage.send(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(stage.stop(LONG).await, 0);
    assert_eq!(all(stage.exported()), names.into_iter().collect());
    assert_eq!(fates(&sender), [(3_000, Fate::Exported)]);
    assert_eq!(sender.finished(), Some(Fate::Exported));
    let status = stage.assemble.status().traces;
    assert_eq!((status.open_traces, status.decided.iter().sum::<u64>()), (0, 3_000));
    let late = stage.send(&["late/a"]);
    assert_eq!(late.answer(), Some(Err(Refusal::passing(Reason::ShuttingDown))));
    assert_eq!(stage.stop(LONG).await, 0, "a second stop finds nothing to do");
}

#[tokio::test]
async fn a_stop_waits_for_an_exporter_that_is_full() {
    let stage = Stage::start(FOREVER);
    stage.refuse(true);
    let sender = stage.send(&["one/a", "two/a"]);
    let (lost, ()) = tokio::join!(stage.stop(LONG), async {
        stage.end.wait_for_refusals(2).await;
        stage.refuse(false);
    });
    assert_eq!(lost, 0);
    assert_eq!(all(stage.exported()), set(&["one/a", "two/a"]));
    assert_eq!(sender.finished(), Some(Fate::Exported));
}

#[tokio::test]
async fn what_no_exporter_takes_until_the_deadline_is_dropped_by_name_and_counted() {
    let stage = Stage::start(FOREVER);
    stage.refuse(true);
    let sender = stage.send(&["one/a", "one/b", "two/a"]);
    assert_eq!(stage.stop(SOON).await, 3);
    assert_eq!(sender.finished(), Some(Fate::Dropped(DropReason::Shutdown)));
    assert_eq!(fates(&sender), [(3, Fate::Dropped(DropReason::Shutdown))]);
    assert_eq!(stage.assemble.status().waiting_bytes, 0);
}

#[tokio::test]
async fn a_next_stage_that_gives_no_answer_does_not_hold_up_the_stop_beyond_the_deadline() {
    let stage = Stage::start(FOREVER);
    stage.end.accepting.store(false, Relaxed);
    let sender = stage.send(&["one/a"]);
    assert_eq!(stage.stop(SOON).await, 0);
    // It has the spans, and may still say what becomes of them.
    let batch = stage.end.take().pop().unwrap();
    batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull)));
    assert_eq!(sender.finished(), Some(Fate::Dropped(DropReason::Shutdown)));
    assert_eq!(stage.assemble.unsettled_spans(), 1);
}

#[tokio::test]
async fn a_trace_can_be_asked_for() {
    let stage = Stage::start(FOREVER);
    stage.send(&["one/a"]);
    let report = |name| stage.assemble.report(&trace_of(name), Wanted::default());
    assert_eq!(report("one").map(|report| report.state), Some(TraceState::Open));
    assert_eq!(report("two"), None);
    assert_eq!(stage.stop(LONG).await, 0);
    stage.exported();
}

#[tokio::test]
async fn a_batch_without_spans_is_done_at_once() {
    let stage = Stage::start(FOREVER);
    let sender = stage.send(&[]);
    assert_eq!(sender.finished(), Some(Fate::Exported));
    assert_eq!(stage.stop(LONG).await, 0);
}

/// Panics at spans of a certain name.
struct Brittle(Arc<End>);

impl Consume for Brittle {
    fn consume(&self, batch: Batch) {
        if names(&batch.spans.bytes).iter().any(|name| name.starts_with("bad/")) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        self.0.consume(batch);
    }
}

#[tokio::test]
async fn a_panic_on_the_way_out_fails_the_node_and_other_traces_are_still_decided() {
    let end = End::new();
    let stage = Stage::before(Arc::new(Brittle(end.clone())), end, SOON, 2);
    let bad = stage.send(&["bad/a"]);
    stage.failures.any().await;
    assert_eq!(bad.fate().await, Fate::Released);
    let good = stage.send(&["good/a"]);
    stage.end.wait_for(1).await;
    stage.exported();
    assert_eq!(good.fate().await, Fate::Exported);
    assert_eq!(stage.stop(LONG).await, 0);
}

#[tokio::test]
async fn a_panic_in_a_shard_fails_the_node_which_takes_nothing_more_and_can_stop() {
    let stage = Stage::start(FOREVER);
    let whole = ["one", "two", "three", "four", "five", "six"].map(|name| format!("{name}/a"));
    stage.send(&whole.each_ref().map(String::as_str));
    let broken = stage.assemble.shards.of(&trace_of("one"));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _held = stage.assemble.shards.lock(broken);
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panicked.is_err());
    stage.failures.any().await;
    let refused = stage.send(&["seven/a"]);
    assert_eq!(refused.answer(), Some(Err(Refusal::passing(Reason::Internal))));
    assert_eq!(stage.stop(LONG).await, 0);
    let others = whole.iter().filter(|name| stage.assemble.shards.of(&trace_of(name)) != broken).cloned();
    assert_eq!(all(stage.exported()), others.collect());
}

#[tokio::test]
async fn the_thread_ends_with_the_buffer() {
    let stage = Stage::start(FOREVER);
    let mut ended = stage.assemble.decider.ended();
    drop(stage);
    ended.wait_for(|ended| *ended).await.unwrap();
}

/// An exporter that is full at every third try.
#[derive(Default)]
struct Moody {
    tries: AtomicU64,
    exported: Mutex<Vec<BTreeSet<String>>>,
}

impl Consume for Moody {
    fn consume(&self, mut batch: Batch) {
        if self.tries.fetch_add(1, Relaxed).is_multiple_of(3) {
            return batch.receipt.resolve(Fate::Refused(Refusal::passing(Reason::QueueFull)));
        }
        batch.receipt.accept();
        self.exported.lock().unwrap().push(names(&batch.spans.bytes).into_iter().collect());
        batch.receipt.resolve(Fate::Exported);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_with_a_moody_exporter_and_through_a_stop_every_span_is_accounted_for() {
    let moody = Arc::new(Moody::default());
    let stage = Stage::before(moody.clone(), End::new(), Duration::from_millis(2), 4);
    let ledger = Arc::new(Ledger::default());
    let (half, halfway) = tokio::sync::oneshot::channel();
    let mut half = Some(half);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (assemble, ledger, budget) = (stage.assemble.clone(), ledger.clone(), stage.budget.clone());
            let mut half = half.take();
            std::thread::spawn(move || {
                for round in 0..500 {
                    // Each pair of threads has traces in common, and one span that both send.
                    let trace = format!("{} {}", thread / 2, round / 3);
                    let spans = [format!("{trace}/{thread} {round}"), format!("{trace}/{round} both")];
                    let bytes = request(&spans.each_ref().map(String::as_str));
                    let spans = walk(bytes.into(), &Limits::default()).unwrap().spans;
                    let receipt = ledger.open(2, Source::Local, |_| ());
                    assemble.consume(Batch { held: budget.hold(spans.bytes.len()), spans, receipt, hops: 0 });
                    if round == 250
                        && let Some(half) = half.take()
                    {
                        half.send(()).unwrap();
                    }
                }
            })
        })
        .collect();
    halfway.await.unwrap();
    let lost = stage.stop(LONG).await;
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let status = ledger.status();
    assert!(status.balanced, "{status:?}");
    assert_eq!((lost, status.in_flight, status.released), (0, 0, 0));
    assert_eq!(status.received_local + status.refused, 4_000);
    assert_eq!(status.exported + status.duplicate, status.received_local);
    let exported = std::mem::take(&mut *moody.exported.lock().unwrap());
    let count: usize = exported.iter().map(BTreeSet::len).sum();
    assert_eq!((all(exported).len(), count as u64), (count, status.exported));
    let Stage { assemble, budget, .. } = stage;
    drop(assemble);
    assert_eq!(budget.bytes(), 0);
}
