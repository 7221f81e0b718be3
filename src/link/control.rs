//! The task that owns membership: it feeds the machine, sends what it says, dials, and puts rings in force.
//!
//! One task, because membership is one machine and every decision here follows from it. It waits for nobody: messages are
//! sent or dropped, dials are tasks of their own, and a link's state is looked at rather than believed from the order in
//! which news of it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::conn::Direction;
use super::dial::{DialPlan, Dialled, Wish};
use super::frame::Code;
use super::greet::{GREETING_DEADLINE, GreetError, greet};
use super::shared::{Core, Event};
use super::tls::SERVER_NAME;
use crate::config::settings::Advertise;
use crate::logic::membership::{Identity, Input, MemberState, Membership, Output};
use crate::logic::ring::Ring;
use crate::model::{NodeId, Tick};

/// How often addresses and links are looked through, if nothing happens.
const SWEEP: Duration = Duration::from_millis(250);
/// Ring tables of more members are filled where blocking is allowed: 16 members take about 1 ms, 1,000 take 50.
const BUILD_INLINE: usize = 16;

pub(super) struct Control {
    core: Arc<Core>,
    membership: Membership,
    events: mpsc::Receiver<Event>,
    candidates: Option<watch::Receiver<BTreeSet<SocketAddr>>>,
    plan: Arc<Mutex<DialPlan>>,
    dials: JoinSet<(SocketAddr, Dialled)>,
    /// The peers that membership takes for linked.
    linked: BTreeMap<NodeId, Identity>,
    /// What the ring in force was built from.
    ring_of: Vec<(NodeId, u16)>,
    out: Vec<Output>,
    changed: bool,
    /// Parts wait in a queue of no owner.
    stranded: bool,
    sweep_at: Tick,
}

impl Control {
    pub(super) fn new(
        core: Arc<Core>,
        membership: Membership,
        events: mpsc::Receiver<Event>,
        candidates: Option<watch::Receiver<BTreeSet<SocketAddr>>>,
        plan: Arc<Mutex<DialPlan>>,
    ) -> Control {
        Control {
            core,
            membership,
            events,
            candidates,
            plan,
            dials: JoinSet::new(),
            linked: BTreeMap::new(),
            ring_of: Vec::new(),
            out: Vec::new(),
            changed: true,
            stranded: false,
            sweep_at: Tick::ZERO,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let now = self.core.clock.now();
            if self.membership.next_deadline().is_some_and(|due| due <= now) {
                self.feed(Input::Timeout);
            }
            if std::mem::take(&mut self.changed) {
                self.members_changed().await;
            }
            if now >= self.sweep_at {
                self.sweep(now);
            }
            let parked = self.core.parked().next_deadline();
            if std::mem::take(&mut self.stranded) || parked.is_some_and(|due| due <= now) {
                self.core.place_stranded(false);
                continue;
            }
            let wake = [self.membership.next_deadline(), parked, Some(self.sweep_at)].into_iter().flatten().min();
            let wake = self.core.clock.instant(wake.unwrap_or(self.sweep_at));
            tokio::select! {
                () = self.core.stop.cancelled() => return,
                event = self.events.recv() => match event {
                    Some(event) => self.happened(event).await,
                    None => return,
                },
                Some(ended) = self.dials.join_next() => self.dialled(ended),
                () = changed(&mut self.candidates) => self.sweep_at = Tick::ZERO,
                () = self.core.stranded.notified() => self.stranded = true,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Gives the machine an input, and sends what it has to say.
    fn feed(&mut self, input: Input<'_>) {
        let mut out = std::mem::take(&mut self.out);
        self.membership.handle(input, self.core.clock.now(), &mut out);
        for output in out.drain(..) {
            match output {
                Output::Send { to, bytes } => {
                    if let Some(conn) = self.core.link_to(&to).and_then(|link| link.conn()) {
                        conn.gossip(&bytes);
                    }
                }
                Output::Changed => self.changed = true,
            }
        }
        self.out = out;
    }

    async fn happened(&mut self, event: Event) {
        match event {
            Event::Link(peer) => self.link_changed(&peer),
            Event::Gossip(from, bytes) => self.feed(Input::Packet { from: &from, bytes: &bytes }),
            Event::Observed(address) => self.observed(address),
            Event::Leave(done) => {
                self.feed(Input::Leave);
                self.changed = false;
                self.members_changed().await;
                let _ = done.send(());
            }
            Event::Left(done) => {
                self.feed(Input::Leave);
                let _ = done.send(());
            }
        }
    }

    /// Looks at a link and tells membership if it is not what it was.
    fn link_changed(&mut self, peer: &NodeId) {
        let now = self.core.link_to(peer).and_then(|link| link.conn()).map(|conn| conn.peer.identity.clone());
        match (self.linked.get(peer), now) {
            (Some(before), Some(now)) if before.boot == now.boot => {}
            (_, Some(now)) => {
                self.linked.insert(peer.clone(), now.clone());
                self.feed(Input::LinkUp(&now));
            }
            (Some(_), None) => {
                self.linked.remove(peer);
                self.feed(Input::LinkDown(peer));
                self.sweep_at = Tick::ZERO;
            }
            (None, None) => {}
        }
    }

    /// A node that learns its own address takes the first one that a peer sees, or the first that is of use beyond
    /// this machine.
    fn observed(&mut self, address: SocketAddr) {
        let me = self.membership.me();
        let better = match me.address {
            None => true,
            Some(known) => known.ip().is_loopback() && !address.ip().is_loopback() && self.listens_everywhere(),
        };
        if self.core.settings.advertise == Advertise::Learned && better {
            let weight = me.weight;
            info!(%address, "this node is reached at the address that a peer sees");
            self.feed(Input::Change { address: Some(address), weight });
        }
    }

    fn listens_everywhere(&self) -> bool {
        self.core.settings.listen.ip().is_unspecified()
    }

    /// Members, or what they say of themselves, are different: the ring follows, and so do links.
    async fn members_changed(&mut self) {
        let members = self.membership.members();
        let me = self.membership.me().clone();
        let leaving = self.core.is_leaving();
        let mut owners: Vec<(NodeId, u16)> = members
            .iter()
            .filter(|member| matches!(member.state, MemberState::Active | MemberState::Suspect))
            .filter(|member| member.identity.weight > 0 && !(leaving && member.identity.id == me.id))
            .map(|member| (member.identity.id.clone(), member.identity.weight))
            .collect();
        if leaving && owners.is_empty() && me.weight > 0 {
            // All leave at once: what is in custody here can only be finished here.
            owners.push((me.id.clone(), me.weight));
        }
        for member in members.iter().filter(|member| member.state == MemberState::Dead) {
            let link = self.core.link_to(&member.identity.id);
            if let Some(link) = link.filter(|link| link.conn().is_some()) {
                warn!(peer = %member.identity.id, "a member is declared dead though its link is up: closed");
                link.close(Code::Dead, "declared dead: come back through a new link");
            }
        }
        self.core.identity.store(Arc::new(me));
        self.core.members.store(Arc::new(members));
        if owners != self.ring_of || self.core.table.load().ring.is_empty() != owners.is_empty() {
            let ring = self.build(&owners).await;
            info!(owners = owners.len(), version = format!("{:016x}", ring.version()), "the ring is different");
            self.core.publish(ring);
            self.ring_of = owners;
            self.core.place_stranded(true);
        }
        self.sweep_at = Tick::ZERO;
    }

    async fn build(&self, owners: &[(NodeId, u16)]) -> Ring {
        if owners.len() <= BUILD_INLINE {
            return Ring::build(&self.core.settings.name, owners);
        }
        let (name, members) = (self.core.settings.name.clone(), owners.to_vec());
        match tokio::task::spawn_blocking(move || Ring::build(&name, &members)).await {
            Ok(ring) => ring,
            Err(error) => {
                error!(%error, "building the ring failed");
                Ring::build(&self.core.settings.name, owners)
            }
        }
    }

    /// Looks through links and addresses: dials what is due, forgets what nobody needs.
    fn sweep(&mut self, now: Tick) {
        self.sweep_at = now + SWEEP;
        self.core.drop_idle_links();
        self.core.membership.store(Arc::new(self.membership.status()));
        let Some(endpoint) = self.core.endpoint.clone().filter(|_| !self.core.is_leaving()) else { return };
        let wishes = self.wishes(endpoint.local_addr().ok());
        let linked = &self.linked;
        let due = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.due(wishes, |node| linked.contains_key(node), now, rand::random::<f64>)
        };
        if due.is_empty() {
            return;
        }
        let Some(config) = self.core.client_config() else { return };
        for address in due {
            match endpoint.connect_with(config.clone(), address, SERVER_NAME) {
                Ok(connecting) => {
                    let core = self.core.clone();
                    self.dials.spawn(async move { (address, dial(core, connecting).await) });
                }
                Err(error) => self.dial_ended(address, Dialled::Failed(error.to_string())),
            }
        }
    }

    fn wishes(&self, listen: Option<SocketAddr>) -> Vec<Wish> {
        let me = self.membership.me();
        let linked: BTreeSet<SocketAddr> =
            self.linked.keys().filter_map(|peer| self.core.link_to(peer)?.conn().map(|conn| conn.address())).collect();
        let useful = |address: &SocketAddr| {
            Some(*address) != listen && Some(*address) != me.address && !linked.contains(address)
        };
        let mut wishes = Vec::new();
        let mut wished = BTreeSet::new();
        let members = self.core.members.load();
        for member in members.iter().filter(|member| member.identity.id != me.id) {
            let linked = self.linked.contains_key(&member.identity.id);
            // A suspect whose link is up may have restarted: its next run knows nothing of the connection, and would
            // never say so.
            if linked && member.state != MemberState::Suspect {
                continue;
            }
            let Some(address) = member.identity.address.filter(|address| linked || useful(address)) else { continue };
            if wished.insert(address) {
                let yield_first = me.address.is_some() && me.id > member.identity.id;
                let dead = member.state == MemberState::Dead;
                let member = Some(member.identity.id.clone());
                wishes.push(Wish { address, member, dead, renew: linked, yield_first });
            }
        }
        if let Some(candidates) = &self.candidates {
            for address in candidates.borrow().iter().copied().filter(useful) {
                if wished.insert(address) {
                    wishes.push(Wish { address, member: None, dead: false, renew: false, yield_first: false });
                }
            }
        }
        wishes
    }

    fn dialled(&mut self, ended: Result<(SocketAddr, Dialled), tokio::task::JoinError>) {
        match ended {
            Ok((address, how)) => self.dial_ended(address, how),
            Err(error) => error!(%error, "a task that dialled failed"),
        }
    }

    fn dial_ended(&mut self, address: SocketAddr, how: Dialled) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Dialled::Failed(error) = &how {
            self.core.counts.add(|counts| &counts.dials_failed, 1);
            // The first, the second, the fourth ...: an address that is dead for days does not fill the log.
            let failures = plan.failures(&address) + 1;
            if failures.is_power_of_two() {
                info!(%address, %error, failures, "no link to an address");
            }
        }
        plan.ended(address, how, self.core.clock.now(), rand::random::<f64>());
    }
}

/// Resolves when the seeds' addresses are different; never if there are no seeds.
async fn changed(candidates: &mut Option<watch::Receiver<BTreeSet<SocketAddr>>>) {
    let gone = match candidates {
        Some(watch) => watch.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending::<()>().await;
    }
}

async fn dial(core: Arc<Core>, connecting: quinn::Connecting) -> Dialled {
    let quic = match tokio::time::timeout(GREETING_DEADLINE, connecting).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => return Dialled::Failed(error.to_string()),
        Err(_) => return Dialled::Failed("no answer in time".to_owned()),
    };
    match greet(&core, &quic, Direction::Dialled).await {
        Ok(hello) => {
            let peer = hello.identity.id.clone();
            core.link_up(quic, hello, Direction::Dialled).await;
            Dialled::Linked(peer)
        }
        Err(GreetError::Myself) => Dialled::Myself,
        Err(error) => Dialled::Failed(error.to_string()),
    }
}
