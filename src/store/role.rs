//! Roles of paths in the store, in words. Errors name files by role, so callers learn no paths of the server.

use std::ffi::OsStr;
use std::path::Path;

/// Name prefix of files and folders that are being built or removed; the next writer deletes leftovers.
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";
/// Number of path components, from the end, that determine a role.
const NAMES_MAX: usize = 4;

/// The role of the file or folder at `path`, for example "the index of model digits". It depends only on the last
/// components.
pub(crate) fn role(path: &Path) -> String {
    let names: Vec<&str> = path.iter().rev().take(NAMES_MAX).map(|name| OsStr::to_str(name).unwrap_or("?")).collect();
    let is_temporary = |name: &str| name.starts_with(TEMPORARY_PREFIX);
    match names.as_slice() {
        [".lock", ..] => "the lock file of the store".to_owned(),
        [".reserve", ..] => "the disk reserve of the store".to_owned(),
        [file, version, model, "models"] if is_temporary(version) => {
            format!("{} of a new version of {model}", of_version(file))
        }
        [file, version, model, "models"] => format!("{} of {model} version {version}", of_version(file)),
        ["index.json", model, "models", ..] => format!("the index of model {model}"),
        [name, model, "models", ..] if is_temporary(name) => format!("a temporary file of model {model}"),
        [version, model, "models", ..] => format!("the folder of {model} version {version}"),
        [model, "models", ..] => format!("the folder of model {model}"),
        ["models", ..] => "the folder of the models".to_owned(),
        [file, id, "jobs", ..] => match of_job(file) {
            Some(role) => format!("{role} of job {id}"),
            None => format!("a temporary file of job {id}"),
        },
        [id, "jobs", ..] => format!("the folder of job {id}"),
        ["jobs", ..] => "the folder of the jobs".to_owned(),
        ["index.json", ..] => "the index of a model".to_owned(),
        [file, ..] => of_job(file).map_or_else(|| "the store's folder".to_owned(), |role| format!("{role} of a job")),
        [] => "the store's folder".to_owned(),
    }
}

fn of_version(file: &str) -> &'static str {
    match file {
        "model.safetensors" => "the file",
        "validation_sample.safetensors" => "the validation sample",
        "last_use" => "the last-use record",
        _ => "an unknown file",
    }
}

fn of_job(file: &str) -> Option<&'static str> {
    Some(match file {
        "job.json" => "the journal",
        "rows.spool" => "the rows",
        "checkpoint" => "the checkpoint",
        "held_out" => "the held-out rows",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_store_has_a_role() {
        for (path, expected) in [
            ("/srv/store/.lock", "the lock file of the store"),
            ("/srv/store/models", "the folder of the models"),
            ("/srv/store/models/digits", "the folder of model digits"),
            ("/srv/store/models/digits/index.json", "the index of model digits"),
            ("/srv/store/models/digits/.tmp-1", "a temporary file of model digits"),
            ("/srv/store/models/digits/3", "the folder of digits version 3"),
            ("/srv/store/models/digits/3/model.safetensors", "the file of digits version 3"),
            ("/srv/store/models/digits/.tmp-1/model.safetensors", "the file of a new version of digits"),
            ("/srv/store/models/digits/3/validation_sample.safetensors", "the validation sample of digits version 3"),
            ("/srv/store/jobs", "the folder of the jobs"),
            ("/srv/store/jobs/.reserve", "the disk reserve of the store"),
            ("/srv/store/jobs/0198", "the folder of job 0198"),
            ("/srv/store/jobs/0198/job.json", "the journal of job 0198"),
            ("/srv/store/jobs/0198/rows.spool", "the rows of job 0198"),
            ("/srv/store/jobs/0198/checkpoint", "the checkpoint of job 0198"),
            ("/srv/store/jobs/0198/held_out", "the held-out rows of job 0198"),
            ("/srv/store/jobs/0198/.tmp-1", "a temporary file of job 0198"),
            ("rows.spool", "the rows of a job"),
            ("/srv/store", "the store's folder"),
            ("/", "the store's folder"),
        ] {
            assert_eq!(role(Path::new(path)), expected, "{path}");
        }
    }
}
