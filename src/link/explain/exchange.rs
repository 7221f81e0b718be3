//! One question and its answer on a stream, from either side.

use std::sync::Arc;

use quinn::{ReadError as QuicError, RecvStream, SendStream};
use tokio::time::timeout;

use super::super::conn::Conn;
use super::super::frame::{Code, FrameError, Kind, PROTOCOL_QUESTIONS, Query, ReportHead};
use super::super::greet::printable;
use super::super::link::Link;
use super::super::shared::Core;
use super::super::stream::{ReadError, read_body, read_head, read_kind};
use super::{PeerAnswer, Silence, here};
use crate::model::NodeId;

/// Asks a peer what it knows of a trace.
pub(in crate::link) async fn ask(core: &Core, peer: &NodeId, query: Query) -> Result<PeerAnswer, Silence> {
    let conn = core.link_to(peer).and_then(|link| link.conn()).ok_or(Silence::NotLinked)?;
    if conn.protocol < PROTOCOL_QUESTIONS {
        return Err(Silence::Older);
    }
    match timeout(core.tuning.question_deadline, exchange(&conn, query)).await {
        Ok(answer) => answer.map_err(why),
        Err(_) => Err(Silence::TimedOut),
    }
}

fn why(error: ReadError) -> Silence {
    match error {
        ReadError::Ended(QuicError::Reset(code)) if Code::Busy.is(code) => Silence::Busy,
        ReadError::Ended(QuicError::Reset(code)) => Silence::Broken(format!("it refused the question, code {code}")),
        ReadError::Ended(_) => Silence::Broken("the link to it broke".to_owned()),
        ReadError::Frame(error) => Silence::Broken(format!("its answer is not one: {error}")),
    }
}

async fn exchange(conn: &Conn, query: Query) -> Result<PeerAnswer, ReadError> {
    let (mut send, mut recv) = conn.quic.open_bi().await.map_err(QuicError::ConnectionLost)?;
    // A peer that stopped the stream says why on the other half.
    if send.write_all(&query.encode()).await.is_ok() {
        let _ = send.finish();
    }
    let kind = read_kind(&mut recv).await?;
    if kind != Kind::Report {
        return Err(FrameError::UnknownKind(kind as u8).into());
    }
    let head = ReportHead::decode(&read_head(&mut recv).await?, query.max_report())?;
    let body = read_body(&mut recv, head.body_bytes).await?;
    let mut answer: PeerAnswer = serde_json::from_slice(&body).map_err(|_| FrameError::Field("report"))?;
    // What a peer wrote ends on terminals and in pages.
    answer.ring_version = printable(&answer.ring_version);
    answer.owner = answer.owner.filter(|owner| owner.parse::<NodeId>().is_ok());
    answer.restrict(query.wanted);
    Ok(answer)
}

/// Answers a question whose kind has been read; `Err`: the stream is to be reset with this code.
pub(in crate::link) async fn answer_query(
    core: &Arc<Core>,
    link: &Link,
    send: &mut SendStream,
    recv: &mut RecvStream,
) -> Result<(), Code> {
    let read = timeout(core.tuning.read_deadline, async {
        let query = Query::decode(&read_head(recv).await?)?;
        // Nothing may follow: the question ends with its head.
        read_body(recv, 0).await?;
        Ok::<_, ReadError>(query)
    });
    let query = match read.await {
        Ok(Ok(query)) => query,
        Ok(Err(ReadError::Frame(error))) => return Err(error.code()),
        Ok(Err(ReadError::Ended(_))) => return Err(Code::Malformed),
        Err(_) => return Err(Code::TooSlow),
    };
    let permits = (link.answering.clone().try_acquire_owned(), core.questions.answering.clone().try_acquire_owned());
    let (Ok(_of_peer), Ok(_of_all)) = permits else { return Err(Code::Busy) };
    let answer = here(core, query).await.map_err(|_| Code::Busy)?;
    let max = query.max_report();
    let body = tokio::task::spawn_blocking(move || answer.encode(max)).await.map_err(|_| Code::Busy)?;
    let answered = async {
        send.write_all(&ReportHead { body_bytes: body.len() }.encode()).await.ok()?;
        send.write_chunk(body.into()).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    // An asker that does not read its answer has lost interest.
    let _ = timeout(core.tuning.question_deadline, answered).await;
    Ok(())
}
