//! Parquet and Arrow.

use super::*;
use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder, StringDictionaryBuilder, StructBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int64Array, LargeStringArray, RecordBatch,
    StringViewArray, TimestampMillisecondArray,
};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, Field, Fields};
use raisin_table as table;
use std::sync::Arc;

fn batch() -> Result<RecordBatch> {
    let fields =
        Fields::from(vec![Field::new("role", DataType::Utf8, true), Field::new("content", DataType::Utf8, true)]);
    let mut turns = ListBuilder::new(StructBuilder::from_fields(fields, 1));
    for (index, text) in [(0, "user"), (1, "hi")] {
        turns.values().field_builder::<StringBuilder>(index).expect("a text column").append_value(text);
    }
    turns.values().append(true);
    turns.append(true);
    turns.append(false);
    let mut labels = StringDictionaryBuilder::<Int32Type>::new();
    labels.extend([Some("x"), Some("x")]);
    let mut tags = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    tags.keys().append_value("k");
    tags.values().append_value("v");
    tags.append(true)?;
    tags.append(false)?;
    table::batch(vec![
        ("n", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef),
        ("text", Arc::new(LargeStringArray::from(vec![Some("é"), None]))),
        ("view", Arc::new(StringViewArray::from(vec!["a", "a text of more than twelve bytes"]))),
        ("messages", Arc::new(turns.finish())),
        ("label", Arc::new(labels.finish())),
        ("tags", Arc::new(tags.finish())),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(&b"say a"[..]), Some(b"\xFF")]))),
        ("day", Arc::new(Date32Array::from(vec![0, 1]))),
        ("time", Arc::new(TimestampMillisecondArray::from(vec![Some(0), None]))),
        (
            "price",
            Arc::new(Decimal128Array::from(vec![150, 12_345_678_901_234_567_890]).with_precision_and_scale(30, 2)?),
        ),
        ("score", Arc::new(Float64Array::from(vec![0.5, f64::NAN]))),
    ])
}

fn expected() -> [Value; 2] {
    [
        serde_json::json!({
            "n": 7, "text": "é", "view": "a", "messages": [{"role": "user", "content": "hi"}], "label": "x",
            "tags": {"k": "v"}, "bytes": "say a", "day": "1970-01-01", "time": "1970-01-01T00:00:00", "price": 1.5,
            "score": 0.5,
        }),
        serde_json::json!({
            "n": 8, "text": null, "view": "a text of more than twelve bytes", "messages": null, "label": "x",
            "tags": null, "bytes": null, "day": "1970-01-02", "time": null, "price": "123456789012345678.90",
            "score": null,
        }),
    ]
}

/// The batches in each layout of Arrow.
fn arrow_files(batches: &[RecordBatch]) -> Result<Vec<Vec<u8>>> {
    let schema = batches[0].schema();
    let mut stream = StreamWriter::try_new(Vec::new(), &schema)?;
    let mut file = FileWriter::try_new(Vec::new(), &schema)?;
    for batch in batches {
        stream.write(batch)?;
        file.write(batch)?;
    }
    Ok(vec![stream.into_inner()?, file.into_inner()?])
}

fn parquet_file(batches: &[RecordBatch], group: usize) -> Result<Vec<u8>> {
    let properties = ::parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(group))
        .set_compression(::parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?)
}

#[test]
fn texts_numbers_lists_bytes_and_dates_become_json() -> Result<()> {
    let mut files = arrow_files(&[batch()?])?;
    files.push(parquet_file(&[batch()?], 100)?);
    for (index, file) in files.iter().enumerate() {
        for bytes in [file.clone(), zstd::encode_all(&file[..], 1)?] {
            let (records, facts) = read(&bytes);
            assert_eq!(good(&records), expected(), "{index}");
            assert_eq!(facts.damage, []);
            assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 2]);
            assert_eq!(facts.layout.name(), if index < 2 { "arrow" } else { "parquet" });
            // What JSON cannot hold is null, and is named.
            assert_eq!(records[0].altered, [""; 0]);
            assert_eq!(records[1].altered, ["bytes", "score"]);
        }
    }
    Ok(())
}

fn numbers(from: i64, count: i64) -> Result<RecordBatch> {
    let texts: Vec<String> = (from..from + count).map(|n| format!("text {n} {}", n * 7919 % 1009)).collect();
    table::batch(vec![
        ("n", Arc::new(Int64Array::from_iter_values(from..from + count)) as ArrayRef),
        ("text", Arc::new(arrow_array::StringArray::from(texts))),
    ])
}

#[test]
fn a_damaged_group_of_rows_costs_its_own_rows() -> Result<()> {
    let batches = [numbers(0, 100)?, numbers(100, 100)?, numbers(200, 100)?];
    let mut files = arrow_files(&batches)?;
    files.push(parquet_file(&batches, 100)?);
    for (kind, file) in files.iter().enumerate() {
        assert_eq!(read(file).0.len(), 300);
        for at in (0..file.len()).step_by(37) {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            check_rows(&changed, 300, (kind, at));
        }
        for length in (0..file.len()).step_by(61) {
            // Nobody knows how many rows are missing at the end.
            if let Ok((records, facts)) = read_as("file", &file[..length], MOST_BYTES) {
                assert!(records.len() == 300 || !facts.damage.is_empty(), "{kind}, {length}");
            }
        }
    }
    Ok(())
}

/// Every row is read or counted, or the whole file is refused, because its schema or its index is damaged.
fn check_rows(bytes: &[u8], rows: u64, place: (usize, usize)) {
    let Ok((records, facts)) = read_as("file", bytes, MOST_BYTES) else { return };
    let hidden: u64 = facts.damage.iter().map(|damage| damage.records).sum();
    // The number of rows is estimated if it is damaged itself. After a wrong length, nobody knows how many rows follow.
    let is_cut = facts.damage.last().is_some_and(|damage| {
        damage.reason.contains("file ends")
            || damage.reason.contains("damaged")
            || damage.reason.contains("mark of the end")
    });
    assert!(
        is_cut || records.len() as u64 + hidden + rows / 10 >= rows,
        "{place:?}: {} rows, {:?}",
        records.len(),
        facts.damage
    );
    let lines: Vec<u64> = records.iter().map(|record| record.line).collect();
    assert!(lines.is_sorted_by(|one, two| one < two));
}

#[test]
fn a_wrong_byte_in_a_batch_costs_no_other_batch() -> Result<()> {
    let mut batches = vec![numbers(0, 100)?, numbers(100, 100)?, numbers(200, 100)?];
    let mut files = arrow_files(&batches)?;
    let text = b"text 150 ";
    for file in &mut files {
        let at = file.windows(text.len()).position(|part| part == text).expect("the text");
        file[at] = 0xFF;
        let (records, facts) = read(&*file);
        assert_eq!(records.len(), 200);
        assert_eq!((facts.damage.len(), facts.damage[0].line, facts.damage[0].records), (1, 101, 100));
        assert!(facts.damage[0].reason.contains("cannot read a batch of rows"), "{}", facts.damage[0].reason);
    }
    // A stream that ends between two batches has no mark of the end.
    batches.truncate(2);
    let stream = arrow_files(&batches)?.remove(0);
    let (records, facts) = read(&stream[..stream.len() - 8]);
    assert_eq!((records.len(), facts.damage.len()), (200, 1));
    assert!(facts.damage[0].reason.contains("without its mark of the end"));
    Ok(())
}
