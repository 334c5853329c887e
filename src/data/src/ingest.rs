//! Runs a stage of kind `ingest`: reads instruction files into one table, and lists the rejected records in another.

use std::ops::Range;
use std::path::Path;

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Progress};
use raisin_corpus::intake::{Intake, RejectLimit, counted, grouped, rejects_batch, sources_batch};
use raisin_corpus::pool::{PoolBuilder, SourceFile};
use raisin_kinds::ingest::Parameters;
use raisin_table::{EncodedGroup, GroupEncoder, PART, WriteTable as _};

use crate::encoding::{PoolEncoding, close, encoded, pool_writer};

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut writer = pool_writer(context)?;
    let (copies, groups) = match parameters.sample {
        // Which rows a sample has is known when all rows were counted.
        Some(sample) => sampled(sample, &parameters, context, writer.encoder())?,
        None => {
            let encoding = PoolEncoding::new(writer.encoder());
            let copies = rayon::in_place_scope(|scope| {
                let mut pool = PoolBuilder::new(parameters.max_length)
                    .giving(PART, |first, rows| encoding.take(scope, first, rows));
                let (note, details) = read_all(&parameters, context, &mut pool)?;
                context.note(note);
                details.into_iter().for_each(|detail| context.note(detail));
                pool.finish()
            })?;
            (copies, encoding.finish()?)
        }
    };
    groups.into_iter().try_for_each(|group| writer.push(group))?;
    close(writer, &copies)
}

/// Reads a pool, and encodes a sample of it. Returns the number of copies of each row.
fn sampled(
    sample: usize,
    parameters: &Parameters,
    context: &Context,
    encoder: GroupEncoder,
) -> Result<(Vec<u32>, Vec<EncodedGroup>)> {
    let mut pool = PoolBuilder::new(parameters.max_length);
    let (note, details) = read_all(parameters, context, &mut pool)?;
    let all = pool.count();
    if sample > all {
        let all = counted(all as u64, "instruction");
        return Err(Problem::new(format!("a sample of {sample} was asked for, and there are {all}"))
            .hint(format!("lower `sample` of stage `{}`, or leave it out", context.stage()))
            .into());
    }
    let seed = Seed::new(parameters.sample_seed).at("ingest sample");
    let mut drawn = vec![false; all];
    seed.rng().sample(all, sample).into_iter().for_each(|index| drawn[index] = true);
    let (mut rows, mut copies) = pool.into_built();
    let mut is_drawn = drawn.iter();
    rows.retain(|_| is_drawn.next().copied().unwrap_or_default());
    let mut is_drawn = drawn.iter();
    copies.retain(|_| is_drawn.next().copied().unwrap_or_default());
    let (drawn, others) = (grouped(sample as u64), grouped((all - sample) as u64));
    context.note(format!("{note}, {drawn} drawn and {others} not"));
    details.into_iter().for_each(|detail| context.note(detail));
    Ok((copies, encoded(encoder, rows)?))
}

/// Reads all files into the pool, and writes the tables of rejected records and of files. Returns what to say.
fn read_all(parameters: &Parameters, context: &Context, pool: &mut PoolBuilder) -> Result<(String, Vec<String>)> {
    let mut files_of: Vec<Range<usize>> = Vec::new();
    for (index, source) in parameters.sources.iter().enumerate() {
        let first = pool.intake.sources.len();
        let mapping = source.mapping();
        for (name, path) in data_files(context, &format!("/sources/{index}/path"), &mut pool.intake)? {
            let total = std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?.len();
            let file = SourceFile { path, name: name.clone(), mapping: &mapping };
            pool.add(&file, &mut |done| {
                context.progress(Progress {
                    phase: format!("reading {name}"),
                    done,
                    total,
                    unit: "bytes".into(),
                    ..Progress::default()
                });
            })?;
        }
        files_of.push(first..pool.intake.sources.len());
    }
    pool.intake.check(RejectLimit { share: parameters.max_rejected }, context.stage())?;
    for (source, files) in parameters.sources.iter().zip(files_of) {
        pool.intake.check_names(files, &source.mapping().fields)?;
    }
    context.write_table("rejects", &rejects_batch(&pool.intake.rejects)?)?;
    context.write_table("sources", &sources_batch(&pool.intake.sources)?)?;
    let note = pool.intake.note(&counted(pool.count() as u64, "instruction"), context.stage());
    Ok((note, pool.intake.details(context.stage())))
}

/// The files at `pointer`. Of a folder or a pattern, only those that are data.
pub fn data_files<'a>(context: &'a Context, pointer: &str, intake: &mut Intake) -> Result<Vec<(String, &'a Path)>> {
    let files = context.files(pointer)?;
    if context.file(pointer)?.is_dir() { intake.data_files(files) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::Assignment;
    use raisin_corpus::read_instructions;

    fn run(folder: &Path, parameters: serde_json::Value, files: &[(&str, &str)]) -> Result<std::path::PathBuf> {
        let mut assignment = Assignment::for_test("ingest", folder.join("stage"), &[]);
        for (index, (name, content)) in files.iter().enumerate() {
            std::fs::write(folder.join(name), content)?;
            assignment.files.insert(format!("/sources/{index}/path"), folder.join(name));
        }
        let context = raisin_kinds::context_for_test(assignment)?;
        super::run(serde_json::from_value(parameters)?, &context)?;
        context.check_outputs()?;
        Ok(context.out())
    }

    #[test]
    fn files_become_instructions_rejects_and_sources() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let parameters = serde_json::json!({"sources": [{"path": "x/a.json"}, {"path": "b.jsonl", "format": "qa"}]});
        let files = [
            ("a.json", r#"[{"instruction":"a","output":"b"},{"instruction":"","output":"b"}]"#),
            ("b.jsonl", "{\"question\":\"a\",\"answer\":\"b\"}\n{\"question\":\"c\",\"answer\":\"d\"}\n"),
        ];
        let out = run(folder.path(), parameters, &files)?;
        let pool = read_instructions(&out)?;
        assert_eq!(pool.iter().map(|row| (row.id, row.prompt())).collect::<Vec<_>>(), [(0, "a"), (1, "c")]);
        let rejects = raisin_table::read(&out.join("rejects.parquet"))?;
        assert_eq!(rejects.num_rows(), 1);
        assert_eq!(raisin_table::read(&out.join("sources.parquet"))?.num_rows(), 2);
        Ok(())
    }

    #[test]
    fn the_bytes_of_several_row_groups_do_not_depend_on_the_number_of_threads() -> Result<()> {
        let lines: String =
            (0..280_000).map(|n| format!("{{\"question\":\"q{}\",\"answer\":\"an answer\"}}\n", n - n % 2)).collect();
        let on = |threads: usize| -> Result<Vec<u8>> {
            let folder = tempfile::tempdir()?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let parameters = serde_json::json!({"sources": [{"path": "a"}]});
            let out = pool.install(|| run(folder.path(), parameters, &[("a", &lines)]))?;
            Ok(std::fs::read(out.join("instructions.parquet"))?)
        };
        let one = on(1)?;
        assert!([2, 7].into_iter().all(|threads| on(threads).is_ok_and(|bytes| bytes == one)));
        Ok(())
    }

    #[test]
    fn a_sample_keeps_the_order_of_the_file_and_cannot_be_larger_than_the_pool() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let lines: String = (0..50).map(|n| format!("{{\"question\":\"q{n:02}\",\"answer\":\"a\"}}\n")).collect();
        let sampled = |sample: usize, seed: u64| {
            let parameters = serde_json::json!({"sources": [{"path": "a"}], "sample": sample, "sample_seed": seed});
            run(folder.path(), parameters, &[("a", &lines)])
        };
        let prompts = |out: std::path::PathBuf| -> Result<Vec<String>> {
            Ok(read_instructions(&out)?.iter().map(|row| row.prompt().to_owned()).collect())
        };
        let first = prompts(sampled(10, 0)?)?;
        assert_eq!(first.len(), 10);
        assert!(first.is_sorted());
        assert_ne!(first, prompts(sampled(10, 1)?)?);
        assert_eq!(first, prompts(sampled(10, 0)?)?);
        let error = sampled(51, 0).expect_err("too many");
        assert!(error.to_string().contains("a sample of 51 was asked for, and there are 50 instructions"));
        Ok(())
    }

    #[test]
    fn too_many_rejected_records_end_the_stage_unless_the_pipeline_allows_them() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let line = |n: usize| {
            if n.is_multiple_of(10) {
                "{\"question\":\n".to_owned()
            } else {
                format!("{{\"question\":\"q{n}\",\"answer\":\"a\"}}\n")
            }
        };
        let lines: String = (0..100).map(line).collect();
        let error = run(folder.path(), serde_json::json!({"sources": [{"path": "a"}]}), &[("a", &lines)]);
        let error = raisin_base::error::render(&error.expect_err("ten of a hundred"));
        assert!(error.contains("10 of 100 records of a are rejected, and 3 may be"), "{error}");
        assert!(error.contains("10 records: not valid JSON"), "{error}");
        assert!(error.contains("(a, line 1)") && error.contains("max_rejected = 0.1"), "{error}");
        let allowed = serde_json::json!({"sources": [{"path": "a"}], "max_rejected": 0.1});
        let out = run(folder.path(), allowed, &[("a", &lines)])?;
        assert_eq!(read_instructions(&out)?.len(), 90);
        Ok(())
    }

    #[test]
    fn the_settings_of_a_source_name_its_fields_and_speakers() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let source = serde_json::json!({"path": "a", "fields": {"messages": "talk", "role": "who", "content": "says"},
            "roles": {"client": "user", "agent": "assistant"}});
        let line = r#"{"talk": [{"who": "client", "says": "hi"}, {"who": "agent", "says": "hello"}]}"#;
        let lines = format!("{line}\n{}", line.replace("hi", "well"));
        let out = run(folder.path(), serde_json::json!({"sources": [source]}), &[("a", &lines)])?;
        let pool = read_instructions(&out)?;
        assert_eq!((pool[0].prompt(), pool[0].response()), ("hi", "hello"));
        let sources = raisin_table::read(&out.join("sources.parquet"))?;
        let read: &arrow_array::StringArray = raisin_table::column(&sources, "fields_read")?;
        assert_eq!(read.value(0), "talk 2");
        Ok(())
    }
}
