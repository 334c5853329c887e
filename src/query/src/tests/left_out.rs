//! Tests of what queries leave out, and of the warnings about it: files in `out/` that are no pipelines, descriptions
//! and records that cannot be read.

use super::*;
use raisin_store::DESCRIPTION;

const QUERY: &str = "select count(*) as n from pool.instructions";

#[test]
fn what_is_no_pipeline_in_out_is_skipped_with_a_warning() {
    let fixture = swept();
    std::fs::write(fixture.out().join("notes.txt"), "mine").unwrap();
    std::fs::write(fixture.out().join(".gitignore"), "*").unwrap();
    std::fs::create_dir(fixture.out().join("empty")).unwrap();
    std::os::unix::fs::symlink("nowhere", fixture.out().join("dangling")).unwrap();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"odd\xff");
    std::fs::create_dir(fixture.out().join(odd)).unwrap();
    let said = fixture.table(QUERY);
    assert!(said.starts_with("n\n-\n3\n"), "{said}");
    for name in
        ["notes.txt is skipped: a file", "empty is skipped: it has no build.json", "dangling is skipped: No such"]
    {
        assert!(said.contains(name), "{name}: {said}");
    }
    assert_eq!(said.matches("(warning: ").count(), 4, "{said}");
    assert!(!said.contains("gitignore"), "{said}");
}

#[test]
fn a_description_that_cannot_be_read_fails_only_queries_over_its_pipeline() {
    let fixture = swept();
    let write = |pipeline: &str, text: &str| {
        std::fs::create_dir_all(fixture.out().join(pipeline)).unwrap();
        std::fs::write(fixture.out().join(pipeline).join(DESCRIPTION), text).unwrap();
    };
    write("torn", "{\"format\": 1, \"pipe");
    write("later", "{\"format\": 2, \"content\": \"of another form\"}");
    let said = fixture.table(QUERY);
    assert!(said.starts_with("n\n-\n3\n"), "{said}");
    assert!(said.contains("torn is skipped: ") && said.contains("a newer raisin wrote it (format 2"), "{said}");
    let said = fixture.table("select * from torn.pool.instructions");
    assert!(said.contains("error: the results of pipeline `torn` cannot be found: "), "{said}");
    assert!(said.ends_with("hint: build the pipeline again: the build writes a new build.json"), "{said}");
    let mut options = fixture.options(QUERY, Some(OutputFormat::Csv));
    options.pipeline = Some("later".to_owned());
    let error = QueryFixture::ask_with(&options).unwrap_err();
    assert!(render(&error).contains("the results of pipeline `later` cannot be found: "), "{}", render(&error));
    // The only pipeline: there is nothing else that the query could mean.
    std::fs::remove_dir_all(fixture.out().join("trial")).unwrap();
    std::fs::remove_dir_all(fixture.out().join("later")).unwrap();
    assert!(
        fixture.table(QUERY).contains("the results of pipeline `torn` cannot be found"),
        "{}",
        fixture.table(QUERY)
    );
    assert!(fixture.table("select count(*) as n from raisin.actions").starts_with("n\n-\n"));
}

#[test]
fn a_copy_of_the_folder_of_a_pipeline_is_skipped_with_a_warning() {
    let fixture = swept();
    for copy in ["a copy", "z copy"] {
        std::fs::create_dir(fixture.out().join(copy)).unwrap();
        std::fs::copy(fixture.out().join("trial").join(DESCRIPTION), fixture.out().join(copy).join(DESCRIPTION))
            .unwrap();
    }
    let said = fixture.table(QUERY);
    assert!(said.starts_with("n\n-\n3\n"), "{said}");
    for copy in ["a copy", "z copy"] {
        assert!(said.contains(&format!("{copy} is skipped: ")), "{copy}: {said}");
    }
}

#[test]
fn records_and_lines_that_cannot_be_read_are_counted() {
    let fixture = swept();
    let before = fixture.table("select count(*) as n from raisin.actions");
    assert!(!before.contains("warning"), "{before}");
    let record = fixture.store.record_file(fixture.built[0].key);
    std::fs::write(&record, "torn").unwrap();
    std::fs::write(fixture.store.root().join("journal/2026-01-01.jsonl"), "torn\n").unwrap();
    for table in ["raisin.actions", "raisin.artifacts", "raisin.costs", "raisin.key_parts", "history.metrics"] {
        let said = fixture.table(&format!("select count(*) as n from {table}"));
        assert!(said.contains("(warning: 1 action record cannot be read: left out"), "{table}: {said}");
    }
    let said = fixture.table("select count(*) as n from raisin.runs");
    assert!(said.contains("(warning: 1 line of the journal cannot be read: left out)"), "{said}");
}
