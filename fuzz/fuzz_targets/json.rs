//! What is read as JSON is protobuf, and what is written from protobuf is read back the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanmesh::wire::{Limits, json, walk};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    if let Ok(decoded) = json::decode(data, &limits) {
        assert!(decoded.bytes.len() <= data.len());
        walk(decoded.bytes.into(), &limits).expect("JSON is translated to legal protobuf");
    }
    let mut text = Vec::new();
    if json::encode(data, &mut text).is_ok() {
        assert!(!text.contains(&b'\n'));
        // What the walker rejects may be nested deeper than JSON is read.
        if walk(data.to_vec().into(), &limits).is_ok_and(|walked| walked.rejected.spans == 0)
            && let Ok(decoded) = json::decode(&text, &limits)
        {
            let mut again = Vec::new();
            json::encode(&decoded.bytes, &mut again).expect("what was read");
            assert_eq!(text, again);
        }
    }
});
