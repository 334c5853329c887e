//! Finds the input files of an action again: an action names their content, and no path.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Makings, RunOrigin};
use crate::execute::plain;
use crate::inputs::{InputFile, look};
use raisin_base::error::{Problem, Result};
use raisin_contract::{FileNeed, Input};
use raisin_pipeline::{Pipeline, Stage};
use raisin_store::{ActionRecord, JournalEvent};

impl Makings<'_> {
    /// The file, folder or pattern that still has the content which the action names, and how it was written.
    pub(super) fn input_file(
        &mut self,
        record: &ActionRecord,
        need: &FileNeed,
        wanted: &Input<'_>,
    ) -> Result<(InputFile, String)> {
        let mut reasons: Vec<String> = Vec::new();
        // Files with other names, for example of other variants, are no reason.
        let can_be_it = |path: &Path| match wanted {
            Input::File { name, .. } => path.file_name().is_some_and(|found| found.to_string_lossy() == *name),
            _ => true,
        };
        for origin in self.origins_of(record) {
            let pipeline = match self.pipeline(&origin) {
                Ok(pipeline) => pipeline,
                Err(error) => {
                    reasons.push(error.to_string());
                    continue;
                }
            };
            for (stage, candidate) in candidates(&pipeline, record, need) {
                match look(&pipeline, stage, candidate, self.store, &mut self.digests) {
                    Ok(file) if file.entry() == *wanted => return Ok((file, candidate.path.clone())),
                    Ok(file) if can_be_it(&file.path) => {
                        reasons.push(format!("{} has another content than it had then", file.path.display()));
                    }
                    Err(error) if can_be_it(Path::new(&candidate.path)) => reasons.push(plain(&error)),
                    _ => {}
                }
            }
        }
        if let Input::File { blake3, name } = wanted {
            let fetched = self.store.root().join("fetched").join(blake3.to_hex()).join(name);
            let known: Vec<PathBuf> = self.digests.paths_of(*blake3).map(Path::to_owned).collect();
            for path in std::iter::once(fetched).chain(known) {
                if let Ok(Some(file)) = InputFile::at(&path, &mut self.digests)
                    && file.entry() == *wanted
                {
                    return Ok((file, path.to_string_lossy().into_owned()));
                }
            }
        }
        reasons.sort();
        reasons.dedup();
        let name = match wanted {
            Input::File { name, .. } => format!("its input file `{name}`"),
            _ => "its input files".to_owned(),
        };
        if reasons.is_empty() {
            reasons.push("no pipeline file in the journal names it".to_owned());
        }
        Err(Problem::new(format!("{name} cannot be found as it was: {}", reasons.join("; "))).into())
    }

    /// The pipelines that can name the input files of an action: that of its run first, then those of all runs of the
    /// pipeline with the same name, the newest first.
    fn origins_of(&self, record: &ActionRecord) -> Vec<Rc<RunOrigin>> {
        let own = self.runs.get(&record.run);
        let same = self.journal.iter().rev().filter_map(|line| match &line.event {
            JournalEvent::RunStarted(start) if start.pipeline == record.pipeline => self.runs.get(&line.run),
            _ => None,
        });
        let mut origins: Vec<Rc<RunOrigin>> = Vec::new();
        for (origin, _) in own.into_iter().chain(same) {
            if !origins.contains(origin) {
                origins.push(Rc::clone(origin));
            }
        }
        origins
    }
}

/// The file needs of a pipeline that can be the need of an action: those of stages of the same kind; first those of the
/// stage of the same name, at the same pointer.
fn candidates<'p>(pipeline: &'p Pipeline, record: &ActionRecord, need: &FileNeed) -> Vec<(&'p Stage, &'p FileNeed)> {
    let stages = pipeline.variants.iter().flat_map(|variant| &variant.stages);
    let mut found: Vec<(&Stage, &FileNeed)> = Vec::new();
    for stage in stages.filter(|stage| stage.declaration.name == record.kind) {
        for file in stage.resolved.needs.files.iter().filter(|file| file.several == need.several) {
            let is_same =
                |other: &FileNeed| (&other.path, &other.expected_digest) == (&file.path, &file.expected_digest);
            if !found.iter().any(|(_, other)| is_same(other)) {
                found.push((stage, file));
            }
        }
    }
    found.sort_by_key(|(stage, file)| (stage.name != record.stage, file.pointer != need.pointer));
    found
}
