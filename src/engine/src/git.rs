//! The state of the git repository of a pipeline, for the journal. A build never waits for git: git is asked while the
//! stages run, and an answer that comes too late is left out.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// The time for which the end of a build waits for the answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The commit, and whether tracked files differ from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitAnswer {
    pub commit: String,
    pub dirty: bool,
}

/// A question to git whose answer may not be there yet.
pub struct GitState(Receiver<Option<GitAnswer>>);

impl GitState {
    pub fn ask(folder: &Path) -> Self {
        let (sender, receiver) = channel();
        let folder = folder.to_owned();
        // Without a thread, the sender is dropped, and there is no answer.
        let _ = std::thread::Builder::new().spawn(move || drop(sender.send(look(&folder))));
        Self(receiver)
    }

    /// `None` without git, without a repository, without a commit, or if git takes too long.
    pub fn answer(self) -> Option<GitAnswer> {
        self.0.recv_timeout(PATIENCE).ok().flatten()
    }
}

fn look(folder: &Path) -> Option<GitAnswer> {
    let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
    let git = |arguments: &[&str]| {
        // `--no-optional-locks`: a question must not write into the repository.
        let mut command = Command::new("git");
        command.arg("--no-optional-locks").arg("-C").arg(&folder).args(arguments);
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(GitAnswer { commit, dirty: !changed.is_empty() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_a_commit_and_a_change_of_a_tracked_file_makes_it_dirty() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(look(&folder.path().join("missing")), None);
        let git = |arguments: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
            let done =
                Command::new("git").arg("-C").arg(folder.path()).args(identity).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            String::from_utf8(done.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet"]);
        assert_eq!(look(folder.path()), None, "there is no commit yet");
        std::fs::write(folder.path().join("p.toml"), "").unwrap();
        git(&["add", "p.toml"]);
        git(&["commit", "--quiet", "--no-gpg-sign", "-m", "one"]);
        let commit = git(&["rev-parse", "HEAD"]);
        assert_eq!(look(folder.path()), Some(GitAnswer { commit: commit.clone(), dirty: false }));
        std::fs::write(folder.path().join("other"), "").unwrap();
        assert!(look(folder.path()).is_some_and(|state| !state.dirty), "an untracked file is no change");
        std::fs::write(folder.path().join("p.toml"), "x").unwrap();
        assert_eq!(GitState::ask(folder.path()).answer(), Some(GitAnswer { commit, dirty: true }));
    }
}
