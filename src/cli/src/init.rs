//! `raisin init`: writes a first pipeline. `raisin-data` and `raisin-worker` look at the files; this file asks, decides
//! what is written where, and overwrites nothing.

mod ask;
mod quickstart;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use raisin_base::error::{Context as _, Problem, Result};
use raisin_base::say;
use raisin_base::shell::shell_word;
use raisin_contract::look::DataQuestion;
use raisin_kinds::KINDS;
use raisin_store::write_atomically;

/// The name that stands for the quickstart.
const QUICKSTART: &str = "quickstart";
/// The schema beside a new pipeline, which editors read.
const SCHEMA: &str = "pipeline.schema.json";

/// Write a new pipeline: the quickstart, or one for your own data and model.
///
/// `raisin init quickstart` writes the quickstart with all its files. `raisin init NAME` looks at your files, picks formats,
/// fields, scoring and sizes, says why, and writes NAME.toml with comments. What a flag does not give, raisin asks for
/// on a terminal. Paths are relative to the current directory, as in every pipeline.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// `quickstart`, or the name of the new pipeline.
    name: String,
    /// With `quickstart`: the folder for its files [default: the current directory].
    folder: Option<PathBuf>,
    /// The instructions to select from: a file or a folder of files (JSON, JSON lines, CSV, Parquet, Arrow).
    #[arg(long, value_name = "PATH")]
    pool: Option<PathBuf>,
    /// The target task: questions with answers, from which validation examples are drawn.
    #[arg(long, value_name = "PATH")]
    task: Option<PathBuf>,
    /// The questions with which the tuned models are tested [default: other questions of the task].
    #[arg(long, value_name = "PATH")]
    test: Option<PathBuf>,
    /// The model to tune: a GGUF file, or a folder as transformers saves it.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// The number of training steps of each method [default: 40, fewer for a small pool].
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Start from this pipeline: include it, and replace its data and model by those of the other flags.
    #[arg(long, value_name = "PIPELINE", conflicts_with = "steps")]
    from: Option<PathBuf>,
    /// Overwrite files.
    #[arg(long)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  raisin init quickstart trial && cd trial && raisin build quickstart.toml
  raisin init mine --pool data/pool.jsonl --task data/train.jsonl --test data/test.jsonl --model models/smollm2
  raisin init longer --from mine.toml --pool data/more.jsonl";

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let files = if arguments.name == QUICKSTART { quickstart_files(arguments)? } else { own_files(arguments)? };
    refuse_to_overwrite(&files, arguments.force)?;
    for (path, content) in &files {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        write_atomically(&std::path::absolute(path)?, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        say!("wrote {}", path.display());
    }
    let Some((file, _)) = files.first() else { return Ok(ExitCode::SUCCESS) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty() && arguments.name == QUICKSTART);
    let name = |path: &Path| shell_word(&path.display().to_string());
    match folder {
        // The paths in a pipeline are relative to the directory in which raisin is started.
        Some(folder) => say!("next: cd {} && raisin build {QUICKSTART}.toml", name(folder)),
        None => say!("next: raisin plan {0}, and then raisin build {0}", name(file)),
    }
    Ok(ExitCode::SUCCESS)
}

type NewFile = (PathBuf, Vec<u8>);

fn quickstart_files(arguments: &Arguments) -> Result<Vec<NewFile>> {
    let Arguments { pool, task, test, model, steps, from, .. } = arguments;
    let flags = [
        ("--pool", pool.is_some()),
        ("--task", task.is_some()),
        ("--test", test.is_some()),
        ("--model", model.is_some()),
        ("--steps", steps.is_some()),
        ("--from", from.is_some()),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| *given) {
        let problem = Problem::usage(format!("the quickstart has its own data and model, and takes no {flag}"));
        return Err(problem.hint("give your pipeline another name: `raisin init mine --pool ...`").into());
    }
    let folder = arguments.folder.clone().unwrap_or_default();
    Ok(quickstart::files().into_iter().map(|(name, content)| (folder.join(name), content)).collect())
}

fn own_files(arguments: &Arguments) -> Result<Vec<NewFile>> {
    let name = &arguments.name;
    if let Some(folder) = &arguments.folder {
        let problem = Problem::usage(format!("`{}` is one argument too many", folder.display()));
        return Err(problem.hint("only `raisin init quickstart` takes a folder").into());
    }
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_".contains(letter);
    if name.is_empty() || !name.chars().all(is_plain) {
        let problem = Problem::usage(format!("`{name}` is no name for a pipeline"));
        return Err(problem.hint("take letters, digits, `-` and `_`; raisin adds `.toml`").into());
    }
    let file = PathBuf::from(format!("{name}.toml"));
    // Found before the questions and the long look at the files.
    refuse_to_overwrite(&[(file.clone(), Vec::new())], arguments.force)?;
    let text = match &arguments.from {
        Some(from) => {
            text::from_other(name, from, [&arguments.pool, &arguments.task, &arguments.test, &arguments.model])?
        }
        None => {
            let question = DataQuestion {
                pool: ask::path(
                    arguments.pool.as_ref(),
                    "--pool",
                    "the instructions to select from: a file or a folder",
                )?,
                task: ask::path(arguments.task.as_ref(), "--task", "the target task: questions with answers")?,
                test: arguments.test.clone(),
            };
            let model = ask::path(arguments.model.as_ref(), "--model", "the model: a GGUF file or a folder")?;
            if let Some(test) = &question.test {
                ask::refuse_missing(test, "--test")?;
            }
            let (data, found) = (ask::data(&question)?, ask::model(&model)?);
            text::pipeline(
                &text::Wishes { name, question: &question, model: &model, steps: arguments.steps },
                &data,
                &found,
            )?
        }
    };
    // A wrong pipeline is refused before it is written.
    raisin_pipeline::load_text(&file.display().to_string(), &text, KINDS)?;
    let mut files = vec![(file, text.into_bytes())];
    let schema = raisin_pipeline::schema::text(KINDS);
    match std::fs::read(SCHEMA) {
        Ok(before) if before == schema.as_bytes() => {}
        Ok(_) if !arguments.force => say!("{SCHEMA} stays as it is; `raisin schema` prints that of this raisin"),
        _ => files.push((PathBuf::from(SCHEMA), schema.into_bytes())),
    }
    Ok(files)
}

/// # Errors
/// One of the files exists, and is not to be overwritten.
fn refuse_to_overwrite(files: &[NewFile], force: bool) -> Result<()> {
    match files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        Some((path, _)) if !force => Err(Problem::usage(format!("{} exists", path.display()))
            .hint("take another name, or overwrite it with --force")
            .into()),
        _ => Ok(()),
    }
}
