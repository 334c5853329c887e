//! `raisin kinds`: prints the stage kinds, or what one kind declares; writes the pages of docs/kinds.
//!
//! | module | concern |
//! |---|---|
//! | [`shape`] | the shape of a parameter, from the JSON Schema that editors also use |
//! | [`sample`] | sample parameters, which show the inputs of a kind and its defaults |
//! | [`ranges`] | the ranges of numbers, found by asking the check of the kind |
//! | [`page`] | everything that is said about a kind |
//! | [`words`], [`terminal`], [`markdown`] | how it is said |

mod markdown;
mod page;
mod ranges;
mod sample;
mod shape;
mod terminal;
#[cfg(test)]
mod tests;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use raisin_base::error::{Context as _, Problem, Result, nearest};
use raisin_contract::Declaration;
use raisin_kinds::{KINDS, declaration};

use page::KindPage;

/// List the stage kinds, or print the parameters, inputs, tables and examples of one kind.
#[derive(Args)]
pub struct Arguments {
    /// A stage kind.
    #[arg(conflicts_with = "pages")]
    name: Option<String>,
    /// Write a Markdown page for each kind, and an index, into this folder.
    #[arg(long, value_name = "FOLDER")]
    pages: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(folder) = &arguments.pages {
        write_pages(folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = match &arguments.name {
        None => list(KINDS),
        Some(name) => match declaration(name) {
            Some(kind) => terminal::describe(&KindPage::of(kind)?),
            None => {
                let problem = Problem::usage(format!("there is no kind `{name}`"));
                let hint = match nearest(name, KINDS.iter().map(|kind| kind.name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`raisin kinds` lists them".to_owned(),
                };
                return Err(problem.hint(hint).into());
            }
        },
    };
    super::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(kinds: &[Declaration]) -> String {
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    kinds.iter().map(|kind| format!("{:width$}  {}\n", kind.name, kind.about)).collect()
}

/// The pages by file name.
fn pages() -> Result<Vec<(String, String)>> {
    let mut pages = vec![("README.md".to_owned(), markdown::index(KINDS))];
    for kind in KINDS {
        pages.push((format!("{}.md", kind.name), markdown::page(&KindPage::of(kind)?)));
    }
    Ok(pages)
}

/// Writes all pages. Other files of the folder stay.
fn write_pages(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, text) in pages()? {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
