//! One self-contained HTML page about the results of a pipeline: learning curves, selections, scores and costs. And the
//! answers of `raisin explain` and `raisin diff`, as text: [`explain`], [`diff`].
//!
//! [`gather`] reads artifacts into plain structs, by the tables of an artifact and not by its kind. [`comparison`] and
//! [`statistics`] compute, [`chart`] draws SVG, and [`page`] assembles the page. The page contains no time, host name or
//! random number: the same artifacts give the same bytes.

pub mod chart;
pub mod comparison;
pub mod dictionary;
pub mod diff;
pub mod explain;
pub mod gather;
pub mod learned;
mod learned_section;
pub mod markup;
pub mod page;
pub mod results;
mod sections;
mod setup_section;
pub mod statistics;
