//! The stages that a user forces to run although they are cached (`--force`).

use super::graph::{Graph, unknown_stage};
use raisin_base::error::Result;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Force {
    #[default]
    Nothing,
    Everything,
    Stages(Vec<String>),
}

impl Force {
    /// Whether this stage is forced.
    pub fn names(&self, stage: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Stages(names) => names.iter().any(|name| name == stage),
        }
    }

    /// # Errors
    /// No stage of the graph has one of the names.
    pub fn check(&self, graph: &Graph<'_>) -> Result<()> {
        let Self::Stages(names) = self else { return Ok(()) };
        let here: Vec<&str> = graph.nodes.iter().map(|node| node.stage.name.as_str()).collect();
        match names.iter().find(|name| !here.contains(&name.as_str())) {
            Some(name) => Err(unknown_stage(name, "among the stages to build", here.into_iter()).into()),
            None => Ok(()),
        }
    }
}
