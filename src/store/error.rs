//! Why the store refuses or fails: each variant names what was expected, what came, and what to do next.

use std::sync::Arc;

use super::VersionPolicy;
use crate::model::{Alias, ArtifactError, ModelKey, ModelName, Version};

/// Why the store refuses or fails. Cheap to clone: callers that wait for the same load share its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No such model.
    #[error("model {0:?} does not exist")]
    UnknownModel(String),
    /// No such version.
    #[error("{key} does not exist{}", newest.map_or(String::new(), |v| format!("; the newest version is {v}")))]
    UnknownVersion {
        /// What was asked for.
        key: ModelKey,
        /// What there is.
        newest: Option<Version>,
    },
    /// A version that the server's version policy leaves out.
    #[error("{key} is not served: the version policy of {} is {policy}; an alias would have it served", key.name)]
    NotServed {
        /// What was asked for.
        key: ModelKey,
        /// What is served.
        policy: VersionPolicy,
    },
    /// No such alias.
    #[error("model {name} has no alias {alias}; {}", list(aliases))]
    UnknownAlias {
        /// The model.
        name: ModelName,
        /// What was asked for.
        alias: Alias,
        /// The aliases that there are, the first few of them.
        aliases: Vec<Alias>,
    },
    /// The alias points elsewhere than the caller believes.
    #[error("alias {alias} of model {name} points at {}, expected {}", show(*got), show(*expected))]
    AliasMoved {
        /// The model.
        name: ModelName,
        /// The alias.
        alias: Alias,
        /// Where the caller believes it to point; none: nowhere.
        expected: Option<Version>,
        /// Where it points.
        got: Option<Version>,
    },
    /// The version to delete has an alias.
    #[error("{key} cannot be deleted: alias {alias} points at it; move or delete the alias first")]
    Aliased {
        /// The version.
        key: ModelKey,
        /// The alias.
        alias: Alias,
    },
    /// A model has as many aliases as it may have.
    #[error("model {name} has {aliases_max} aliases, the most allowed; delete one first")]
    TooManyAliases {
        /// The model.
        name: ModelName,
        /// The limit.
        aliases_max: usize,
    },
    /// A version was published, was not deleted, and its file is gone or is no file.
    #[error(
        "the file of {key} {found}, and the index lists the version: put its file back from a copy, or delete the version{}",
        older.map_or(String::new(), |older| format!("; without it the newest version is {older}"))
    )]
    VersionLost {
        /// The version.
        key: ModelKey,
        /// What stands in its place: "is missing".
        found: &'static str,
        /// The newest version that is there.
        older: Option<Version>,
    },
    /// This process does not hold the writer's lock.
    #[error("the store is read-only here: {reason}")]
    ReadOnly {
        /// Why, for example that another server writes to it.
        reason: String,
    },
    /// The file of a version is damaged.
    #[error("the file of {key} is damaged: {reason}; delete the version, or put its file back from a copy")]
    Damaged {
        /// The version.
        key: ModelKey,
        /// What is wrong.
        reason: ArtifactError,
    },
    /// The index of a model is damaged: its versions are served, but its aliases and the numbers already used are
    /// unknown, so nothing may be changed.
    #[error(
        "the index of model {name} is damaged: {reason}; its versions are served by number, but nothing can be changed: \
         put models/{name}/index.json back from a copy, or remove it to rebuild it without aliases (numbers of deleted \
         versions may then come back)"
    )]
    BadIndex {
        /// The model.
        name: ModelName,
        /// What is wrong.
        reason: String,
    },
    /// A file larger than any model may be. It was not read.
    #[error("{what} has {bytes} bytes, expected at most {bytes_max}")]
    TooLarge {
        /// The version or the model.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The last version number is taken; only a folder made by hand can bring this about.
    #[error("model {name} has used version {highest}, the last number; publish under another name")]
    NoVersionLeft {
        /// The model.
        name: ModelName,
        /// The highest number.
        highest: Version,
    },
    /// Something that is not ours stands where a folder of the store belongs.
    #[error("{role} is {found}, expected a folder; remove it or choose another model name")]
    NotAFolder {
        /// What the folder is for.
        role: String,
        /// "a symbolic link" or "a file".
        found: &'static str,
    },
    /// Something that is no regular file stands where a file of the store belongs.
    #[error("{role} is {found}, expected a regular file; put the file back from a copy, or remove what stands there")]
    NotAFile {
        /// What the file is for.
        role: String,
        /// "a named pipe", "a folder".
        found: &'static str,
    },
    /// The system refuses access.
    #[error(
        "{action} {role}: {source}; give the user that runs the server access to it, or mount the store's folder writable"
    )]
    Denied {
        /// What was tried.
        action: &'static str,
        /// On what.
        role: String,
        /// What the system says.
        source: Arc<std::io::Error>,
    },
    /// No space left, or the quota is used up. What was half written is removed.
    #[error("the disk is full: {action} {role}: {source}; delete versions or add space, then try again")]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// On what.
        role: String,
        /// What the system says.
        source: Arc<std::io::Error>,
    },
    /// The disk.
    #[error("{action} {role}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        role: String,
        /// What the system says.
        source: Arc<std::io::Error>,
    },
    /// Too many different models are being read from disk at once.
    #[error(
        "{key} is not in memory and {loads_max} models are being loaded already, the most allowed; try again later"
    )]
    LoadsFull {
        /// The version.
        key: ModelKey,
        /// The limit.
        loads_max: usize,
    },
    /// Loading a version ended without a result: a bug of ours, or the server is stopping.
    #[error("loading {key} was interrupted: {reason}")]
    LoadLost {
        /// The version.
        key: ModelKey,
        /// What the runtime says.
        reason: String,
    },
}

fn show(version: Option<Version>) -> String {
    version.map_or_else(|| "no version".to_owned(), |v| format!("version {v}"))
}

fn list(aliases: &[Alias]) -> String {
    if aliases.is_empty() {
        return "it has none".to_owned();
    }
    let names: Vec<&str> = aliases.iter().map(Alias::as_str).collect();
    format!("it has {}", names.join(", "))
}
