//! Names, versions and aliases of a folder: read from memory, changed on disk.

use std::fs;
use std::io::ErrorKind;
use std::time::SystemTime;

use super::{LocalStore, Step};
use crate::model::{Alias, ModelKey, ModelName, Selector, Version};
use crate::store::disk::{self, Access, failed};
use crate::store::scan::USE_FILE;
use crate::store::{ALIASES_MAX, ModelCatalogue, ModelEntry, StoreError, VersionPolicy};

impl ModelCatalogue for LocalStore {
    fn entries(&self) -> Vec<ModelEntry> {
        self.with_catalogue(|models| models.values().filter(|model| model.latest().is_some()).cloned().collect())
    }

    fn entry(&self, name: &ModelName) -> Option<ModelEntry> {
        self.with_catalogue(|models| models.get(name).filter(|model| model.latest().is_some()).cloned())
    }

    fn resolve(&self, name: &ModelName, selector: &Selector) -> Result<ModelKey, StoreError> {
        self.with_catalogue(|models| match models.get(name) {
            Some(model) => model.resolve(selector).map(|version| ModelKey { name: name.clone(), version }),
            None => Err(StoreError::UnknownModel(name.as_str().to_owned())),
        })
    }

    fn resolve_served(
        &self,
        name: &ModelName,
        selector: &Selector,
        policy: &VersionPolicy,
    ) -> Result<ModelKey, StoreError> {
        self.with_catalogue(|models| match models.get(name) {
            Some(model) => {
                model.resolve_served(selector, policy).map(|version| ModelKey { name: name.clone(), version })
            }
            None => Err(StoreError::UnknownModel(name.as_str().to_owned())),
        })
    }

    fn delete(&self, key: &ModelKey) -> Result<(), StoreError> {
        self.change(&key.name, |mut model| {
            if !model.lost.contains_key(&key.version) {
                model.resolve(&Selector::Version(key.version))?;
            }
            if let Some((alias, _)) = model.aliases.iter().find(|(_, version)| **version == key.version) {
                return Err(StoreError::Aliased { key: key.clone(), alias: alias.clone() });
            }
            model.versions.remove(&key.version);
            model.lost.remove(&key.version);
            // The index first: the number must stay used, also that of a folder made by hand. A folder that the index
            // does not list is still a version, so nothing is deleted until the rename.
            self.write_index(&model)?;
            let place = self.version_folder(key);
            let folder = self.model_folder(&key.name);
            let temporary = disk::temporary_in(&folder);
            match fs::rename(&place, &temporary) {
                // The whole folder was lost.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved.map_err(failed("cannot move", &place))?,
            }
            self.at(Step::VersionMovedAway).and_then(|()| disk::sync_folder(&folder)).inspect_err(|_| {
                // The caller gets an error, so the version must still exist.
                if let Err(error) = fs::rename(&temporary, &place)
                    && error.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(%error, %key, "cannot restore a version whose deletion failed");
                }
            })?;
            self.at(Step::DeletionDurable)?;
            self.install(model);
            disk::remove_or_warn(&temporary);
            Ok(())
        })
    }

    fn set_alias(
        &self,
        key: &ModelKey,
        alias: &Alias,
        expected: Option<Option<Version>>,
    ) -> Result<Option<Version>, StoreError> {
        self.change(&key.name, |mut model| {
            model.resolve(&Selector::Version(key.version))?;
            let previous = model.aliases.get(alias).copied();
            if let Some(expected) = expected {
                check_alias(&model, alias, expected)?;
            }
            if previous.is_none() && model.aliases.len() >= ALIASES_MAX {
                return Err(StoreError::TooManyAliases { name: key.name.clone(), aliases_max: ALIASES_MAX });
            }
            model.aliases.insert(alias.clone(), key.version);
            self.write_index(&model)?;
            self.install(model);
            Ok(previous)
        })
    }

    fn delete_alias(&self, name: &ModelName, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError> {
        self.change(name, |mut model| {
            // An alias of a lost version can be deleted, too.
            if !model.aliases.contains_key(alias) {
                model.resolve(&Selector::Alias(alias.clone()))?;
            }
            if expected.is_some() {
                check_alias(&model, alias, expected)?;
            }
            model.aliases.remove(alias);
            self.write_index(&model)?;
            self.install(model);
            Ok(())
        })
    }

    fn note_use(&self, key: &ModelKey) -> Result<(), StoreError> {
        let path = self.version_folder(key).join(USE_FILE);
        // Does not create the folder: a deleted version stays deleted.
        let file = disk::open_regular(&path, Access::Write);
        file.and_then(|file| file.set_modified(SystemTime::now())).map_err(failed("cannot update", &path))
    }

    fn last_use(&self, key: &ModelKey) -> Option<SystemTime> {
        fs::symlink_metadata(self.version_folder(key).join(USE_FILE)).ok()?.modified().ok()
    }
}

fn check_alias(model: &ModelEntry, alias: &Alias, expected: Option<Version>) -> Result<(), StoreError> {
    let got = model.aliases.get(alias).copied();
    if got == expected {
        return Ok(());
    }
    Err(StoreError::AliasMoved { name: model.name.clone(), alias: alias.clone(), expected, got })
}
