use std::path::PathBuf;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use serde_json::{Value, json};

use datafusion::catalog::TableProvider as _;
use raisin_base::error::{Result, render};
use raisin_contract::Assignment;
use raisin_corpus::artifact::{PoolRow, instructions_batch};
use raisin_corpus::digests::content_digest;
use raisin_corpus::message::conversation;
use raisin_corpus::read_instructions;
use raisin_table::{batch, column, read, write};

use crate::dictionary::OF_QUALITY;
use crate::files::FilesTable;
use crate::quality;
use crate::sources::TableFile;

/// A pool of `count` rows, `question 7` and `answer 7`, and a stage `lengths` with the table `rows` (id, n).
struct FilterFixture {
    folder: tempfile::TempDir,
}

impl FilterFixture {
    fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let row = |row: usize| {
            let turns = conversation(None, &format!("question {row}"), Some(&format!("answer {row}")));
            PoolRow::new(turns, 0, row as u64 + 1)
        };
        let rows: Vec<PoolRow> = (0..count).map(row).collect();
        let fixture = Self { folder };
        std::fs::create_dir_all(fixture.artifact("pool")).unwrap();
        write(&fixture.artifact("pool").join("instructions.parquet"), &instructions_batch(rows).unwrap()).unwrap();
        std::fs::create_dir_all(fixture.artifact("lengths")).unwrap();
        let ids: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..count as u32));
        let lengths = batch(vec![("id", ids.clone()), ("n", ids)]).unwrap();
        write(&fixture.artifact("lengths").join("rows.parquet"), &lengths).unwrap();
        fixture
    }

    fn artifact(&self, stage: &str) -> PathBuf {
        self.folder.path().join(stage)
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("run/out")
    }

    fn run(&self, query: &str, repeats: bool) -> Result<()> {
        let parameters = json!({"instructions": "pool", "of": ["lengths"], "query": query, "repeats": repeats});
        let inputs = [("/instructions", self.artifact("pool")), ("/of/0", self.artifact("lengths"))];
        let mut assignment = Assignment::for_test("filter", self.folder.path().join("run"), &inputs);
        assignment.parameters = parameters.clone();
        let context = raisin_kinds::context_for_test(assignment)?;
        super::run(serde_json::from_value(parameters)?, &context)?;
        context.check_outputs()
    }

    fn said(&self, query: &str) -> String {
        render(&self.run(query, false).unwrap_err())
    }

    fn table(&self, name: &str) -> RecordBatch {
        read(&self.out().join(format!("{name}.parquet"))).unwrap()
    }

    /// pool_rows, rows, distinct_rows, left_out, changed.
    fn counts(&self) -> Vec<u64> {
        let rows = self.table("filter_summary");
        rows.columns().iter().map(|column| column.as_any().downcast_ref::<UInt64Array>().unwrap().value(0)).collect()
    }

    fn responses(&self) -> Vec<String> {
        read_instructions(&self.out()).unwrap().iter().map(|row| row.response().to_owned()).collect()
    }

    fn pool_ids(&self) -> Vec<u32> {
        column::<UInt32Array>(&self.table("instructions"), "pool_id").unwrap().values().to_vec()
    }
}

#[test]
fn the_rows_that_the_query_gives_are_the_pool_in_its_order() {
    let pool = FilterFixture::new(10);
    pool.run("select id from pool.instructions where id % 3 = 1 order by id desc; -- every third", false).unwrap();
    assert_eq!(pool.responses(), ["answer 1", "answer 4", "answer 7"]);
    assert_eq!(pool.pool_ids(), [1, 4, 7]);
    assert_eq!(pool.counts(), [10, 3, 3, 7, 0]);
    let rows = pool.table("instructions");
    assert_eq!(column::<UInt32Array>(&rows, "id").unwrap().values(), &[0, 1, 2]);
    assert_eq!(column::<UInt64Array>(&rows, "line").unwrap().values(), &[2, 5, 8], "the origin stays");
    pool.run("select id, l.n from pool.instructions join lengths.rows l using (id) where l.id > 7", false).unwrap();
    assert_eq!(pool.pool_ids(), [8, 9], "a join by name has `id` of two tables");
    pool.run("select id from pool.instructions where id < 2", false).unwrap();
    assert!(!pool.out().join("columns.parquet").exists());
    assert!(!pool.out().join("summary.json").exists());
}

#[test]
fn a_large_pool_is_read_batch_by_batch() {
    let pool = FilterFixture::new(20_000);
    let query = "select l.id from lengths.rows l where l.n < 5 or l.n between 8190 and 8193 or l.n >= 19998";
    pool.run(query, false).unwrap();
    assert_eq!(pool.pool_ids(), [0, 1, 2, 3, 4, 8190, 8191, 8192, 8193, 19998, 19999]);
    pool.run("select id from pool.instructions limit 7", false).unwrap();
    assert_eq!(pool.pool_ids(), [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn given_texts_replace_those_of_the_pool_and_further_columns_are_kept() {
    let pool = FilterFixture::new(4);
    let query = "select p.id, replace(p.response, 'answer 2', 'two') as response, l.n * 1.5 as longer, 'a' as topic \
                 from pool.instructions p join lengths.rows l on l.id = p.id where p.id > 0";
    pool.run(query, false).unwrap();
    assert_eq!(pool.responses(), ["answer 1", "two", "answer 3"]);
    assert_eq!(pool.counts(), [4, 3, 3, 1, 1]);
    let columns = pool.table("columns");
    assert_eq!(column::<Float32Array>(&columns, "longer").unwrap().values(), &[1.5, 3.0, 4.5]);
    assert_eq!(column::<StringArray>(&columns, "topic").unwrap().value(2), "a");
    assert_eq!(column::<UInt32Array>(&columns, "id").unwrap().values(), &[0, 1, 2]);
    let summary: Value = serde_json::from_slice(&std::fs::read(pool.out().join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary, json!({"pass": "filter"}));
}

#[test]
fn rows_repeat_only_where_this_is_allowed() {
    let pool = FilterFixture::new(3);
    let query = "select 2 as id union all select 0 union all select 2 union all select 2";
    let said = pool.said(query);
    assert!(said.contains("the query gives 2 rows a second time or more often, the first one has the id 2"), "{said}");
    assert!(said.contains("repeats = true"), "{said}");
    pool.run(query, true).unwrap();
    assert_eq!(pool.pool_ids(), [0, 2, 2, 2]);
    assert_eq!(pool.counts(), [3, 4, 2, 1, 0]);
}

#[test]
fn ids_that_make_no_pool_are_counted_and_refused() {
    let pool = FilterFixture::new(3);
    let said = pool.said("select 3 as id union all select 1 union all select -4 union all select 9");
    assert!(
        said.contains("the query gives 3 ids that the pool of 3 rows does not have, the first one is -4"),
        "{said}"
    );
    let said = pool.said("select l.id from pool.instructions p left join lengths.rows l on l.id = p.id + 1");
    assert!(said.contains("the query gives 1 rows without an `id`"), "{said}");
    let said = pool.said("select id from pool.instructions where false");
    assert!(said.contains("the query gives none of the 3 rows of the pool"), "{said}");
    let said = pool.said("select prompt as id from pool.instructions");
    assert!(said.contains("the column `id` of the query has the type"), "{said}");
    let said = pool.said("select p.* exclude (id) from pool.instructions p");
    assert!(said.contains("the query gives no column `id`; it gives system, prompt"), "{said}");
    let said = pool.said("select id, 1 as prompt from pool.instructions");
    assert!(said.contains("the query gives a `prompt` of type Int64, which is no text"), "{said}");
    let said = pool.said("select id, messages, prompt from pool.instructions");
    assert!(said.contains("gives `messages`, which are all turns, and `prompt`"), "{said}");
    let said = pool.said("select id, '' as response from pool.instructions where id = 2");
    assert!(said.contains("the query gives row 2 of the pool a `response` that cannot be used"), "{said}");
    let said = pool.said("select id, now() as t from pool.instructions");
    assert!(said.contains("calls `now`"), "{said}");
}

#[test]
fn a_query_sets_weight_source_and_tags_of_the_rows() {
    let pool = FilterFixture::new(3);
    let query = "select id, id + 1 as weight, case when id = 1 then 'code' end as source, \
                 case when id < 2 then make_array('a', 'tag ' || id) end as tags from pool.instructions";
    pool.run(query, false).unwrap();
    let rows = pool.table("instructions");
    assert_eq!(column::<Float64Array>(&rows, "weight").unwrap().values(), &[1.0, 2.0, 3.0]);
    let names: Vec<_> = column::<StringArray>(&rows, "source_name").unwrap().iter().collect();
    assert_eq!(names, [None, Some("code"), None]);
    let tags: &ListArray = column(&rows, "tags").unwrap();
    assert_eq!(tags.value(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "tag 1"]);
    assert!(tags.is_null(2));
    assert_eq!(column::<UInt32Array>(&rows, "source").unwrap().values(), &[0, 0, 0], "the file stays known");
    assert!(!pool.out().join("columns.parquet").exists(), "these are no further columns");
    // A filter of the filter keeps what it does not set, and can read all of it.
    std::fs::remove_dir_all(pool.artifact("pool")).unwrap();
    std::fs::rename(pool.out(), pool.artifact("pool")).unwrap();
    let query = "select id, array_append(tags, 'new') as tags from pool.instructions \
                 where weight > 1 and (array_has(tags, 'tag 1') or source_name is null)";
    pool.run(query, false).unwrap();
    let rows = pool.table("instructions");
    assert_eq!(column::<Float64Array>(&rows, "weight").unwrap().values(), &[2.0, 3.0]);
    let tags: &ListArray = column(&rows, "tags").unwrap();
    assert_eq!(tags.value(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "tag 1", "new"]);
}

#[test]
fn a_weight_a_source_and_tags_of_a_wrong_type_or_value_are_refused() {
    let pool = FilterFixture::new(3);
    let said = |columns: &str| pool.said(&format!("select id, {columns} from pool.instructions"));
    let wrong = said("'much' as weight");
    assert!(wrong.contains("the query gives a `weight` of type Utf8, which is no number"), "{wrong}");
    assert!(wrong.contains("cast(... as double)"), "{wrong}");
    let wrong = said("source");
    assert!(wrong.contains("the query gives a `source` of type UInt32, which is no text"), "{wrong}");
    let wrong = said("'a' as tags");
    assert!(wrong.contains("the query gives a `tags` of type Utf8, which is no list of texts"), "{wrong}");
    let wrong = said("make_array(1) as tags");
    assert!(wrong.contains("which is no list of texts") && wrong.contains("make_array('a', 'b')"), "{wrong}");
    let wrong = said("1 - id as weight");
    assert!(wrong.contains("row 1 of the pool the weight 0: a weight is a number above 0"), "{wrong}");
    let wrong = said("case when id = 2 then '' else 'a' end as source");
    assert!(wrong.contains("row 2 of the pool an empty `source`"), "{wrong}");
    let wrong = said("make_array('a', null) as tags");
    assert!(wrong.contains("row 0 of the pool a tag that is null or empty"), "{wrong}");
    pool.run("select id, null as weight, null as source, null as tags from pool.instructions", false).unwrap();
    assert_eq!(column::<Float64Array>(&pool.table("instructions"), "weight").unwrap().null_count(), 3);
}

#[test]
fn the_digest_of_a_row_is_computed_from_its_conversation() {
    let pool = FilterFixture::new(3);
    let query = "select id, digest from pool.instructions where digest in \
                 (select digest from pool.instructions group by digest having count(*) = 1)";
    pool.run(query, false).unwrap();
    assert_eq!(pool.pool_ids(), [0, 1, 2]);
    let columns = pool.table("columns");
    let digests: &BinaryArray = column(&columns, "digest").unwrap();
    let expected = content_digest(&conversation(None, "question 2", Some("answer 2")), &[]);
    assert_eq!(digests.value(2), &expected.bytes()[..16]);
    assert!(pool.table("instructions").column_by_name("digest").is_none(), "it is not stored");
}

#[test]
fn the_pool_has_a_view_of_its_quality() {
    let pool = FilterFixture::new(3);
    pool.run("select id, words, language from pool.quality where junk is null and words = 2", false).unwrap();
    assert_eq!(pool.pool_ids(), [0, 1, 2]);
    let columns = pool.table("columns");
    assert_eq!(column::<Float32Array>(&columns, "words").unwrap().values(), &[2.0, 2.0, 2.0]);
}

#[test]
fn every_column_of_the_view_has_a_meaning() {
    let pool = FilterFixture::new(1);
    let file = TableFile { path: pool.artifact("pool").join("instructions.parquet"), constants: Vec::new() };
    let view = quality::view(Arc::new(FilesTable::open(&[file]).unwrap()), &[]).unwrap().unwrap();
    let names = OF_QUALITY.map(|(name, _)| name);
    let other = TableFile { path: pool.artifact("lengths").join("rows.parquet"), constants: Vec::new() };
    assert!(quality::view(Arc::new(FilesTable::open(&[other]).unwrap()), &[]).unwrap().is_none(), "no pool");
    let schema = view.schema();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), names);
}
