//! Models in a local folder.
//!
//! Changes are atomic: a version is built under a temporary name and renamed into place; a deletion first renames it
//! away. The version number is durable in the index before the rename, so neither a crash nor a deletion can reuse it.
//! Only the process with the writer's lock writes; other processes read the same folder.

mod blobs;
mod catalogue;
mod publishing;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use super::disk::{self, failed};
use super::index::{INDEX_FILE, Index};
use super::lock::WriterLock;
use super::{ModelEntry, ModelStore, StoreError, scan};
use crate::model::{ModelKey, ModelName};

type Catalogue = BTreeMap<ModelName, ModelEntry>;

/// Models in a folder; the layout is in the documentation of the [module](super).
#[derive(Debug)]
pub struct LocalStore {
    folder: PathBuf,
    /// `<folder>/models`.
    models: PathBuf,
    /// Content of the folder at the last scan, including models without versions. Locked only briefly.
    catalogue: RwLock<Catalogue>,
    /// Locked while the folder is changed or scanned: changes run one after another.
    writer: Mutex<WriterLock>,
    /// Whether `writer` holds the lock; readable without waiting.
    writable: AtomicBool,
    refusal: RwLock<Option<StoreError>>,
    /// Warnings of the last scan, so that each is logged once and not at every refresh.
    warned: Mutex<BTreeSet<String>>,
    #[cfg(test)]
    pub(super) faults: super::crash::Faults,
}

/// Steps of a change. A crash leaves a different state after each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    FolderMade,
    TemporaryMade,
    FileWritten,
    IndexWritten,
    IndexRenamed,
    NumberTaken,
    VersionRenamed,
    VersionDurable,
    VersionMovedAway,
    DeletionDurable,
}

impl LocalStore {
    /// Opens a folder and creates it if necessary. If the writer's lock is free, takes it and removes leftovers of a
    /// crash. Otherwise, or without write access, opens the folder for reading.
    ///
    /// # Errors
    /// If the folder can neither be created nor read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let models = folder.join("models");
        let made = fs::create_dir_all(folder)
            .map_err(failed("cannot create", folder))
            .and_then(|()| disk::ensure_folder(&models))
            .and_then(|()| disk::sync_folder(folder));
        // Only the nearest parent is likely to be new. Without permission to sync it, continue.
        let _ = folder.parent().map(disk::sync_folder);
        if let Err(error) = made {
            // A store on a read-only disk can be served; a link in place of `models` is refused.
            if !folder.is_dir() || matches!(error, StoreError::NotAFolder { .. }) {
                return Err(error);
            }
            tracing::warn!(folder = %folder.display(), %error, "the store cannot be written to");
        }
        let store = Self {
            folder: folder.to_owned(),
            models,
            catalogue: RwLock::default(),
            writer: Mutex::new(WriterLock::Missing { reason: "it is being opened".to_owned() }),
            writable: AtomicBool::new(false),
            refusal: RwLock::default(),
            warned: Mutex::default(),
            #[cfg(test)]
            faults: super::crash::Faults::default(),
        };
        store.refresh()?;
        if let Err(error) = store.lock_writer().check() {
            tracing::warn!(folder = %folder.display(), "{error}");
        }
        Ok(store)
    }

    fn lock_writer(&self) -> MutexGuard<'_, WriterLock> {
        // After a panic, at worst a temporary and an old catalogue remain: each change scans the disk again.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the folder for a change, until the guard is dropped.
    fn begin_change(&self) -> Result<MutexGuard<'_, WriterLock>, StoreError> {
        let writer = self.lock_writer();
        writer.check()?;
        Ok(writer)
    }

    /// Runs a change. If it fails, reads the model from disk again, because the disk is authoritative.
    fn change<T>(
        &self,
        name: &ModelName,
        change: impl FnOnce(ModelEntry) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _writer = self.begin_change()?;
        let outcome = self.look(name).and_then(|model| {
            model.check_index()?;
            change(model)
        });
        if outcome.is_err()
            && let Ok(model) = self.look(name)
        {
            self.install(model);
        }
        outcome
    }

    /// Scans one model on disk. Warnings are left to the refresh.
    fn look(&self, name: &ModelName) -> Result<ModelEntry, StoreError> {
        scan::scan_model(&self.models, name, &mut BTreeSet::new())
    }

    fn install(&self, model: ModelEntry) {
        let mut catalogue = self.lock_catalogue();
        if model.is_blank() {
            // Unknown names from requests take no memory.
            catalogue.remove(&model.name);
        } else {
            catalogue.insert(model.name.clone(), model);
        }
    }

    fn lock_catalogue(&self) -> RwLockWriteGuard<'_, Catalogue> {
        self.catalogue.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_catalogue<T>(&self, read: impl FnOnce(&Catalogue) -> T) -> T {
        read(&self.catalogue.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn model_folder(&self, name: &ModelName) -> PathBuf {
        self.models.join(name.as_str())
    }

    fn version_folder(&self, key: &ModelKey) -> PathBuf {
        self.model_folder(&key.name).join(key.version.to_string())
    }

    /// Replaces the index durably: after a crash, the file is the old or the new one.
    fn write_index(&self, model: &ModelEntry) -> Result<(), StoreError> {
        let folder = self.model_folder(&model.name);
        let temporary = disk::temporary_in(&folder);
        let path = folder.join(INDEX_FILE);
        let index = Index {
            version_highest: model.version_highest,
            versions: model.versions.keys().chain(model.lost.keys()).copied().collect(),
            aliases: model.aliases.clone(),
        };
        disk::write_new(&temporary, &index.to_bytes())
            .and_then(|()| self.at(Step::IndexWritten))
            .and_then(|()| fs::rename(&temporary, &path).map_err(failed("cannot replace", &path)))
            .inspect_err(|_| disk::remove_or_warn(&temporary))?;
        self.at(Step::IndexRenamed)?;
        disk::sync_folder(&folder)
    }

    /// A point at which a test can make the change crash or fail.
    #[cfg(test)]
    fn at(&self, step: Step) -> Result<(), StoreError> {
        self.faults.at(step)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests make it fail")]
    #[inline]
    fn at(&self, _step: Step) -> Result<(), StoreError> {
        Ok(())
    }
}
