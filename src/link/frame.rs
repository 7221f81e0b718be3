//! What is said on a link, as bytes: a codec without sockets, so that hostile input can be thrown at it in tests.
//!
//! A QUIC stream carries one message, so QUIC itself frames and flow-controls it, and a lost packet delays one batch
//! and not those behind it. The first byte says what the stream is:
//!
//! | byte | stream | what |
//! |---|---|---|
//! | 1 hello | the dialer's first, both ways | who I am; the acceptor answers in kind |
//! | 2 batch | one per batch, both ways | head, then spans as bytes; the answer is one reply |
//! | 3 gossip | one way, or a datagram | a membership message, opaque here |
//! | 4 settled | one way | reserved: "you may forget these batches", once origins keep a journal |
//! | 5 reply | answers a batch | accepted or refused |
//! | 6 query | one per question, both ways | what do you know of a trace; the answer is one report |
//! | 7 report | answers a query | head, then JSON |
//! | 8 clock | one per exchange, both ways | what time is it; answered in kind |
//!
//! Anything else resets the stream with a code and leaves the link alone. After the kind come a layout version and a
//! head of known length: fields of tag, length and value, where unknown tags are skipped, so an older node understands
//! a newer one's head as far as it goes. What may *not* be skipped is settled by the protocol versions of the hello:
//! 6 to 8 are spoken from version 2 on.
//! Lengths are QUIC's variable integers (RFC 9000 §16), so a length can claim 2^62; each is held against a bound of
//! its own before anything is allocated.
//!
//! protobuf would have done for the heads, but its decoder for hostile input is the one of `wire`, made for spans, and
//! the generated kind allocates before it checks.

mod questions;

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

pub use self::questions::{ClockReply, MAX_REPORT, Query, ReportHead, clock_question};
use crate::logic::membership::Identity;
use crate::model::{BootId, NodeId, Reason, Refusal};

/// Layout of heads. A peer that sends another one is reset; the hello's protocol versions keep that from happening.
pub const LAYOUT: u8 = 1;
/// Protocol versions that this build speaks.
pub const PROTOCOL_MIN: u16 = 1;
pub const PROTOCOL_MAX: u16 = 2;
/// The first version that answers questions (query and clock).
pub const PROTOCOL_QUESTIONS: u16 = 2;
/// Most bytes of a head. A hello with every text at its bound takes 1.5 KiB.
pub const MAX_HEAD: usize = 4096;
/// Most bytes of a batch, as spans and as sent.
pub const MAX_BATCH: usize = 64 << 20;
/// Most bytes of one membership message: the largest packet that membership is set up to make.
pub const MAX_GOSSIP: usize = 64 << 10;
/// Most bytes of a free text in a hello.
const MAX_TEXT: usize = 256;

/// What a stream or datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Batch = 2,
    Gossip = 3,
    Reply = 5,
    Query = 6,
    Report = 7,
    Clock = 8,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Hello, Kind::Batch, Kind::Gossip, Kind::Reply, Kind::Query, Kind::Report, Kind::Clock];

    pub fn of(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a link is closed or a stream reset: QUIC application error codes, stable on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The node leaves; nothing is wrong.
    Leaving = 0,
    /// The bytes are not what the protocol allows.
    Malformed = 1,
    /// A stream of a kind that this build does not know.
    UnknownKind = 2,
    /// A length beyond its bound.
    TooLarge = 3,
    /// The other side took too long.
    TooSlow = 4,
    /// The hello names another node than the certificate (or the certificate names none).
    Identity = 5,
    /// The peer is in a mesh of another name.
    OtherMesh = 6,
    /// A node dialled itself.
    Myself = 7,
    /// No protocol version in common.
    Protocol = 8,
    /// There is a better connection between the two nodes.
    Duplicate = 9,
    /// A later run of the same node is known.
    OlderRun = 10,
    /// As many links as there may be.
    TooMany = 11,
    /// The node was declared dead; it may come back through a new link.
    Dead = 12,
    /// A question that cannot be answered now: too many at once, or the node has not started yet.
    Busy = 13,
}

impl Code {
    pub fn varint(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self as u32)
    }

    /// Whether an application close with this code came because the dialled node was the dialer itself.
    pub fn is(self, code: quinn::VarInt) -> bool {
        code == self.varint()
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("unknown kind of frame {0}")]
    UnknownKind(u8),
    #[error("unknown layout {0}")]
    UnknownLayout(u8),
    #[error("{what} is longer than {max} bytes")]
    TooLarge { what: &'static str, max: usize },
    #[error("cut short")]
    Truncated,
    #[error("{0} is missing or wrong")]
    Field(&'static str),
}

impl FrameError {
    pub fn code(self) -> Code {
        match self {
            FrameError::UnknownKind(_) => Code::UnknownKind,
            FrameError::TooLarge { .. } => Code::TooLarge,
            FrameError::UnknownLayout(_) | FrameError::Truncated | FrameError::Field(_) => Code::Malformed,
        }
    }
}

/// Codecs for batches, as a set of bits in a hello and as one of them in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Compression {
    None = 0,
    Zstd = 1,
    Lz4 = 2,
}

impl Compression {
    const ALL: [Compression; 3] = [Compression::None, Compression::Zstd, Compression::Lz4];

    fn of(byte: u8) -> Option<Compression> {
        Self::ALL.into_iter().find(|codec| *codec as u8 == byte)
    }

    /// This codec's bit in [`Hello::decodes`].
    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    /// What this build decodes.
    pub fn all_bits() -> u8 {
        Self::ALL.into_iter().fold(0, |bits, codec| bits | codec.bit())
    }
}

/// What each side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub protocol_min: u16,
    pub protocol_max: u16,
    pub mesh: String,
    pub identity: Identity,
    /// The node does not know its own address and has peers dial the one they see.
    pub address_learned: bool,
    pub region: String,
    pub zone: String,
    pub environment: String,
    /// Of the software, for people.
    pub version: String,
    /// [`Compression::bit`]s of what the node decodes.
    pub decodes: u8,
    /// The address that the other side is seen at.
    pub observed: Option<SocketAddr>,
}

impl Hello {
    /// The protocol version that both sides speak, the highest one.
    pub fn agree(&self, min: u16, max: u16) -> Option<u16> {
        let version = self.protocol_max.min(max);
        (version >= self.protocol_min.max(min)).then_some(version)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut head = Head::default();
        head.bytes(1, &self.protocol_min.to_be_bytes());
        head.bytes(2, &self.protocol_max.to_be_bytes());
        head.bytes(3, self.mesh.as_bytes());
        head.bytes(4, self.identity.id.to_string().as_bytes());
        head.bytes(5, &self.identity.boot.0.to_be_bytes());
        head.bytes(6, &self.identity.revision.to_be_bytes());
        if let Some(address) = self.identity.address {
            head.bytes(7, address.to_string().as_bytes());
        }
        head.bytes(8, &self.identity.weight.to_be_bytes());
        head.bytes(9, &[u8::from(self.address_learned)]);
        head.bytes(10, self.region.as_bytes());
        head.bytes(11, self.zone.as_bytes());
        head.bytes(12, self.environment.as_bytes());
        head.bytes(13, self.version.as_bytes());
        head.bytes(14, &[self.decodes]);
        if let Some(observed) = self.observed {
            head.bytes(15, observed.to_string().as_bytes());
        }
        head.framed(Kind::Hello)
    }

    pub fn decode(head: &[u8]) -> Result<Hello, FrameError> {
        let (mut min, mut max, mut mesh, mut id, mut boot) = (None, None, None, None, None);
        let (mut revision, mut weight, mut address, mut address_learned) = (0, None, None, false);
        let (mut region, mut zone, mut environment, mut version) = Default::default();
        let (mut decodes, mut observed) = (Compression::None.bit(), None);
        for field in Fields(head) {
            let (tag, value) = field?;
            match tag {
                1 => min = Some(u16::from_be_bytes(array("protocol_min", value)?)),
                2 => max = Some(u16::from_be_bytes(array("protocol_max", value)?)),
                3 => mesh = Some(text("mesh", value)?),
                4 => id = Some(text("id", value)?.parse::<NodeId>().map_err(|_| FrameError::Field("id"))?),
                5 => boot = Some(BootId(u64::from_be_bytes(array("boot", value)?))),
                6 => revision = u16::from_be_bytes(array("revision", value)?),
                7 => address = Some(socket_address("address", value)?),
                8 => weight = Some(u16::from_be_bytes(array("weight", value)?)),
                9 => address_learned = array::<1>("address_learned", value)? == [1],
                10 => region = text("region", value)?,
                11 => zone = text("zone", value)?,
                12 => environment = text("environment", value)?,
                13 => version = text("version", value)?,
                14 => [decodes] = array("decodes", value)?,
                15 => observed = Some(socket_address("observed", value)?),
                _ => {}
            }
        }
        let identity = Identity {
            id: id.ok_or(FrameError::Field("id"))?,
            boot: boot.ok_or(FrameError::Field("boot"))?,
            revision,
            address,
            weight: weight.ok_or(FrameError::Field("weight"))?,
        };
        Ok(Hello {
            protocol_min: min.ok_or(FrameError::Field("protocol_min"))?,
            protocol_max: max.ok_or(FrameError::Field("protocol_max"))?,
            mesh: mesh.ok_or(FrameError::Field("mesh"))?,
            identity,
            address_learned,
            region,
            zone,
            environment,
            version,
            decodes,
            observed,
        })
    }
}

/// In front of a batch's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The run of the sender that made the batch, and its number in that run: a batch that is sent again after its
    /// answer was lost has the same id, so the receiver can answer without taking it twice.
    pub boot: BootId,
    pub seq: u64,
    /// How often these spans were sent before.
    pub hops: u8,
    pub compression: Compression,
    /// Bytes that follow the head.
    pub body_bytes: usize,
    /// Bytes of spans once decompressed.
    pub raw_bytes: usize,
    pub spans: u32,
}

impl BatchHead {
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Head::default();
        head.bytes(1, &self.boot.0.to_be_bytes());
        head.bytes(2, &self.seq.to_be_bytes());
        head.bytes(3, &[self.hops]);
        head.bytes(4, &[self.compression as u8]);
        head.number(5, self.body_bytes as u64);
        head.number(6, self.raw_bytes as u64);
        head.number(7, u64::from(self.spans));
        head.framed(Kind::Batch)
    }

    pub fn decode(head: &[u8]) -> Result<BatchHead, FrameError> {
        let (mut boot, mut seq, mut hops, mut compression) = (None, None, None, None);
        let (mut body_bytes, mut raw_bytes, mut spans) = (None, None, None);
        for field in Fields(head) {
            let (tag, value) = field?;
            match tag {
                1 => boot = Some(BootId(u64::from_be_bytes(array("boot", value)?))),
                2 => seq = Some(u64::from_be_bytes(array("seq", value)?)),
                3 => hops = Some(array::<1>("hops", value)?[0]),
                4 => compression = Compression::of(array::<1>("compression", value)?[0]),
                5 => body_bytes = Some(length("body", value, MAX_BATCH)?),
                6 => raw_bytes = Some(length("batch", value, MAX_BATCH)?),
                7 => spans = Some(length("spans", value, u32::MAX as usize)?),
                _ => {}
            }
        }
        Ok(BatchHead {
            boot: boot.ok_or(FrameError::Field("boot"))?,
            seq: seq.ok_or(FrameError::Field("seq"))?,
            hops: hops.ok_or(FrameError::Field("hops"))?,
            compression: compression.ok_or(FrameError::Field("compression"))?,
            body_bytes: body_bytes.filter(|n| *n > 0).ok_or(FrameError::Field("body"))?,
            raw_bytes: raw_bytes.filter(|n| *n > 0).ok_or(FrameError::Field("batch"))?,
            spans: spans.filter(|n| *n > 0).ok_or(FrameError::Field("spans"))? as u32,
        })
    }
}

/// The answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The receiver has custody of the spans, but for `rejected` of them which its walker does not let pass.
    Accepted { rejected: u32 },
    /// Nothing was taken.
    Refused(Refusal),
}

/// Longest pause a peer can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Reply {
    pub fn encode(&self) -> Vec<u8> {
        let mut head = Head::default();
        match self {
            Reply::Accepted { rejected } => head.number(1, u64::from(*rejected)),
            Reply::Refused(refusal) => {
                let reason = Reason::ALL.iter().position(|reason| *reason == refusal.reason()).unwrap_or_default();
                head.bytes(2, &[reason as u8]);
                if let Refusal::RetryAfter { after, .. } = refusal {
                    head.number(3, after.as_millis().min(MAX_PAUSE.as_millis()) as u64);
                }
            }
        }
        head.framed(Kind::Reply)
    }

    pub fn decode(head: &[u8]) -> Result<Reply, FrameError> {
        let (mut rejected, mut reason, mut after) = (None, None, None);
        for field in Fields(head) {
            let (tag, value) = field?;
            match tag {
                1 => rejected = Some(length("rejected", value, u32::MAX as usize)? as u32),
                2 => reason = Some(array::<1>("reason", value)?[0]),
                3 => {
                    let max = MAX_PAUSE.as_millis() as usize;
                    after = Some(Duration::from_millis(length("pause", value, max)? as u64));
                }
                _ => {}
            }
        }
        match (rejected, reason) {
            (Some(rejected), None) => Ok(Reply::Accepted { rejected }),
            (None, Some(reason)) => {
                // A reason that a newer peer has made up is still a refusal.
                let reason = Reason::ALL.get(usize::from(reason)).copied().unwrap_or(Reason::Internal);
                Ok(Reply::Refused(match after {
                    Some(after) => Refusal::RetryAfter { after, reason },
                    None => Refusal::Permanent { reason },
                }))
            }
            _ => Err(FrameError::Field("answer")),
        }
    }
}

/// Appends a QUIC variable integer. Values above 2^62 - 1 cannot be said and do not occur.
fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => out.push(value as u8),
        0x40..=0x3fff => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Bytes of a variable integer by its first one.
pub fn varint_len(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads a variable integer off the front; `None` if it is cut short.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (now, rest) = bytes.split_at_checked(varint_len(*bytes.first()?))?;
    let first = u64::from(*now.first()? & 0x3f);
    let value = now.iter().skip(1).fold(first, |value, byte| value << 8 | u64::from(*byte));
    *bytes = rest;
    Some(value)
}

#[derive(Default)]
struct Head(Vec<u8>);

impl Head {
    fn bytes(&mut self, tag: u64, value: &[u8]) {
        put_varint(&mut self.0, tag);
        put_varint(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn number(&mut self, tag: u64, value: u64) {
        let mut encoded = Vec::with_capacity(8);
        put_varint(&mut encoded, value);
        self.bytes(tag, &encoded);
    }

    fn framed(self, kind: Kind) -> Vec<u8> {
        let mut frame = vec![kind as u8, LAYOUT];
        put_varint(&mut frame, self.0.len() as u64);
        frame.extend_from_slice(&self.0);
        frame
    }
}

/// The fields of a head.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut rest = self.0;
        let field = (|| {
            let tag = take_varint(&mut rest)?;
            let len = usize::try_from(take_varint(&mut rest)?).ok()?;
            let (value, after) = rest.split_at_checked(len)?;
            Some((tag, value, after))
        })();
        match field {
            Some((tag, value, after)) => {
                self.0 = after;
                Some(Ok((tag, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(FrameError::Truncated))
            }
        }
    }
}

fn array<const N: usize>(what: &'static str, value: &[u8]) -> Result<[u8; N], FrameError> {
    value.try_into().map_err(|_| FrameError::Field(what))
}

/// Whether a text may stand in a hello.
pub fn text_fits(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

fn text(what: &'static str, value: &[u8]) -> Result<String, FrameError> {
    // Two names of 128 bytes and the slash between them are the longest text there is.
    if value.len() > MAX_TEXT + 1 {
        return Err(FrameError::TooLarge { what, max: MAX_TEXT });
    }
    let text = std::str::from_utf8(value).map_err(|_| FrameError::Field(what))?;
    // These texts end up in logs and on terminals.
    if text.chars().any(char::is_control) { Err(FrameError::Field(what)) } else { Ok(text.to_owned()) }
}

fn socket_address(what: &'static str, value: &[u8]) -> Result<SocketAddr, FrameError> {
    text(what, value)?.parse().map_err(|_| FrameError::Field(what))
}

fn length(what: &'static str, value: &[u8], max: usize) -> Result<usize, FrameError> {
    let mut rest = value;
    let value = take_varint(&mut rest).filter(|_| rest.is_empty()).ok_or(FrameError::Field(what))?;
    usize::try_from(value).ok().filter(|value| *value <= max).ok_or(FrameError::TooLarge { what, max })
}

/// Splits kind and head off a whole frame, as [`crate::link::stream`] does from a stream.
#[cfg(test)]
pub(crate) fn unframe(frame: &[u8]) -> Result<(Kind, &[u8]), FrameError> {
    let [kind, layout, rest @ ..] = frame else { return Err(FrameError::Truncated) };
    let kind = Kind::of(*kind).ok_or(FrameError::UnknownKind(*kind))?;
    if *layout != LAYOUT {
        return Err(FrameError::UnknownLayout(*layout));
    }
    let mut rest = rest;
    let len = take_varint(&mut rest).ok_or(FrameError::Truncated)?;
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_HEAD);
    let len = len.ok_or(FrameError::TooLarge { what: "head", max: MAX_HEAD })?;
    Ok((kind, rest.get(..len).ok_or(FrameError::Truncated)?))
}

#[cfg(test)]
mod tests;
