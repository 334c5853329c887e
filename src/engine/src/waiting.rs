//! Waits for the lock of another process, and says so once for each process. raisin-store does the waiting.

use raisin_base::digest::Digest;
use raisin_base::error::Result;
use raisin_store::{Lock, Store, Waiting};

/// Takes the lock of an action. While another process holds the lock, `say` gets a message such as `waiting for pid 17
/// building pool`, once for each such process. Returns `None` if `gives_up` returns true before the lock is free.
pub fn lock(
    store: &Store,
    key: Digest,
    doing: &str,
    say: impl Fn(String),
    gives_up: impl Fn() -> bool,
) -> Result<Option<Lock>> {
    let mut told = None;
    store.lock(key, |holder| {
        if told != Some(holder) {
            told = Some(holder);
            let who = holder.map_or("another process".to_owned(), |pid| format!("pid {pid}"));
            say(format!("waiting for {who} {doing}"));
        }
        if gives_up() { Waiting::GiveUp } else { Waiting::GoOn }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn each_process_that_is_waited_for_is_named_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let key = Digest::of(b"key");
        let held = store.lock(key, |_| Waiting::GoOn).unwrap();
        let (said, looks) = (RefCell::new(Vec::new()), Cell::new(0));
        let write = |holder: &str| std::fs::write(folder.path().join("locks").join(key.to_hex()), holder).unwrap();
        let gives_up = || {
            looks.set(looks.get() + 1);
            // The first two looks find this process. The next looks find a file without a process id, and pid 2.
            match looks.get() {
                2 => write(""),
                4 => write("2"),
                _ => {}
            }
            looks.get() == 5
        };
        assert!(lock(&store, key, "building pool", |words| said.borrow_mut().push(words), gives_up).unwrap().is_none());
        let own = format!("waiting for pid {} building pool", std::process::id());
        let expected = [own.as_str(), "waiting for another process building pool", "waiting for pid 2 building pool"];
        assert_eq!(said.into_inner(), expected);
        drop(held);
    }
}
