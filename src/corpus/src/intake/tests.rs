use super::*;
use raisin_base::error::render;

fn intake(files: &[SourceSummary], rejects: &[(&str, u64)]) -> Intake {
    let reject = |(reason, line): &(&str, u64)| Reject {
        source: 0,
        file: "a.json".into(),
        line: *line,
        reason: (*reason).to_owned(),
        record: String::new(),
        records: 1,
    };
    Intake { rejects: rejects.iter().map(reject).collect(), sources: files.to_vec(), ..Intake::default() }
}

fn file(accepted: u64, rejected: u64) -> SourceSummary {
    SourceSummary {
        file: "a.json".into(),
        records: accepted + rejected,
        accepted,
        rejected,
        ..SourceSummary::default()
    }
}

#[test]
fn few_records_of_a_small_file_and_one_of_a_hundred_may_be_rejected() {
    let passes = |accepted: u64, rejected: u64, share: Option<f64>| {
        intake(&[file(accepted, rejected)], &[]).check(RejectLimit { share }, "pool").is_ok()
    };
    for (accepted, rejected) in [(2, 1), (1, 1), (3, 3), (97, 3), (9_900, 100)] {
        assert!(passes(accepted, rejected, None), "{accepted} + {rejected}");
    }
    for (accepted, rejected) in [(1, 2), (1, 9), (8, 4), (95, 5), (5, 95), (9_899, 101), (0, 1)] {
        assert!(!passes(accepted, rejected, None), "{accepted} + {rejected}");
    }
    assert!(passes(80, 20, Some(0.2)) && !passes(79, 21, Some(0.2)) && passes(71, 29, Some(0.29)));
    assert!(passes(5, 0, Some(0.0)) && !passes(99, 1, Some(0.0)), "a given share is exact");
    assert!(!passes(0, 5, Some(1.0)), "something must be accepted");
}

#[test]
fn a_file_without_its_end_is_refused_unless_a_share_is_given() -> Result<()> {
    let reason = "the compressed file ends early: the rest is lost";
    let cut = intake(&[file(100, 0), SourceSummary { lost_rest: Some(reason.into()), ..file(2000, 1) }], &[]);
    let error = cut.check(RejectLimit { share: None }, "pool").expect_err("refused");
    assert!(render(&error).starts_with(&format!("error: a.json: {reason}\nhint: copy the file again")), "{error:?}");
    assert!(render(&error).contains("max_rejected = 0.01 in stage `pool`"));
    cut.check(RejectLimit { share: Some(0.01) }, "pool")
}

#[test]
fn the_error_names_the_most_frequent_reasons_with_a_place_and_what_to_do() {
    let rejects = [
        ("`a` is null", 9),
        ("12 characters, more than max_length = 5", 3),
        ("not JSON", 4),
        ("17 characters, more than max_length = 5", 7),
        ("empty", 8),
    ];
    let error = intake(&[file(20, 5)], &rejects).check(RejectLimit { share: None }, "pool").expect_err("too many");
    assert_eq!(
        render(&error),
        "error: 5 of 25 records of a.json are rejected, and 3 may be\n  2 records: 12 characters, more than max_length = 5 \
         (a.json, line 3)\n  1 record: `a` is null (a.json, line 9)\n  1 record: not JSON (a.json, line 4)\n  1 record for 1 \
         other reason\nhint: repair the records, or accept the loss: max_rejected = 0.2 in stage `pool`; then \
         `pool.rejects` lists them all"
    );
}

#[test]
fn the_share_counts_for_all_files_together_and_the_note_names_a_lost_one() -> Result<()> {
    let mut files = [file(400, 0), file(0, 3), file(400, 0)];
    files.iter_mut().zip(["a", "b", "c"]).for_each(|(file, name)| file.file = name.to_owned());
    files.iter_mut().filter(|file| file.accepted > 0).for_each(|file| {
        file.formats.add("alpaca", 400);
        file.format = "alpaca".into();
    });
    let intake = intake(&files, &[]);
    intake.check(RejectLimit { share: None }, "pool")?;
    assert_eq!(intake.details("pool"), ["a and 1 more file: format alpaca", "b: 0 of 3 records accepted"]);
    assert_eq!(
        intake.note("800 instructions", "pool"),
        "800 instructions of 803 records, 3 rejected (see pool.rejects)"
    );
    Ok(())
}

#[test]
fn a_file_that_excludes_everything_is_refused() {
    let mut summary = SourceSummary { records: 2, file: "a.json".into(), ..SourceSummary::default() };
    summary.filtered[Filter::Label as usize] = 2;
    let error = intake(&[summary], &[]).check(RejectLimit { share: None }, "pool").expect_err("nothing");
    assert!(render(&error).contains("no record of a.json is left: the file excludes all 2 records"));
}

#[test]
fn numbers_have_separated_thousands_and_things_a_plural() {
    assert_eq!([0, 999, 1000, 24994, 1_234_567].map(grouped), ["0", "999", "1,000", "24,994", "1,234,567"]);
    assert_eq!([1, 2000].map(|count| counted(count, "record")), ["1 record", "2,000 records"]);
}

#[test]
fn a_note_names_few_unread_fields_and_thousands_are_counted_quickly() {
    let mut summary = SourceSummary { format: "qa".into(), ..file(1, 0) };
    summary.formats.add("qa", 1);
    for _ in 0..20 {
        (0..20_000).for_each(|n| summary.fields_unread.add(&format!("f{n}"), 1));
    }
    assert_eq!((summary.fields_unread.len(), summary.fields_unread.iter().nth(19_999)), (20_000, Some(("f19999", 20))));
    assert_eq!(
        intake(&[summary], &[]).details("pool"),
        ["a.json: format qa, does not read `f0`, `f1`, `f2`, `f3`, `f4`, `f5`, `f6`, `f7` and 19,992 more"]
    );
}
