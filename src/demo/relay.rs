//! A piece of Internet on loopback: UDP datagrams between nodes arrive late, in order, or not at all.
//!
//! Each node has one relay socket that stands for its address as the others see it: DNS and `advertise` name it. A
//! datagram that arrives there is for that node; whom it is from is told by its source address, since nodes dial from the
//! socket they listen on. It is passed on from the *sender's* relay socket, so that the receiver sees the address that it
//! would dial itself, and answers find their way. Each ordered pair of nodes has its own delay and its own bounded queue:
//! what does not fit is dropped and counted, like in a router, and a partition drops both what comes and what is queued.
//!
//! Rejected: network namespaces and `tc` need root and Linux; delay within the node would not be the network's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::load::rng::Rng;
use crate::model::Tick;
use crate::runtime::clock::Clock;

/// Most datagrams and bytes that wait on one way between two nodes. A 90 ms round trip at 1 Gbit/s holds 5.6 MB.
const MAX_QUEUED: usize = 8_192;
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// Largest UDP datagram.
const MAX_DATAGRAM: usize = 65_535;
/// Jitter in percent of the delay.
const JITTER_PERCENT: u64 = 2;

/// One direction between two nodes.
struct Way {
    delay: Duration,
    queue: mpsc::Sender<(Tick, Vec<u8>)>,
    queued_bytes: AtomicUsize,
}

struct Shared {
    /// Where each node listens; also how it is recognised.
    nodes: Vec<SocketAddr>,
    sockets: Vec<UdpSocket>,
    /// By sender, then receiver; `None` on the diagonal.
    ways: Vec<Vec<Option<Way>>>,
    /// By lower, then higher number.
    cut: Vec<Vec<AtomicBool>>,
    forwarded: AtomicU64,
    dropped: AtomicU64,
    clock: Clock,
}

/// The running relay. Dropping it ends all traffic.
pub struct Relay {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// A socket for each of `nodes` (the addresses they listen on), on the node's own IP address. `round_trip` gives the
    /// time between two of them.
    pub async fn start(
        nodes: Vec<SocketAddr>,
        round_trip: impl Fn(usize, usize) -> Duration,
        clock: Clock,
        seed: u64,
    ) -> io::Result<Relay> {
        let mut sockets = Vec::with_capacity(nodes.len());
        for node in &nodes {
            sockets.push(UdpSocket::bind((node.ip(), 0)).await?);
        }
        let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
        let mut deliveries = Vec::new();
        let ways = (0..nodes.len())
            .map(|from| {
                (0..nodes.len())
                    .map(|to| {
                        (from != to).then(|| {
                            let (queue, waiting) = mpsc::channel(MAX_QUEUED);
                            deliveries.push((from, to, waiting));
                            Way { delay: round_trip(from, to) / 2, queue, queued_bytes: AtomicUsize::new(0) }
                        })
                    })
                    .collect()
            })
            .collect();
        let cut = nodes.iter().map(|_| nodes.iter().map(|_| AtomicBool::new(false)).collect()).collect();
        let shared = Arc::new(Shared {
            nodes,
            sockets,
            ways,
            cut,
            forwarded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            clock,
        });
        let mut tasks = JoinSet::new();
        for to in 0..addresses.len() {
            tasks.spawn(receive(Arc::clone(&shared), to, Rng::new(seed.wrapping_add(to as u64))));
        }
        for (from, to, waiting) in deliveries {
            tasks.spawn(deliver(Arc::clone(&shared), from, to, waiting));
        }
        Ok(Relay { shared, addresses, _tasks: tasks })
    }

    /// What others dial to reach `node`.
    pub fn address(&self, node: usize) -> Option<SocketAddr> {
        self.addresses.get(node).copied()
    }

    /// Cuts two nodes off from each other, both ways. False if they are the same or not known.
    pub fn partition(&self, a: usize, b: usize) -> bool {
        let Some(cut) = self.shared.cut_between(a, b) else { return false };
        cut.store(true, Ordering::Relaxed);
        true
    }

    /// Mends all cuts.
    pub fn heal(&self) {
        self.shared.cut.iter().flatten().for_each(|cut| cut.store(false, Ordering::Relaxed));
    }

    /// Pairs that are cut off from each other.
    pub fn partitions(&self) -> Vec<(usize, usize)> {
        let all = 0..self.addresses.len();
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
        pairs.filter(|(a, b)| a < b && self.shared.is_cut(*a, *b)).collect()
    }

    /// Datagrams that were passed on, and that were dropped because of a cut, a full queue or an unknown sender.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.forwarded.load(Ordering::Relaxed), self.shared.dropped.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn cut_between(&self, a: usize, b: usize) -> Option<&AtomicBool> {
        if a == b {
            return None;
        }
        self.cut.get(a.min(b))?.get(a.max(b))
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut_between(a, b).is_some_and(|cut| cut.load(Ordering::Relaxed))
    }

    fn way(&self, from: usize, to: usize) -> Option<&Way> {
        self.ways.get(from)?.get(to)?.as_ref()
    }

    /// The node that sends from `source`. A node that listens on all addresses is known by its port.
    fn sender(&self, source: SocketAddr) -> Option<usize> {
        let unspecified = |ip: IpAddr| ip.is_unspecified();
        self.nodes.iter().position(|node| *node == source || (unspecified(node.ip()) && node.port() == source.port()))
    }

    /// Puts a datagram on its way; false if it is dropped.
    fn enqueue(&self, source: SocketAddr, to: usize, datagram: &[u8], rng: &mut Rng, last: &mut [Tick]) -> bool {
        let Some(from) = self.sender(source) else { return false };
        let Some(way) = self.way(from, to) else { return false };
        if self.is_cut(from, to) || way.queued_bytes.load(Ordering::Relaxed) + datagram.len() > MAX_QUEUED_BYTES {
            return false;
        }
        let most = way.delay.as_nanos() as u64 * JITTER_PERCENT / 100;
        let due = self.clock.now() + way.delay + Duration::from_nanos(rng.below(most));
        // Jitter delays, but does not reorder.
        let Some(last) = last.get_mut(from) else { return false };
        *last = due.max(*last);
        way.queued_bytes.fetch_add(datagram.len(), Ordering::Relaxed);
        if way.queue.try_send((*last, datagram.to_vec())).is_err() {
            way.queued_bytes.fetch_sub(datagram.len(), Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// Reads what is sent to a node's relay socket.
async fn receive(shared: Arc<Shared>, to: usize, mut rng: Rng) {
    let Some(socket) = shared.sockets.get(to) else { return };
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut last = vec![Tick::ZERO; shared.nodes.len()];
    loop {
        // An error here is an earlier datagram's that found nobody (ICMP); the socket goes on.
        let Ok((len, source)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let datagram = buffer.get(..len).unwrap_or_default();
        if !shared.enqueue(source, to, datagram, &mut rng, &mut last) {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Passes on what goes from one node to another, each datagram at its time.
async fn deliver(shared: Arc<Shared>, from: usize, to: usize, mut waiting: mpsc::Receiver<(Tick, Vec<u8>)>) {
    let (Some(socket), Some(way), Some(node)) = (shared.sockets.get(from), shared.way(from, to), shared.nodes.get(to))
    else {
        return;
    };
    while let Some((due, datagram)) = waiting.recv().await {
        if due > shared.clock.now() {
            tokio::time::sleep_until(shared.clock.instant(due)).await;
        }
        way.queued_bytes.fetch_sub(datagram.len(), Ordering::Relaxed);
        let sent = !shared.is_cut(from, to) && socket.send_to(&datagram, node).await.is_ok();
        let counter = if sent { &shared.forwarded } else { &shared.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Duration = Duration::from_millis(40);

    struct Net {
        relay: Relay,
        nodes: Vec<UdpSocket>,
        clock: Clock,
    }

    /// Three nodes that are 80 ms from each other.
    async fn net() -> Net {
        let clock = Clock::start();
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = nodes.iter().map(|n| n.local_addr().unwrap()).collect();
        let relay = Relay::start(addresses, |_, _| WAY * 2, clock, 1).await.unwrap();
        Net { relay, nodes, clock }
    }

    impl Net {
        async fn send(&self, from: usize, to: usize, bytes: &[u8]) {
            self.nodes[from].send_to(bytes, self.relay.address(to).unwrap()).await.unwrap();
        }

        async fn receive(&self, node: usize) -> (Vec<u8>, SocketAddr) {
            let mut buffer = [0; 2_000];
            let received = self.nodes[node].recv_from(&mut buffer);
            let (len, from) = tokio::time::timeout(Duration::from_secs(10), received).await.unwrap().unwrap();
            (buffer[..len].to_vec(), from)
        }

        async fn dropped(&self, wanted: u64) {
            for _ in 0..1_000 {
                if self.relay.counts().1 == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            panic!("{:?} instead of {wanted} dropped", self.relay.counts());
        }
    }

    #[tokio::test]
    async fn a_datagram_takes_its_time_and_can_be_answered() {
        let net = net().await;
        let sent = net.clock.now();
        net.send(0, 1, b"ping").await;
        let (ping, from) = net.receive(1).await;
        assert!(net.clock.now().since(sent) >= WAY);
        assert_eq!((ping.as_slice(), from), (&b"ping"[..], net.relay.address(0).unwrap()));
        net.nodes[1].send_to(b"pong", from).await.unwrap();
        let (pong, from) = net.receive(0).await;
        assert!(net.clock.now().since(sent) >= WAY * 2);
        assert_eq!((pong.as_slice(), from), (&b"pong"[..], net.relay.address(1).unwrap()));
    }

    #[tokio::test]
    async fn datagrams_of_one_way_stay_in_order() {
        let net = net().await;
        for n in 0..200u8 {
            net.send(2, 0, &[n]).await;
        }
        for n in 0..200u8 {
            assert_eq!(net.receive(0).await.0, [n]);
        }
    }

    #[tokio::test]
    async fn a_partition_cuts_both_ways_and_also_what_is_under_way_until_it_is_healed() {
        let net = net().await;
        net.send(0, 1, b"under way").await;
        tokio::time::sleep(WAY / 4).await;
        assert!(net.relay.partition(1, 0) && !net.relay.partition(1, 1) && !net.relay.partition(0, 9));
        assert_eq!(net.relay.partitions(), [(0, 1)]);
        net.send(0, 1, b"lost").await;
        net.send(1, 0, b"lost").await;
        net.dropped(3).await;
        net.send(2, 1, b"from the third").await;
        assert_eq!(net.receive(1).await.0, b"from the third");

        net.relay.heal();
        assert!(net.relay.partitions().is_empty());
        net.send(0, 1, b"again").await;
        assert_eq!(net.receive(1).await.0, b"again");
    }

    #[tokio::test]
    async fn strangers_and_datagrams_to_oneself_go_nowhere() {
        let net = net().await;
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(b"hello", net.relay.address(1).unwrap()).await.unwrap();
        net.send(1, 1, b"me").await;
        net.dropped(2).await;
        assert_eq!(net.relay.counts().0, 0);
    }
}
