use std::time::Duration;

use super::*;
use crate::config::settings::{
    AdminSettings, Advertise, BatchSettings, ExporterSettings, FileExporterSettings, LinkCompression, LogFormat,
    MemoryLimiterSettings, MeshSettings, TelemetrySettings,
};
use crate::export::testing::{batch, names, request};
use crate::export::{self, queue};
use crate::model::{ClusterName, Fate, NodeName, Reason, Refusal};
use crate::pipeline::testing::{End, Watched};

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
    Settings {
        receivers: BTreeMap::new(),
        processors: BTreeMap::from([
            ("batch".to_owned(), ProcessorSettings::Batch(batch)),
            ("memory_limiter".to_owned(), ProcessorSettings::MemoryLimiter(limiter)),
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
        Environment { clock: self.clock, seed: 1 }
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
    pipelines.stop();
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
    pipelines.stop();
    assert_eq!(sender.answer(), Some(Ok(())));
    assert_eq!(files.drained("one").await.lines().count(), 1);
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
