//! Many machines in one process, over a network made of a queue: virtual time, delay, loss, and one seed for all.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::packet::Packet;
use super::roster::MAX_MEMBERS;
use super::*;

const SECOND: u64 = 1_000_000_000;
const FAILOVER: Duration = Duration::from_secs(10);
/// What a link takes to notice that its other end is silent.
const IDLE: Duration = Duration::from_secs(30);

enum Event {
    Deliver { from: usize, to: usize, bytes: Bytes },
    LinkDown { at: usize, peer: usize },
    Dial,
}

struct Net {
    now: Tick,
    seed: u64,
    dice: u64,
    /// In thousandths.
    loss: u64,
    nodes: Vec<Option<Membership>>,
    links: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    queue: BTreeMap<(Tick, u64), Event>,
    queued: u64,
    log: Vec<String>,
}

fn id(n: usize) -> NodeId {
    format!("cluster-{}/node-{n}", n % 3).parse().unwrap()
}

fn identity(n: usize, boot: u64) -> Identity {
    let address = Some(SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4319)));
    Identity { id: id(n), boot: BootId(boot), revision: 0, address, weight: 100 }
}

impl Net {
    fn new(nodes: usize, seed: u64) -> Net {
        let mut net = Net {
            now: Tick(SECOND),
            seed,
            dice: 0,
            loss: 10,
            nodes: Vec::new(),
            links: BTreeSet::new(),
            cut: BTreeSet::new(),
            queue: BTreeMap::new(),
            queued: 0,
            log: Vec::new(),
        };
        for n in 0..nodes {
            net.nodes.push(None);
            net.start(n, 1);
        }
        net.push(Duration::ZERO, Event::Dial);
        net
    }

    fn random(&mut self, below: u64) -> u64 {
        self.dice += 1;
        xxh3_64_with_seed(&self.dice.to_le_bytes(), self.seed) % below
    }

    fn push(&mut self, after: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), event);
    }

    fn start(&mut self, n: usize, boot: u64) {
        let settings = Settings { failover_after: FAILOVER };
        self.nodes[n] = Some(Membership::new(identity(n, boot), settings, self.seed * 1000 + n as u64));
    }

    fn input(&mut self, n: usize, input: Input<'_>) {
        let mut out = Vec::new();
        if let Some(node) = &mut self.nodes[n] {
            node.handle(input, self.now, &mut out);
        }
        for output in out {
            match output {
                Output::Send { to, bytes } => {
                    let to = (0..self.nodes.len()).find(|n| id(*n) == to).expect("only members are written to");
                    assert!(bytes.len() <= packet::MAX_PACKET);
                    let lost = self.random(1000) < self.loss;
                    let delay = Duration::from_micros(20_000 + self.random(60_000));
                    if self.links.contains(&(n, to)) && !lost {
                        self.push(delay, Event::Deliver { from: n, to, bytes });
                    }
                }
                Output::Changed => {
                    let view: Vec<_> = self.nodes[n]
                        .iter()
                        .flat_map(|node| node.members())
                        .map(|m| (m.identity.revision, m.state))
                        .collect();
                    self.log.push(format!("{:?} {n} {view:?}", self.now));
                }
            }
        }
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// Everybody dials node 0 (a seed) and whoever has an address and no link, dead or not.
    fn dial(&mut self) {
        for n in 0..self.nodes.len() {
            let Some(node) = &self.nodes[n] else { continue };
            let mut wanted: Vec<NodeId> = node.members().into_iter().map(|m| m.identity.id).collect();
            wanted.push(id(0));
            for peer in (0..self.nodes.len()).filter(|peer| wanted.contains(&id(*peer))) {
                let reachable = peer != n && self.nodes[peer].is_some() && !self.is_cut(n, peer);
                if reachable && !self.links.contains(&(n, peer)) {
                    for (here, there) in [(n, peer), (peer, n)] {
                        self.links.insert((here, there));
                        let hello = self.nodes[there].as_ref().unwrap().me().clone();
                        self.input(here, Input::LinkUp(&hello));
                    }
                }
            }
        }
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
        for peer in 0..self.nodes.len() {
            self.links.remove(&(n, peer));
            if self.links.contains(&(peer, n)) {
                self.push(IDLE, Event::LinkDown { at: peer, peer: n });
            }
        }
    }

    fn partition(&mut self, left: &[usize], right: &[usize]) {
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b))) {
            self.cut.insert((a, b));
            self.push(IDLE, Event::LinkDown { at: a, peer: b });
            self.push(IDLE, Event::LinkDown { at: b, peer: a });
        }
    }

    /// Runs until `done` says so, or fails after `limit`.
    fn run_until(&mut self, limit: Duration, what: &str, done: impl Fn(&Net) -> bool) -> Duration {
        let begin = self.now;
        while !done(self) {
            assert!(self.now.since(begin) < limit, "not within {limit:?}: {what}\n{}", self.log.join("\n"));
            self.step();
        }
        self.now.since(begin)
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn step(&mut self) {
        let timer =
            (0..self.nodes.len()).filter_map(|n| self.nodes[n].as_ref()?.next_deadline().map(|at| (at, n))).min();
        let event = self.queue.first_key_value().map(|(key, _)| key.0);
        match (timer, event) {
            (Some((at, n)), event) if event.is_none_or(|event| at <= event) => {
                self.now = self.now.max(at);
                self.input(n, Input::Timeout);
            }
            _ => {
                let ((at, _), event) = self.queue.pop_first().expect("dialling never ends");
                self.now = self.now.max(at);
                match event {
                    Event::Deliver { from, to, bytes } if !self.is_cut(from, to) => {
                        self.input(to, Input::Packet { from: &id(from), bytes: &bytes });
                    }
                    Event::Deliver { .. } => {}
                    Event::LinkDown { at, peer } => {
                        if self.nodes[peer].is_none() || self.is_cut(at, peer) {
                            self.links.remove(&(at, peer));
                            self.input(at, Input::LinkDown(&id(peer)));
                        }
                    }
                    Event::Dial => {
                        self.dial();
                        self.push(Duration::from_millis(500), Event::Dial);
                    }
                }
            }
        }
    }

    fn state(&self, at: usize, of: usize) -> Option<MemberState> {
        let members = self.nodes[at].as_ref()?.members();
        members.into_iter().find(|member| member.identity.id == id(of)).map(|member| member.state)
    }

    fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.nodes[*n].is_some()).collect()
    }

    fn all_see(&self, of: usize, state: MemberState) -> bool {
        self.living().into_iter().filter(|at| *at != of).all(|at| self.state(at, of) == Some(state))
    }

    fn all_active(&self) -> bool {
        self.living().into_iter().all(|of| self.all_see(of, MemberState::Active))
    }
}

fn together(nodes: usize, seed: u64) -> Net {
    let mut net = Net::new(nodes, seed);
    net.run_until(Duration::from_secs(40), "all see all", Net::all_active);
    net
}

/// Reads one packet as if a peer had sent it.
fn hand_over(net: &mut Net, to: usize, from: usize, updates: Vec<foca::Member<Node>>) {
    let node = |n: usize, net: &Net| net.nodes[n].as_ref().unwrap().foca.identity().clone();
    let header =
        foca::Header { src: node(from, net), src_incarnation: 0, dst: node(to, net), message: foca::Message::Gossip };
    let bytes = packet::seal(&packet::encode_for_foca(&Packet { header, updates }).unwrap());
    net.input(to, Input::Packet { from: &id(from), bytes: &bytes });
}

#[test]
fn three_nodes_with_one_seed_find_each_other() {
    let mut net = Net::new(3, 1);
    let took = net.run_until(Duration::from_secs(5), "three know three", |net| {
        net.all_active() && (0..3).all(|n| net.nodes[n].as_ref().unwrap().members().len() == 3)
    });
    assert!(took < Duration::from_secs(3), "{took:?}");
    let members = net.nodes[1].as_ref().unwrap().members();
    assert!(members.is_sorted_by(|a, b| a.identity.id < b.identity.id));
    assert_eq!(net.nodes[1].as_ref().unwrap().status().active, 3);
}

#[test]
fn a_silent_node_is_suspected_within_three_seconds_and_dead_after_failover() {
    for size in [3, 8, 16] {
        let mut suspected = Vec::new();
        for seed in 0..5 {
            let mut net = together(size, seed);
            net.run(Duration::from_millis(300 * seed));
            net.kill(1);
            let observed = (seed as usize % (size - 2)) + 2;
            suspected.push(net.run_until(Duration::from_secs(12), "suspected", |net| {
                net.state(observed, 1) == Some(MemberState::Suspect)
            }));
            let dead =
                net.run_until(FAILOVER + Duration::from_secs(6), "dead", |net| net.all_see(1, MemberState::Dead));
            assert!(dead > FAILOVER / 2, "{dead:?}");
            assert!(net.living().into_iter().filter(|n| *n != 1).all(|n| net.state(n, 0) == Some(MemberState::Active)));
        }
        suspected.sort();
        assert!(suspected[2] <= Duration::from_secs(3), "{size}: {suspected:?}");
    }
}

#[test]
fn two_halves_live_on_apart_and_find_each_other_again() {
    for (seed, apart) in [(1, 60), (2, 20), (3, 2 * 3600)] {
        let mut net = together(if apart > 1000 { 3 } else { 6 }, seed);
        let (left, right): (Vec<usize>, Vec<usize>) = net.living().into_iter().partition(|n| *n < 2);
        net.partition(&left, &right);
        net.run(Duration::from_secs(apart));
        // An hour after its death a member is no longer shown.
        let gone = if apart > 3600 { None } else { Some(MemberState::Dead) };
        assert_eq!((net.state(0, right[0]), net.state(right[0], 0)), (gone, gone));
        assert_eq!(net.state(left[0], left[1]), Some(MemberState::Active));
        net.cut.clear();
        let took = net.run_until(Duration::from_secs(30), "healed", Net::all_active);
        assert!(took < Duration::from_secs(15), "{took:?}");
        net.run(Duration::from_secs(30));
        assert!(net.all_active(), "{}", net.log.join("\n"));
    }
}

#[test]
fn a_leaver_is_seen_leaving_at_once_and_gone_when_it_says_so() {
    let mut net = together(5, 3);
    net.input(4, Input::Leave);
    let told = net.run_until(Duration::from_secs(2), "leaving", |net| net.all_see(4, MemberState::Leaving));
    assert!(told < Duration::from_millis(500), "{told:?}");
    net.run(Duration::from_secs(20));
    assert!(net.all_see(4, MemberState::Leaving), "it still answers");
    net.input(4, Input::Leave);
    net.run_until(Duration::from_secs(3), "gone", |net| net.all_see(4, MemberState::Dead));
    net.kill(4);
    net.run(Duration::from_secs(40));
    assert!(net.all_see(4, MemberState::Dead));
}

#[test]
fn a_restarted_node_is_back_with_its_first_link_and_its_old_run_is_forgotten() {
    for (seed, boot) in [(4, 2), (5, 0)] {
        let mut net = together(4, seed);
        net.kill(2);
        if boot == 0 {
            // Its clock was set back: the old run wins until it is dead.
            net.run_until(Duration::from_secs(20), "dead", |net| net.all_see(2, MemberState::Dead));
        }
        net.links.retain(|(a, b)| *a != 2 && *b != 2);
        net.start(2, boot);
        net.run_until(Duration::from_secs(10), "back", |net| {
            net.all_see(2, MemberState::Active)
                && [0, 1, 3].iter().all(|n| {
                    let members = net.nodes[*n].as_ref().unwrap().members();
                    members.iter().any(|m| m.identity.id == id(2) && m.identity.boot == BootId(boot))
                })
        });
        net.run(Duration::from_secs(30));
        assert!(net.all_active(), "{}", net.log.join("\n"));
    }
}

#[test]
fn an_earlier_run_of_a_living_node_loses() {
    let mut net = together(3, 6);
    net.input(0, Input::LinkUp(&identity(2, 0)));
    let members = net.nodes[0].as_ref().unwrap().members();
    assert_eq!(members.iter().find(|m| m.identity.id == id(2)).unwrap().identity.boot, BootId(1));
}

#[test]
fn a_new_weight_or_address_is_known_to_all_with_a_new_revision() {
    let mut net = together(5, 7);
    net.input(3, Input::Change { address: None, weight: 7 });
    net.run_until(Duration::from_secs(2), "known", |net| {
        (0..5).all(|n| {
            let members = net.nodes[n].as_ref().unwrap().members();
            let changed = &members.iter().find(|m| m.identity.id == id(3)).unwrap().identity;
            (changed.address, changed.weight, changed.revision) == (None, 7, 1)
        })
    });
    assert!(net.all_active());
    let before = net.log.len();
    net.input(3, Input::Change { address: None, weight: 7 });
    assert_eq!((net.log.len(), net.nodes[3].as_ref().unwrap().me().revision), (before, 1));
}

#[test]
fn the_rumour_of_a_living_peers_death_is_refuted_and_never_believed() {
    let mut net = together(6, 8);
    net.run(Duration::from_secs(1)); // All have links now.
    let victim = net.nodes[5].as_ref().unwrap().foca.identity().clone();
    for round in 0..50 {
        let at = round % 4;
        hand_over(&mut net, at, 4, vec![foca::Member::new(victim.clone(), round as u16, State::Down)]);
        net.run(Duration::from_millis(100));
        assert!(
            !net.living().into_iter().any(|n| net.state(n, 5) == Some(MemberState::Dead)),
            "{}",
            net.log.join("\n")
        );
    }
    net.run_until(Duration::from_secs(10), "refuted", Net::all_active);
    net.run(Duration::from_secs(20));
    assert!(net.all_active(), "{}", net.log.join("\n"));
}

#[test]
fn a_node_that_is_told_of_its_own_death_contradicts_and_not_in_a_storm() {
    let mut net = together(3, 9);
    for _ in 0..1000 {
        let me = net.nodes[1].as_ref().unwrap().foca.identity().clone();
        hand_over(&mut net, 1, 2, vec![foca::Member::down(me)]);
    }
    assert_eq!(net.nodes[1].as_ref().unwrap().status().contradictions, 1);
    net.run_until(Duration::from_secs(5), "alive", Net::all_active);
    assert_eq!(net.nodes[1].as_ref().unwrap().me().revision, 1);
}

#[test]
fn nobody_can_make_a_linked_peer_another_run_of_itself() {
    let mut net = together(4, 10);
    let mut forged = net.nodes[3].as_ref().unwrap().foca.identity().clone();
    forged.identity.boot = BootId(u64::MAX);
    forged.identity.weight = 65_535;
    for to in [0, 1, 3] {
        for state in [State::Alive, State::Suspect, State::Down] {
            hand_over(&mut net, to, 2, vec![foca::Member::new(forged.clone(), 9, state)]);
        }
    }
    net.run(Duration::from_secs(5));
    assert!(net.all_active(), "{}", net.log.join("\n"));
    assert!(net.nodes[0].as_ref().unwrap().status().rumours_refused >= 3);
}

#[test]
fn a_list_of_a_million_members_is_cut_off_and_who_has_a_link_still_finds_room() {
    let mut net = Net::new(2, 11);
    net.run_until(Duration::from_secs(5), "two", Net::all_active);
    let stranger = |n: usize| {
        let mut identity = identity(0, 1);
        identity.id = format!("x/{n}").parse().unwrap();
        Node { identity, leaving: false }
    };
    for batch in 0..6 {
        let updates = (0..1000).map(|n| foca::Member::alive(stranger(batch * 1000 + n))).collect();
        hand_over(&mut net, 0, 1, updates);
    }
    let node = net.nodes[0].as_mut().unwrap();
    assert_eq!(node.members().len(), MAX_MEMBERS);
    let mut out = Vec::new();
    node.handle(Input::LinkUp(&stranger(5_999).identity), net.now, &mut out);
    assert_eq!(node.members().len(), MAX_MEMBERS);
    assert!(node.members().iter().any(|member| member.identity.id == stranger(5_999).identity.id));
}

#[test]
fn hostile_packets_are_refused_without_harm() {
    let mut net = together(3, 12);
    let genuine = {
        let me = net.nodes[0].as_ref().unwrap().foca.identity().clone();
        let header = foca::Header {
            src: net.nodes[1].as_ref().unwrap().foca.identity().clone(),
            src_incarnation: 0,
            dst: me,
            message: foca::Message::Gossip,
        };
        let updates = vec![foca::Member::alive(Node { identity: identity(2, 1), leaving: false })];
        packet::seal(&packet::encode_for_foca(&Packet { header, updates }).unwrap()).to_vec()
    };
    let refused = |net: &Net| net.nodes[0].as_ref().unwrap().status().packets_refused;
    net.input(0, Input::Packet { from: &id(2), bytes: &genuine });
    assert_eq!(refused(&net), 1, "another's name on it");
    for cut in 0..genuine.len() {
        net.input(0, Input::Packet { from: &id(1), bytes: &genuine[..cut] });
    }
    let long_name = [[1].as_slice(), &[0xff, 0xff, 0x03], &[b'x'; 65_000]].concat();
    let huge_length = [[1].as_slice(), &[0xff; 9], &[0x01]].concat();
    for bytes in [long_name, huge_length, vec![0; 70_000], vec![1; 65_000], vec![2]] {
        let before = refused(&net);
        net.input(0, Input::Packet { from: &id(1), bytes: &bytes });
        assert_eq!(refused(&net), before + 1);
    }
    // Every bit of a genuine packet flipped once: no panic, and whatever is believed heals.
    for bit in 0..genuine.len() * 8 {
        let mut bytes = genuine.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        net.input(0, Input::Packet { from: &id(1), bytes: &bytes });
    }
    net.run(Duration::from_secs(30));
    assert!((0..3).all(|n| net.all_see(n, MemberState::Active)), "{}", net.log.join("\n"));
}

#[test]
fn a_node_that_was_held_up_does_not_blame_others() {
    let mut net = together(4, 13);
    for _ in 0..10 {
        // Node 0 is stopped for 9 s: nothing is read, no timer fires.
        let stopped = net.nodes[0].take();
        let mut unread = Vec::new();
        let end = net.now + Duration::from_secs(9);
        while net.now < end {
            net.step();
            while let Some(key) =
                net.queue.iter().find(|(_, e)| matches!(e, Event::Deliver { to: 0, .. })).map(|(k, _)| *k)
            {
                unread.extend(net.queue.remove(&key));
            }
        }
        net.nodes[0] = stopped;
        net.input(0, Input::Timeout);
        assert!((1..4).all(|n| net.state(0, n) == Some(MemberState::Active)), "{}", net.log.join("\n"));
        unread.into_iter().for_each(|event| net.push(Duration::from_millis(1), event));
        net.run(Duration::from_secs(3));
        assert!(net.all_active(), "{}", net.log.join("\n"));
    }
}

#[test]
fn the_same_seed_gives_the_same_events_and_another_seed_others() {
    let log = |seed| {
        let mut net = together(7, seed);
        net.kill(3);
        net.run(Duration::from_secs(20));
        xxh3_64(net.log.join("\n").as_bytes())
    };
    assert_eq!(log(21), log(21));
    assert_ne!(log(21), log(22));
}

#[test]
fn fifty_nodes_agree() {
    let mut net = Net::new(50, 14);
    net.run_until(Duration::from_secs(30), "fifty know fifty", |net| {
        net.all_active() && (0..50).all(|n| net.nodes[n].as_ref().unwrap().members().len() == 50)
    });
}
