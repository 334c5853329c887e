use super::*;

#[test]
fn a_chunk_of_large_records_is_limited_by_bytes_and_one_of_small_records_by_their_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sizes = |name: &str, record: usize, count: usize| -> Result<Vec<usize>> {
        let path = folder.path().join(name);
        let line = format!("{{\"a\": \"{}\"}}\n", "x".repeat(record));
        std::fs::write(&path, line.repeat(count))?;
        let mut sizes = Vec::new();
        for_each_chunk(&path, 1 << 24, |chunk, _| {
            sizes.push(chunk.len());
            Ok(())
        })?;
        Ok(sizes)
    };
    assert_eq!(sizes("small.jsonl", 10, 10_000)?, [4096, 4096, 1808]);
    // 64 MiB, then 16 MiB, of records with about 100,000 bytes.
    assert_eq!(sizes("large.jsonl", 100_000, 1000)?, [672, 168, 160]);
    Ok(())
}

#[test]
fn a_record_is_read_up_to_the_limit_and_a_longer_one_costs_itself() -> Result<()> {
    let record = |length: usize| serde_json::json!({"a": 1, "image": "x".repeat(length)});
    for is_list in [false, true] {
        for length in [100_000, 9_000_000] {
            let records = [record(3), record(length), record(4)];
            let text = if is_list {
                serde_json::to_string(&records)?
            } else {
                records.iter().map(|record| format!("{record}\n")).collect()
            };
            assert_eq!(good(&read_as("a.json", text.as_bytes(), 10_000_000)?.0), records);
            let (read, facts) = read_as("a.json", text.as_bytes(), 99_000)?;
            assert_eq!(good(&read), [record(3), record(4)], "{is_list}, {length}");
            let lost = bad(&read).len() as u64 + facts.damage.iter().map(|damage| damage.records).sum::<u64>();
            assert!(lost >= 1, "{facts:?}");
        }
    }
    Ok(())
}

#[test]
fn the_bytes_read_grow_up_to_the_size_of_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.jsonl");
    std::fs::write(&path, "{\"a\": 1}\n".repeat(20_000))?;
    let mut seen = Vec::new();
    for_each_chunk(&path, 1000, |_, bytes| {
        seen.push(bytes);
        Ok(())
    })?;
    assert!(seen.is_sorted());
    assert_eq!(seen.last(), Some(&180_000));
    Ok(())
}

/// Prints how long the reading of a large file takes: RAISIN_TIMED_FILE names the file.
#[test]
#[ignore = "a measurement: needs RAISIN_TIMED_FILE"]
fn time_of_a_large_file() -> Result<()> {
    let path = std::env::var("RAISIN_TIMED_FILE")?;
    for _ in 0..5 {
        let (start, mut count) = (std::time::Instant::now(), 0);
        for_each_chunk(Path::new(&path), MOST_BYTES, |records, _| {
            count += records.iter().filter(|record| record.value().is_ok()).count();
            Ok(())
        })?;
        println!("{count} records in {:?}", start.elapsed());
    }
    Ok(())
}
