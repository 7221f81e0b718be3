//! Rows about HTTP, gRPC and compression: what surrounds a request.

use std::io::Write;

use super::row::{Case, JSON, PROTOBUF, Request, Says, Table, framed};
use crate::harness::traces::{request, span};

/// The receiver's default limit.
const LIMIT: usize = 64 << 20;
const UNIMPLEMENTED: Says = Says::Code(12);
const INTERNAL: Says = Says::Code(13);

fn good(trace: u64) -> Case {
    Case::of(request("good", vec![span(trace, 0)])).brings(&[span(trace, 0)])
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub fn http(table: &mut Table) {
    table.http("B1 GET", "GET /v1/traces", "", b"", Says::Code(405)).header = Some(("allow", "POST"));
    table.http("B2 unknown path", "POST /v1/nothing", "content-type: application/json\r\n", b"", Says::Code(404));
    let empty = "content-length: 2\r\n";
    table.http("B3 no Content-Type", "POST /v1/traces", empty, b"{}", Says::Code(415));
    table.http("B3 text", "POST /v1/traces", &format!("{empty}content-type: text/plain\r\n"), b"{}", Says::Code(415));
    let mixed = format!("{empty}content-type: Application/JSON; charset=utf-8\r\n");
    table.http("B4 case and parameters", "POST /v1/traces", &mixed, b"{}", Says::Success);

    let zipped = gzip(&request("zipped", vec![span(0, 0)]));
    for (name, lines) in [
        ("B10 gzip, gzip", "content-encoding: gzip, gzip\r\n"),
        ("B10 gzip twice", "content-encoding: gzip\r\ncontent-encoding: gzip\r\n"),
        ("B10 br", "content-encoding: br\r\n"),
    ] {
        table.post(name, PROTOBUF, lines, Says::Code(415), |_| Case::of(zipped.clone()));
    }

    // The body never comes: it is refused for what is declared.
    let declared = format!("content-type: {JSON}\r\ncontent-length: {}\r\n", LIMIT + 1);
    table.http("B12 one byte more than the limit is declared", "POST /v1/traces", &declared, b"", Says::TooLarge);
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &[0; 1 << 20], b"\r\n"].concat();
    let chunked = format!("content-type: {JSON}\r\ntransfer-encoding: chunked\r\n");
    let chunks = chunk.repeat(65);
    table.http("B13 one chunk more than the limit", "POST /v1/traces", &chunked, &chunks, Says::TooLarge);

    let short = format!("content-type: {JSON}\r\ncontent-length: 100\r\n");
    let row =
        table.http("B14 a body that ends early", "POST /v1/traces", &short, b"{\"resourceSpans\":[", Says::Malformed);
    if let Request::Http { end, .. } = &mut row.request {
        *end = true;
    }

    let huge = format!("content-length: 0\r\nx: {}\r\n", "y".repeat(1 << 20));
    table.http("B15 a header of 1 MiB", "POST /v1/traces", &huge, b"", Says::Code(431));
    let many: String = (0..10_000).map(|i| format!("h{i}: 1\r\n")).collect();
    table.http("B15 10,000 headers", "POST /v1/traces", &many, b"", Says::Code(431));
}

pub fn grpc(table: &mut Table) {
    let huge = "y".repeat(100 << 10);
    table.export("B15 a large header", &[("x", &huge)], framed(0, b""), Says::Code(431), Case::default());

    table.export("B16 one byte over the limit", &[], framed(0, &vec![0; LIMIT + 1]), Says::TooLarge, Case::default());
    let zipped = gzip(&request("zipped", vec![span(0, 0)]));
    table.export("B17 flagged, without grpc-encoding", &[], framed(1, &zipped), INTERNAL, Case::default());
    table.export("B17 no such flag", &[], framed(7, &zipped), INTERNAL, Case::default());
    let snappy = [("grpc-encoding", "snappy")];
    table.export("B18 unknown grpc-encoding", &snappy, framed(1, b"x"), UNIMPLEMENTED, Case::default());
    for path in [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Other",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        "/grpc.health.v1.Health/Check",
    ] {
        table.grpc("B18 unknown method", path, &[], framed(0, b""), UNIMPLEMENTED, Case::default());
    }
    let four_gib = [&[0][..], &u32::MAX.to_be_bytes()].concat();
    table.export("B19 a length of 4 GiB", &[], four_gib, Says::TooLarge, Case::default());
    let case = good(table.next());
    let two = [framed(0, &case.body), framed(0, &case.body)].concat();
    table.export("two messages in a unary request", &[], two, UNIMPLEMENTED, Case::default());
    table.export("a frame that is cut", &[], framed(0, &case.body)[..20].to_vec(), Says::Malformed, Case::default());
    table.export("half a prefix", &[], vec![0, 0], Says::Malformed, Case::default());
}

pub fn compressed(table: &mut Table) {
    let plain = request("plain", vec![span(0, 0)]);
    let zipped = gzip(&plain);
    let mut bad_sum = zipped.clone();
    let sum = bad_sum.len() - 8;
    bad_sum[sum] ^= 1;
    table.packed("B8 plain bytes said to be gzip", "gzip", Says::Malformed, &plain);
    table.packed("B8 cut gzip", "gzip", Says::Malformed, &zipped[..zipped.len() - 9]);
    table.packed("B8 bad CRC", "gzip", Says::Malformed, &bad_sum);
    table.packed("B8 gzip said to be zstd", "zstd", Says::Malformed, &zipped);

    let zeros = vec![0; LIMIT + 1];
    table.packed("B9 gzip bomb", "gzip", Says::TooLarge, &gzip(&zeros));
    table.packed("B11 zstd bomb", "zstd", Says::TooLarge, &zstd::encode_all(&zeros[..], 1).unwrap());
    // Magic, a frame header without a content size, a window of 2^31, one empty last block.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    table.packed("B11 zstd with a window of 2 GiB", "zstd", Says::Malformed, &wide);
}
