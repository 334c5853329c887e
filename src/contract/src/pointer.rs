//! JSON pointers (RFC 6901), such as `/sources/0/path`: a pointer names a parameter of a stage.

use std::borrow::Cow;

/// The segments of a pointer, without escapes: `sources`, `0`, `path`.
pub fn segments(pointer: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pointer.split('/').skip(1).map(|segment| {
        if segment.contains('~') { segment.replace("~1", "/").replace("~0", "~").into() } else { segment.into() }
    })
}

/// The pointer in the form that a user writes: `sources.0.path`.
pub fn dotted(pointer: &str) -> String {
    segments(pointer).collect::<Vec<_>>().join(".")
}
