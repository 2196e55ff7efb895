//! Where a page goes: a file that is there whole or not at all, or standard output.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cli::CliError;

/// A path, or `-`.
#[derive(Clone, Debug)]
pub(super) struct Output(String);

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("got no name, expected that of a file, or - for standard output".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0 == "-" { "standard output" } else { &self.0 })
    }
}

impl Output {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a file could be made there.
    ///
    /// # Errors
    /// [`CliError::Usage`] if its folder is none, or it is a folder itself.
    pub(super) fn check(&self) -> Result<(), CliError> {
        if self.0 == "-" {
            return Ok(());
        }
        if Path::new(&self.0).is_dir() {
            return Err(CliError::Usage(format!("--output {} is a folder, expected a file in a folder", self.0)));
        }
        let folder = self.folder();
        if folder.is_dir() {
            return Ok(());
        }
        let got = if folder.exists() { "is no folder" } else { "does not exist" };
        let folder = folder.display();
        Err(CliError::Usage(format!("--output {}: {folder} {got}, expected a folder to write the page to", self.0)))
    }

    pub(super) fn write(&self, page: &[u8]) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("{self}: {error}"));
        if self.0 == "-" {
            let mut output = io::stdout().lock();
            return output.write_all(page).and_then(|()| output.flush()).map_err(failed);
        }
        // Beside its place and moved there when it is whole: nobody sees half a page.
        let mut file = temporary(&self.folder()).map_err(failed)?;
        file.write_all(page).map_err(failed)?;
        file.persist(&self.0).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        let folder = Path::new(&self.0).parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).to_owned()
    }
}

/// A page is to be read by whom the user's umask lets read: not, as temporary files are, by its owner alone.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(path: &Path) -> Output {
        path.to_str().expect("text").parse().expect("a path")
    }

    #[test]
    fn a_page_replaces_the_one_before_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("page.html");
        for text in ["a longer page", "a page"] {
            output(&path).write(text.as_bytes()).expect("writes");
            assert_eq!(std::fs::read_to_string(&path).expect("is there"), text);
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[track_caller]
    fn check_refused(path: &Path, expected: &str) {
        let error = output(path).check().expect_err("cannot be written").to_string();
        assert!(error.contains(expected) && error.contains(&*path.to_string_lossy()), "{error}");
    }

    #[test]
    fn a_place_that_cannot_be_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "").expect("writes");
        check_refused(folder.path(), "is a folder, expected a file");
        check_refused(&folder.path().join("away/page.html"), "does not exist, expected a folder");
        check_refused(&folder.path().join("file/page.html"), "is no folder, expected a folder");
        assert!("".parse::<Output>().is_err());
        assert!("-".parse::<Output>().expect("standard output").check().is_ok());
    }
}
