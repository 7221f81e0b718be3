use std::time::Duration;

use super::*;
use crate::config::settings::{
    AdminSettings, Advertise, BatchSettings, CrossClusterSettings, DedupSettings, ExporterSettings,
    FileExporterSettings, GroupByTraceSettings, LinkCompression, LogFormat, MemoryLimiterSettings, MeshSettings,
    ProbabilisticSamplerSettings, SamplerMode, TelemetrySettings,
};
use crate::export::testing::{Answer, TestBackend, batch, names, otlp, request, spans};
use crate::export::{self, queue};
use crate::model::{Budget, ClusterName, Fate, NodeName, Reason, Refusal};
use crate::pipeline::testing::{End, Watched};
use crate::pipeline::{Ledger, Source};
use crate::wire::{Limits, walk};

fn mesh_settings() -> MeshSettings {
    MeshSettings {
        cluster: ClusterName::new("us-east-1").unwrap(),
        node: NodeName::new("node-1").unwrap(),
        region: String::new(),
        zone: String::new(),
        environment: String::new(),
        name: "default".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Advertise::Learned,
        seeds: Vec::new(),
        dns_server: None,
        refresh_interval: Duration::from_secs(30),
        weight: 100,
        security: None,
        compression: LinkCompression::Zstd,
        failover_after: Duration::from_secs(10),
    }
}

/// A pipeline as (id, receivers, processors, exporters).
type Line<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

fn settings(pipelines: &[Line<'_>]) -> Settings {
    let list = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let pipelines = pipelines.iter().map(|(id, receivers, processors, exporters)| {
        let pipeline =
            PipelineSettings { receivers: list(receivers), processors: list(processors), exporters: list(exporters) };
        ((*id).to_owned(), pipeline)
    });
    let batch = BatchSettings { timeout: Duration::from_secs(3600), send_batch_size: 4, send_batch_max_size: 0 };
    let limiter = MemoryLimiterSettings { limit_bytes: 1 << 20, soft_limit_bytes: 1 << 19 };
    let dedup = DedupSettings { wait_duration: Duration::from_secs(300), max_memory_bytes: 16 << 20 };
    let sampler = ProbabilisticSamplerSettings {
        sampling_percentage: 50.0,
        mode: SamplerMode::Proportional,
        sampling_precision: 4,
        fail_closed: true,
    };
    let group = GroupByTraceSettings {
        wait_duration: Duration::from_secs(3600),
        num_traces: 1_000,
        max_memory_bytes: 16 << 20,
    };
    let cross_cluster = CrossClusterSettings {
        wait_duration: Duration::from_secs(3600),
        max_memory_bytes: 16 << 20,
        write_attributes: false,
        buckets: vec![0.1],
        entry_services: Vec::new(),
        max_series: 100,
    };
    Settings {
        receivers: BTreeMap::new(),
        processors: BTreeMap::from([
            ("batch".to_owned(), ProcessorSettings::Batch(batch)),
            ("cross_cluster".to_owned(), ProcessorSettings::CrossCluster(cross_cluster)),
            ("groupbytrace".to_owned(), ProcessorSettings::GroupByTrace(group)),
            ("memory_limiter".to_owned(), ProcessorSettings::MemoryLimiter(limiter)),
            ("span_dedup".to_owned(), ProcessorSettings::SpanDedup(dedup)),
            ("probabilistic_sampler".to_owned(), ProcessorSettings::ProbabilisticSampler(sampler)),
        ]),
        exporters: BTreeMap::new(),
        mesh: Some(("mesh".to_owned(), mesh_settings())),
        health_check: None,
        pipelines: pipelines.collect(),
        telemetry: TelemetrySettings { log_level: "info".to_owned(), log_format: LogFormat::Auto, metrics: None },
        admin: AdminSettings { endpoint: None },
    }
}

struct Files {
    directory: tempfile::TempDir,
    exporters: BTreeMap<ComponentId, Arc<ExportQueue>>,
    clock: Clock,
}

impl Files {
    fn start(names: &[&str]) -> Files {
        let (directory, clock) = (tempfile::tempdir().unwrap(), Clock::start());
        let exporters = names.iter().map(|name| {
            let path = directory.path().join(name);
            let settings = ExporterSettings::File(FileExporterSettings { path, append: false });
            let id = format!("file/{name}");
            (id.clone(), export::start(&id, &settings, clock).unwrap())
        });
        Files { exporters: exporters.collect(), directory, clock }
    }

    fn environment(&self) -> Environment {
        Environment { clock: self.clock, budget: Budget::default(), seed: 1 }
    }

    /// Everything that was exported to a file.
    async fn drained(&self, name: &str) -> String {
        for queue in self.exporters.values() {
            assert_eq!(queue.drain(self.clock.now() + Duration::from_secs(20)).await, 0);
        }
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

#[tokio::test]
async fn local_spans_go_to_the_mesh_and_owned_ones_to_the_exporter() {
    let files = Files::start(&["one"]);
    let settings = settings(&[
        ("traces/local", &["otlp"], &["memory_limiter", "batch"], &["mesh"]),
        ("traces/owned", &["mesh"], &[], &["file/one"]),
    ]);
    let owned = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let owned_end = owned.owned().unwrap();
    let mesh = End::new();
    let pipelines = owned.join(Some(mesh.clone())).unwrap();
    assert!(pipelines.feed("zipkin").is_none());

    let local = pipelines.feed("otlp").unwrap();
    let senders = [Watched::default(), Watched::default()];
    local.consume(batch(&request(&["a", "b"]), &senders[0]));
    assert_eq!(pipelines.status()[0].batching_spans, 2);
    local.consume(batch(&request(&["c", "d"]), &senders[1]));
    let forwarded = mesh.take().pop().unwrap();
    assert_eq!(names(&forwarded.spans.bytes), ["a", "b", "c", "d"]);
    owned_end.consume(forwarded);
    for sender in &senders {
        assert_eq!(sender.answered().await, Ok(()));
        assert_eq!(sender.fate().await, Fate::Exported);
    }
    let status = pipelines.status();
    assert_eq!((status[0].incoming_spans, status[0].sent_batches, status[1].incoming_spans), (4, 1, 4));
    assert_eq!(files.drained("one").await.lines().count(), 1);
    assert_eq!(pipelines.stop(files.clock.now()).await, 0);
}

#[tokio::test]
async fn one_full_queue_refuses_the_batch_before_any_other_queue_has_it() {
    let files = Files::start(&["one", "two"]);
    let settings = settings(&[("traces", &["otlp"], &[], &["file/one", "file/two"])]);
    let pipelines = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let feed = pipelines.join(None).unwrap().feed("otlp").unwrap();

    let full = files.exporters["file/two"].reserve(queue::CAPACITY_BYTES as usize, 1).ok().unwrap();
    let refused = Watched::default();
    feed.consume(batch(&request(&["a"]), &refused));
    assert_eq!(refused.answer(), Some(Err(Refusal::passing(Reason::QueueFull))));
    assert_eq!(files.exporters["file/one"].status().queue_bytes, 0);
    drop(full);

    let taken = Watched::default();
    feed.consume(batch(&request(&["b"]), &taken));
    assert_eq!(taken.answer(), Some(Ok(())));
    assert_eq!(taken.fate().await, Fate::Exported);
    assert_eq!(taken.fates(), [(1, Fate::Exported)]);
    for name in ["one", "two"] {
        let text = files.drained(name).await;
        assert!(text.contains("\"b\"") && !text.contains("\"a\""), "{text}");
    }
    assert_eq!(taken.budget().bytes(), 0);
}

#[tokio::test]
async fn a_receiver_of_two_pipelines_feeds_both() {
    let files = Files::start(&["one", "two"]);
    let settings =
        settings(&[("traces/1", &["otlp"], &[], &["file/one"]), ("traces/2", &["otlp"], &[], &["file/two"])]);
    let pipelines = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let pipelines = pipelines.join(None).unwrap();
    let sender = Watched::default();
    pipelines.feed("otlp").unwrap().consume(batch(&request(&["a"]), &sender));
    assert_eq!(sender.fate().await, Fate::Exported);
    assert_eq!(sender.fates(), [(1, Fate::Exported)]);
    for name in ["one", "two"] {
        assert_eq!(files.drained(name).await.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_stop_sends_on_what_waits() {
    let files = Files::start(&["one"]);
    let settings = settings(&[("traces", &["otlp"], &["batch"], &["file/one"])]);
    let pipelines = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let pipelines = pipelines.join(None).unwrap();
    let sender = Watched::default();
    pipelines.feed("otlp").unwrap().consume(batch(&request(&["a"]), &sender));
    assert_eq!(sender.answer(), None);
    assert_eq!(pipelines.stop(files.clock.now()).await, 0);
    assert_eq!(sender.answer(), Some(Ok(())));
    assert_eq!(files.drained("one").await.lines().count(), 1);
}

#[tokio::test]
async fn processors_that_need_whole_traces_are_one_buffer_that_a_stop_empties() {
    let files = Files::start(&["one"]);
    let processors = ["memory_limiter", "span_dedup", "cross_cluster", "groupbytrace", "batch"];
    let settings =
        settings(&[("traces", &["otlp"], &processors, &["file/one"]), ("plain", &["otlp/2"], &[], &["file/one"])]);
    let pipelines = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let pipelines = pipelines.join(None).unwrap();
    let [first, again] = [Watched::default(), Watched::default()];
    let feed = pipelines.feed("otlp").unwrap();
    feed.consume(batch(&request(&["a", "b"]), &first));
    assert_eq!(first.answer(), Some(Ok(())));
    feed.consume(batch(&request(&["b"]), &again));
    assert_eq!(again.finished(), Some(Fate::Duplicate));

    let status = pipelines.traces();
    assert_eq!((status.len(), status[0].pipeline.as_str()), (1, "traces"));
    assert_eq!((status[0].traces.open_traces, status[0].traces.duplicates), (2, 1));
    assert!(status[0].cross_cluster.is_some() && status[0].policies.is_empty());
    let dedups: Vec<_> = pipelines.dedups().map(|(pipeline, id, _)| (pipeline.as_str(), id.as_str())).collect();
    assert_eq!(dedups, [("traces", "span_dedup")]);
    assert!(pipelines.remembers_seconds().is_some());
    let trace = spans(&["a"]).spans[0].trace_id;
    assert!(pipelines.report(&trace, Wanted::default()).is_some());
    assert!(pipelines.report(&TraceId([9; 16]), Wanted::default()).is_none());

    assert_eq!(first.finished(), None);
    assert_eq!(pipelines.stop(files.clock.now() + Duration::from_secs(20)).await, 0);
    let lines = files.drained("one").await;
    let mut exported: Vec<String> = lines.lines().flat_map(names_of_json).collect();
    exported.sort();
    assert_eq!(exported, ["a", "b"]);
    assert_eq!(first.fate().await, Fate::Exported);
}

#[tokio::test]
async fn pipelines_into_the_mesh_and_those_behind_it_stop_apart() {
    let files = Files::start(&["one"]);
    let settings = settings(&[
        ("traces/local", &["otlp"], &["batch"], &["mesh"]),
        ("traces/owned", &["mesh"], &["groupbytrace"], &["file/one"]),
    ]);
    let owned = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let owned_end = owned.owned().unwrap();
    let mesh = End::new();
    let pipelines = owned.join(Some(mesh.clone())).unwrap();
    let sender = Watched::default();
    pipelines.feed("otlp").unwrap().consume(batch(&request(&["a"]), &sender));
    assert_eq!(pipelines.stop_local(files.clock.now()).await, 0);
    // What comes of it while the node leaves the mesh is still taken.
    owned_end.consume(mesh.take().pop().unwrap());
    assert_eq!(sender.answer(), Some(Ok(())));
    assert_eq!(pipelines.stop(files.clock.now() + Duration::from_secs(20)).await, 0);
    assert_eq!(files.drained("one").await.lines().count(), 1);
    assert_eq!(sender.fate().await, Fate::Exported);
}

#[tokio::test]
async fn a_pipeline_whose_exporter_takes_nothing_does_not_use_up_the_time_of_another() {
    let files = Files::start(&["one", "two"]);
    let settings = settings(&[
        ("traces/a", &["otlp/a"], &["groupbytrace"], &["file/one"]),
        ("traces/b", &["otlp/b"], &["groupbytrace"], &["file/two"]),
    ]);
    let pipelines =
        OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap().join(None).unwrap();
    let full = files.exporters["file/one"].reserve(queue::CAPACITY_BYTES as usize, 1).ok().unwrap();
    let senders = [Watched::default(), Watched::default()];
    pipelines.feed("otlp/a").unwrap().consume(batch(&request(&["a"]), &senders[0]));
    pipelines.feed("otlp/b").unwrap().consume(batch(&request(&["b"]), &senders[1]));
    assert_eq!(pipelines.stop(files.clock.now() + Duration::from_millis(300)).await, 1);
    assert_eq!(senders[0].fate().await, Fate::Dropped(crate::model::DropReason::Shutdown));
    assert_eq!(pipelines.unsettled_spans(), 1);
    drop(full);
    assert_eq!(files.drained("two").await.lines().count(), 1);
    assert_eq!(senders[1].fate().await, Fate::Exported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_from_many_threads_and_through_a_stop_every_span_is_accounted_for() {
    let mut files = Files::start(&["one"]);
    // Every third request meets trouble.
    let (ok, trouble) = (Answer::http(200, &[], b""), Answer::http(503, &[("retry-after", "0")], b""));
    let script = (0..3000).map(|number| if number % 3 == 0 { trouble.clone() } else { ok.clone() });
    let backend = TestBackend::start(ok.clone(), script).await;
    let http = ExporterSettings::OtlpHttp(otlp(format!("http://{}/v1/traces", backend.address)));
    let http = export::start(&"otlp_http".to_owned(), &http, files.clock).unwrap();
    files.exporters.insert("otlp_http".to_owned(), http);
    let settings =
        settings(&[("traces", &["otlp"], &["memory_limiter", "span_dedup", "batch"], &["file/one", "otlp_http"])]);
    let pipelines = OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap();
    let pipelines = Arc::new(pipelines.join(None).unwrap());
    let (ledger, budget) = (Arc::new(Ledger::default()), Budget::default());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (pipelines, ledger, budget) = (pipelines.clone(), ledger.clone(), budget.clone());
            let runtime = tokio::runtime::Handle::current();
            std::thread::spawn(move || {
                let feed = pipelines.feed("otlp").unwrap();
                for round in 0..300 {
                    // One span of three comes from two threads.
                    let own = [format!("{thread} {round} a"), format!("{thread} {round} b")];
                    let shared = format!("{} {round} shared", thread / 2);
                    let bytes = request(&[own[0].as_str(), own[1].as_str(), shared.as_str()]);
                    let spans = walk(bytes.into(), &Limits::default()).unwrap().spans;
                    let receipt = ledger.open(3, Source::Local, |_| ());
                    feed.consume(Batch { held: budget.hold(spans.bytes.len()), spans, receipt, hops: 0 });
                    if thread == 0 && round == 200 {
                        assert_eq!(runtime.block_on(pipelines.stop(Tick::ZERO)), 0);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let lines = files.drained("one").await;
    let status = ledger.status();
    assert!(status.balanced, "{status:?}");
    assert_eq!((status.in_flight, status.released, budget.bytes()), (0, 0, 0));
    assert_eq!(status.received_local + status.refused, 3600);
    assert_eq!(status.exported + status.duplicate, status.received_local);
    let mut exported: Vec<String> = lines.lines().flat_map(names_of_json).collect();
    exported.sort();
    let count = exported.len();
    exported.dedup();
    assert_eq!((exported.len(), count as u64), (count, status.exported));
}

/// The names of all spans of a line of OTLP/JSON.
fn names_of_json(line: &str) -> Vec<String> {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes = list(&value, "resourceSpans").into_iter().flat_map(move |resource| list(&resource, "scopeSpans"));
    let spans = scopes.flat_map(move |scope| list(&scope, "spans"));
    spans.map(|span| span["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let files = Files::start(&[]);
    let start = |settings: &Settings| {
        let owned = OwnedPipelines::start(settings, &files.exporters, files.environment())?;
        owned.join(None).map(|_| ())
    };
    let pipeline = "traces".to_owned();
    assert_eq!(
        start(&settings(&[("traces", &["otlp"], &["nothing"], &[])])),
        Err(BuildError::Processor { pipeline: pipeline.clone(), id: "nothing".to_owned() })
    );
    assert_eq!(
        start(&settings(&[("traces", &["otlp"], &[], &["file/none"])])),
        Err(BuildError::Exporter { pipeline: pipeline.clone(), id: "file/none".to_owned() })
    );
    assert_eq!(
        start(&settings(&[("traces", &["otlp"], &[], &["mesh"])])),
        Err(BuildError::NoMesh { pipeline: pipeline.clone() })
    );
    assert_eq!(start(&settings(&[("traces", &["mesh"], &[], &["mesh"])])), Err(BuildError::MeshLoop { pipeline }));
}

#[tokio::test]
async fn what_a_sampler_drops_is_counted_and_settled_and_never_exported() {
    let files = Files::start(&["one"]);
    let settings = settings(&[("traces", &["otlp"], &["probabilistic_sampler", "batch"], &["file/one"])]);
    let pipelines =
        OwnedPipelines::start(&settings, &files.exporters, files.environment()).unwrap().join(None).unwrap();
    let sender = Watched::default();
    pipelines.feed("otlp").unwrap().consume(batch(&request(&["a", "b", "c", "d", "e", "f", "g", "h"]), &sender));
    pipelines.stop(Tick(u64::MAX)).await;
    let _ = sender.fate().await;
    let status = &pipelines.status()[0];
    let dropped = status.sampled_out_spans;
    assert!((1..8).contains(&dropped) && status.sampling_error_spans == 0, "{status:?}");
    let mut fates = sender.fates();
    fates.sort_by_key(|(_, fate)| *fate == Fate::Exported);
    assert_eq!(fates, [(dropped as u32, Fate::SampledOut), (8 - dropped as u32, Fate::Exported)]);
    let text = files.drained("one").await;
    assert_eq!(text.matches("ot=th:8").count() as u64, 8 - dropped);
    assert_eq!(text.matches("spanId").count() as u64, 8 - dropped);
}
