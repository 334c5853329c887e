//! Runs a stage of kind `ingest`: reads instruction files into one table, and lists the rejected records in another.

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::seed::Seed;
use raisin_contract::{Context, Progress};
use raisin_corpus::artifact::instructions_batch;
use raisin_corpus::pool::{PoolBuilder, SourceFile, grouped, rejects_batch, sources_batch};
use raisin_kinds::ingest::Parameters;
use raisin_table::WriteTable as _;

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let mut pool = PoolBuilder::new(parameters.max_length);
    for (index, source) in parameters.sources.iter().enumerate() {
        for (name, path) in context.files(&format!("/sources/{index}/path"))? {
            let total = std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?.len();
            let file = SourceFile {
                path,
                name: name.clone(),
                format: source.format,
                prompt: source.prompt.as_deref(),
                response: source.response.as_deref(),
            };
            pool.add(&file, |done| {
                context.progress(Progress {
                    phase: format!("reading {name}"),
                    done,
                    total,
                    unit: "bytes".into(),
                    ..Progress::default()
                });
            })?;
        }
    }
    let mut note = format!("{} instructions", grouped(pool.rows.len() as u64));
    if !pool.rejects.is_empty() {
        let rejected = grouped(pool.rejects.len() as u64);
        note += &format!(", {rejected} rejected (see {}.rejects)", context.stage());
    }
    if pool.folded > 0 {
        note += &format!(", {} exact duplicates folded", grouped(pool.folded));
    }
    if let Some(sample) = parameters.sample {
        if sample > pool.rows.len() {
            let all = grouped(pool.rows.len() as u64);
            return Err(Problem::new(format!("a sample of {sample} was asked for, and there are {all} instructions"))
                .hint(format!("lower `sample` of stage `{}`, or leave it out", context.stage()))
                .into());
        }
        let seed = Seed::new(parameters.sample_seed).at("ingest sample");
        let mut kept = vec![false; pool.rows.len()];
        seed.rng().sample(pool.rows.len(), sample).into_iter().for_each(|index| kept[index] = true);
        let mut kept = kept.into_iter();
        pool.rows.retain(|_| kept.next().unwrap_or_default());
        note += &format!(", {} drawn", grouped(sample as u64));
    }
    context.write_table("rejects", &rejects_batch(&pool.rejects)?)?;
    context.write_table("sources", &sources_batch(&pool.sources)?)?;
    context.write_table("instructions", &instructions_batch(pool.into_rows())?)?;
    context.note(note);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_contract::Assignment;
    use raisin_corpus::read_instructions;
    use std::path::Path;

    fn run(folder: &Path, parameters: serde_json::Value, files: &[(&str, &str)]) -> Result<std::path::PathBuf> {
        let mut assignment = Assignment::for_test("ingest", folder.join("stage"), &[]);
        for (index, (name, content)) in files.iter().enumerate() {
            std::fs::write(folder.join(name), content)?;
            assignment.files.insert(format!("/sources/{index}/path"), folder.join(name));
        }
        let context = Context::silent(assignment)?;
        super::run(serde_json::from_value(parameters)?, &context)?;
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
}
