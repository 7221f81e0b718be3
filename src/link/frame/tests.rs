//! What is written reads back; what is not a frame is an error and never a panic.

use super::*;
use proptest::prelude::*;

pub(crate) fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 3,
        mesh: "default".into(),
        identity: Identity {
            id: "us-east-1/pod-0".parse().unwrap(),
            boot: BootId(7),
            revision: 2,
            address: Some("10.0.0.1:4319".parse().unwrap()),
            weight: 100,
        },
        address_learned: true,
        region: "us-east".into(),
        zone: "a".into(),
        environment: "prod".into(),
        version: "0.1.0".into(),
        decodes: Compression::all_bits(),
        observed: Some("[::1]:4319".parse().unwrap()),
    }
}

#[test]
fn a_hello_reads_back_and_skips_what_it_does_not_know() {
    let mut frame = hello().encode();
    assert_eq!(Hello::decode(unframe(&frame).unwrap().1), Ok(hello()));
    let (_, head) = unframe(&frame).unwrap();
    let mut newer = Head(head.to_vec());
    newer.bytes(900, b"of a later build");
    frame = newer.framed(Kind::Hello);
    assert_eq!(Hello::decode(unframe(&frame).unwrap().1), Ok(hello()));
}

#[test]
fn the_highest_common_protocol_is_agreed_on_or_none() {
    assert_eq!(hello().agree(1, 2), Some(2));
    assert_eq!(hello().agree(2, 9), Some(3));
    assert_eq!(hello().agree(4, 9), None);
}

#[test]
fn lengths_beyond_their_bound_are_refused_by_name() {
    let mut head = Head::default();
    head.number(6, (1 << 62) - 1);
    assert_eq!(BatchHead::decode(&head.0), Err(FrameError::TooLarge { what: "batch", max: MAX_BATCH }));
    let mut frame = vec![Kind::Batch as u8, LAYOUT];
    put_varint(&mut frame, (1 << 62) - 1);
    assert_eq!(unframe(&frame), Err(FrameError::TooLarge { what: "head", max: MAX_HEAD }));
    let mut head = Head::default();
    head.bytes(10, &vec![b'x'; 64 << 10]);
    assert_eq!(Hello::decode(&head.0), Err(FrameError::TooLarge { what: "region", max: MAX_TEXT }));
}

#[test]
fn texts_that_would_write_on_a_terminal_are_refused() {
    let forged = Hello { region: "\x1b[2J".into(), ..hello() };
    assert_eq!(Hello::decode(unframe(&forged.encode()).unwrap().1), Err(FrameError::Field("region")));
}

#[test]
fn every_refusal_reads_back() {
    for reason in Reason::ALL {
        let after = Duration::from_millis(1_250);
        for refusal in [Refusal::Permanent { reason }, Refusal::RetryAfter { after, reason }] {
            let reply = Reply::Refused(refusal);
            assert_eq!(Reply::decode(unframe(&reply.encode()).unwrap().1), Ok(reply));
        }
    }
}

proptest! {
    #[test]
    fn a_batch_head_reads_back(boot: u64, seq: u64, hops: u8, body in 1..=MAX_BATCH, raw in 1..=MAX_BATCH, spans in 1u32..) {
        let compression = Compression::Zstd;
        let head = BatchHead { boot: BootId(boot), seq, hops, compression, body_bytes: body, raw_bytes: raw, spans };
        prop_assert_eq!(BatchHead::decode(unframe(&head.encode()).unwrap().1), Ok(head));
    }

    #[test]
    fn a_variable_integer_reads_back(value in 0u64..1 << 62) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        let mut rest = &bytes[..];
        prop_assert_eq!(take_varint(&mut rest), Some(value));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = unframe(&bytes);
        let _ = (Hello::decode(&bytes), BatchHead::decode(&bytes), Reply::decode(&bytes));
    }

    #[test]
    fn a_damaged_hello_is_an_error_or_a_hello(at in 0usize..200, to: u8, cut in 0usize..200) {
        let mut frame = hello().encode();
        let at = at % frame.len();
        frame[at] = to;
        frame.truncate(frame.len() - cut % frame.len());
        if let Ok((_, head)) = unframe(&frame) {
            let _ = Hello::decode(head);
        }
    }
}
