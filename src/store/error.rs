//! Errors of the store. Each message says what was expected, what was found, and what to do next.

use std::sync::Arc;

use super::VersionPolicy;
use crate::model::{Alias, ArtifactError, ModelKey, ModelName, Version};

/// Error of the store. Cheap to clone: callers that wait for the same load share its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The model does not exist.
    #[error("model {0:?} does not exist")]
    UnknownModel(String),
    /// The version does not exist.
    #[error("{key} does not exist{}", newest.map_or(String::new(), |v| format!("; the newest version is {v}")))]
    UnknownVersion {
        /// The requested version.
        key: ModelKey,
        /// The newest complete version.
        newest: Option<Version>,
    },
    /// The server's version policy excludes the version.
    #[error("{key} is not served: the version policy of {} is {policy}; to serve it, set an alias", key.name)]
    NotServed {
        /// The requested version.
        key: ModelKey,
        /// The policy of the model.
        policy: VersionPolicy,
    },
    /// The alias does not exist.
    #[error("model {name} has no alias {alias}; {}", list(aliases))]
    UnknownAlias {
        /// The model.
        name: ModelName,
        /// The requested alias.
        alias: Alias,
        /// The first existing aliases.
        aliases: Vec<Alias>,
    },
    /// The alias does not point at the version that the caller expects.
    #[error("alias {alias} of model {name} points at {}, expected {}", show(*got), show(*expected))]
    AliasMoved {
        /// The model.
        name: ModelName,
        /// The alias.
        alias: Alias,
        /// The version that the caller expects; `None`: no alias.
        expected: Option<Version>,
        /// The version that it points at; `None`: no alias.
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
    /// The model has the most aliases allowed.
    #[error("model {name} has {aliases_max} aliases, the most allowed; delete one first")]
    TooManyAliases {
        /// The model.
        name: ModelName,
        /// The limit.
        aliases_max: usize,
    },
    /// A version that was published and not deleted has lost its file, or its file is not a regular file.
    #[error(
        "the file of {key} {found}, and the index lists the version: put its file back from a copy, or delete the version{}",
        older.map_or(String::new(), |older| format!("; without it the newest version is {older}"))
    )]
    VersionLost {
        /// The version.
        key: ModelKey,
        /// What was found instead: "is missing".
        found: &'static str,
        /// The newest complete version.
        older: Option<Version>,
    },
    /// This process does not hold the writer's lock.
    #[error("the store is read-only here: {reason}")]
    ReadOnly {
        /// Why, for example another server holds the lock.
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
    /// The index of a model is damaged. Its versions are served by number, but its aliases and used numbers are
    /// unknown, so the model cannot be changed.
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
    /// A file is larger than allowed. It was not read or written.
    #[error("{what} has {bytes} bytes, expected at most {bytes_max}")]
    TooLarge {
        /// The version or the model.
        what: String,
        /// Its size in bytes.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The last version number is used. Only a folder made by hand can cause this.
    #[error("model {name} has used version {highest}, the last number; publish under another name")]
    NoVersionLeft {
        /// The model.
        name: ModelName,
        /// The highest number.
        highest: Version,
    },
    /// The path of a store folder is not a folder.
    #[error("{role} is {found}, expected a folder; remove it or choose another model name")]
    NotAFolder {
        /// What the folder is for.
        role: String,
        /// "a symbolic link" or "a file".
        found: &'static str,
    },
    /// The path of a store file is not a regular file.
    #[error("{role} is {found}, expected a regular file; put the file back from a copy, or remove what is there")]
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
        /// The failed action, for example "cannot read".
        action: &'static str,
        /// Role of the file or folder.
        role: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// No space is left, or the disk quota is used up. Partly written files are removed.
    #[error("the disk is full: {action} {role}: {source}; delete versions or add space, then try again")]
    DiskFull {
        /// The failed action, for example "cannot read".
        action: &'static str,
        /// Role of the file or folder.
        role: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// Any other I/O error.
    #[error("{action} {role}: {source}")]
    Io {
        /// The failed action, for example "cannot read".
        action: &'static str,
        /// Role of the file or folder.
        role: String,
        /// The system's error.
        source: Arc<std::io::Error>,
    },
    /// Too many versions are being loaded from disk at once.
    #[error(
        "{key} is not in memory and {loads_max} models are being loaded already, the most allowed; try again later"
    )]
    LoadsFull {
        /// The version.
        key: ModelKey,
        /// The limit.
        loads_max: usize,
    },
    /// Loading a version ended without a result: an internal error, or the server is stopping.
    #[error("loading {key} was interrupted: {reason}")]
    LoadLost {
        /// The version.
        key: ModelKey,
        /// The runtime's error.
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
