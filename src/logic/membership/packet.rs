//! Membership messages as bytes: a version, then what `foca` says in postcard.
//!
//! Every packet is taken apart here before `foca` sees it, since `foca` believes what it can decode: it would take in
//! a list of a million members. What is decoded stays in proportion to the packet: names are checked before they are
//! copied, and no more than [`MAX_UPDATES`] members are read from one packet, whatever count it claims.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use foca::{Codec, Header, Member, Message, PostcardCodec};

use super::node::Node;

/// Largest packet taken or sent: at 60 bytes a member, 1,000 members fit.
pub(super) const MAX_PACKET: usize = 64 * 1024;
/// Most members that are read from one packet; the rest of a longer list is not looked at.
const MAX_UPDATES: usize = 2048;
const VERSION: u8 = 1;

/// A message, taken apart.
pub(super) struct Packet {
    pub(super) header: Header<Node>,
    pub(super) updates: Vec<Member<Node>>,
}

/// The bytes are not a packet of this version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What `foca` wants to send, in our envelope.
pub(super) fn seal(foca_bytes: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + foca_bytes.len());
    bytes.put_u8(VERSION);
    bytes.put_slice(foca_bytes);
    bytes.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Packet, Malformed> {
    let (&version, mut rest) = bytes.split_first().ok_or(Malformed)?;
    if version != VERSION || bytes.len() > MAX_PACKET {
        return Err(Malformed);
    }
    let header: Header<Node> = PostcardCodec.decode_header(&mut rest).map_err(|_| Malformed)?;
    let mut updates = Vec::new();
    if rest.len() >= 2 && carries_updates(&header.message) {
        let count = usize::from(rest.get_u16());
        for _ in 0..count.min(MAX_UPDATES) {
            updates.push(PostcardCodec.decode_member(&mut rest).map_err(|_| Malformed)?);
        }
        if count > MAX_UPDATES {
            rest = &[];
        }
    }
    if rest.is_empty() { Ok(Packet { header, updates }) } else { Err(Malformed) }
}

fn carries_updates(message: &Message<Node>) -> bool {
    !matches!(message, Message::Announce | Message::TurnUndead | Message::Broadcast)
}

/// The packet as `foca` reads it.
pub(super) fn encode_for_foca(packet: &Packet) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::with_capacity(256);
    PostcardCodec.encode_header(&packet.header, &mut bytes).map_err(|_| Malformed)?;
    if carries_updates(&packet.header.message) {
        bytes.put_u16(u16::try_from(packet.updates.len()).map_err(|_| Malformed)?);
        for update in &packet.updates {
            PostcardCodec.encode_member(update, &mut bytes).map_err(|_| Malformed)?;
        }
    }
    Ok(bytes)
}
