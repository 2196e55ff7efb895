//! Resolves file names of clients: only regular files below one folder are allowed.

use crate::model::text::shown;
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Why a client's path is rejected. The messages repeat the path and reveal nothing else about the server's disk.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The server has no `train_folder`.
    #[error(
        "cannot read file {:?}: this server reads no files, because it was started without train_folder",
        shown(asked)
    )]
    NotConfigured {
        /// The path that the client requested.
        asked: String,
    },
    /// The path is empty, absolute or contains `..`.
    #[error("file {:?} is {got}, expected a path below the server's train_folder, without `..`", shown(asked))]
    Path {
        /// The path that the client requested.
        asked: String,
        /// The kind of invalid path.
        got: &'static str,
    },
    /// A symbolic link points outside the folder.
    #[error(
        "file {:?} leads out of the server's train_folder by a symbolic link, expected a file below the folder",
        shown(asked)
    )]
    Outside {
        /// The path that the client requested.
        asked: String,
    },
    /// The path exists but is not a regular file.
    #[error("file {:?} is {got}, expected a regular file", shown(asked))]
    NotRegular {
        /// The path that the client requested.
        asked: String,
        /// The kind of file.
        got: &'static str,
    },
    /// The file does not exist.
    #[error("file {:?} is not in the server's train_folder", shown(asked))]
    NotFound {
        /// The path that the client requested.
        asked: String,
    },
    /// The operating system reports an error.
    #[error("file {:?}: {source}", shown(asked))]
    Io {
        /// The path that the client requested.
        asked: String,
        /// The system's error.
        source: io::Error,
    },
}

/// Resolves `asked`, a path relative to `folder`, to its canonical path. The result is a regular file below the folder,
/// after following symbolic links. The file is not opened, because opening a pipe would block.
///
/// # Errors
/// If there is no folder, or the path is not a regular file below it.
pub fn resolve(folder: Option<&Path>, asked: &str) -> Result<PathBuf, FolderError> {
    let name = || asked.to_owned();
    let folder = folder.ok_or_else(|| FolderError::NotConfigured { asked: name() })?;
    if let Some(got) = wrong(Path::new(asked)) {
        return Err(FolderError::Path { asked: name(), got });
    }
    let failed = |source: io::Error| match source.kind() {
        // Report every missing file the same way, so that links reveal nothing about the disk.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FolderError::NotFound { asked: name() },
        _ => FolderError::Io { asked: name(), source },
    };
    let folder = folder.canonicalize().map_err(failed)?;
    let path = folder.join(asked).canonicalize().map_err(failed)?;
    if !path.starts_with(&folder) {
        return Err(FolderError::Outside { asked: name() });
    }
    let kind = path.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(FolderError::NotRegular { asked: name(), got: "a folder" });
    }
    if !kind.is_file() {
        return Err(FolderError::NotRegular { asked: name(), got: "a pipe, a socket or a device" });
    }
    Ok(path)
}

/// Opens the file that [`resolve`] finds. If something replaces the file in between, this fails without following a
/// link and without blocking.
pub fn open(folder: Option<&Path>, asked: &str) -> Result<File, FolderError> {
    let path = resolve(folder, asked)?;
    open_resolved(&path, asked)
}

fn open_resolved(path: &Path, asked: &str) -> Result<File, FolderError> {
    let name = || asked.to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FolderError::NotFound { asked: name() },
        _ => FolderError::Io { asked: name(), source },
    };
    // The path is canonical. A link in it was created after `resolve`.
    let opened = without_links(path).map_err(|error| failed(error.into()))?;
    let file = File::from(opened);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(FolderError::NotRegular { asked: name(), got: "no longer a regular file" });
    }
    Ok(file)
}

/// Opens a file for reading without following symbolic links (on Linux before 5.6 and on other systems: in the last
/// component only). Does not block on a pipe.
fn without_links(path: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, ResolveFlags, openat2};
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // `openat2` needs Linux 5.6; some sandboxes forbid it.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
            other => return other,
        }
    }
    rustix::fs::open(path, flags, Mode::empty())
}

/// Why a path cannot be below a folder, if so.
fn wrong(asked: &Path) -> Option<&'static str> {
    if asked.as_os_str().is_empty() {
        return Some("empty");
    }
    asked.components().find_map(|component| match component {
        Component::Normal(_) | Component::CurDir => None,
        Component::ParentDir => Some("a path with `..`"),
        Component::RootDir | Component::Prefix(_) => Some("an absolute path"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A folder with `deep/rows.csv`, and a file `secret` next to the folder.
    fn folder() -> (TempDir, PathBuf) {
        let above = tempfile::tempdir().expect("a folder");
        let folder = above.path().join("train");
        fs::create_dir_all(folder.join("deep")).expect("creates");
        fs::write(folder.join("deep/rows.csv"), "1,2\n").expect("writes");
        fs::write(above.path().join("secret"), "1,2\n").expect("writes");
        (above, folder)
    }

    #[track_caller]
    fn check_refused(folder: Option<&Path>, asked: &str, text: &str) {
        let error = resolve(folder, asked).expect_err("refused").to_string();
        assert!(
            error.contains(text) && error.contains(&format!("{:?}", shown(asked))),
            "{error:?} does not say {text:?}"
        );
    }

    #[test]
    fn a_file_below_the_folder_is_found() {
        let (_above, folder) = folder();
        let expected = folder.canonicalize().expect("there").join("deep/rows.csv");
        for asked in ["deep/rows.csv", "./deep/./rows.csv", "deep//rows.csv"] {
            assert_eq!(resolve(Some(&folder), asked).expect("found"), expected, "{asked}");
        }
    }

    #[test]
    fn without_a_folder_every_file_is_refused() {
        assert!(matches!(resolve(None, "rows.csv"), Err(FolderError::NotConfigured { asked }) if asked == "rows.csv"));
        check_refused(None, "rows.csv", "without train_folder");
    }

    #[test]
    fn absolute_paths_are_refused_even_inside_the_folder() {
        let (_above, folder) = folder();
        check_refused(Some(&folder), "/etc/passwd", "an absolute path");
        let inside = folder.join("deep/rows.csv").to_string_lossy().into_owned();
        check_refused(Some(&folder), &inside, "an absolute path");
    }

    #[test]
    fn dot_dot_is_always_refused() {
        let (_above, folder) = folder();
        for asked in ["..", "../secret", "deep/../../secret", "deep/../deep/rows.csv", "deep/.."] {
            check_refused(Some(&folder), asked, "`..`");
        }
    }

    #[test]
    fn links_are_followed_only_within_the_folder() {
        let (above, folder) = folder();
        symlink("deep/rows.csv", folder.join("inside")).expect("links");
        symlink(above.path().join("secret"), folder.join("outside")).expect("links");
        symlink("..", folder.join("up")).expect("links");
        symlink("/nowhere/at/all", folder.join("dangling")).expect("links");
        symlink("loop", folder.join("loop")).expect("links");
        resolve(Some(&folder), "inside").expect("found");
        check_refused(Some(&folder), "outside", "leads out");
        check_refused(Some(&folder), "up/secret", "leads out");
        check_refused(Some(&folder), "dangling", "is not in the server's train_folder");
        check_refused(Some(&folder), "loop", "");
    }

    #[test]
    fn a_sibling_folder_with_the_same_prefix_is_outside() {
        let (above, folder) = folder();
        fs::create_dir(above.path().join("training")).expect("creates");
        fs::write(above.path().join("training/rows.csv"), "1\n").expect("writes");
        symlink("../training/rows.csv", folder.join("rows.csv")).expect("links");
        check_refused(Some(&folder), "rows.csv", "leads out");
    }

    #[test]
    fn the_folder_itself_may_be_a_link() {
        let (above, folder) = folder();
        let link = above.path().join("link");
        symlink(&folder, &link).expect("links");
        resolve(Some(&link), "deep/rows.csv").expect("found");
        check_refused(Some(&above.path().join("gone")), "rows.csv", "is not in");
    }

    #[test]
    fn only_regular_files_are_accepted() {
        let (above, folder) = folder();
        check_refused(Some(&folder), "deep", "a folder");
        check_refused(Some(&folder), ".", "a folder");
        let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).expect("binds");
        check_refused(Some(&folder), "socket", "a pipe, a socket or a device");
        let made = std::process::Command::new("mkfifo").arg(folder.join("pipe")).status();
        if made.is_ok_and(|status| status.success()) {
            check_refused(Some(&folder), "pipe", "a pipe, a socket or a device");
        }
        symlink("/dev/zero", folder.join("zero")).expect("links");
        check_refused(Some(&folder), "zero", "leads out");
        check_refused(Some(Path::new("/dev")), "zero", "a pipe, a socket or a device");
        drop(above);
    }

    #[test]
    fn a_file_replaced_after_the_check_is_not_opened() {
        let (above, folder) = folder();
        let path = resolve(Some(&folder), "deep/rows.csv").expect("found");
        open_resolved(&path, "deep/rows.csv").expect("opens");
        let refused = |why: &str| {
            let error = open_resolved(&path, "deep/rows.csv").expect_err(why).to_string();
            assert!(error.contains("deep/rows.csv"), "{why}: {error}");
        };
        fs::remove_file(&path).expect("removes");
        refused("nothing");
        symlink(above.path().join("secret"), &path).expect("links");
        refused("a link");
        fs::remove_file(&path).expect("removes");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if made.is_ok_and(|status| status.success()) {
            refused("a pipe");
        }
        // A link in the path to a folder with a file of the same name.
        fs::remove_dir_all(folder.join("deep")).expect("removes");
        fs::create_dir(above.path().join("other")).expect("creates");
        fs::write(above.path().join("other/rows.csv"), "7\n").expect("writes");
        symlink(above.path().join("other"), folder.join("deep")).expect("links");
        if cfg!(target_os = "linux") {
            refused("a link on the way");
        }
    }

    #[test]
    fn missing_files_and_invalid_names_are_refused() {
        let (_above, folder) = folder();
        check_refused(Some(&folder), "nothing.csv", "is not in");
        check_refused(Some(&folder), "deep/rows.csv/more", "is not in");
        check_refused(Some(&folder), "", "empty");
        check_refused(Some(&folder), "a\0b", "");
        check_refused(Some(&folder), &"x".repeat(100_000), "");
    }
}
