//! External scores: numbers in a file of the user, one for each record of the first source file of the pool, or the
//! columns of a stage.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array as _, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow_csv::reader::{Format, ReaderBuilder};
use arrow_schema::{DataType, Field, Schema};
use serde_json::Value;

use super::numbers;
use raisin_base::error::{Context as _, Problem, Result, ensure, nearest};
use raisin_base::files::if_there;
use raisin_table as table;

/// The scores of a file by instruction id. The file is CSV with a header or Parquet. Its column `row` is the position
/// of a record in the first source file of the pool, from 0; `column` holds the scores. An instruction without a score
/// gets none. The second result is the number of scores that belong to no instruction, because their record was
/// rejected or is a copy, for example.
///
/// # Errors
/// A row or a score is not a valid number, or a row has two scores: the error names the line and the value. Or no score
/// belongs to an instruction of the pool.
pub fn read_scores(path: &Path, column: &str, pool: &Path, instructions: usize) -> Result<(Vec<Option<f64>>, usize)> {
    let mut by_row = ByRow { path, scores: BTreeMap::new() };
    if path.extension().is_some_and(|extension| extension == "parquet") {
        by_row.read_parquet(column)?;
    } else {
        by_row.read_csv(column)?;
    }
    let rows = table::read_columns(&pool.join("instructions.parquet"), &["id", "source", "line"])?;
    let ids: &UInt32Array = table::column(&rows, "id")?;
    let sources: &UInt32Array = table::column(&rows, "source")?;
    let lines: &UInt64Array = table::column(&rows, "line")?;
    let mut scores = vec![None; instructions];
    // A pool can repeat a record, so that several instructions have its score.
    let mut used = BTreeSet::new();
    for row in (0..rows.num_rows()).filter(|&row| sources.value(row) == 0) {
        let record = lines.value(row).checked_sub(1);
        let score = record.and_then(|record| Some((record, *by_row.scores.get(&record)?)));
        if let (Some(place), Some((record, score))) = (scores.get_mut(ids.value(row) as usize), score) {
            *place = Some(score);
            used.insert(record);
        }
    }
    ensure!(!used.is_empty(), "no row of {} belongs to an instruction of the pool", path.display());
    Ok((scores, by_row.scores.len() - used.len()))
}

/// The table `columns` of an artifact.
///
/// # Errors
/// The artifact has none: the query of a `filter` need not give any.
pub fn columns_of(folder: &Path, stage: &str) -> Result<PathBuf> {
    let path = folder.join("columns.parquet");
    if !path.is_file() {
        let problem = Problem::new(format!("the stage `{stage}` has no columns"));
        return Err(problem
            .hint("let its query give columns beside `id`, such as: select id, length(response) as n")
            .into());
    }
    Ok(path)
}

/// The scores of a stage that provides columns, by instruction id. An instruction without a score gets none.
///
/// # Errors
/// There is no such column, or the columns belong to another pool.
pub fn scores_of_stage(
    stage: &str,
    folder: &Path,
    column: &str,
    pool: &Path,
    instructions: usize,
) -> Result<Vec<Option<f64>>> {
    let path = columns_of(folder, stage)?;
    let rows = table::read(&path)?;
    let known: Vec<String> = rows.schema().fields().iter().skip(1).map(|field| field.name().clone()).collect();
    if !known.iter().any(|name| name == column) {
        let problem = Problem::new(format!("the stage `{stage}` has no column `{column}`"));
        return Err(match nearest(column, known.iter().map(String::as_str)) {
            Some(near) => problem.hint(format!("did you mean column = \"{near}\"?")),
            None => problem.hint(format!("its columns are {}", known.join(", "))),
        }
        .into());
    }
    let summary =
        if_there(std::fs::read(folder.join("summary.json"))).context("cannot read the summary of the scores")?;
    let summary: Value = summary.map_or(Ok(Value::Null), |text| serde_json::from_slice(&text))?;
    // An `influence` stage does not name its pool.
    // The columns of a `filter` are those of its own rows.
    let of_itself = || folder.file_name().and_then(OsStr::to_str).filter(|_| summary["pass"] == "filter");
    let named = summary["pool"].as_str().or_else(of_itself);
    let is_other = named.is_some_and(|digest| pool.file_name() != Some(OsStr::new(digest)));
    if is_other || rows.num_rows() != instructions {
        let message = format!(
            "the stage `{stage}` has scores of {} instructions of another pool; this pool has {instructions}",
            rows.num_rows()
        );
        return Err(Problem::new(message).hint("name the same stage as `instructions` here and there").into());
    }
    let numeric = rows.column_by_name(column).is_some_and(|column| column.data_type().is_numeric());
    ensure!(numeric, "column `{column}` of {} does not hold numbers", path.display());
    let (ids, values) = (table::column::<UInt32Array>(&rows, "id")?, numbers(&rows, column)?);
    let mut scores = vec![None; instructions];
    for row in 0..rows.num_rows() {
        let score = values.is_valid(row).then(|| values.value(row)).filter(|score| score.is_finite());
        let place = scores.get_mut(ids.value(row) as usize);
        *place.with_context(|| {
            format!("{} has the id {}, which the pool does not have", path.display(), ids.value(row))
        })? = score;
    }
    let some = scores.iter().flatten().count();
    ensure!(some > 0, "the column `{column}` of the stage `{stage}` has no number");
    Ok(scores)
}

/// The scores of a file by the position of the record.
struct ByRow<'a> {
    path: &'a Path,
    scores: BTreeMap<u64, f64>,
}

impl ByRow<'_> {
    fn read_parquet(&mut self, column: &str) -> Result<()> {
        let rows = table::read_columns(self.path, &["row", column])?;
        for name in ["row", column] {
            let numeric = rows.column_by_name(name).is_some_and(|column| column.data_type().is_numeric());
            ensure!(numeric, "column `{name}` of {} does not hold numbers", self.path.display());
        }
        let (places, values) = (numbers(&rows, "row")?, numbers(&rows, column)?);
        for row in (0..rows.num_rows()).filter(|&row| values.is_valid(row)) {
            let at = format!("record {}", row + 1);
            let place = places.is_valid(row).then(|| places.value(row));
            let whole = place.filter(|place| *place >= 0.0 && place.fract() == 0.0 && *place < 2f64.powi(53));
            let shown = place.map_or("null".to_owned(), |place| place.to_string());
            let whole = whole.ok_or_else(|| self.wrong(&at, &not_a_row(&shown)))?;
            self.insert(&at, whole as u64, column, values.value(row))?;
        }
        Ok(())
    }

    fn read_csv(&mut self, column: &str) -> Result<()> {
        let mut text = std::fs::read(self.path).with_context(|| format!("cannot read {}", self.path.display()))?;
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        let (header, _) = Format::default()
            .with_header(true)
            .infer_schema(text.as_slice(), Some(0))
            .with_context(|| format!("cannot read the first line of {}", self.path.display()))?;
        let names: Vec<&str> = header.fields().iter().map(|field| field.name().trim()).collect();
        let place = |name: &str| {
            names.iter().position(|field| *field == name).ok_or_else(|| {
                Problem::new(format!("{} has no column `{name}`", self.path.display()))
                    .hint(format!("its first line names {}", names.join(", ")))
            })
        };
        let (row_place, score_place) = (place("row")?, place(column)?);
        // As text, so that an error can show the value that the file has.
        let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        for_each_record(&text, Arc::new(Schema::new(fields)), |line, record| {
            let at = format!("line {line}");
            let record = record.map_err(|reason| self.wrong(&at, &reason))?;
            let value = |place: usize| {
                let texts: Option<&StringArray> = record.column(place).as_any().downcast_ref();
                texts.filter(|texts| texts.is_valid(0)).map_or("", |texts| texts.value(0).trim())
            };
            let (row, score) = (value(row_place), value(score_place));
            if score.is_empty() {
                return Ok(());
            }
            let row = row.parse().map_err(|_| self.wrong(&at, &not_a_row(row)))?;
            let score = score.parse().map_err(|_| self.wrong(&at, &not_a_score(column, score)))?;
            self.insert(&at, row, column, score)
        })
    }

    fn insert(&mut self, at: &str, row: u64, column: &str, score: f64) -> Result<()> {
        if !score.is_finite() {
            return Err(self.wrong(at, &not_a_score(column, &score.to_string())));
        }
        match self.scores.insert(row, score) {
            None => Ok(()),
            Some(_) => Err(self.wrong(at, &format!("row {row} has a second score"))),
        }
    }

    fn wrong(&self, at: &str, what: &str) -> raisin_base::error::Error {
        Problem::new(format!("{}, {at}: {what}", self.path.display()))
            .hint("`row` is the position of a record in the first source file of the pool, from 0; leave a missing score empty")
            .into()
    }
}

fn not_a_row(value: &str) -> String {
    format!("`row` is `{value}`, not a whole number from 0")
}

fn not_a_score(column: &str, value: &str) -> String {
    format!("`{column}` is `{value}`, not a finite number")
}

/// Calls `take` for each record of a CSV text with a header: with the line at which the record begins, and the record
/// as a batch of one row or the reason why it cannot be read.
fn for_each_record(
    text: &[u8],
    schema: Arc<Schema>,
    mut take: impl FnMut(usize, Result<&RecordBatch, String>) -> Result<()>,
) -> Result<()> {
    // The decoder reads one record at a time: the bytes of the record contain the line breaks before the next record.
    let mut decoder = ReaderBuilder::new(schema).with_header(true).with_batch_size(1).build_decoder();
    let (mut rest, mut line, mut first_line) = (text, 1, 1);
    loop {
        if !rest.is_empty() {
            let line_ends = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
            first_line = line + line_ends.filter(|byte| **byte == b'\n').count();
        }
        let consumed = match decoder.decode(rest) {
            Ok(consumed) => consumed,
            Err(error) => return take(first_line, Err(reason(&error))),
        };
        line += rest[..consumed].split(|byte| *byte == b'\n').count() - 1;
        rest = &rest[consumed..];
        match decoder.flush() {
            // The text ends with a line break. A record that has not ended there has a quote that is not closed.
            Ok(Some(_)) if consumed == 0 => return take(first_line, Err("a quote is not closed".to_owned())),
            Ok(Some(record)) => take(first_line, Ok(&record))?,
            Ok(None) if consumed == 0 => return Ok(()),
            Ok(None) => {}
            Err(error) => return take(first_line, Err(reason(&error))),
        }
    }
}

/// Arrow's message without its own line number, which does not count blank lines and line breaks in quotes.
fn reason(error: &arrow_schema::ArrowError) -> String {
    let message = error.to_string();
    let message = message.strip_prefix("Csv error: ").unwrap_or(&message);
    match message.split_once(" for line ") {
        Some((before, after)) => {
            format!("{before}{}", after.trim_start_matches(|letter: char| letter.is_ascii_digit()))
        }
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Float64Array, Int64Array};
    use raisin_base::error::render;
    use raisin_corpus::artifact::{PoolRow, instructions_batch};
    use raisin_corpus::message::conversation;

    /// The scores in a file of this name for a pool of four rows. The last row comes from another source file.
    fn read(name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<Vec<Option<f64>>> {
        let folder = tempfile::tempdir()?;
        let row =
            |(source, line)| PoolRow::new(conversation(None, &format!("{source} {line}"), Some("a")), source, line);
        let rows: Vec<PoolRow> = [(0, 1), (0, 2), (0, 4), (1, 1)].into_iter().map(row).collect();
        table::write(&folder.path().join("instructions.parquet"), &instructions_batch(&rows)?)?;
        let path = folder.path().join(name);
        write(&path)?;
        Ok(read_scores(&path, "quality", folder.path(), 4)?.0)
    }

    fn csv(text: &str) -> Result<Vec<Option<f64>>> {
        read("scores.csv", |path| Ok(std::fs::write(path, text)?))
    }

    #[test]
    fn scores_that_belong_to_no_instruction_are_counted() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let rows = [PoolRow::new(conversation(None, "a", Some("b")), 0, 1)];
        table::write(&folder.path().join("instructions.parquet"), &instructions_batch(&rows)?)?;
        let path = folder.path().join("scores.csv");
        std::fs::write(&path, "row,quality\n0,0.5\n1,0.7\n2,\n9,0.1\n")?;
        assert_eq!(read_scores(&path, "quality", folder.path(), 1)?, (vec![Some(0.5)], 2));
        Ok(())
    }

    #[test]
    fn csv_can_have_quotes_both_line_ends_and_missing_values() -> Result<()> {
        let expected = [Some(0.5), None, Some(-2e3), None];
        let unix = "row,quality,text\n0,0.5,\"one, two\nand \"\"three\"\"\"\n1,,none\n\n3, -2e3 ,\"\"\n";
        assert_eq!(csv(unix)?, expected);
        assert_eq!(csv(&unix.replace('\n', "\r\n"))?, expected);
        assert_eq!(csv(unix.trim_end())?, expected);
        assert_eq!(csv("\u{feff}text,\"quality\",row\na,\"0.5\",\"0\"\n,,1\nb,-2000,3")?, expected);
        Ok(())
    }

    #[test]
    fn an_error_in_a_csv_file_names_file_line_and_value() {
        let said = |text: &str| {
            let error = render(&csv(text).expect_err("wrong"));
            assert!(error.contains("scores.csv"), "{error}");
            error
        };
        let cases = [
            ("row,quality\n0,0.5\n-1,0.5\n", "scores.csv, line 3: `row` is `-1`, not a whole number from 0"),
            ("row,quality\n\n0,0.5\n\n1.5,0.5\n", "line 5: `row` is `1.5`"),
            ("row,quality\n,0.5\n", "line 2: `row` is ``"),
            ("row,quality\r\n0,0.5\r\n1,NaN\r\n", "line 3: `quality` is `NaN`, not a finite number"),
            ("row,quality\n0,inf\n", "line 2: `quality` is `inf`"),
            ("row,quality\n0,good\n", "line 2: `quality` is `good`"),
            ("row,quality,t\n0,0.5,\"a\nb\nc\"\n1,x,\n", "line 5: `quality` is `x`"),
            ("row,quality\n0,0.5\n0,0.7\n", "line 3: row 0 has a second score"),
            ("row,quality\n0,0.5\n\n1\n", "line 4: incorrect number of fields, expected 2 got 1"),
            ("row,quality\n0,0.5,7\n", "line 2: incorrect number of fields"),
            ("row,quality\n0,\"0.5\n", "line 2: a quote is not closed"),
            ("row,quality,t\n0,0.5,a\n1,0.5,\"b\n3,0.5,c\n", "line 3: a quote is not closed"),
            ("row;quality\n0;0.5\n", "has no column `row`"),
            ("row,score\n0,0.5\n", "has no column `quality`\nhint: its first line names row, score"),
            ("", "has no column `row`"),
            ("row,quality\n7,0.5\n", "no row of"),
        ];
        for (text, expected) in cases {
            assert!(said(text).contains(expected), "{text:?}: {}", said(text));
        }
    }

    #[test]
    fn parquet_scores_can_have_any_numeric_type_and_an_invalid_number_is_an_error() -> Result<()> {
        let scores = |rows: ArrayRef, values: Vec<Option<f64>>| {
            read("scores.parquet", |path| {
                let values = Arc::new(Float64Array::from(values)) as ArrayRef;
                table::write(path, &table::batch(vec![("row", rows), ("quality", values)])?)
            })
        };
        let expected = [Some(0.5), None, Some(2.0), None];
        let some = vec![Some(0.5), None, Some(2.0)];
        assert_eq!(scores(Arc::new(Int64Array::from(vec![0, 1, 3])), some.clone())?, expected);
        assert_eq!(scores(Arc::new(Float64Array::from(vec![0.0, 1.0, 3.0])), some.clone())?, expected);
        let said = |rows: ArrayRef, value: f64| render(&scores(rows, vec![None, Some(value)]).expect_err("wrong"));
        let integers = |row: Option<i64>| Arc::new(Int64Array::from(vec![Some(0), row])) as ArrayRef;
        assert!(said(integers(Some(-1)), 0.5).contains("scores.parquet, record 2: `row` is `-1`"));
        assert!(said(integers(None), 0.5).contains("record 2: `row` is `null`"));
        assert!(said(integers(Some(1)), f64::NAN).contains("record 2: `quality` is `NaN`"));
        assert!(said(Arc::new(Float64Array::from(vec![0.0, 0.5])), 0.5).contains("record 2: `row` is `0.5`"));
        assert!(said(Arc::new(StringArray::from(vec!["0", "1"])), 0.5).contains("column `row` of "));
        Ok(())
    }

    #[test]
    fn a_stage_without_columns_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let said = scores_of_stage("clean", folder.path(), "n", folder.path(), 3).unwrap_err();
        assert_eq!(said.to_string(), "the stage `clean` has no columns");
    }
}
