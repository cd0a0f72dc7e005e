//! Parquet files that are damaged or lie: each ends with rows or with an error, and none takes much more memory than a file
//! of its length can hold.

#![allow(clippy::unwrap_used, reason = "tests may")]

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use puna_train::data::fuzzing::parquet as read;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// A byte of gzip is a kilobyte, and values in memory are larger than in a file.
const MAX_RATIO: usize = 4096;

/// The system's allocator, counted for each thread.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every request is handed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = NOW.try_with(|now| {
            now.set(now.get().wrapping_add(layout.size()));
            PEAK.try_with(|peak| peak.set(peak.get().max(now.get())))
        });
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().wrapping_sub(layout.size())));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The rows of a file or the first error; panics where more memory was held than a file of this length may take.
fn bounded(file: &[u8]) -> Result<usize, String> {
    // Far from 0, since what others allocated may be freed here.
    NOW.set(1 << 40);
    PEAK.set(1 << 40);
    let rows = read(file, 1000);
    let peak = PEAK.get() - (1 << 40);
    assert!(peak <= MAX_RATIO * file.len() + (1 << 20), "{peak} bytes held for a file of {}", file.len());
    let n = rows.len();
    rows.into_iter().collect::<Result<Vec<String>, _>>().map(|_| n).map_err(|error| error.to_string())
}

/// Rows with a list of `n` texts, and an id that is null in every other.
fn lists(codec: Compression, n_rows: usize, n: usize, text: &str) -> Vec<u8> {
    let schema = "message rows {
        required group texts (LIST) { repeated group list { optional binary element (UTF8); } }
        optional int64 id;
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    for _ in 0..n_rows {
        let repetitions: Vec<i16> = (0..n).map(|at| i16::from(at > 0)).collect();
        let values = vec![ByteArray::from(text); n];
        column.typed::<ByteArrayType>().write_batch(&values, Some(&vec![2; n]), Some(&repetitions)).unwrap();
    }
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let (ids, definitions): (Vec<i64>, Vec<i16>) =
        ((0..n_rows.div_ceil(2) as i64).collect(), (0..n_rows).map(|row| i16::from(row % 2 == 0)).collect());
    column.typed::<Int64Type>().write_batch(&ids, Some(&definitions), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
    bytes
}

const CODECS: [fn() -> Compression; 3] =
    [|| Compression::UNCOMPRESSED, || Compression::SNAPPY, || Compression::GZIP(Default::default())];

/// Integers as headers have them.
fn varint(mut int: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while int > 0x7F {
        bytes.push(int as u8 | 0x80);
        int >>= 7;
    }
    bytes.push(int as u8);
    bytes
}

#[test]
fn damage_is_an_error() {
    let files = CODECS.map(|codec| lists(codec(), 20, 3, "text of a turn"));
    let damage = prop_oneof![
        // Bytes that are others, bytes that are there or not, and integers that are large ones.
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| (at, 1, vec![byte])),
        (any::<prop::sample::Index>(), 0..9_usize, prop::collection::vec(any::<u8>(), 0..9)),
        (any::<prop::sample::Index>(), 0..3_usize, (16..63_u32).prop_map(|bits| varint((1 << bits) - 2))),
    ];
    let damages = (0..CODECS.len(), prop::collection::vec(damage, 1..4));
    let refused = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(4000));
    let result = runner.run(&damages, |(codec, damages)| {
        let mut file = files[codec].clone();
        for (at, removed, inserted) in damages {
            let at = at.index(file.len());
            file.splice(at..file.len().min(at + removed), inserted);
        }
        refused.set(refused.get() + usize::from(bounded(&file).is_err()));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(refused.get() > 1000, "{} refused", refused.get());
    for file in &files {
        assert_eq!(bounded(file), Ok(20));
        for len in 0..file.len() {
            bounded(&file[..len]).unwrap_err();
        }
    }
}

/// The first page of a file begins behind the magic: its kind, its size unpacked, its size.
#[test]
fn a_page_is_no_larger_than_its_codec_can_make_it() {
    for codec in CODECS {
        let good = lists(codec(), 1, 3, "text of a turn");
        for size in [1 << 16, 1 << 24, i64::from(i32::MAX)] {
            let kind = [0x15, good[5], 0x15];
            assert_eq!(&good[4..7], &kind);
            let end = 7 + good[7..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let mut file = good.clone();
            // As long as what it replaces and the field of the next size, which becomes a part of the lie.
            file.splice(7..end, varint((size as u64) << 1));
            let error = bounded(&file).unwrap_err();
            assert!(error.contains("column texts.list.element: expected a page of at most"), "{error}");
            assert!(error.contains(&size.to_string()), "{error}");
        }
    }
}

/// A text in a dictionary is written once and repeated with a few bits.
#[test]
fn a_row_has_a_limit_whatever_a_dictionary_repeats() {
    let text = "long ".repeat(20_000);
    let short = lists(Compression::SNAPPY, 3, 10, &text);
    assert_eq!(bounded(&short), Ok(3));
    for n in [2_000, 100_000] {
        let file = lists(Compression::SNAPPY, 1, n, &text);
        let error = bounded(&file).unwrap_err();
        assert!(error.contains("row 1: ") && error.contains("expected a row of at most"), "{error}");
    }
}
