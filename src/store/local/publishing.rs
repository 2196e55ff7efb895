//! Publishes versions, and finds what another writer has changed.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::mem;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use super::{LocalStore, Step};
use crate::model::{ModelName, Version};
use crate::store::disk::{self, failed};
use crate::store::index::VERSION_MAX;
use crate::store::lock::WriterLock;
use crate::store::scan::{self, Found, MODEL_FILE, SAMPLE_FILE};
use crate::store::{FILE_BYTES_MAX, ModelEntry, ModelStore, StoreError, VersionEntry};

impl LocalStore {
    /// Writes the version under a temporary name, makes its number durable, and renames it into place.
    fn build_version(
        &self,
        model: &ModelEntry,
        temporary: &Path,
        place: &Path,
        (bytes, sample): (&[u8], Option<&[u8]>),
    ) -> Result<(), StoreError> {
        fs::create_dir(temporary).map_err(failed("cannot create the folder", temporary))?;
        self.at(Step::TemporaryMade)?;
        disk::write_new(&temporary.join(MODEL_FILE), bytes)?;
        sample.map_or(Ok(()), |sample| disk::write_new(&temporary.join(SAMPLE_FILE), sample))?;
        self.at(Step::FileWritten)?;
        disk::sync_folder(temporary)?;
        self.write_index(model)?;
        self.at(Step::NumberTaken)?;
        fs::rename(temporary, place).map_err(failed("cannot rename into place", place))?;
        let durable = self.at(Step::VersionRenamed).and_then(|()| disk::sync_folder(&self.model_folder(&model.name)));
        if durable.is_err() && fs::rename(place, temporary).is_err() {
            // The caller gets an error although the complete version is in place: the catalogue will list it.
            tracing::warn!(path = %place.display(), "cannot roll back a version that may not survive a crash");
        }
        durable
    }

    /// Removes temporaries and empty model folders. Requires the lock: another writer could be using them.
    fn sweep(&self) -> Result<(), StoreError> {
        let entries = match fs::read_dir(&self.models) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("cannot list", &self.models)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("cannot list", &self.models))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if !is_folder || scan::model_name(&entry.file_name()).is_none() {
                continue;
            }
            let folder = entry.path();
            let Ok(found) = fs::read_dir(&folder) else { continue };
            for inner in found.flatten().filter(|inner| scan::is_temporary(&inner.file_name())) {
                disk::remove_or_warn(&inner.path());
            }
            // Removes the folder only if it is empty, after a crash before the first version.
            let _ = fs::remove_dir(&folder);
        }
        Ok(())
    }

    /// Logs the warnings that the last scan did not have.
    fn warn(&self, warnings: BTreeSet<String>) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.difference(&warned) {
            tracing::warn!("{warning}");
        }
        *warned = warnings;
    }
}

impl ModelStore for LocalStore {
    fn publish_files(&self, name: &ModelName, bytes: &[u8], sample: Option<&[u8]>) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        if length > FILE_BYTES_MAX {
            let what = format!("the new version of model {name}");
            return Err(StoreError::TooLarge { what, bytes: length, bytes_max: FILE_BYTES_MAX });
        }
        self.change(name, |mut model| {
            let version = next_version(&model)?;
            let folder = self.model_folder(name);
            disk::ensure_folder(&self.models)?;
            disk::ensure_folder(&folder)?;
            self.at(Step::FolderMade)?;
            disk::sync_folder(&self.models)?;
            let temporary = disk::temporary_in(&folder);
            let place = folder.join(version.to_string());
            model.version_highest = Some(version);
            self.build_version(&model, &temporary, &place, (bytes, sample))
                .inspect_err(|_| disk::remove_or_warn(&temporary))?;
            let entry = match scan::stat_version(&place) {
                Ok(Found::Complete(entry)) => entry,
                // The version is durable: a failure to read its metadata does not unpublish it.
                _ => VersionEntry { file_bytes: length, published: SystemTime::now() },
            };
            model.versions.insert(version, entry);
            self.install(model.clone());
            self.at(Step::VersionDurable)?;
            // Once listed, the version counts as lost if its file disappears. It is already published, so a failure is
            // only logged: the next change lists it.
            if let Err(error) = self.write_index(&model) {
                tracing::warn!(%error, %name, %version, "a published version is not in the index yet");
            }
            Ok(version)
        })
    }

    fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.is_writable() {
            return Ok(());
        }
        let refusal = self.refusal.read().unwrap_or_else(PoisonError::into_inner).clone();
        Err(refusal.unwrap_or_else(|| StoreError::ReadOnly { reason: "it is being opened".to_owned() }))
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        let mut writer = self.lock_writer();
        let mut changed = false;
        if !writer.is_held() {
            let lock = WriterLock::acquire(&self.folder);
            *self.refusal.write().unwrap_or_else(PoisonError::into_inner) = lock.check().err();
            if lock.is_held() {
                self.sweep()?;
                self.writable.store(true, Ordering::Release);
                changed = true;
            }
            *writer = lock;
        }
        let mut scan = scan::scan_store(&self.models)?;
        let differs = self.with_catalogue(|known| {
            for name in &scan.unreadable {
                // A model that cannot be read now stays in the catalogue.
                if let Some(model) = known.get(name) {
                    scan.models.insert(name.clone(), model.clone());
                }
            }
            *known != scan.models
        });
        if differs {
            // `writer` is locked, so nothing else changed the catalogue. Requests wait only for the swap.
            let old = mem::replace(&mut *self.lock_catalogue(), scan.models);
            drop(old);
            changed = true;
        }
        self.warn(scan.warnings);
        Ok(changed)
    }
}

/// The version after the highest ever used.
fn next_version(model: &ModelEntry) -> Result<Version, StoreError> {
    match model.version_highest {
        None => Ok(Version::FIRST),
        Some(highest) if highest.number() >= VERSION_MAX => {
            Err(StoreError::NoVersionLeft { name: model.name.clone(), highest })
        }
        Some(highest) => Ok(highest.next()),
    }
}
