//! Seeded synthetic instructions with the structure that makes selection matter.
//!
//! A task is one or two *target* skills out of a dozen. Of the pool, a small part teaches them, another part looks as
//! if it did and is wrong, and most of it is about something else: clean, corrupted, or the same again and again.
//! Each row's label says which. What a base model has read before is a third thing: much of the other skills, a little
//! of the target ones, and none of the validation and test questions.

pub mod corrupt;
pub mod family;
pub mod mix;

pub use family::{Question, Skill};
pub use mix::{Mix, Mixture, mix};
pub use raisin_settings::Family;
