//! What a receiver answers and an exporter hears: `ExportTraceServiceResponse`, `google.rpc.Status`.
use std::time::Duration;

/// `ExportTracePartialSuccess`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialSuccess {
    pub rejected_spans: i64,
    pub error_message: String,
}

/// `google.rpc.Status` with the details OTLP uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub code: i32,
    pub message: String,
    /// `google.rpc.RetryInfo`
    pub retry_after: Option<Duration>,
    /// `google.rpc.BadRequest` with this one field violation (field, description).
    pub bad_request: Option<(String, String)>,
}

/// Empty for full success (`None`).
pub fn encode_response(_partial: Option<&PartialSuccess>) -> Vec<u8> {
    todo!()
}
/// `{}` for full success.
pub fn encode_response_json(_partial: Option<&PartialSuccess>) -> Vec<u8> {
    todo!()
}
pub fn encode_status(_status: &Status) -> Vec<u8> {
    todo!()
}
pub fn encode_status_json(_status: &Status) -> Vec<u8> {
    todo!()
}
/// `None`: not a response. A populated partial success comes back as `Some(Some(_))`.
pub fn decode_response(_bytes: &[u8]) -> Option<Option<PartialSuccess>> {
    todo!()
}
pub fn decode_response_json(_bytes: &[u8]) -> Option<Option<PartialSuccess>> {
    todo!()
}
pub fn decode_status(_bytes: &[u8]) -> Option<Status> {
    todo!()
}
