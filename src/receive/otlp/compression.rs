//! gzip and zstd, opened a piece at a time into a buffer that never grows past the request limit.
//!
//! A 65 kB gzip or a 2 kB zstd body can hold 64 MiB. So the output is counted while it is made, against the same limit
//! and the same budget as a plain body, and a task that opens much lets others run between pieces. A zstd frame
//! chooses how much memory its reader needs: windows over 8 MiB, which no sender of telemetry needs, are refused.

use std::io::Read;

use bytes::Bytes;

use super::super::refusal::No;
use super::body::Admission;
use crate::model::Held;

/// The compressions that are taken; anything else is refused, never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// Value of `Accept-Encoding` and `grpc-accept-encoding`.
    pub(super) const ACCEPTED: &'static str = "gzip, zstd, identity";

    /// Reads a content coding's name; `None` for any other, lists of several among them.
    pub(super) fn named(name: &[u8]) -> Option<Compression> {
        let name = name.trim_ascii();
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if name.is_empty() || is("identity") {
            Some(Compression::None)
        } else if is("gzip") || is("x-gzip") {
            Some(Compression::Gzip)
        } else if is("zstd") {
            Some(Compression::Zstd)
        } else {
            None
        }
    }
}

/// log2 of the largest zstd window.
const MAX_WINDOW_LOG: u32 = 23;
/// Output between two looks at the limits.
const PIECE: usize = 128 << 10;

/// Opens `packed` into at most `max_bytes`, and gives its memory back.
pub(super) async fn open(
    compression: Compression,
    packed: Bytes,
    held: Held,
    max_bytes: usize,
    admission: &Admission,
) -> Result<(Bytes, Held), No> {
    if compression == Compression::None {
        return Ok((packed, held));
    }
    // The semaphore is never closed.
    let _worker = admission.workers.acquire().await;
    let opened = match compression {
        Compression::None => return Ok((packed, held)),
        Compression::Gzip => {
            let reader = flate2::bufread::MultiGzDecoder::new(&packed[..]);
            drain(reader, packed.len(), max_bytes, admission).await
        }
        Compression::Zstd => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(&packed[..]).map_err(|_| spoiled("zstd"))?;
            reader.window_log_max(MAX_WINDOW_LOG).map_err(|_| spoiled("zstd"))?;
            drain(reader, packed.len(), max_bytes, admission).await
        }
    };
    // `held`, the compressed bytes' share, ends with them; the output has its own.
    drop(held);
    match opened {
        Ok(opened) => Ok(opened),
        Err(Trouble::No(no)) => Err(no),
        Err(Trouble::Spoiled) => Err(spoiled(if compression == Compression::Gzip { "gzip" } else { "zstd" })),
    }
}

fn spoiled(format: &str) -> No {
    No::Malformed(format!("the body is not the {format} it is said to be, or is cut, or needs a window over 8 MiB"))
}

enum Trouble {
    No(No),
    Spoiled,
}

async fn drain(
    mut reader: impl Read,
    packed_len: usize,
    max_bytes: usize,
    admission: &Admission,
) -> Result<(Bytes, Held), Trouble> {
    // One byte over the limit is room enough to see that it is passed.
    let room = max_bytes.saturating_add(1);
    let mut out = Vec::with_capacity(packed_len.saturating_mul(4).clamp(1 << 10, PIECE).min(room));
    let mut held = admission.budget.hold(0);
    loop {
        let spare = out.capacity() - out.len();
        if spare < PIECE.min(room - out.len()) {
            out.reserve_exact(out.len().max(PIECE).min(room - out.len()));
        }
        let piece = PIECE.min(room - out.len()) as u64;
        let n = reader.by_ref().take(piece).read_to_end(&mut out).map_err(|_| Trouble::Spoiled)?;
        if out.len() > max_bytes {
            return Err(Trouble::No(No::TooLarge { limit: max_bytes }));
        }
        held.resize(out.len());
        if n < PIECE.min(piece as usize) {
            break;
        }
        admission.check().map_err(Trouble::No)?;
        tokio::task::yield_now().await;
    }
    if out.len() < out.capacity() / 4 * 3 {
        out.shrink_to_fit();
    }
    Ok((Bytes::from(out), held))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::model::Budget;

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        Bytes::from(writer.finish().unwrap())
    }

    fn zstd(bytes: &[u8]) -> Bytes {
        Bytes::from(zstd::encode_all(bytes, 1).unwrap())
    }

    async fn opened(compression: Compression, packed: Bytes, max: usize) -> (Result<Vec<u8>, No>, u64) {
        let admission = Admission::new(Budget::default(), u64::MAX);
        let held = admission.budget.hold(packed.len());
        let out = open(compression, packed, held, max, &admission).await;
        let peak = admission.budget.peak_bytes();
        let out = out.map(|(bytes, held)| {
            assert_eq!(held.bytes(), bytes.len() as u64);
            bytes.to_vec()
        });
        assert_eq!(admission.budget.bytes(), 0);
        (out, peak)
    }

    #[tokio::test]
    async fn what_was_packed_comes_out_also_from_several_members() {
        let text: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
        assert_eq!(opened(Compression::Gzip, gzip(&text), text.len()).await.0.unwrap(), text);
        assert_eq!(opened(Compression::Zstd, zstd(&text), text.len()).await.0.unwrap(), text);
        let twice = Bytes::from([gzip(b"one"), gzip(b"two")].concat());
        assert_eq!(opened(Compression::Gzip, twice, 100).await.0.unwrap(), b"onetwo");
        assert_eq!(opened(Compression::Gzip, gzip(b""), 100).await.0.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_bomb_is_refused_at_the_limit_and_holds_no_more_than_the_limit() {
        let bomb = vec![0; 40 << 20];
        for (compression, packed) in [(Compression::Gzip, gzip(&bomb)), (Compression::Zstd, zstd(&bomb))] {
            let packed_len = packed.len();
            let (out, peak) = opened(compression, packed, 1 << 20).await;
            assert_eq!(out, Err(No::TooLarge { limit: 1 << 20 }));
            assert!(peak <= (packed_len + (2 << 20)) as u64, "{compression:?}: {peak}");
        }
    }

    #[tokio::test]
    async fn cut_spoiled_or_falsely_named_bodies_are_malformed() {
        let good = gzip(b"some spans, some more spans");
        let mut bad_crc = good.to_vec();
        let crc = bad_crc.len() - 8;
        bad_crc[crc] ^= 1;
        let cases = [
            (Compression::Gzip, good.slice(..good.len() - 9)),
            (Compression::Gzip, good.slice(..5)),
            (Compression::Gzip, Bytes::from(bad_crc)),
            (Compression::Gzip, Bytes::from_static(b"\n\x03abc plain protobuf")),
            (Compression::Zstd, zstd(&[7; 1_000]).slice(..12)),
            (Compression::Zstd, good),
        ];
        for (compression, packed) in cases {
            let (out, _) = opened(compression, packed, 1 << 20).await;
            assert!(matches!(out, Err(No::Malformed(_))), "{compression:?} {out:?}");
        }
    }

    #[tokio::test]
    async fn a_zstd_frame_that_asks_for_a_two_gigabyte_window_is_refused() {
        // Magic, frame header without a content size, window descriptor 2^31, one empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        let (out, peak) = opened(Compression::Zstd, Bytes::copy_from_slice(&frame), 64 << 20).await;
        assert!(matches!(out, Err(No::Malformed(_))), "{out:?}");
        assert!(peak < 1 << 10);
        let small_window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x68, 0x01, 0x00, 0x00];
        assert_eq!(opened(Compression::Zstd, Bytes::copy_from_slice(&small_window), 100).await.0.unwrap(), b"");
    }

    #[test]
    fn only_one_known_coding_is_taken() {
        assert_eq!(Compression::named(b" GZip "), Some(Compression::Gzip));
        assert_eq!(Compression::named(b""), Some(Compression::None));
        for other in ["gzip, gzip", "br", "deflate", "gzip;q=1"] {
            assert_eq!(Compression::named(other.as_bytes()), None, "{other}");
        }
    }
}
