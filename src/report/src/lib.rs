//! One self-contained HTML page over the tables of a pipeline: what was learned, selected and reached, at what cost.
//!
//! [`gather`] reads artifacts into plain structs, by the tables that they hold and not by the kind that made them;
//! [`comparison`] and [`statistics`] compute; [`chart`] draws SVG; [`page`] puts it together. The same artifacts
//! give the same bytes: no time, no host, no random number.

pub mod chart;
pub mod comparison;
pub mod gather;
mod markup;
pub mod page;
mod results;
mod sections;
pub mod statistics;
