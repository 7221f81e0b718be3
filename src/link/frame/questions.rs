//! What nodes ask each other beside sending spans: what is known of a trace, and what time it is.

use super::{Fields, FrameError, Head, Kind, array, length};
use crate::logic::traces::Wanted;
use crate::model::{TraceId, UnixNanos};

/// Most bytes of a report's body.
pub const MAX_REPORT: usize = 1 << 20;
/// Most bytes of the body of a report without spans: counts, and a name for each cluster.
const MAX_REPORT_WITHOUT_SPANS: usize = 64 << 10;

/// What do you know of this trace?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    pub trace_id: TraceId,
    pub wanted: Wanted,
}

impl Query {
    /// Most bytes that its report's body may have.
    pub fn max_report(&self) -> usize {
        if self.wanted.spans { MAX_REPORT } else { MAX_REPORT_WITHOUT_SPANS }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut head = Head::default();
        head.bytes(1, &self.trace_id.0);
        head.bytes(2, &[u8::from(self.wanted.spans) | u8::from(self.wanted.values) << 1]);
        head.framed(Kind::Query)
    }

    pub fn decode(head: &[u8]) -> Result<Query, FrameError> {
        let (mut trace_id, mut wanted) = (None, Wanted::default());
        for field in Fields(head) {
            let (tag, value) = field?;
            match tag {
                1 => trace_id = Some(TraceId(array("trace id", value)?)),
                2 => {
                    let [bits] = array("wanted", value)?;
                    wanted = Wanted { spans: bits & 1 != 0, values: bits & 2 != 0 };
                }
                _ => {}
            }
        }
        Ok(Query { trace_id: trace_id.ok_or(FrameError::Field("trace id"))?, wanted })
    }
}

/// In front of a report's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportHead {
    pub body_bytes: usize,
}

impl ReportHead {
    pub fn encode(self) -> Vec<u8> {
        let mut head = Head::default();
        head.number(1, self.body_bytes as u64);
        head.framed(Kind::Report)
    }

    /// `max`: most bytes that the asker takes.
    pub fn decode(head: &[u8], max: usize) -> Result<ReportHead, FrameError> {
        let mut body_bytes = None;
        for field in Fields(head) {
            if let (1, value) = field? {
                body_bytes = Some(length("report", value, max)?);
            }
        }
        Ok(ReportHead { body_bytes: body_bytes.ok_or(FrameError::Field("report"))? })
    }
}

/// Asks for the time. The asker's own times are nobody else's business.
pub fn clock_question() -> Vec<u8> {
    Head::default().framed(Kind::Clock)
}

/// When a question for the time came, and when it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReply {
    pub heard: UnixNanos,
    pub answered: UnixNanos,
}

impl ClockReply {
    pub fn encode(self) -> Vec<u8> {
        let mut head = Head::default();
        head.bytes(1, &self.heard.0.to_be_bytes());
        head.bytes(2, &self.answered.0.to_be_bytes());
        head.framed(Kind::Clock)
    }

    pub fn decode(head: &[u8]) -> Result<ClockReply, FrameError> {
        let (mut heard, mut answered) = (None, None);
        for field in Fields(head) {
            let (tag, value) = field?;
            match tag {
                1 => heard = Some(UnixNanos(u64::from_be_bytes(array("heard", value)?))),
                2 => answered = Some(UnixNanos(u64::from_be_bytes(array("answered", value)?))),
                _ => {}
            }
        }
        Ok(ClockReply {
            heard: heard.ok_or(FrameError::Field("heard"))?,
            answered: answered.ok_or(FrameError::Field("answered"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{put_varint, unframe};
    use super::*;

    proptest! {
        #[test]
        fn questions_and_answers_read_back(id: [u8; 16], spans: bool, values: bool, bytes in 0..=MAX_REPORT, time: u64) {
            let query = Query { trace_id: TraceId(id), wanted: Wanted { spans, values } };
            prop_assert_eq!(Query::decode(unframe(&query.encode()).unwrap().1), Ok(query));
            let head = ReportHead { body_bytes: bytes };
            prop_assert_eq!(ReportHead::decode(unframe(&head.encode()).unwrap().1, MAX_REPORT), Ok(head));
            let reply = ClockReply { heard: UnixNanos(time), answered: UnixNanos(!time) };
            prop_assert_eq!(ClockReply::decode(unframe(&reply.encode()).unwrap().1), Ok(reply));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Query::decode(&bytes), ReportHead::decode(&bytes, 10), ClockReply::decode(&bytes));
        }
    }

    #[test]
    fn a_report_beyond_what_the_asker_takes_is_refused_before_it_is_read() {
        let query = Query { trace_id: TraceId([1; 16]), wanted: Wanted::default() };
        assert!(query.max_report() < MAX_REPORT);
        let mut head = Head::default();
        head.number(1, (1 << 62) - 1);
        let refused = Err(FrameError::TooLarge { what: "report", max: query.max_report() });
        assert_eq!(ReportHead::decode(&head.0, query.max_report()), refused);
    }

    #[test]
    fn fields_of_a_later_build_are_skipped_and_missing_ones_named() {
        let mut head = Head::default();
        head.bytes(1, &[7; 16]);
        put_varint(&mut head.0, 900);
        put_varint(&mut head.0, 0);
        let query = Query { trace_id: TraceId([7; 16]), wanted: Wanted::default() };
        assert_eq!(Query::decode(&head.0), Ok(query));
        assert_eq!(Query::decode(&[]), Err(FrameError::Field("trace id")));
    }
}
