//! One row of the table: what is sent, what must be answered, and what must come out at the backend.

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::harness::traces::trace_id;

pub const PROTOBUF: &str = "application/x-protobuf";
pub const JSON: &str = "application/json";
pub const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What goes over the wire.
pub enum Request {
    /// The whole HTTP/1.1 request. Without `end`, the client waits for an answer with the connection open.
    Http {
        bytes: Vec<u8>,
        content_type: &'static str,
        end: bool,
    },
    Grpc {
        path: &'static str,
        headers: Vec<(String, String)>,
        framed: Vec<u8>,
    },
}

/// The status answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Says {
    Success,
    Malformed,
    TooLarge,
    /// An HTTP status, or a grpc-status, by itself.
    Code(u16),
}

impl Says {
    pub fn http(self) -> u16 {
        match self {
            Says::Success => 200,
            Says::Malformed => 400,
            Says::TooLarge => 413,
            Says::Code(code) => code,
        }
    }

    pub fn grpc(self) -> u16 {
        match self {
            Says::Success => 0,
            Says::Malformed => 3,
            Says::TooLarge => 8,
            Says::Code(code) => code,
        }
    }
}

/// What a request with one trace number as its own holds, and what becomes of it.
#[derive(Default)]
pub struct Case {
    pub body: Vec<u8>,
    /// The spans that must come out, encoded.
    pub arrives: Vec<Vec<u8>>,
    /// `rejected_spans`; `None`: no partial success. Zero: a warning.
    pub rejected: Option<i64>,
    pub duplicates: u64,
    /// Bytes beside the spans that must come out too.
    pub carries: Vec<Vec<u8>>,
}

impl Case {
    /// A body of which nothing arrives.
    pub fn of(body: impl Into<Vec<u8>>) -> Case {
        Case { body: body.into(), ..Case::default() }
    }

    pub fn brings(mut self, spans: &[Span]) -> Case {
        self.arrives = spans.iter().map(Message::encode_to_vec).collect();
        self
    }

    pub fn brings_encoded(mut self, spans: Vec<Vec<u8>>) -> Case {
        self.arrives = spans;
        self
    }

    pub fn rejects(mut self, spans: i64) -> Case {
        self.rejected = Some(spans);
        self
    }
}

pub struct Row {
    pub name: String,
    pub request: Request,
    pub says: Says,
    /// A header of the answer.
    pub header: Option<(&'static str, &'static str)>,
    pub case: Case,
    pub trace: [u8; 16],
    /// What arrives is compared as prost writes it: for JSON, which has no order of fields.
    pub in_any_order: bool,
}

/// The rows, each with a trace of its own.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    /// The number of the next row's trace.
    pub fn next(&self) -> u64 {
        self.rows.len() as u64
    }

    fn add(&mut self, name: &str, request: Request, says: Says, case: Case, in_any_order: bool) -> &mut Row {
        let trace = trace_id(self.next());
        self.rows.push(Row { name: name.to_owned(), request, says, header: None, case, trace, in_any_order });
        self.rows.last_mut().unwrap()
    }

    /// Protobuf over both transports.
    pub fn both(&mut self, name: &str, says: Says, case: impl Fn(u64) -> Case) {
        self.post(name, PROTOBUF, "", says, &case);
        let case = case(self.next());
        let framed = framed(0, &case.body);
        self.grpc(name, EXPORT, &[], framed, says, case);
    }

    /// A compressed body over both transports.
    pub fn packed(&mut self, name: &str, coding: &str, says: Says, body: &[u8]) {
        self.post(name, PROTOBUF, &format!("content-encoding: {coding}\r\n"), says, |_| Case::of(body));
        self.grpc(name, EXPORT, &[("grpc-encoding", coding)], framed(1, body), says, Case::default());
    }

    pub fn json(&mut self, name: &str, says: Says, case: impl Fn(u64) -> Case) {
        self.post(name, JSON, "", says, case);
    }

    /// A body of this type, with further header lines.
    pub fn post(
        &mut self,
        name: &str,
        content_type: &'static str,
        headers: &str,
        says: Says,
        case: impl Fn(u64) -> Case,
    ) -> &mut Row {
        let mut case = case(self.next());
        let body = std::mem::take(&mut case.body);
        let headers = format!("content-type: {content_type}\r\ncontent-length: {}\r\n{headers}", body.len());
        let request = http("POST /v1/traces", &headers, &body, content_type);
        self.add(name, request, says, case, content_type == JSON)
    }

    /// Any HTTP/1.1 request; errors are answered in JSON.
    pub fn http(&mut self, name: &str, line: &str, headers: &str, body: &[u8], says: Says) -> &mut Row {
        self.add(name, http(line, headers, body, JSON), says, Case::default(), false)
    }

    pub fn export(&mut self, name: &str, headers: &[(&str, &str)], framed: Vec<u8>, says: Says, case: Case) {
        self.grpc(name, EXPORT, headers, framed, says, case);
    }

    pub fn grpc(
        &mut self,
        name: &str,
        path: &'static str,
        headers: &[(&str, &str)],
        framed: Vec<u8>,
        says: Says,
        case: Case,
    ) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.add(name, Request::Grpc { path, headers, framed }, says, case, false);
    }
}

fn http(line: &str, headers: &str, body: &[u8], content_type: &'static str) -> Request {
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    Request::Http { bytes: [head.as_bytes(), body].concat(), content_type, end: false }
}

/// gRPC's five bytes in front of a message.
pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&[flag][..], &length, message].concat()
}
