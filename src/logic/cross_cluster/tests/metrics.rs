//! What is counted.

use super::*;
use crate::logic::trace::headers_of;
use crate::wire::{self, Limits};

/// (seconds in all, count)
fn sum(histogram: &HistogramStatus) -> (f64, u64) {
    (histogram.sum_seconds, histogram.count)
}

#[test]
fn a_call_takes_the_clients_time_and_the_network_what_the_server_did_not() {
    let status = metrics_of(&[client(1, 0, "us").took(50), server(2, 1, "eu").took(42)]);
    let calls = edge(&status);
    assert_eq!((&*calls.source_cluster, &*calls.target_cluster), ("us", "eu"));
    assert_eq!((sum(&calls.request), sum(&calls.network)), ((0.05, 1), (0.008, 1)));
    assert_eq!((calls.clamped, calls.callee_timed, calls.failed), (0, 0, 0));
    let counts: Vec<u64> = calls.request.buckets.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [0, 0, 1, 0, 0]);
    assert_eq!(calls.request.buckets.last().map(|(bound, _)| *bound), Some(f64::INFINITY));
    assert_eq!(calls.request.exemplars, [(2, 0.05, TraceId([1; 16]))]);
}

#[test]
fn a_bound_belongs_to_its_own_bucket() {
    let calls = metrics_of(&[client(1, 0, "us").took(10), server(2, 1, "eu").took(0)]);
    assert_eq!(edge(&calls).request.buckets[1], (0.01, 1));
}

#[test]
fn the_latest_trace_of_each_bucket_is_its_exemplar() {
    let metrics = CrossCluster::new(&settings());
    for (trace, ms) in [(1, 50), (2, 60), (3, 2_000)] {
        observe(&metrics, trace, &[client(1, 0, "us").took(ms), server(2, 1, "eu").took(ms)]);
    }
    let status = metrics.status();
    let latest = [(2, 0.06, TraceId([2; 16])), (4, 2.0, TraceId([3; 16]))];
    assert_eq!(edge(&status).request.exemplars, latest);
    assert_eq!(sum(&edge(&status).request), (2.11, 3));
}

#[test]
fn clocks_that_disagree_change_nothing_for_each_span_is_measured_by_one() {
    let hours = 3_600_000 * MS;
    let behind = server(2, 1, "eu").at(T0 - hours, T0 - hours + 42 * MS);
    let status = metrics_of(&[client(1, 0, "us").took(50), behind]);
    assert_eq!(sum(&edge(&status).network), (0.008, 1));
}

#[test]
fn a_server_that_took_longer_than_its_client_counts_as_no_network_time_and_is_told() {
    let status = metrics_of(&[client(1, 0, "us").took(40), server(2, 1, "eu").took(50)]);
    assert_eq!((sum(&edge(&status).network), edge(&status).clamped), ((0.0, 1), 1));
}

#[test]
fn a_caller_that_is_a_server_does_not_tell_how_long_the_call_took() {
    let status = metrics_of(&[server(1, 0, "us").took(500), server(2, 1, "eu").took(50)]);
    let calls = edge(&status);
    assert_eq!((sum(&calls.request), sum(&calls.network), calls.callee_timed), ((0.05, 1), (0.0, 0), 1));
}

#[test]
fn messages_are_calls_that_nobody_waits_for() {
    let producer = Made { kind: PRODUCER, ..client(1, 0, "us").took(2) };
    let consumer = Made { kind: CONSUMER, ..server(2, 1, "eu").took(90) };
    let status = metrics_of(&[producer, consumer]);
    let calls = edge(&status);
    assert_eq!((sum(&calls.request), sum(&calls.network), calls.clamped), ((0.002, 1), (0.0, 0), 0));
}

#[test]
fn an_error_on_either_side_is_one_failed_call() {
    for (client, server) in [
        (client(1, 0, "us").failed(), server(2, 1, "eu")),
        (client(1, 0, "us"), server(2, 1, "eu").failed()),
        (client(1, 0, "us").failed(), server(2, 1, "eu").failed()),
    ] {
        assert_eq!(edge(&metrics_of(&[client, server])).failed, 1);
    }
}

#[test]
fn b36_times_that_no_clock_wrote_are_not_measured_but_the_call_counts() {
    let year = 365 * 86_400_000 * MS;
    let senseless = [(0, 0), (0, u64::MAX), (T0, u64::MAX), (u64::MAX, 0), (T0, T0 - 1), (0, T0), (T0, T0 + year)];
    for (start, end) in senseless {
        let status = metrics_of(&[client(1, 0, "us").at(start, end), server(2, 1, "eu").took(7)]);
        let calls = edge(&status);
        assert_eq!((sum(&calls.request), sum(&calls.network)), ((0.007, 1), (0.0, 0)), "{start} {end}");
        assert_eq!(calls.callee_timed, 1);

        let status = metrics_of(&[client(1, 0, "us").took(7), server(2, 1, "eu").at(start, end)]);
        assert_eq!((sum(&edge(&status).request), sum(&edge(&status).network)), ((0.007, 1), (0.0, 0)));

        let status = metrics_of(&[client(1, 0, "us").at(start, end), server(2, 1, "eu").at(start, end)]);
        assert_eq!(sum(&edge(&status).request), (0.0, 1), "{start} {end}: nobody knows");
    }
}

#[test]
fn b36_a_year_ahead_is_as_good_a_time_as_any() {
    let ahead = T0 + 365 * 86_400_000 * MS;
    let status = metrics_of(&[client(1, 0, "us").at(ahead, ahead + 9 * MS), server(2, 1, "eu").took(4)]);
    assert_eq!((sum(&edge(&status).request), sum(&edge(&status).network)), ((0.009, 1), (0.005, 1)));
}

#[test]
fn spans_are_counted_for_their_cluster_and_so_are_those_without_their_parent() {
    let status = metrics_of(&[span(1, 0, "us"), span(2, 9, "eu"), span(3, 1, "us"), span(4, 4, "us"), span(5, 8, "")]);
    let counts = [("eu".to_owned(), 1), ("unknown".to_owned(), 1), ("us".to_owned(), 3)];
    assert_eq!(status.spans, counts.into());
    let without = ["eu", "unknown", "us"].map(|cluster| (cluster.to_owned(), "missing_parent", 1));
    assert_eq!(status.without_parent, without);
}

/// Traces in which "shop" is called by "web".
fn called(metrics: &CrossCluster, times: u32) {
    for _ in 0..times {
        observe(metrics, 1, &[client(1, 0, "us").of("web"), server(2, 1, "us").of("shop")]);
    }
}

fn unexpected_roots(metrics: &CrossCluster) -> u64 {
    let status = metrics.status();
    status.without_parent.iter().filter(|(_, reason, _)| *reason == "unexpected_root").map(|(.., spans)| spans).sum()
}

#[test]
fn a_root_of_a_service_that_is_always_called_is_unexpected_and_stays_so() {
    let metrics = CrossCluster::new(&settings());
    called(&metrics, 500);
    for n in 1..=400 {
        observe(&metrics, 2, &[server(2, 0, "eu").of("shop"), span(3, 2, "eu").of("shop")]);
        assert_eq!(unexpected_roots(&metrics), n, "an alarm does not end by itself");
    }
    let only = [("eu".to_owned(), "unexpected_root", 400)];
    assert_eq!(metrics.status().without_parent, only);
    // Other kinds start traces of their own accord: timers, jobs.
    observe(&metrics, 2, &[span(2, 0, "eu").of("shop"), client(3, 0, "eu").of("shop")]);
    assert_eq!(unexpected_roots(&metrics), 400);
}

#[test]
fn a_root_of_an_entry_service_is_never_unexpected() {
    let metrics = CrossCluster::new(&settings());
    for n in 0..20_000_u32 {
        // One request in a hundred comes from outside; and all traces begin at "gate", which then calls itself.
        let shop = if n.is_multiple_of(100) { server(2, 0, "us") } else { server(2, 1, "us") };
        let gate = [server(1, 0, "us").of("gate"), server(8, 1, "us").of("gate"), server(9, 8, "us").of("gate")];
        observe(&metrics, 1, &[gate.as_slice(), &[shop.of("shop")]].concat());
    }
    assert_eq!(unexpected_roots(&metrics), 0);
}

#[test]
fn a_service_that_becomes_an_entry_is_one_once_that_outweighs_what_it_was() {
    let metrics = CrossCluster::new(&settings());
    called(&metrics, 500);
    for _ in 0..2_000 {
        observe(&metrics, 2, &[server(2, 0, "us").of("shop")]);
    }
    assert_eq!(unexpected_roots(&metrics), 501);
}

#[test]
fn a_service_that_is_listed_as_an_entry_is_not_judged() {
    let metrics = CrossCluster::new(&CrossClusterSettings { entry_services: vec!["shop".into()], ..settings() });
    called(&metrics, 1_000);
    observe(&metrics, 2, &[server(2, 0, "us").of("shop")]);
    assert_eq!(unexpected_roots(&metrics), 0);
}

#[test]
fn spans_without_a_service_teach_nothing() {
    let metrics = CrossCluster::new(&settings());
    for _ in 0..1_000 {
        observe(&metrics, 1, &[client(1, 0, "us").of(""), server(2, 1, "us").of("")]);
    }
    observe(&metrics, 2, &[server(2, 0, "us").of("")]);
    assert_eq!(unexpected_roots(&metrics), 0);
}

#[test]
fn b45_made_up_services_do_not_keep_a_real_one_from_being_known() {
    let metrics = CrossCluster::new(&settings());
    for n in 0..20_000 {
        let made_up = format!("made-up-{n}");
        observe(&metrics, 1, &[client(1, 0, "us").of("web"), server(2, 1, "us").of(&made_up)]);
        called(&metrics, u32::from(n > 10_000));
    }
    observe(&metrics, 2, &[server(2, 0, "us").of("shop")]);
    assert_eq!(unexpected_roots(&metrics), 1);
}

#[test]
fn b45_what_is_above_the_allowed_series_is_counted_together_and_nothing_is_lost() {
    let metrics = CrossCluster::new(&CrossClusterSettings { max_series: 10, ..settings() });
    for n in 0..1_000 {
        let (source, target) = (format!("c{n}"), format!("d{n}"));
        observe(&metrics, 1, &[client(1, 9, &source), server(2, 1, &target)]);
    }
    let status = metrics.status();
    assert_eq!((status.edges.len(), status.spans.len(), status.without_parent.len()), (11, 11, 6));
    assert_eq!(status.edges.iter().map(|edge| edge.request.count).sum::<u64>(), 1_000);
    assert_eq!(status.spans.values().sum::<u64>(), 2_000);
    assert_eq!(status.without_parent.iter().map(|(.., spans)| spans).sum::<u64>(), 1_000);
    let rest = status.edges.iter().find(|edge| edge.source_cluster == "_overflow").unwrap();
    assert_eq!((&*rest.target_cluster, rest.request.count), ("_overflow", 990));
    assert_eq!((status.spans["_overflow"], status.overflowed), (1_990, 990 + 1_990 + 995));
    // Those that have their series keep it.
    observe(&metrics, 2, &[client(1, 0, "c0"), server(2, 1, "d0")]);
    assert_eq!(metrics.status().edges.iter().find(|edge| edge.source_cluster == "c0").unwrap().request.count, 2);
}

#[test]
fn b45_a_long_name_is_cut_between_characters() {
    let status = metrics_of(&[span(1, 0, &"ä".repeat(100_000)), span(2, 1, &format!("x{}", "ä".repeat(100_000)))]);
    let lengths: Vec<usize> = status.spans.keys().map(String::len).collect();
    assert_eq!((lengths, edge(&status).source_cluster.len()), (vec![127, 128], 128));
}

#[test]
fn several_pipelines_add_up_by_label_set() {
    let mut one = metrics_of(&[client(1, 9, "us").took(50), server(2, 1, "eu").took(42).failed()]);
    let other = metrics_of(&[client(1, 0, "us").took(500), server(2, 1, "eu"), server(3, 1, "ap"), span(4, 9, "ap")]);
    one.add(&other);
    let names: Vec<(&str, u64)> = one.edges.iter().map(|edge| (&*edge.target_cluster, edge.request.count)).collect();
    assert_eq!(names, [("ap", 1), ("eu", 2)]);
    assert_eq!((one.edges[1].request.sum_seconds, one.edges[1].failed), (0.55, 1));
    assert_eq!(one.edges[1].request.exemplars.len(), 2);
    assert_eq!(one.spans, [("ap".to_owned(), 2), ("eu".to_owned(), 2), ("us".to_owned(), 2)].into());
    let clusters: Vec<&str> = one.without_parent.iter().map(|(cluster, ..)| &**cluster).collect();
    assert_eq!(clusters, ["ap", "us"]);
}

#[test]
fn histograms_with_other_bounds_add_up_to_one_that_does_not_promise_too_much() {
    let coarse = CrossCluster::new(&CrossClusterSettings { buckets: vec![0.02, 3.0], ..settings() });
    for ms in [7, 15, 2_000, 5_000] {
        observe(&coarse, 1, &[client(1, 0, "us").took(ms), server(2, 1, "eu").took(0)]);
    }
    let mut fine = metrics_of(&[client(1, 0, "us").took(7), server(2, 1, "eu").took(0)]);
    fine.add(&coarse.status());
    let counts: Vec<u64> = edge(&fine).request.buckets.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [0, 1, 2, 0, 2]);
}

#[test]
fn b46_a_cluster_name_on_a_span_is_not_looked_at() {
    // The client names the target on its span, as some do.
    let span = |id: u8, parent: &str, kind: u8| {
        format!(
            r#"{{"traceId":"{}","spanId":"{}","parentSpanId":"{parent}","kind":{kind},
                "startTimeUnixNano":"{T0}","endTimeUnixNano":"{}",
                "attributes":[{{"key":"k8s.cluster.name","value":{{"stringValue":"eu"}}}}]}}"#,
            "01".repeat(16),
            format!("{id:02x}").repeat(8),
            T0 + MS
        )
    };
    let resource = |cluster: &str, span: String| {
        format!(
            r#"{{"resource":{{"attributes":[{{"key":"k8s.cluster.name","value":{{"stringValue":"{cluster}"}}}}]}},
                "scopeSpans":[{{"spans":[{span}]}}]}}"#
        )
    };
    let (client, server) = (span(1, "", CLIENT), span(2, &"01".repeat(8), SERVER));
    let json = format!(r#"{{"resourceSpans":[{},{}]}}"#, resource("us", client), resource("eu", server));
    let limits = Limits::default();
    let decoded = wire::json::decode(json.as_bytes(), &limits).unwrap();
    let spans = wire::walk(decoded.bytes.into(), &limits).unwrap().spans;
    let headers = headers_of(&spans);
    let view = TraceView::of(TraceId([1; 16]), &spans, &headers);
    let metrics = CrossCluster::new(&settings());
    metrics.observe(&view, &super::super::links(&view));
    let status = metrics.status();
    let calls = edge(&status);
    assert_eq!((&*calls.source_cluster, &*calls.target_cluster, calls.request.count), ("us", "eu", 1));
}
