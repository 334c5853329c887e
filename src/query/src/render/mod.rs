//! Rows as text for people: tables, frames, one line for each column, Markdown and HTML.

mod cells;
mod expanded;
mod markup;
mod table;

pub use cells::width_of;
pub use expanded::expanded;
pub use markup::{Html, Markdown, Markup, fragment};
pub use table::{boxed, table};

/// The number of columns of the terminal that standard output is.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
