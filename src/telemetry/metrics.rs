//! The metrics page, in the OpenMetrics text format: every name, unit, help and label in one table ([`table`], [`traces`]).
//!
//! Nothing in the node updates a metric. Logic and shells count into plain fields; a scrape takes one [`NodeStatus`] and
//! reads the table against it. So a metric cannot disagree with the admin API, counting costs an atomic at
//! most, and what is measured can be reviewed in one place. Names are the Collector's where the meaning is the same
//! (its dashboards and alerts then work unchanged), `spanmesh_` otherwise. Labels come from configuration, the list of
//! members or fixed sets, never from spans; but for the names of clusters in [`cross_cluster`], whose series are bounded
//! where they are counted (`max_series`).

mod cross_cluster;
mod table;
mod traces;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::table::Metric;
use crate::admin::status::NodeStatus;

/// What the page is declared as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A count, or a measure.
enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

/// Where a metric's samples go.
struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    metric: &'static Metric,
    result: fmt::Result,
}

impl Samples<'_> {
    /// One sample: the values of the metric's labels, in their order, and its own.
    fn add<const N: usize>(&mut self, values: [&str; N], value: impl Into<Value>) {
        debug_assert_eq!(N, self.metric.labels.len(), "{}", self.metric.name);
        if self.result.is_ok() {
            self.result = self.try_add(&values, value.into());
        }
    }

    fn try_add(&mut self, values: &[&str], value: Value) -> fmt::Result {
        let labels: Vec<_> = self.metric.labels.iter().copied().zip(values.iter().copied()).collect();
        // An empty label set would be written as `{}`, which is legal and ugly.
        if labels.is_empty() {
            write(&mut self.encoder, self.metric.kind, value)
        } else {
            write(&mut self.encoder.encode_family(&labels)?, self.metric.kind, value)
        }
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: Value) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, Value::Whole(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (MetricType::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        (_, Value::Whole(value)) => encoder.encode_gauge(&value),
        (_, Value::Real(value)) => encoder.encode_gauge(&value),
    }
}

#[derive(Debug)]
struct Page(Arc<NodeStatus>);

/// All but histograms.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    table::METRICS.iter().chain(traces::METRICS).chain(cross_cluster::COUNTERS)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in metrics() {
            let encoder = encoder.encode_descriptor(metric.name, metric.help, metric.unit.as_ref(), metric.kind)?;
            let mut samples = Samples { encoder, metric, result: Ok(()) };
            (metric.samples)(&self.0, &mut samples);
            samples.result?;
        }
        Ok(())
    }
}

/// Writes the whole page.
pub fn render(status: NodeStatus) -> Result<String, fmt::Error> {
    page(status, true)
}

/// The same for those who cannot read exemplars.
pub fn render_without_exemplars(status: NodeStatus) -> Result<String, fmt::Error> {
    page(status, false)
}

fn page(status: NodeStatus, exemplars: bool) -> Result<String, fmt::Error> {
    let status = Arc::new(status);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(status.clone())));
    let mut page = String::with_capacity(16 << 10);
    encode_registry(&mut page, &registry)?;
    cross_cluster::write_histograms(&status, exemplars, &mut page)?;
    encode_eof(&mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests;
