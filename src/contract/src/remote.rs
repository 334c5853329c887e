//! What `raisin` and `raisin-remote` say to each other about a shared cache on an object store, one JSON line for each
//! request and reply, and what `raisin remote` asks as one JSON argument. docs/decisions/0031 has the protocol of the
//! store itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use raisin_base::digest::Digest;
use raisin_base::error::Problem;

/// The executable that reads and writes the object store.
pub const EXECUTABLE: &str = "raisin-remote";

/// The schemes of the addresses of object stores.
pub const SCHEMES: [&str; 4] = ["s3", "gs", "az", "file"];

/// Whether a build only reads the shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteMode {
    #[default]
    Read,
    ReadWrite,
}

impl RemoteMode {
    pub const ALL: [Self; 2] = [Self::Read, Self::ReadWrite];

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// A shared cache, as a build uses it. There are no credentials in it: `raisin-remote` takes them from its environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSettings {
    /// `s3://bucket/prefix`, `gs://...`, `az://...`, `file:///folder`, or the path of a folder.
    pub address: String,
    pub mode: RemoteMode,
    /// The largest artifact that is uploaded, in bytes. `None`: no limit.
    pub max_upload: Option<u64>,
}

/// Checks the address of a shared cache, as far as this is possible without a connection.
///
/// # Errors
/// The scheme is unknown, the bucket is missing, or the address contains credentials. The error has no place.
pub fn check_address(address: &str) -> Result<(), Problem> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return if address.trim().is_empty() {
            Err(Problem::usage("the address of the shared cache is empty"))
        } else {
            Ok(())
        };
    };
    let forms = "an address looks like s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder, \
                 or is the path of a folder";
    if !SCHEMES.contains(&scheme) {
        return Err(Problem::usage(format!("the shared cache has the unknown scheme `{scheme}://`")).hint(forms));
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        // The message does not repeat the address, because it would show the credentials.
        let message = format!("the address of the shared cache ({scheme}://...) contains credentials");
        let hint = "remove them from the address; raisin takes credentials from the environment, for example \
                    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (docs/remote.md)";
        return Err(Problem::usage(message).hint(hint));
    }
    if rest.contains(['?', '#']) {
        return Err(
            Problem::usage(format!("the address of the shared cache, {address}, contains `?` or `#`")).hint(forms)
        );
    }
    match (scheme, host.is_empty()) {
        ("file", false) => {
            Err(Problem::usage(format!("{address} names a host")).hint("three slashes begin a path: file:///folder"))
        }
        ("file", true) if rest == "/" || rest.is_empty() => Err(Problem::usage(format!("{address} names no folder"))),
        ("file", true) | (_, false) => Ok(()),
        (_, true) => Err(Problem::usage(format!("{address} names no bucket")).hint(forms)),
    }
}

/// A line that a build writes to `raisin-remote`. The first line is [`RemoteRequest::Open`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum RemoteRequest {
    Open {
        cache: PathBuf,
        settings: RemoteSettings,
    },
    /// What the shared cache has of this action. Nothing is fetched.
    Look {
        node: usize,
        key: Digest,
        /// The action as JSON. A record of another action under this key is not used.
        action: Value,
    },
    /// Fetch the artifact of this action into the cache, with the artifacts that it needs, and write its action record.
    Want {
        node: usize,
        key: Digest,
        action: Value,
    },
    /// Upload the artifact of this action, in the background.
    Push {
        key: Digest,
    },
    /// Finish the uploads, or with `leaves` give them up; answer [`RemoteReply::Finished`], and end.
    Finish {
        leaves: bool,
    },
}

/// A line that `raisin-remote` writes to the build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum RemoteReply {
    /// The answer to [`RemoteRequest::Look`].
    Found {
        node: usize,
        artifact: Digest,
        bytes: u64,
    },
    /// The fetching goes on; both numbers are bytes.
    Progress {
        node: usize,
        done: u64,
        total: u64,
    },
    /// The cache has the artifact and the action record now. `received` are the bytes that came over the network.
    Fetched {
        node: usize,
        artifact: Digest,
        bytes: u64,
        received: u64,
        seconds: f64,
    },
    /// The shared cache does not have the action. With a reason: it has a record that cannot be used.
    Absent {
        node: usize,
        reason: Option<String>,
    },
    /// A line for the user, for example that the shared cache has another artifact of an action that this build made.
    Note {
        text: String,
    },
    /// As [`RemoteReply::Note`], also if the user wants no progress.
    Warning {
        text: String,
    },
    /// The uploads go on: artifacts that are not finished, bytes that are uploaded, bytes in total.
    Uploading {
        artifacts: u64,
        done: u64,
        total: u64,
    },
    /// The shared cache cannot be used any more in this build. Nothing that was asked gets another answer.
    Down {
        cause: String,
    },
    Finished(RemoteTally),
}

/// What `raisin-remote` did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RemoteTally {
    /// Artifacts that were fetched, without those that were fetched because another artifact needs them.
    pub fetched: u64,
    /// Bytes of files that came over the network.
    pub received: u64,
    /// Actions whose record was written.
    pub uploaded: u64,
    /// Bytes of files that went over the network.
    pub sent: u64,
    /// Bytes of files that the shared cache had already.
    pub present: u64,
    /// Actions that the shared cache had already.
    pub known: u64,
    /// Actions that were not uploaded, because the artifact is larger than the limit, or a person accepted it.
    pub left_out: u64,
    /// Actions whose upload failed.
    pub unsent: u64,
    /// Look-ups and fetches that failed, although the shared cache as a whole can be used.
    pub failures: u64,
    /// The words of the first failure of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
}

impl RemoteTally {
    pub fn has_uploads(&self) -> bool {
        self.uploaded + self.known + self.left_out + self.unsent > 0
    }
}

/// What `raisin remote` asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoteQuestion {
    pub settings: RemoteSettings,
    pub cache: PathBuf,
    pub task: RemoteTask,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemoteTask {
    /// Tries reading, writing, conditional writing and deleting with one small object.
    Check,
    /// The number and size of the objects.
    Du,
    /// Removes old action records and what no remaining record needs; without `yes`, only shows them.
    Gc { older_than_seconds: u64, yes: bool },
    /// Uploads the artifacts of these actions, or of all actions of the cache.
    Push { keys: Option<Vec<Digest>> },
    /// Fetches the artifacts of all actions of the shared cache.
    Pull,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_address_is_refused_with_a_hint_and_without_its_credentials() {
        for right in ["s3://bucket/a/b", "gs://bucket", "az://container/p", "file:///srv/cache", "shared", "/srv/cache"]
        {
            assert!(check_address(right).is_ok(), "{right}");
        }
        let said = |address: &str| check_address(address).map_err(|problem| problem.message).expect_err("a problem");
        assert!(said("s4://bucket").contains("unknown scheme `s4://`"));
        assert!(said("s3:///prefix").contains("names no bucket"));
        assert!(said("file://host/folder").contains("names a host"));
        assert!(said("file:///").contains("names no folder"));
        assert!(said(" ").contains("empty") && said("s3://bucket/?region=x").contains("`?`"));
        let credentials = said("s3://AKIA:secret@bucket/prefix");
        assert!(credentials.contains("contains credentials") && !credentials.contains("secret"), "{credentials}");
    }

    #[test]
    fn a_mode_is_read_as_it_is_written() {
        assert!(RemoteMode::ALL.iter().all(|mode| RemoteMode::named(mode.name()) == Some(*mode)));
        assert_eq!(serde_json::to_string(&RemoteMode::ReadWrite).ok().as_deref(), Some("\"read-write\""));
        assert_eq!(RemoteMode::named("write"), None);
    }
}
