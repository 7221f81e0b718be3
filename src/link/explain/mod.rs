//! "What happened to this trace?", asked of the mesh: its owner by the ring here, and if that does not know it, everyone.
//!
//! The owner knows, almost always. It does not when it was restarted, when the ring has changed since, or when it cannot be
//! reached; then the trace may be with whoever owned it before. Where that was cannot be computed from the ring in force, so all
//! linked members are asked at once, without spans, and only the one that knows most is asked for those.
//!
//! Questions are cheap to send and dear to answer, so both sides bound them: few at a time at the asker, few at a time
//! for each peer and in all at the node that answers, each against a deadline. Who asks too much is told so and keeps its
//! link. Answers are JSON: they end as JSON at the admin API, and a field more in them is no new protocol.

pub mod answer;
#[cfg(test)]
pub(crate) mod example;
mod exchange;

use std::sync::{Arc, OnceLock};

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::answer::{KnownDetails, KnownTrace, PeerAnswer};
pub(super) use self::exchange::{answer_query, ask};
use super::frame::Query;
use super::shared::Core;
use crate::logic::traces::Wanted;
use crate::model::{NodeId, TraceId};

/// What this node itself knows of a trace; ring and owner are filled in here. May take a while: called where blocking is
/// allowed.
pub type Answers = Arc<dyn Fn(&TraceId, Wanted) -> PeerAnswer + Send + Sync>;

/// Traces explained at once. Each may ask every member.
const EXPLAINING: usize = 4;
/// Questions of one peer answered at once: twice what a node of this build asks.
pub(in crate::link) const ANSWERING_PEER: usize = 2 * EXPLAINING;
/// Questions answered at once in all. Each holds up to twice a report in memory.
const ANSWERING: usize = 32;
/// Members asked at once.
const ASKING: usize = 64;

/// What a node keeps for questions of this kind.
pub(super) struct Questions {
    pub(super) answers: OnceLock<Answers>,
    pub(super) answering: Arc<Semaphore>,
    explaining: Semaphore,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions {
            answers: OnceLock::new(),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            explaining: Semaphore::new(EXPLAINING),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Silence {
    #[error("nobody owns traces now: no member has a weight above zero")]
    NoOwner,
    #[error("no link to it is up")]
    NotLinked,
    #[error("it runs an older version, which cannot be asked")]
    Older,
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it has too many questions to answer")]
    Busy,
    #[error("{0}")]
    Broken(String),
}

/// All that the mesh says of a trace.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub slot: u16,
    /// Of the ring in force at the asking node.
    pub ring_version: String,
    pub owner: Option<NodeId>,
    /// The owner's.
    pub answer: Result<PeerAnswer, Silence>,
    /// Others that know the trace, if the owner does not or is silent: the one that knows most first. With spans, if they
    /// were asked for, only there.
    pub elsewhere: Vec<(NodeId, PeerAnswer)>,
    /// Others asked, without this node.
    pub others_asked: usize,
    pub others_silent: usize,
}

impl Explanation {
    /// Of a node that is in no mesh: its own answer, and nobody's beside it.
    pub fn alone(answer: Result<PeerAnswer, Silence>) -> Explanation {
        Explanation {
            slot: 0,
            ring_version: String::new(),
            owner: None,
            answer,
            elsewhere: Vec::new(),
            others_asked: 0,
            others_silent: 0,
        }
    }
}

/// Asks the owner, and if need be the others.
pub(super) async fn explain(core: &Arc<Core>, trace_id: TraceId, wanted: Wanted) -> Explanation {
    let (slot, ring_version, owner) = view(core, &trace_id);
    let mut explanation = Explanation {
        slot,
        ring_version,
        owner,
        answer: Err(Silence::NoOwner),
        elsewhere: Vec::new(),
        others_asked: 0,
        others_silent: 0,
    };
    let Ok(Ok(_permit)) = timeout(core.tuning.question_deadline, core.questions.explaining.acquire()).await else {
        explanation.answer = Err(Silence::Broken("this node is being asked about too many traces".to_owned()));
        return explanation;
    };
    let query = Query { trace_id, wanted };
    if let Some(owner) = &explanation.owner {
        explanation.answer = ask_anyone(core, owner, query).await;
    }
    if explanation.answer.as_ref().is_ok_and(|answer| answer.trace.is_some()) {
        return explanation;
    }
    ask_others(core, query, &mut explanation).await;
    if wanted.spans
        && let Some((who, answer)) = explanation.elsewhere.first_mut()
        && let Ok(with_spans) = ask_anyone(core, who, query).await
        && with_spans.trace.is_some()
    {
        *answer = with_spans;
    }
    explanation
}

/// Slot, ring and owner as this node sees them.
fn view(core: &Core, trace_id: &TraceId) -> (u16, String, Option<NodeId>) {
    let ring = &core.table.load().ring;
    let owner = ring.owner(trace_id).and_then(|at| ring.members().get(usize::from(at)).cloned());
    (ring.slot(trace_id), format!("{:016x}", ring.version()), owner)
}

async fn ask_anyone(core: &Arc<Core>, who: &NodeId, query: Query) -> Result<PeerAnswer, Silence> {
    if *who == core.me { here(core, query).await } else { ask(core, who, query).await }
}

/// What this node knows.
async fn here(core: &Arc<Core>, query: Query) -> Result<PeerAnswer, Silence> {
    let Some(answers) = core.questions.answers.get().cloned() else {
        return Err(Silence::Broken("this node is still starting".to_owned()));
    };
    let Query { trace_id, wanted } = query;
    let looked = tokio::task::spawn_blocking(move || answers(&trace_id, wanted));
    let mut answer = looked.await.map_err(|_| Silence::Broken("looking it up failed".to_owned()))?;
    let (_, ring_version, owner) = view(core, &trace_id);
    (answer.ring_version, answer.owner) = (ring_version, owner.map(|owner| owner.to_string()));
    answer.restrict(wanted);
    Ok(answer)
}

async fn ask_others(core: &Arc<Core>, query: Query, explanation: &mut Explanation) {
    let query = Query { wanted: Wanted::default(), ..query };
    let is_owner = |node: &NodeId| explanation.owner.as_ref() == Some(node);
    let mut know = Vec::new();
    let mut asked = JoinSet::new();
    let at_once = Arc::new(Semaphore::new(ASKING));
    for link in core.all_links() {
        if is_owner(&link.peer) || link.conn().is_none() {
            continue;
        }
        explanation.others_asked += 1;
        let (core, at_once, peer) = (core.clone(), at_once.clone(), link.peer.clone());
        asked.spawn(async move {
            let _permit = at_once.acquire_owned().await.ok()?;
            let answer = ask(&core, &peer, query).await.ok()?;
            Some((peer, answer))
        });
    }
    if !is_owner(&core.me)
        && let Ok(answer) = here(core, query).await
    {
        know.push((core.me.clone(), answer));
    }
    let mut answered = 0;
    let all = async {
        while let Some(ended) = asked.join_next().await {
            if let Ok(Some(answer)) = ended {
                answered += 1;
                know.push(answer);
            }
        }
    };
    // Whoever is silent now is counted as such; its task ends with the set.
    let _ = timeout(core.tuning.question_deadline, all).await;
    know.retain(|(_, answer)| answer.trace.is_some());
    know.sort_by(|(a, x), (b, y)| y.spans().cmp(&x.spans()).then_with(|| a.cmp(b)));
    explanation.others_silent = explanation.others_asked - answered;
    explanation.elsewhere = know;
}
