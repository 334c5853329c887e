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
    terminal_size().map(|(_, columns)| columns)
}

/// The number of lines and of columns of the terminal that standard output is. A terminal that does not know its height
/// has one that every text fits.
pub fn terminal_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    let lines = if size.ws_row > 0 { usize::from(size.ws_row) } else { usize::MAX };
    (size.ws_col > 0).then_some((lines, usize::from(size.ws_col)))
}
