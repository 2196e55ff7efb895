//! Reads the files of versions.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::LocalStore;
use crate::model::sample::SAMPLE_FILE_BYTES_MAX;
use crate::model::{ModelKey, Selector};
use crate::store::disk::{self, Bounded, failed};
use crate::store::scan::{MODEL_FILE, SAMPLE_FILE};
use crate::store::{FILE_BYTES_MAX, HEADER_BYTES_MAX, ModelBlobs, ModelCatalogue, StoreError};

impl LocalStore {
    /// Reads from the model file of a version in the catalogue.
    fn read_file<T>(&self, key: &ModelKey, read: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, StoreError> {
        let asked = Selector::Version(key.version);
        self.resolve(&key.name, &asked)?;
        let path = self.version_folder(key).join(MODEL_FILE);
        read(&path).or_else(|error| {
            if error.kind() == ErrorKind::NotFound {
                // Another writer removed the version since the last scan.
                let _writer = self.lock_writer();
                self.install(self.look(&key.name)?);
                self.resolve(&key.name, &asked)?;
            }
            Err(failed("cannot read", &path)(error))
        })
    }
}

impl ModelBlobs for LocalStore {
    fn read(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        match self.read_file(key, |path| disk::read_bounded(path, FILE_BYTES_MAX))? {
            Bounded::Bytes(bytes) => Ok(bytes),
            Bounded::TooLarge(bytes) => {
                Err(StoreError::TooLarge { what: key.to_string(), bytes, bytes_max: FILE_BYTES_MAX })
            }
        }
    }

    fn read_header(&self, key: &ModelKey) -> Result<Vec<u8>, StoreError> {
        self.read_file(key, |path| disk::read_header(path, HEADER_BYTES_MAX))
    }

    fn read_sample(&self, key: &ModelKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.resolve(&key.name, &Selector::Version(key.version))?;
        let path = self.version_folder(key).join(SAMPLE_FILE);
        match disk::read_bounded(&path, SAMPLE_FILE_BYTES_MAX) {
            Ok(Bounded::Bytes(bytes)) => Ok(Some(bytes)),
            Ok(Bounded::TooLarge(bytes)) => {
                let what = format!("the validation sample of {key}");
                Err(StoreError::TooLarge { what, bytes, bytes_max: SAMPLE_FILE_BYTES_MAX })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("cannot read", &path)(error)),
        }
    }
}
