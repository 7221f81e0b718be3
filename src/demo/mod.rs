//! `spanmesh demo`: a whole mesh on one machine, with real parts: three node processes of this very binary, DNS, a CA and
//! mutual TLS, WAN latency, services that send OTLP, and a backend that judges what comes out.
//!
//! The first five minutes with a distributed system are spent on making it distributed; here that is one command, without
//! root, containers or a network. Since the same command proves that no span is lost, doubled or split, it is the smoke
//! test as well, and what a report of a defect can start from.
//!
//! Everything in a single process would start quicker, and would prove less: nothing could be killed, no port be taken, no
//! certificate be wrong. Only the network between the nodes is not real: see [`relay`].

pub mod backend;
pub mod checker;
mod control;
pub mod decisions;
pub mod files;
pub mod generator;
pub mod ledger;
pub mod nodes;
pub mod places;
pub mod probe;
pub mod relay;
pub mod rules;
mod screen;
pub mod showcase;
pub mod traffic;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

use backend::{Backend, FirstTrace, Judge};
use control::Control;
pub use control::Order;
use decisions::Decisions;
use files::{Directory, Surroundings};
use generator::{Generator, SentSoFar};
use ledger::{FirstLine, Ledger, NodeLine, Verdict};
use nodes::{Nodes, State};
use places::{CLUSTERS, Place};
use probe::{NodeView, Probe};
use relay::Relay;
use screen::Screen;
use traffic::Traffic;

use crate::dns_zone::DnsZone;
use crate::model::{NodeId, Tick};
use crate::runtime::clock::Clock;

/// Longest wait until all nodes agree on who owns what.
const FORM: Duration = Duration::from_secs(30);
/// How often the forming mesh is asked.
const FORM_POLL: Duration = Duration::from_millis(25);
/// Longest wait, after the last trace was made, until the generator has sent and retried everything.
const FLUSH: Duration = Duration::from_secs(30);
/// Longest wait until everything accepted has come out.
const SETTLE: Duration = Duration::from_secs(20);
/// How long to listen for what should not come once everything has come out.
const QUIET: Duration = Duration::from_millis(500);
/// How long nodes have to drain.
const GRACE: Duration = Duration::from_secs(20);

/// What the user wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long traffic flows; `None`: until interrupted.
    pub duration: Option<Duration>,
    /// Traces a second.
    pub rate: f64,
    pub seed: u64,
    /// Where to write, as JSON, what is where, once the first trace is whole.
    pub ready_file: Option<PathBuf>,
    /// Leave certificates, configurations and logs behind.
    pub keep_directory: bool,
    /// Nobody else sends to the nodes: what the demo did not make is wrong.
    pub alone: bool,
    /// Standard output is for something else.
    pub screen_on_stderr: bool,
}

/// How it ended.
pub struct Finished {
    pub ledger: Ledger,
    pub verdict: Verdict,
}

/// Why there was nothing to judge.
#[derive(Debug, Error)]
pub enum DemoError {
    #[error("{what}: {error}")]
    Setup { what: &'static str, error: io::Error },
    #[error("{id} {why}; the end of its log:\n{tail}")]
    NodeEnded { id: String, why: String, tail: String },
    #[error("the nodes have not found each other within {} s; their logs are in {directory}", FORM.as_secs())]
    NotFormed { directory: String },
    #[error("interrupted")]
    Interrupted,
}

/// For `map_err`: what could not be done.
fn setup(what: &'static str) -> impl Fn(io::Error) -> DemoError {
    move |error| DemoError::Setup { what, error }
}

/// The parts that the control and the main loop share.
pub struct Demo {
    places: Vec<Place>,
    nodes: Nodes,
    relay: Relay,
    judge: Arc<Judge>,
    sent: SentSoFar,
    probe: Probe,
    /// What each node last said; `None`: nothing.
    views: Mutex<Vec<Option<NodeView>>>,
    clock: Clock,
}

impl Demo {
    /// Asks all nodes at once, each at most a second.
    async fn look(&self) {
        let mut asking = JoinSet::new();
        for (number, (_, state, _)) in self.nodes.states().into_iter().enumerate() {
            let (probe, admin) = (self.probe.clone(), self.places.get(number).map(|place| place.admin));
            asking.spawn(async move {
                match admin.filter(|_| state == State::Running) {
                    Some(admin) => (number, probe.view(admin).await),
                    None => (number, None),
                }
            });
        }
        let mut views = vec![None; self.places.len()];
        for (number, view) in asking.join_all().await {
            if let Some(place) = views.get_mut(number) {
                *place = view;
            }
        }
        *self.views.lock().unwrap_or_else(PoisonError::into_inner) = views;
    }

    fn views(&self) -> Vec<Option<NodeView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that was accepted has come out, and no node holds anything.
    fn settled(&self) -> bool {
        self.judge.checker().counts().on_the_way == 0
            && self.views().iter().flatten().all(|view| view.ledger.in_flight == 0)
    }

    fn ledger(&self) -> Ledger {
        let views = self.views();
        let checker = self.judge.checker();
        let line = |(number, (id, state, kills)): (usize, (NodeId, State, u32))| {
            let view = views.get(number).cloned().flatten();
            NodeLine {
                members: view.as_ref().map_or(0, NodeView::active_members),
                traces: checker.owned_by(number),
                exported: checker.exported_by(number),
                ledger: view.map(|view| view.ledger),
                ..NodeLine::new(id.to_string(), &state, kills)
            }
        };
        let nodes: Vec<_> = self.nodes.states().into_iter().enumerate().map(line).collect();
        let first_trace = self.judge.first_trace().borrow().as_ref().map(|first| FirstLine {
            trace: first.trace.to_string(),
            owner: nodes.get(first.owner).map(|node| node.id.clone()).unwrap_or_default(),
            seconds: first.after.as_secs_f64(),
        });
        let traces: Vec<_> = views.iter().flatten().flat_map(|view| &view.traces).collect();
        let decisions = Decisions::of(&traces, &self.judge.forecast());
        let name = |number: usize| CLUSTERS.get(number).copied().unwrap_or_default();
        let (relay_forwarded, relay_dropped) = self.relay.counts();
        Ledger {
            seconds: self.clock.now().since(Tick::ZERO).as_secs_f64(),
            sent: self.sent.get(),
            backend: checker.counts().clone(),
            bad_requests: self.judge.bad_requests(),
            unstamped: self.judge.unstamped(),
            nodes,
            decisions,
            first_trace,
            partitions: self.relay.partitions().into_iter().map(|(a, b)| [name(a), name(b)]).collect(),
            relay_forwarded,
            relay_dropped,
        }
    }

    /// The first node that has ended by itself.
    fn ended(&self) -> Option<DemoError> {
        let states = self.nodes.states().into_iter().enumerate();
        states.into_iter().find_map(|(number, (id, state, _))| match state {
            State::Ended(why) => {
                let tail = self.nodes.log_tail(number).join("\n");
                Some(DemoError::NodeEnded { id: id.to_string(), why, tail })
            }
            State::Running | State::Stopped => None,
        })
    }

    /// Waits until every node is ready and all agree on one ring of all.
    async fn form(&self, directory: &Path, signals: &mut Signals) -> Result<(), DemoError> {
        let deadline = self.clock.now() + FORM;
        while self.clock.now() < deadline {
            self.look().await;
            if let Some(ended) = self.ended() {
                return Err(ended);
            }
            let mut ready = probe::agree(&self.views());
            for place in &self.places {
                ready = ready && self.probe.ready(place.health).await;
            }
            if ready {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(FORM_POLL) => {}
                () = signals.next() => return Err(DemoError::Interrupted),
            }
        }
        Err(DemoError::NotFormed { directory: directory.display().to_string() })
    }

    /// Waits until the generator is done and everything it sent has come out; a signal ends the wait.
    async fn settle(&self, generator: &mut tokio::task::JoinHandle<()>, signals: &mut Signals) {
        let waiting = async {
            let _ = tokio::time::timeout(FLUSH, generator).await;
            let deadline = self.clock.now() + SETTLE;
            while self.clock.now() < deadline {
                self.look().await;
                if self.settled() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            tokio::time::sleep(QUIET).await;
            self.look().await;
        };
        tokio::select! {
            () = waiting => {}
            () = signals.next() => {}
        }
    }

    /// What is where, for programs.
    fn directions(&self, control: &str, backend: &str, dns: SocketAddr, directory: &Path) -> Value {
        let node = |(number, place): (usize, &Place)| {
            let file = |end: &str| directory.join(format!("{}.{end}", place.id.cluster));
            json!({
                "id": place.id.to_string(),
                "otlp_grpc": format!("http://{}", place.otlp_grpc),
                "otlp_http": format!("http://{}", place.otlp_http),
                "admin": format!("http://{}", place.admin),
                "metrics": format!("http://{}/metrics", place.metrics),
                "health": format!("http://{}", place.health),
                "mesh": place.mesh,
                "mesh_advertised": self.relay.address(number),
                "config": file("yaml"),
                "log": file("log"),
            })
        };
        let first = self.ledger().first_trace;
        let nodes: Vec<Value> = self.places.iter().enumerate().map(node).collect();
        json!({
            "control": control,
            "backend": backend,
            "dns_server": dns,
            "dns_zone": files::ZONE,
            "directory": directory,
            "nodes": nodes,
            "first_trace": first,
        })
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Signals { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Runs the demo to its end. Its nodes have ended when this returns.
pub async fn run(options: Options, clock: Clock) -> Result<Finished, DemoError> {
    let mut signals = Signals::listen().map_err(setup("cannot listen for signals"))?;
    let mut screen = Screen::new(options.screen_on_stderr);
    let mut directory = Directory::create(options.keep_directory).map_err(setup("cannot make a directory"))?;
    let program = std::env::current_exe().map_err(setup("cannot find this program"))?;

    let (places, moved) = places::find().map_err(setup("no ports are free"))?;
    for moved in &moved {
        screen.say(format!("{} {} is taken; {} is used instead", moved.what, moved.from, moved.to));
    }
    let mesh = places.iter().map(|place| place.mesh).collect();
    let relay =
        Relay::start(mesh, places::round_trip, clock, options.seed).await.map_err(setup("cannot start the relay"))?;
    let advertise: Vec<SocketAddr> = (0..places.len()).filter_map(|node| relay.address(node)).collect();
    let zone = DnsZone::start(SocketAddr::from(([127, 0, 0, 1], 0))).map_err(setup("cannot start the DNS server"))?;
    files::publish(&zone, &advertise).map_err(setup("cannot fill the DNS zone"))?;

    let run = options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let judge = Judge::new(run, clock);
    let backend = Backend::start(Arc::clone(&judge)).await.map_err(setup("cannot start the backend"))?;
    let around = Surroundings { advertise, dns: zone.addr(), backend: backend.url() };
    let node_files =
        files::write(directory.path(), &places, &around).map_err(setup("cannot write the nodes' files"))?;

    let traffic = Traffic::new(options.seed, run);
    let generator = Generator::new(&places, traffic, Arc::clone(&judge), options.rate, clock)
        .map_err(|error| setup("cannot make the generator")(io::Error::other(error)))?;
    let nodes =
        Nodes::new(vec![program.into(), "run".into()], places.iter().map(|place| place.id.clone()).zip(node_files));
    let demo = Arc::new(Demo::new(places, nodes, relay, judge, generator.so_far(), clock));
    demo.nodes.start_all().map_err(setup("cannot start a node"))?;
    screen.say("Three nodes are starting: they find each other through DNS and prove who they are with certificates.");

    let stage = Stage { demo: &demo, options: &options, directory: directory.path(), zone: &zone, backend: &backend };
    let played = stage.play(generator, &mut screen, &mut signals).await;
    demo.nodes.stop(GRACE).await;
    if let Err(error) = played {
        if matches!(error, DemoError::NotFormed { .. } | DemoError::NodeEnded { .. }) {
            directory.keep();
        }
        return Err(error);
    }
    let ledger = demo.ledger();
    let names: Vec<String> = ledger.nodes.iter().map(|node| node.id.clone()).collect();
    let verdict = ledger::judge(&ledger, &demo.judge.checker(), &names, options.alone);
    screen.say_all(screen::closing(&ledger, &verdict));
    if !verdict.ok {
        directory.keep();
    }
    if directory.is_kept() {
        screen.say(format!("Certificates, configurations and logs: {}", directory.path().display()));
    }
    zone.stop().await;
    Ok(Finished { ledger, verdict })
}

/// What the middle part of a run needs.
struct Stage<'a> {
    demo: &'a Arc<Demo>,
    options: &'a Options,
    directory: &'a Path,
    zone: &'a DnsZone,
    backend: &'a Backend,
}

impl Stage<'_> {
    /// From started nodes until everything that was sent has come out.
    async fn play(&self, generator: Generator, screen: &mut Screen, signals: &mut Signals) -> Result<(), DemoError> {
        let demo = self.demo;
        demo.form(self.directory, signals).await?;
        let formed = demo.clock.now().since(Tick::ZERO);
        screen.say(format!("After {:.1} s they agree on who owns which trace.", formed.as_secs_f64()));

        let control = Control::start(Arc::clone(demo)).await.map_err(setup("cannot start the control"))?;
        let (stop, stopped) = watch::channel(false);
        let mut sending = tokio::spawn(generator.run(stopped));
        screen.say_all(screen::urls(&demo.places));
        screen.say(format!("  {:<20} {}", "logs", self.directory.display()));
        screen.say_all(screen::things_to_try());

        let flowed = self.flow(&control, screen, signals).await;
        stop.send_replace(true);
        if flowed.is_ok() {
            screen.say("No new traces; waiting until everything in hand has come out.");
            demo.settle(&mut sending, signals).await;
        }
        sending.abort();
        flowed
    }

    /// While traffic flows.
    async fn flow(&self, control: &Control, screen: &mut Screen, signals: &mut Signals) -> Result<(), DemoError> {
        let demo = self.demo;
        let end = self.options.duration.map(|duration| demo.clock.now() + duration);
        let mut first = demo.judge.first_trace();
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut ended = vec![false; demo.places.len()];
        let mut shown = false;
        loop {
            let until = demo.clock.instant(end.unwrap_or(Tick(u64::MAX / 4)));
            tokio::select! {
                () = signals.next() => return Ok(()),
                () = tokio::time::sleep_until(until), if end.is_some() => return Ok(()),
                Ok(()) = first.changed(), if !shown => {
                    shown = true;
                    let trace = first.borrow_and_update().clone();
                    if let Some(trace) = trace {
                        screen.say_all(self.announce(&trace));
                    }
                    self.write_ready_file(control)?;
                }
                _ = second.tick() => {
                    demo.look().await;
                    for (number, (id, state, _)) in demo.nodes.states().into_iter().enumerate() {
                        let Some(told) = ended.get_mut(number) else { continue };
                        if let State::Ended(why) = &state && !*told {
                            screen.say(format!("{id} {why}; the end of its log:"));
                            screen.say_all(demo.nodes.log_tail(number));
                        }
                        *told = matches!(state, State::Ended(_));
                    }
                    screen.live(&demo.ledger());
                }
            }
        }
    }

    fn announce(&self, first: &FirstTrace) -> Vec<String> {
        let owner = self.demo.places.get(first.owner).map(|place| place.id.to_string()).unwrap_or_default();
        let mut lines = vec![format!(
            "After {:.1} s the first trace is whole: {} from three clusters, put together by {owner}:",
            first.after.as_secs_f64(),
            first.trace
        )];
        lines.extend(first.drawing.iter().map(|line| format!("  {line}")));
        lines
    }

    /// Written beside its place and moved there, so that nobody reads half of it.
    fn write_ready_file(&self, control: &Control) -> Result<(), DemoError> {
        let Some(path) = &self.options.ready_file else { return Ok(()) };
        let directions =
            self.demo.directions(control.url(), &self.backend.url(), self.zone.addr(), self.directory).to_string();
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        std::fs::write(&beside, directions)
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(setup("cannot write the ready file"))
    }
}

impl Demo {
    fn new(places: Vec<Place>, nodes: Nodes, relay: Relay, judge: Arc<Judge>, sent: SentSoFar, clock: Clock) -> Demo {
        let views = Mutex::new(vec![None; places.len()]);
        Demo { places, nodes, relay, judge, sent, probe: Probe::default(), views, clock }
    }

    /// A demo whose nodes are not started.
    #[cfg(test)]
    async fn idle() -> Demo {
        let clock = Clock::start();
        let (places, _) = places::find().unwrap();
        let mesh = places.iter().map(|place| place.mesh).collect();
        let relay = Relay::start(mesh, places::round_trip, clock, 1).await.unwrap();
        let files = files::NodeFiles { config: PathBuf::new(), log: PathBuf::new() };
        let nodes = Nodes::new(Vec::new(), places.iter().map(|place| (place.id.clone(), files.clone())));
        Demo::new(places, nodes, relay, Judge::new([0; 8], clock), SentSoFar::default(), clock)
    }
}
