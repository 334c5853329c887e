//! Seeded synthetic instructions, of which few teach the task, so that selection matters.
//!
//! A task asks for one or two of twelve skills: the *targets*. A small part of the pool asks for a target and answers
//! correctly (`relevant`), another small part asks for a target and answers wrongly (`wrong`). The rest asks for other
//! skills: with a correct answer (`irrelevant`), with a wrong answer (`corrupted`), or as near-copies of a few
//! questions (`redundant`). The label of a row says which of these it is.
//!
//! The text on which a base model is pre-trained shows mostly the other skills and a few target questions, but no
//! question of validation or test.

pub mod corrupt;
pub mod family;
pub mod mix;

pub use family::{Skill, SyntheticQuestion};
pub use mix::{Mixture, mix};
pub use raisin_settings::{Family, Mix};
