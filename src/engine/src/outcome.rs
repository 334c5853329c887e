//! What the stages of a build measured: the files `results.json` of the artifacts of this build (contract/src/results.rs).

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::links::link_of;
use super::resolve::Resolver;
use raisin_contract::results::{RESULTS, Results};

/// The results of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageResults {
    pub stage: String,
    /// The name of the stage, with the variant if not all variants share it.
    pub label: String,
    /// Whether the stage compares the results of other stages.
    pub compares: bool,
    /// The page that shows the results, below the link of the stage.
    pub page: Option<PathBuf>,
    pub results: Results,
}

/// The results of the stages that have an artifact in this build, and lines about results that cannot be read. A stage
/// that failed, or that this build leaves out, has no results, whatever an earlier build linked.
pub fn collect(resolver: &Resolver<'_>, out: &Path) -> (Vec<StageResults>, Vec<String>) {
    let graph = &resolver.graph;
    let has_results = |id: usize| {
        let declaration = graph.nodes[id].stage.declaration;
        resolver.artifacts[id].is_some() && declaration.outputs.files().any(|file| file.name == RESULTS)
    };
    let mut found: Vec<usize> = (0..graph.nodes.len()).filter(|id| has_results(*id)).collect();
    if found.iter().any(|id| graph.nodes[*id].stage.declaration.gathers) {
        // A stage that compares has the results of the others, and there may be hundreds of the others.
        found.retain(|id| graph.nodes[*id].stage.declaration.gathers);
    }
    let (mut all, mut notes) = (Vec::new(), Vec::new());
    for id in found {
        let (stage, label) = (graph.nodes[id].stage, graph.label(id));
        let Some(artifact) = resolver.artifacts[id] else { continue };
        match Results::read(&resolver.store.artifact_folder(artifact)) {
            Ok(Some(results)) => {
                let page = stage
                    .declaration
                    .outputs
                    .files()
                    .find(|file| Path::new(file.name).extension().is_some_and(|ending| ending == "html"));
                let link = link_of(&out.join(&graph.pipeline.name), "", &stage.name);
                all.push(StageResults {
                    stage: stage.name.clone(),
                    compares: stage.declaration.gathers,
                    page: page.filter(|_| stage.declaration.gathers).map(|page| link.join(page.name)),
                    label,
                    results,
                });
            }
            Ok(None) => notes.push(format!(
                "`{label}` has no {RESULTS}, because an earlier version of raisin made it; `--force {}` makes it anew",
                stage.name
            )),
            Err(error) => notes.push(format!("warning: {error:#}")),
        }
    }
    (all, notes)
}
