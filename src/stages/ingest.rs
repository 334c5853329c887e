//! The `ingest` kind: raw files become the table of instructions, and a table of what was rejected.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Context, Kind, Needs, ParameterProblem, Process, Progress};
use crate::corpus::artifact::instructions_batch;
use crate::corpus::draw::Draw;
use crate::corpus::formats::Format;
use crate::corpus::pool::{Pool, SourceFile, grouped, rejects_batch, sources_batch};
use crate::error::{Context as _, Problem, Result};
use crate::seed::Seed;

/// Files of instructions to gather into one pool.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// The files, in the order in which their instructions are numbered.
    pub sources: Vec<Source>,
    /// A conversation of more characters is rejected.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Keeps that many instructions, drawn at random, in the order of the files. All of them if absent.
    #[serde(default)]
    pub sample: Option<usize>,
    /// Another number draws another sample. The pipeline's seed does not: pools stay the same across its seeds.
    #[serde(default)]
    pub sample_seed: u64,
}

/// A file, or several of the same format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a folder whose files are all read, a pattern such as `data/*.jsonl`, or an `https://` address, which needs
    /// `blake3`. Relative to the directory in which raisin is started.
    pub path: String,
    /// How the records are to be understood.
    #[serde(default)]
    pub format: Format,
    /// The digest that the file must have: `raisin digest PATH` prints it.
    #[serde(default)]
    pub blake3: Option<String>,
    /// The field of a `qa` record that holds the question; several are joined with `+`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// The field of a `qa` record that holds the answer.
    #[serde(default)]
    pub response: Option<String>,
}

fn default_max_length() -> usize {
    100_000
}

pub struct Ingest;

impl Kind for Ingest {
    const NAME: &'static str = "ingest";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Reads instruction files into one table, with rejects listed and exact copies folded.";
    const PROCESS: Process = Process::Light;
    const SEEDED: bool = false;
    const PROVIDES: &'static [&'static str] = &["instructions"];
    type Parameters = Parameters;

    fn needs(parameters: &Parameters, needs: &mut Needs) {
        for (index, source) in parameters.sources.iter().enumerate() {
            needs.pinned_files(&format!("/sources/{index}"), &source.path, source.blake3.as_deref());
        }
    }

    fn check(parameters: &Parameters) -> Result<(), ParameterProblem> {
        if parameters.sources.is_empty() {
            return Err(ParameterProblem::new("/sources", "there is no file to read"));
        }
        for (index, source) in parameters.sources.iter().enumerate() {
            check_fields(
                &format!("/sources/{index}"),
                source.format,
                source.prompt.as_deref(),
                source.response.as_deref(),
            )?;
        }
        if parameters.max_length == 0 {
            return Err(ParameterProblem::new("/max_length", "no instruction has 0 characters"));
        }
        if parameters.sample == Some(0) {
            return Err(ParameterProblem::new("/sample", "a sample of 0 instructions is an empty pool")
                .hint("leave `sample` out to keep all of them"));
        }
        Ok(())
    }

    fn run(parameters: Parameters, context: &Context) -> Result<()> {
        let mut pool = Pool::new(parameters.max_length);
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
                return Err(Problem::new(format!(
                    "a sample of {sample} was asked for, and there are {all} instructions"
                ))
                .hint(format!("lower `sample` of stage `{}`, or leave it out", context.stage()))
                .into());
            }
            let seed = Seed::new(parameters.sample_seed).at("ingest sample");
            let mut kept = vec![false; pool.rows.len()];
            Draw::new(&seed).sample(pool.rows.len(), sample).into_iter().for_each(|index| kept[index] = true);
            let mut kept = kept.into_iter();
            pool.rows.retain(|_| kept.next().unwrap_or_default());
            note += &format!(", {} drawn", grouped(sample as u64));
        }
        context.write_table("instructions", &instructions_batch(&pool.rows)?)?;
        context.write_table("rejects", &rejects_batch(&pool.rejects)?)?;
        context.write_table("sources", &sources_batch(&pool.sources)?)?;
        context.note(note);
        Ok(())
    }
}

/// `prompt` and `response` name the fields of a `qa` record (or of one found by `auto`, or in Parquet), both or none.
pub(super) fn check_fields(
    at: &str,
    format: Format,
    prompt: Option<&str>,
    response: Option<&str>,
) -> Result<(), ParameterProblem> {
    let (key, given) = match (prompt, response) {
        (None, None) => return Ok(()),
        (Some(_), None) => ("response", "prompt"),
        (_, Some(_)) => ("prompt", "response"),
    };
    if matches!(format, Format::Alpaca | Format::Messages | Format::Sharegpt) {
        let name = format.name();
        return Err(ParameterProblem::new(format!("{at}/{given}"), format!("the format `{name}` has its own fields"))
            .hint("`prompt` and `response` are for the formats qa, parquet and auto"));
    }
    if prompt.is_none() || response.is_none() {
        return Err(ParameterProblem::new(format!("{at}/{given}"), format!("`{given}` is given and `{key}` is not")));
    }
    Ok(())
}

pub(super) fn file_name(path: &str) -> String {
    std::path::Path::new(path).file_name().map_or(path.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::read_instructions;
    use crate::stages::{Assignment, DType, DeviceKind, Environment};
    use std::collections::BTreeMap;
    use std::path::Path;

    fn run(folder: &Path, parameters: serde_json::Value, files: &[(&str, &str)]) -> Result<std::path::PathBuf> {
        let mut paths = BTreeMap::new();
        for (index, (name, content)) in files.iter().enumerate() {
            std::fs::write(folder.join(name), content)?;
            paths.insert(format!("/sources/{index}/path"), folder.join(name));
        }
        let context = Context::silent(Assignment {
            kind: "ingest".into(),
            stage: "pool".into(),
            parameters: parameters.clone(),
            stages: BTreeMap::new(),
            files: paths,
            seed: 17,
            environment: Environment { device: DeviceKind::Cpu, device_index: 0, dtype: DType::F32 },
            threads: 1,
            folder: folder.join("stage"),
        })?;
        Ingest::run(serde_json::from_value(parameters)?, &context)?;
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
        let rejects = crate::table::read(&out.join("rejects.parquet"))?;
        assert_eq!(rejects.num_rows(), 1);
        assert_eq!(crate::table::read(&out.join("sources.parquet"))?.num_rows(), 2);
        Ok(())
    }

    #[test]
    fn a_sample_keeps_the_files_order_and_may_not_exceed_the_pool() -> Result<()> {
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
    fn field_names_come_in_pairs_and_not_with_formats_that_have_their_own() {
        let check = |source: serde_json::Value| {
            Ingest::check(&serde_json::from_value(serde_json::json!({"sources": [source]})).expect("parameters"))
        };
        let pointer = |source: serde_json::Value| check(source).expect_err("refused").pointer;
        assert_eq!(pointer(serde_json::json!({"path": "a", "prompt": "q"})), "/sources/0/prompt");
        let both = serde_json::json!({"path": "a", "format": "alpaca", "prompt": "q", "response": "a"});
        assert_eq!(pointer(both), "/sources/0/response");
        assert!(check(serde_json::json!({"path": "a", "prompt": "q", "response": "a"})).is_ok());
    }
}
