//! Loops over all rows of a query. They are in a crate of their own because it is compiled with all optimisations, in
//! seconds; the crate of the queries would take minutes.

mod division;
mod texts;
mod words;

pub use division::{hashes_of, numbers_of, places_of, rows_of_outputs};
pub use texts::TextSet;
pub use words::{LAST, words};
