//! Opens the object store of an address, with the credentials of the environment, and names the objects of the layout.
//!
//! ```text
//! <prefix>/v1/blob/<first two digits>/<blake3>   the content of a file; equal files are one object
//! <prefix>/v1/artifact/<digest>.json             the manifest; its blake3 is the digest of the artifact
//! <prefix>/v1/action/<key>.json                  the action record
//! <prefix>/v1/probe/<random>                     an object of `raisin remote check`
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::profile;
use super::transport::UreqConnector;
use raisin_base::digest::Digest;
use raisin_base::error::{Context as _, Problem, Result};
use raisin_contract::remote::check_address;

/// The version of the layout.
const LAYOUT: &str = "v1";

/// An object store, and the place of the shared cache in it.
#[derive(Clone)]
pub struct RemotePlace {
    pub store: Arc<dyn ObjectStore>,
    /// As the user wrote it, for messages.
    pub address: String,
    top: Path,
}

/// A failed request is repeated a few times, but a build must not wait long for a store that is away.
fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(30) }
}

impl RemotePlace {
    /// Makes no connection.
    ///
    /// # Errors
    /// The address is wrong, or settings in the environment are.
    pub fn open(address: &str) -> Result<Self> {
        check_address(address)?;
        let cannot = || format!("cannot open the shared cache {address}");
        let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(|error| {
            Problem::usage(format!("the address of the shared cache, {address}, has an impossible prefix: {error}"))
        });
        let (store, prefix): (Arc<dyn ObjectStore>, Path) = match scheme {
            "s3" => {
                let builder = profile::with_profile(AmazonS3Builder::from_env(), bucket)?.with_bucket_name(bucket);
                let builder = builder.with_http_connector(UreqConnector).with_retry(retries());
                (Arc::new(builder.build().with_context(cannot)?), prefix?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                let builder = builder.with_http_connector(UreqConnector).with_retry(retries());
                (Arc::new(builder.build().with_context(cannot)?), prefix?)
            }
            "az" => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
                let builder = builder.with_http_connector(UreqConnector).with_retry(retries());
                (Arc::new(builder.build().with_context(cannot)?), prefix?)
            }
            _ => {
                let folder = if scheme == "file" { PathBuf::from(rest) } else { PathBuf::from(address) };
                if !folder.is_dir() {
                    // A folder on a disk that is not mounted must not be created anew on another disk.
                    let message = format!("the folder {} of the shared cache does not exist", folder.display());
                    return Err(Problem::new(message).hint("create the folder, or mount its disk").into());
                }
                let store = LocalFileSystem::new_with_prefix(&folder).with_context(cannot)?.with_fsync(true);
                (Arc::new(store), Path::default())
            }
        };
        let parts = prefix.parts().collect::<Vec<_>>();
        let top = parts.into_iter().chain([LAYOUT.into()]).collect();
        Ok(Self { store, address: address.to_owned(), top })
    }

    fn object(&self, parts: &[&str]) -> Path {
        parts.iter().fold(self.top.clone(), |path, part| path.join(*part))
    }

    pub fn blob(&self, digest: Digest) -> Path {
        let digest = digest.to_hex();
        self.object(&["blob", &digest[..2], &digest])
    }

    pub fn manifest(&self, artifact: Digest) -> Path {
        self.object(&["artifact", &format!("{artifact}.json")])
    }

    pub fn record(&self, key: Digest) -> Path {
        self.object(&["action", &format!("{key}.json")])
    }

    pub fn probe(&self, name: &str) -> Path {
        self.object(&["probe", name])
    }

    /// The prefix of all objects of one kind.
    pub fn all(&self, kind: ObjectKind) -> Path {
        self.object(&[kind.folder()])
    }
}

/// The kinds of objects, in the order in which gc removes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Record,
    Manifest,
    Blob,
}

impl ObjectKind {
    pub const ALL: [Self; 3] = [Self::Record, Self::Manifest, Self::Blob];

    pub fn folder(self) -> &'static str {
        match self {
            Self::Record => "action",
            Self::Manifest => "artifact",
            Self::Blob => "blob",
        }
    }

    /// The digest in the name of an object of this kind. `None`: the object is none of raisin's.
    pub fn digest(self, object: &Path) -> Option<Digest> {
        let name = object.filename()?;
        let digest = match self {
            Self::Blob => name,
            Self::Manifest | Self::Record => name.strip_suffix(".json")?,
        };
        digest.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_lies_below_the_prefix_and_its_name_gives_its_digest() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = RemotePlace::open(&folder.path().display().to_string()).expect("a place");
        let digest = Digest::of(b"x");
        assert_eq!(place.blob(digest).as_ref(), format!("v1/blob/{}/{digest}", &digest.to_hex()[..2]));
        for (kind, object) in [
            (ObjectKind::Record, place.record(digest)),
            (ObjectKind::Manifest, place.manifest(digest)),
            (ObjectKind::Blob, place.blob(digest)),
        ] {
            assert_eq!(kind.digest(&object), Some(digest));
            assert!(object.as_ref().starts_with(place.all(kind).as_ref()));
        }
        assert_eq!(ObjectKind::Record.digest(&place.probe("x")), None);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_empty_cache() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing");
        let error = RemotePlace::open(&format!("file://{}", missing.display())).map(|_| ()).expect_err("an error");
        assert!(error.to_string().contains("does not exist"), "{error}");
        assert!(!missing.exists());
    }
}
