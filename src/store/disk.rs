//! Durable operations on files and folders, and the errors of their failures.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::role::{TEMPORARY_PREFIX, role};

/// Payload of the I/O error of [`open_regular`] for a path that is not a regular file.
#[derive(Debug, thiserror::Error)]
#[error("is {0}, expected a regular file")]
struct NotRegular(&'static str);

/// Converts an I/O error into a store error that names the action: `.map_err(failed("cannot read", path))`. The error
/// names the path by its role.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let role = role(path);
    move |error| {
        if let Some(NotRegular(found)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return StoreError::NotAFile { role, found };
        }
        let kind = error.kind();
        let source = Arc::new(error);
        match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::DiskFull { action, role, source },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Denied { action, role, source },
            _ => StoreError::Io { action, role, source },
        }
    }
}

/// A new unique temporary path in `folder`.
pub(crate) fn temporary_in(folder: &Path) -> PathBuf {
    folder.join(format!("{TEMPORARY_PREFIX}{}", uuid::Uuid::new_v4().simple()))
}

/// Creates `folder` if it does not exist. Refuses a file or a symbolic link in its place. The name is durable only
/// after [`sync_folder`] of the parent.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => check_folder(folder),
        Err(error) => Err(failed("cannot create the folder", folder)(error)),
    }
}

/// Checks that the path is a folder and not a link to one: a link may lead out of the store.
pub(crate) fn check_folder(folder: &Path) -> Result<(), StoreError> {
    let kind = fs::symlink_metadata(folder).map_err(failed("cannot examine", folder))?.file_type();
    if kind.is_dir() {
        return Ok(());
    }
    Err(StoreError::NotAFolder { role: role(folder), found: kind_name(kind) })
}

/// The kind of a file that is not regular, as a clause: "is a named pipe".
pub(crate) fn is_kind(kind: FileType) -> &'static str {
    match kind_name(kind) {
        "a folder" => "is a folder",
        "a symbolic link" => "is a symbolic link",
        "a named pipe" => "is a named pipe",
        "a socket" => "is a socket",
        "a device" => "is a device",
        _ => "is no regular file",
    }
}

/// The kind of a file in words: "a named pipe".
fn kind_name(kind: FileType) -> &'static str {
    if kind.is_file() {
        return "a file";
    }
    if kind.is_dir() {
        return "a folder";
    }
    if kind.is_symlink() {
        return "a symbolic link";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_block_device() || kind.is_char_device() {
            return "a device";
        }
    }
    "no file"
}

/// Writes a new file and syncs its bytes to disk. Its name is durable only after [`sync_folder`].
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed("cannot create", path))?;
    file.write_all(bytes).map_err(failed("cannot write", path))?;
    file.sync_all().map_err(failed("cannot make durable", path))
}

/// Syncs the names in `folder` to disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    if cfg!(not(unix)) {
        // Other systems cannot open folders; renames are as durable as the system makes them.
        return Ok(());
    }
    File::open(folder).and_then(|file| file.sync_all()).map_err(failed("cannot make durable", folder))
}

/// Free bytes of the file system of `folder`; `None` if the system does not report them.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}

/// Result of [`read_bounded`].
pub(crate) enum Bounded {
    /// The content of the file.
    Bytes(Vec<u8>),
    /// The file is too large, with its size in bytes; the content was not returned.
    TooLarge(u64),
}

/// How a file of the store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read only.
    Read,
    /// Read and write; the file must exist.
    ReadWrite,
    /// Write only; creates the file if it does not exist.
    Write,
}

/// Opens a regular file: the only way to open a file of the store that may exist already. It never blocks: it refuses
/// named pipes, devices, sockets, folders and links, and the error names the kind.
pub(crate) fn open_regular(path: &Path, access: Access) -> io::Result<File> {
    let refused = |kind| Err(io::Error::new(ErrorKind::InvalidData, NotRegular(kind_name(kind))));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return refused(found.file_type()),
        Err(error) if access != Access::Write || error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(access != Access::Write).write(access != Access::Read).create(access == Access::Write);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // The file may have been replaced since the check: opening it must neither block nor follow a link.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() { Ok(file) } else { refused(kind) }
}

/// Reads a regular file of at most `bytes_max` bytes.
pub(crate) fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Bounded> {
    let file = open_regular(path, Access::Read)?;
    let length = file.metadata()?.len();
    if length > bytes_max {
        return Ok(Bounded::TooLarge(length));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(length).unwrap_or(usize::MAX))?;
    // Reading one byte more than allowed detects a file that grew meanwhile.
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    let got = bytes.len() as u64;
    Ok(if got > bytes_max { Bounded::TooLarge(got) } else { Bounded::Bytes(bytes) })
}

/// Reads the 8 bytes of a safetensors header length and the header, at most `bytes_max` bytes. A truncated file gives
/// fewer bytes: the caller checks completeness.
pub(crate) fn read_header(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path, Access::Read)?;
    let mut bytes = Vec::new();
    (&mut file).take(8).read_to_end(&mut bytes)?;
    if let Some(length) = bytes.first_chunk::<8>() {
        let rest = u64::from_le_bytes(*length).min(bytes_max.saturating_sub(8));
        file.take(rest).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Removes a file, a link (not its target) or a whole folder. A missing path is not an error.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// [`remove`] that only logs a failure: the next writer tries again.
pub(crate) fn remove_or_warn(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!(%error, "a temporary stays behind; the next start of a writer removes it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_header(file: &[u8], expected: &[u8]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        write_new(&path, file).expect("written");
        assert_eq!(read_header(&path, 16).expect("readable"), expected);
    }

    #[test]
    fn headers_end_at_their_length_the_file_end_or_the_limit() {
        check_header(b"\x02\0\0\0\0\0\0\0{}tensors", b"\x02\0\0\0\0\0\0\0{}");
        check_header(b"\x09\0\0\0\0\0\0\0abcdefghi", b"\x09\0\0\0\0\0\0\0abcdefgh");
        check_header(b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\xff\xff\xff\xff\xff\xff\xff\xff{}");
        check_header(b"\x02\0\0", b"\x02\0\0");
        check_header(b"", b"");
    }

    #[test]
    fn a_full_disk_has_its_own_error_variant() {
        let error = |kind: ErrorKind| failed("cannot write", Path::new("x"))(kind.into());
        assert!(matches!(error(ErrorKind::StorageFull), StoreError::DiskFull { .. }));
        assert!(matches!(error(ErrorKind::QuotaExceeded), StoreError::DiskFull { .. }));
        assert!(matches!(error(ErrorKind::PermissionDenied), StoreError::Denied { .. }));
        assert!(matches!(error(ErrorKind::ReadOnlyFilesystem), StoreError::Denied { .. }));
        assert!(matches!(error(ErrorKind::NotFound), StoreError::Io { .. }));
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_opened_and_opening_never_waits() {
        use std::os::unix::fs::symlink;
        use std::os::unix::net::UnixListener;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let at = |name: &str| folder.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        let _socket = UnixListener::bind(at("socket")).expect("a socket");
        fs::create_dir(at("folder")).expect("a folder");
        fs::write(at("file"), "text").expect("a file");
        symlink(at("file"), at("link")).expect("a link");
        symlink("/dev/zero", at("device link")).expect("a link");
        for access in [Access::Read, Access::ReadWrite, Access::Write] {
            for (name, found) in [
                ("pipe", "a named pipe"),
                ("socket", "a socket"),
                ("folder", "a folder"),
                ("link", "a symbolic link"),
                ("device link", "a symbolic link"),
                ("/dev/null", "a device"),
            ] {
                let error = open_regular(&at(name), access).expect_err("no regular file");
                match failed("cannot open", &at("rows.spool"))(error) {
                    StoreError::NotAFile { role, found: got } => {
                        assert_eq!((role.as_str(), got), ("the rows of a job", found));
                    }
                    other => panic!("{name}: {other}"),
                }
            }
            open_regular(&at("file"), access).expect("a regular file");
        }
        open_regular(&at("new"), Access::Write).expect("made");
        assert_eq!(open_regular(&at("gone"), Access::ReadWrite).expect_err("no file").kind(), ErrorKind::NotFound);
    }
}
