//! Promises of the arena.

use proptest::prelude::*;

use super::*;

fn record(n: u64, body: usize) -> Record {
    Record {
        span_id: SpanId(n.to_le_bytes()),
        parent_span_id: SpanId([1; 8]),
        start: UnixNanos(n),
        end: UnixNanos(u64::MAX - n),
        header: n as u32,
        body: body as u32,
        kind: 3,
        status: 255,
    }
}

type Spans = Vec<(Record, Vec<u8>)>;

fn piece(n: u64, spans: usize, body: usize) -> Spans {
    let span = |i: u64| (record(n * 1_000 + i, body), vec![(n + i) as u8; body]);
    (0..spans as u64).map(span).collect()
}

fn append(arena: &mut Arena, owner: u32, spans: &Spans) -> Place {
    let bodies = spans.iter().map(|(_, body)| body.len()).sum();
    arena.append(owner, owner + 1, bodies, spans.iter().map(|(record, body)| (*record, &body[..])))
}

fn read(arena: &Arena, place: Place) -> Spans {
    arena.piece(place).spans().map(|(record, body)| (record, body.to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_stay_what_they_are_wherever_they_are_moved(
        steps in prop::collection::vec((0..4_u8, 0..200_usize, 1..9_usize, 0..4_000_usize), 1..300),
    ) {
        let mut arena = Arena::new(1 << 20);
        let mut model: Vec<Option<(Place, Spans)>> = Vec::new();
        for (what, which, spans, body) in steps {
            match what {
                0 | 1 => {
                    let spans = piece(model.len() as u64, spans, body);
                    let place = append(&mut arena, model.len() as u32, &spans);
                    model.push(Some((place, spans)));
                }
                2 => {
                    if let Some((place, _)) = model.get_mut(which).and_then(Option::take) {
                        arena.free(place);
                    }
                }
                _ => {
                    let before = arena.live;
                    _ = arena.evacuate(|owner, position, to| {
                        assert_eq!(position, owner + 1);
                        model[owner as usize].as_mut().unwrap().0 = to;
                    });
                    prop_assert_eq!(arena.live, before);
                }
            }
            for (place, spans) in model.iter().flatten() {
                prop_assert_eq!(&read(&arena, *place), spans);
            }
            let segments = arena.segments.iter().enumerate().filter_map(|(n, s)| s.as_ref().map(|s| (n as u32, s)));
            let (mut allocated, mut wasted, mut live) = (arena.spare(), 0, 0);
            for (number, segment) in segments {
                let used = if arena.open == Some(number) { segment.bytes.len() } else { segment.bytes.capacity() };
                allocated += segment.bytes.capacity() as u64;
                wasted += (used - segment.live) as u64;
                live += segment.live as u64;
            }
            prop_assert_eq!((arena.allocated, arena.wasted, arena.live), (allocated, wasted, live));
        }
        for (place, _) in model.into_iter().flatten() {
            arena.free(place);
        }
        prop_assert_eq!((arena.allocated, arena.wasted, arena.live), (0, 0, 0));
    }
}

#[test]
fn holes_are_closed_by_moving_what_is_live() {
    let mut arena = Arena::new(1 << 30);
    let mut places: Vec<Option<Place>> =
        (0..8_000).map(|n| Some(append(&mut arena, n, &piece(n.into(), 2, 500)))).collect();
    // One of eight stays.
    for (n, place) in places.iter_mut().enumerate() {
        if n % 8 != 0 {
            arena.free(place.take().unwrap());
        }
    }
    assert!(arena.allocated() > 8 << 20);
    while arena.wasted() > arena.allocated() / 4 {
        assert!(arena.evacuate(|owner, _, place| places[owner as usize] = Some(place)).is_some());
    }
    assert!(arena.allocated() < 3 << 20, "{}", arena.allocated());
    for (n, place) in places.iter().enumerate().filter_map(|(n, place)| Some((n, (*place)?))) {
        assert_eq!(read(&arena, place), piece(n as u64, 2, 500));
    }
}
