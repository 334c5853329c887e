//! The message that a build waits for a lock of another process: once for each process. raisin-store does the waiting.

/// Calls `say` only if the process that holds the lock is another one than at the last call.
pub fn once_each(mut say: impl FnMut(Option<u32>)) -> impl FnMut(Option<u32>) {
    let mut told = None;
    move |holder| {
        if told != Some(holder) {
            told = Some(holder);
            say(holder);
        }
    }
}

/// The message, such as `waiting for pid 17 building pool`.
pub fn words(holder: Option<u32>, doing: &str) -> String {
    let who = holder.map_or("another process".to_owned(), |pid| format!("pid {pid}"));
    format!("waiting for {who} {doing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_that_is_waited_for_is_named_once() {
        let mut said = Vec::new();
        let mut say = once_each(|holder| said.push(words(holder, "building pool")));
        [Some(1), Some(1), None, None, Some(2)].into_iter().for_each(&mut say);
        drop(say);
        assert_eq!(said.len(), 3);
        assert_eq!(said[0], "waiting for pid 1 building pool");
        assert_eq!(said[1], "waiting for another process building pool");
    }
}
