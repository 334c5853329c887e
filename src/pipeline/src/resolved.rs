//! Checks a resolved pipeline that does not come from a pipeline file, such as the one in a plan file, by the rules of
//! the loader. Names become folders: a name such as `../x` would lead out of the out folder.

use std::collections::HashMap;

use super::check::{bad_name, bad_stage_name};
use super::sweep;
use super::{Pipeline, Stage, Variant};
use raisin_base::error::Problem;

/// Checks names, resources, and that each stage comes after the stages that it needs.
///
/// # Errors
/// The loader would never give this pipeline.
pub fn check_resolved(pipeline: &Pipeline) -> Result<(), Problem> {
    if let Some(problem) = bad_name(&pipeline.name) {
        return Err(Problem::usage(format!("the pipeline name `{}` {problem}", pipeline.name)));
    }
    if pipeline.variants.is_empty() {
        return Err(Problem::usage("the pipeline has no variant"));
    }
    let axes: Vec<&str> = pipeline.sweep.iter().map(|(key, _)| key.as_str()).collect();
    let names = sweep::names(&axes, pipeline.variants.iter().map(|variant| &variant.values));
    for (variant, name) in pipeline.variants.iter().zip(names) {
        if variant.name != name || !variant.values.keys().map(String::as_str).eq(axes.iter().copied()) {
            let message = format!("the variant `{}` does not have the name or the values of the sweep", variant.name);
            return Err(Problem::usage(message));
        }
        stages(variant)?;
    }
    Ok(())
}

fn stages(variant: &Variant) -> Result<(), Problem> {
    let mut before: HashMap<&str, &Stage> = HashMap::new();
    for stage in &variant.stages {
        let name = &stage.name;
        if let Some(problem) = bad_stage_name(name) {
            return Err(Problem::usage(problem));
        }
        if let Some((parameter, message)) = stage.resources.problem() {
            return Err(Problem::usage(format!("stage `{name}`, resources.{parameter}: {message}")));
        }
        for need in &stage.resolved.needs.stages {
            let wanted = &need.stage;
            let found = before.get(wanted.as_str());
            let found =
                found.ok_or_else(|| Problem::usage(format!("stage `{name}` comes before its input `{wanted}`")))?;
            if need.provides.is_some_and(|what| !found.resolved.provides.contains(&what)) {
                return Err(Problem::usage(format!("stage `{name}` cannot use `{wanted}`")));
            }
        }
        if before.insert(name, stage).is_some() {
            return Err(Problem::usage(format!("there are two stages `{name}`")));
        }
    }
    Ok(())
}
