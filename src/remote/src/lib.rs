//! A shared cache on an object store: S3, Google Cloud Storage, Azure, or a folder. Reasons: docs/decisions/0031.
//!
//! A shared cache holds action records, manifests and files of artifacts. Several machines read it, and those with
//! rights write it. The executable `raisin-remote` is the only one that opens connections to it; a build starts it at
//! the first stage that the local cache does not have.
//!
//! | module | concern |
//! |---|---|
//! | [`serve`] | the loop between a build and the shared cache |
//! | [`command`] | `raisin remote check`, `du`, `push`, `pull` |
//! | [`sweep`] | `raisin remote gc` |
//! | `session` | what has failed so far, and what that means for the rest |
//! | `read`, `write` | fetching and uploading |
//! | `place` | the address, the object store and the names of its objects |
//! | `profile` | credentials of a profile in ~/.aws |
//! | `cause` | the meaning of an error, and its words |
//! | `transport` | HTTP through ureq |
//! | [`track`] | the runs of `track` stages, which go to an MLflow server: not a shared cache, and the same client |

mod cause;
pub mod command;
mod place;
mod profile;
mod read;
pub mod serve;
mod session;
pub mod sweep;
pub mod track;
mod transport;
mod write;
