//! Sends traces with chosen ids through the `opentelemetry-otlp` exporter.
//!
//! `interop-sender grpc|http ENDPOINT TRACE_ID...`: one root and two children for each trace id.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::trace::{Span, SpanBuilder, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, SpanId, TraceId};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracerProvider};

/// Hands out the given trace ids in order, and counted span ids.
#[derive(Debug)]
struct GivenIds {
    traces: Mutex<Vec<TraceId>>,
    next_span: AtomicU64,
}

impl IdGenerator for GivenIds {
    fn new_trace_id(&self) -> TraceId {
        self.traces.lock().expect("no panic while held").pop().expect("one id for each root")
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(self.next_span.fetch_add(1, Ordering::Relaxed))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let protocol = arguments.next().ok_or("usage: interop-sender grpc|http ENDPOINT TRACE_ID...")?;
    let endpoint = arguments.next().ok_or("ENDPOINT is missing")?;
    let traces = arguments.map(|id| TraceId::from_hex(&id)).collect::<Result<Vec<_>, _>>()?;
    let roots = traces.len();

    let exporter = match protocol.as_str() {
        "grpc" => SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?,
        "http" => SpanExporter::builder().with_http().with_endpoint(endpoint).build()?,
        other => return Err(format!("{other} is neither grpc nor http").into()),
    };
    let ids = GivenIds { traces: Mutex::new(traces), next_span: AtomicU64::new(0x5eed_0000_0000_0001) };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_id_generator(ids)
        .with_resource(Resource::builder().with_service_name(format!("rust-{protocol}")).build())
        .build();
    let tracer = provider.tracer("interop");

    for _ in 0..roots {
        let root = tracer.build_with_context(SpanBuilder::from_name("root"), &Context::new());
        let context = Context::new().with_span(root);
        for name in ["first", "second"] {
            tracer.start_with_context(name, &context).end();
        }
    }
    provider.shutdown()?;
    Ok(())
}
