//! Faults that tests inject into state changes of jobs.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::store::{RESERVE_BYTES, Step};
use crate::store::StoreError;
use crate::store::disk::failed;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::jobs) enum Fault {
    /// The process dies at this step. It panics, so that no clean-up after an error runs. A journal's size is
    /// ignored.
    CrashAt(Step),
    /// The disk is full, except for the space that the reserve releases.
    DiskFull,
    /// The disk is full and the reserve is used up, until the rows of the job are removed.
    DiskFullWithoutReserve,
    /// Access is denied.
    Denied,
}

static PLANS: Mutex<Option<HashMap<PathBuf, Fault>>> = Mutex::new(None);
static HOLDS: Mutex<Option<HashMap<PathBuf, u64>>> = Mutex::new(None);

/// From now on, training of jobs in `folder` blocks after this many steps until it is stopped.
pub(in crate::jobs) fn hold(folder: &Path, steps: Option<u64>) {
    let mut holds = HOLDS.lock().unwrap_or_else(PoisonError::into_inner);
    let holds = holds.get_or_insert_default();
    match steps {
        Some(steps) => holds.insert(folder.to_owned(), steps),
        None => holds.remove(folder),
    };
}

/// Whether training of jobs in `folder` must block after `step` steps.
pub(in crate::jobs) fn holds(folder: &Path, step: u64) -> bool {
    let holds = HOLDS.lock().unwrap_or_else(PoisonError::into_inner);
    holds.as_ref().and_then(|holds| holds.get(folder)).is_some_and(|&steps| step >= steps)
}

/// Injects a fault for jobs of the store in `store` from now on.
pub(in crate::jobs) fn plan(store: &Path, fault: Option<Fault>) {
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    let plans = plans.get_or_insert_default();
    match fault {
        Some(fault) => plans.insert(store.to_owned(), fault),
        None => plans.remove(store),
    };
}

pub(in crate::jobs) fn at(folder: &Path, step: Step) -> Result<(), StoreError> {
    let store = folder.parent().and_then(Path::parent).unwrap_or(folder);
    let fault =
        PLANS.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|plans| plans.get(store).copied());
    let is_same = |planned| std::mem::discriminant(&planned) == std::mem::discriminant(&step);
    let refuse = |kind: io::ErrorKind| Err(failed("cannot write", &folder.join("job.json"))(kind.into()));
    let free = RESERVE_BYTES - std::fs::metadata(store.join(".reserve")).map_or(0, |data| data.len());
    match (fault, step) {
        (Some(Fault::CrashAt(planned)), _) if is_same(planned) => {
            resume_unwind(Box::new("a planned crash") as Box<dyn Any + Send>)
        }
        (Some(Fault::DiskFull), Step::JournalBegun(bytes)) if bytes > free => refuse(io::ErrorKind::StorageFull),
        (Some(Fault::DiskFullWithoutReserve), Step::JournalBegun(_)) if folder.join("rows.spool").exists() => {
            refuse(io::ErrorKind::StorageFull)
        }
        (Some(Fault::Denied), Step::JournalBegun(_)) => refuse(io::ErrorKind::PermissionDenied),
        _ => Ok(()),
    }
}
