//! `/api/v1/traces/{id}`: what became of a trace, put together from what the mesh said, with sentences that help.
//!
//! "Unknown" is an answer and no error: people ask about traces that are missing. So the answer always says who was asked,
//! how far back that node remembers, and what else may explain the silence.
//!
//! **Who may see values.** Values of attributes, and the service's name which is one, go only to callers on the node's own
//! machine. A reverse proxy on that machine calls from loopback for anybody, so a request that says it was forwarded
//! is not local, nor is one in HTTP/1.0, which proxies speak that were told nothing (nginx up to 1.29) and clients do not.
//! One that hides what it is cannot be told from a person; whoever sets it up has given the port away. Nor is a request
//! local whose `Host` names anything but loopback: a web page can have a browser on this machine call any name that
//! resolves to it (DNS rebinding), but it cannot choose the name that the browser sends.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderName, Request, Uri, Version};
use serde::{Deserialize, Serialize};

use crate::link::explain::{Explanation, KnownDetails, PeerAnswer};
use crate::logic::traces::{TraceState, Wanted};
use crate::model::TraceId;

/// Nodes that have been up for less are said to have been, in seconds.
const YOUNG: f64 = 600.0;
/// Nodes named in one note.
const NAMED: usize = 5;

/// Where a trace stands, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Open,
    Kept,
    Dropped,
    Unknown,
}

impl From<TraceState> for State {
    fn from(state: TraceState) -> State {
        match state {
            TraceState::Open => State::Open,
            TraceState::Kept => State::Kept,
            TraceState::Dropped => State::Dropped,
        }
    }
}

/// The whole answer. Times are Unix seconds by the clock of the node in `asked_of`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceAnswer {
    pub trace_id: TraceId,
    pub slot: u16,
    /// By the ring of the node that was called; absent: nobody owns anything, or it is in no mesh.
    pub owner: Option<String>,
    pub ring_version: String,
    /// Whose answer this is: the owner, or who knows the trace if the owner does not. Absent: nobody's.
    pub asked_of: Option<String>,
    /// The owner has answered.
    pub answered: bool,
    pub why_not: Option<String>,
    pub state: State,
    /// How far back the answering node remembers, if the trace is unknown to it.
    pub unknown_since: Option<f64>,
    pub answered_at: Option<f64>,
    /// The ring in force at the answering node, if it is another one.
    pub owner_ring_version: Option<String>,
    pub policy: Option<String>,
    pub cause: Option<String>,
    /// Absent: only the verdict is known, or nothing.
    pub details: Option<KnownDetails>,
    /// What helps to understand the answer, a sentence each.
    pub notes: Vec<String>,
}

impl TraceAnswer {
    /// `me`: the node that was called, as it calls itself.
    pub fn new(trace_id: TraceId, explanation: Explanation, me: &str) -> TraceAnswer {
        let Explanation { slot, ring_version, owner, answer, elsewhere, others_asked, others_silent } = explanation;
        let owner = owner.map(|owner| owner.to_string());
        let mut answer_of = TraceAnswer {
            trace_id,
            slot,
            ring_version,
            asked_of: None,
            answered: answer.is_ok(),
            why_not: answer.as_ref().err().map(ToString::to_string),
            state: State::Unknown,
            unknown_since: None,
            answered_at: None,
            owner_ring_version: None,
            policy: None,
            cause: None,
            details: None,
            notes: Vec::new(),
            owner,
        };
        if answer_of.owner.is_none() && answer_of.answered {
            answer_of.notes.push("this node is in no mesh and answers for itself".to_owned());
        }
        let owner_knows = answer.as_ref().is_ok_and(|answer| answer.trace.is_some());
        if !owner_knows {
            answer_of.tell_of_others(&elsewhere, others_asked, others_silent);
        }
        let owner = answer_of.owner.clone().unwrap_or_else(|| me.to_owned());
        let source = match (answer, elsewhere.into_iter().next()) {
            (Ok(answer), _) if owner_knows => Some((owner, answer)),
            (_, Some((who, answer))) => Some((who.to_string(), answer)),
            (Ok(answer), None) => Some((owner, answer)),
            (Err(_), None) => None,
        };
        if let Some((who, answer)) = source {
            answer_of.take(who, answer);
        }
        answer_of
    }

    fn tell_of_others(&mut self, know: &[(crate::model::NodeId, PeerAnswer)], asked: usize, silent: usize) {
        let silent = match silent {
            0 => String::new(),
            silent => format!(" ({silent} of them did not answer)"),
        };
        let the_owner = if self.answered { "the owner does not know it" } else { "the owner cannot be asked" };
        if !know.is_empty() {
            let named: Vec<String> =
                know.iter().take(NAMED).map(|(who, answer)| holds(&who.to_string(), answer)).collect();
            let more = know.len().saturating_sub(NAMED);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let named = named.join(", ");
            self.notes.push(format!(
                "{the_owner}; asked the other members{silent}: {named}{more} (the ring changed, or the owner was restarted)"
            ));
        } else if asked > 0 {
            let members = if asked == 1 { "member" } else { "members" };
            self.notes.push(format!("{the_owner}; asked {asked} other {members}{silent}: nobody knows it"));
        }
    }

    fn take(&mut self, who: String, answer: PeerAnswer) {
        self.answered_at = Some(answer.answered_at);
        if answer.ring_version != self.ring_version {
            let by_it = match (&answer.owner, &self.owner) {
                (there, here) if there == here => "the owner is the same by both".to_owned(),
                (Some(there), _) => format!("by it {there} owns the trace"),
                (None, _) => "by it nobody owns the trace".to_owned(),
            };
            self.notes.push(format!(
                "{who} has another ring in force, {}; {by_it}: members came or went just now, or the nodes do not see the same members",
                answer.ring_version
            ));
            self.owner_ring_version = Some(answer.ring_version);
        }
        match answer.trace {
            Some(trace) => {
                self.state = trace.state.into();
                (self.policy, self.cause, self.details) = (trace.policy, trace.cause, trace.details);
                if trace.would_drop {
                    self.notes.push("kept for dry_run alone: the rules would have dropped it".to_owned());
                }
                if self.details.is_none() {
                    self.notes.push("only the verdict is remembered: the spans made room for newer traces".to_owned());
                }
            }
            None => {
                self.unknown_since = answer.remembers_since;
                if answer.remembers_since.is_none() {
                    self.notes.push(format!(
                        "{who} does nothing that waits for whole traces (tail_sampling, groupbytrace, cross_cluster), so it remembers none"
                    ));
                }
                let up = answer.answered_at - answer.started_at;
                if up < YOUNG {
                    self.notes.push(format!("{who} has been up for {up:.0} s only"));
                }
            }
        }
        self.asked_of = Some(who);
    }
}

fn holds(who: &str, answer: &PeerAnswer) -> String {
    match answer.spans() {
        0 => format!("{who} remembers the verdict"),
        1 => format!("{who} holds 1 span"),
        spans => format!("{who} holds {spans} spans"),
    }
}

/// What of a trace a request asks for; `Err`: what is wrong with it.
pub(super) fn wanted(uri: &Uri) -> Result<Wanted, &'static str> {
    let mut wanted = Wanted::default();
    for pair in uri.query().unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
        let flag = match name {
            "spans" => &mut wanted.spans,
            "values" => &mut wanted.values,
            _ => continue,
        };
        *flag = match value {
            "true" | "1" | "on" => true,
            "false" | "0" | "" => false,
            _ => return Err("spans and values are true or false"),
        };
    }
    Ok(wanted)
}

/// Whether a request comes from this machine, and for somebody on this machine.
pub(super) fn is_local<B>(peer: SocketAddr, request: &Request<B>) -> bool {
    const FORWARDED: [&str; 10] = [
        "forwarded",
        "via",
        "x-forwarded",
        "x-real-ip",
        "x-original-",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-envoy-",
        "cf-",
        "true-client-ip",
    ];
    let mut hosts = request.headers().get_all(http::header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok()),
        (Some(_), Some(_)) => None,
        (None, _) => request.uri().authority().cloned(),
    };
    let is_forwarded = |name: &HeaderName| FORWARDED.iter().any(|start| name.as_str().starts_with(start));
    peer.ip().to_canonical().is_loopback()
        && request.version() > Version::HTTP_10
        && !request.headers().keys().any(is_forwarded)
        && host.is_some_and(|host| is_loopback_name(host.host()))
}

fn is_loopback_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests;
