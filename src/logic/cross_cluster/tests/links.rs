//! Who is whose parent.

use super::*;

#[test]
fn a_parent_and_a_child_in_different_clusters_are_a_call_between_them() {
    let trace = [server(1, 0, "us"), client(2, 1, "us"), server(3, 2, "eu"), span(4, 3, "eu")];
    assert_eq!(pairs(&trace), [(1, 2)]);
    let links = links_of(&trace);
    assert_eq!((links.roots, links.missing_parents), (vec![0], vec![]));
}

#[test]
fn a_span_whose_named_parent_is_not_there_is_not_a_root() {
    let links = links_of(&[server(1, 0, "us"), client(2, 9, "us"), server(3, 2, "us")]);
    assert_eq!((links.roots, links.missing_parents, links.crossings), (vec![0], vec![1], vec![]));
}

#[test]
fn the_halves_of_a_shared_span_are_one_call_and_their_common_parent_has_none_of_it() {
    // Both halves name the span that the client was made in.
    let trace = [server(1, 0, "us"), client(2, 1, "us"), server(2, 1, "eu")];
    assert_eq!(pairs(&trace), [(1, 2)]);
    assert_eq!(links_of(&trace).roots, [0]);
}

#[test]
fn the_server_half_of_a_shared_root_is_no_root() {
    let links = links_of(&[server(2, 0, "eu"), client(2, 0, "us")]);
    assert_eq!((links.roots, links.crossings), (vec![1], vec![Edge { caller: 1, callee: 0 }]));
}

#[test]
fn a_server_half_that_names_the_id_it_shares_is_the_clients_callee() {
    let links = links_of(&[client(2, 0, "us"), server(2, 2, "eu")]);
    assert_eq!((links.missing_parents, links.crossings.len()), (vec![], 1));
}

#[test]
fn spans_that_name_a_shared_id_belong_to_its_server_half() {
    // The second call is the server's: from eu back to us.
    let trace = [client(2, 0, "us"), server(2, 0, "eu"), span(3, 2, "eu"), server(4, 2, "us").of("other")];
    assert_eq!(pairs(&trace), [(0, 1), (1, 3)]);
}

#[test]
fn what_the_client_itself_did_below_its_shared_span_is_no_call_back() {
    let trace = [client(2, 0, "us"), server(2, 0, "eu"), span(3, 2, "us")];
    assert_eq!(pairs(&trace), [(0, 1)]);
}

#[test]
fn a_shared_call_that_was_tried_in_two_clusters_is_two_calls() {
    let trace = [client(2, 0, "us"), server(2, 0, "eu"), server(2, 0, "ap"), span(3, 2, "ap"), span(4, 2, "eu")];
    assert_eq!(pairs(&trace), [(0, 1), (0, 2)]);
}

#[test]
fn a_span_sent_again_once_it_ended_is_one_call_and_the_last_version_counts() {
    let trace =
        [client(1, 0, "us"), server(2, 1, "eu").took(1), server(2, 1, "eu").took(5), server(2, 1, "eu").took(3)];
    assert_eq!(pairs(&trace), [(0, 2)]);
    let root = links_of(&[server(1, 0, "us").took(1), server(1, 0, "us").took(2)]);
    assert_eq!(root.roots, [1]);
}

#[test]
fn b38_a_span_that_is_its_own_parent_has_named_one_that_is_not_there() {
    let links = links_of(&[span(1, 1, "us"), span(2, 1, "eu")]);
    assert_eq!((links.missing_parents, links.roots), (vec![0], vec![]));
    assert_eq!(links.crossings, [Edge { caller: 0, callee: 1 }]);
}

#[test]
fn b38_the_edges_of_a_cycle_count_once_each() {
    let links = links_of(&[span(1, 3, "us"), span(2, 1, "eu"), span(3, 2, "eu")]);
    assert_eq!((links.roots, links.missing_parents), (vec![], vec![]));
    assert_eq!(links.crossings, [Edge { caller: 2, callee: 0 }, Edge { caller: 0, callee: 1 }]);
}

#[test]
fn b38_traces_made_to_be_slow_are_not() {
    const MANY: u64 = 32_000;
    // A ring, one id for all, all below one id that many share, a chain through two clusters.
    let cluster = |n: u64| if n.is_multiple_of(2) { "us" } else { "eu" };
    let ring: Vec<Made> = (0..MANY).map(|n| span(n + 1, (n + 1) % MANY + 1, cluster(n))).collect();
    assert_eq!(links_of(&ring).crossings.len() as u64, MANY);
    let same: Vec<Made> = (0..MANY).map(|n| server(7, 7, cluster(n)).at(n, n)).collect();
    assert_eq!(links_of(&same).missing_parents.len() as u64, MANY);
    let shared: Vec<Made> = (0..MANY / 2).flat_map(|n| [server(7, 0, "us").at(n, n), span(n + 8, 7, "eu")]).collect();
    assert_eq!(links_of(&shared).crossings.len() as u64, MANY / 2);
    let halves: Vec<Made> =
        (0..MANY / 2).flat_map(|n| [client(7, 0, "us").at(n, n), server(7, 0, "eu").at(n, n)]).collect();
    assert_eq!(links_of(&halves).crossings.len() as u64, MANY / 2);
}

#[test]
fn a_cluster_that_nobody_named_is_one_of_its_own() {
    assert_eq!(pairs(&[client(1, 0, ""), server(2, 1, ""), server(3, 1, "eu"), span(4, 1, "unknown")]), [(0, 2)]);
}

#[test]
fn an_empty_trace_has_no_links() {
    assert_eq!(links_of(&[]), Links::default());
}
