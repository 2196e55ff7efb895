//! Output files: complete, or unchanged.
//!
//! A result is written to an unnamed file in the folder of its target. When it is complete and on disk, it replaces the
//! target in one step. An error, Ctrl-C or a crash before that leaves the target unchanged.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
#[cfg(feature = "server")]
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempPath;

use super::FileError;
use crate::model::text::first_chars;

/// Maximum number of symbolic links to follow; the same as Linux.
const LINKS_MAX: usize = 40;
/// Names of standard output, besides `-`.
const STANDARD: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// The destination of a result. If dropped before [`Output::finish`], it leaves no trace.
#[derive(Debug)]
pub struct Output {
    path: String,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Standard output.
    Standard,
    /// A pipe or a device. It cannot be replaced, so bytes are written immediately.
    Direct(File),
    /// A file, replaced by [`Output::finish`].
    Pending(Pending),
}

/// An unfinished output file.
#[derive(Debug)]
struct Pending {
    file: File,
    /// Its temporary name; `None` where the file system supports unnamed files.
    name: Option<TempPath>,
    target: PathBuf,
    folder: PathBuf,
    /// Owner and permissions of the file that it replaces.
    before: Option<Before>,
}

/// Owner, group and permissions of a file.
#[derive(Debug)]
struct Before {
    owner: u32,
    group: u32,
    permissions: fs::Permissions,
}

impl From<&Metadata> for Before {
    fn from(data: &Metadata) -> Self {
        Self { owner: data.uid(), group: data.gid(), permissions: data.permissions() }
    }
}

impl Output {
    /// Prepares an output file (`-` for standard output). Call it before any work, so that an unwritable path fails at
    /// once.
    ///
    /// # Errors
    /// If the folder does not exist or is not writable.
    pub fn create(path: &str) -> Result<Self, FileError> {
        let target = resolved(path)?;
        let Some(target) = target else { return Ok(Self { path: "-".to_owned(), sink: Sink::Standard }) };
        let failed = |source| FileError::Io { path: path.to_owned(), source };
        let before = match fs::metadata(&target) {
            Ok(data) => Some(data),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            Err(error) => return Err(failed(error)),
        };
        let kind = before.as_ref().map(Metadata::file_type);
        if kind.is_some_and(|kind| kind.is_dir()) {
            return Err(FileError::content(path, "it is a folder", "a file in a folder"));
        }
        let special = kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
        if special || target.starts_with("/dev/fd") || target.starts_with("/proc") {
            let file = File::options().write(true).open(&target).map_err(failed)?;
            return Ok(Self { path: path.to_owned(), sink: Sink::Direct(file) });
        }
        if kind.is_some_and(|kind| !kind.is_file()) {
            return Err(FileError::content(path, "it is a socket", "a file, a pipe or a device"));
        }
        if before.is_some() {
            // Replacing a file needs the right to write it.
            File::options().write(true).open(&target).map_err(failed)?;
        }
        let before = before.as_ref().map(Before::from);
        let pending = Pending::create(path, target, before, false)?;
        Ok(Self { path: path.to_owned(), sink: Sink::Pending(pending) })
    }

    /// The path as errors show it; `-` for standard output.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the output is a regular file, so that earlier bytes can be rewritten before [`Output::finish`].
    pub fn is_file(&self) -> bool {
        matches!(self.sink, Sink::Pending(_))
    }

    /// Replaces the target with the result.
    ///
    /// # Errors
    /// If the system reports an error; the target file is then unchanged.
    pub fn finish(self) -> Result<(), FileError> {
        let Self { path, sink } = self;
        let finished = match sink {
            Sink::Standard => io::stdout().flush(),
            Sink::Direct(mut file) => file.flush(),
            Sink::Pending(pending) => pending.finish(),
        };
        finished.map_err(|source| FileError::Io { path, source })
    }
}

/// Whether two output paths lead to the same file.
///
/// # Errors
/// If a path is empty or has too many symbolic links.
pub fn is_same(one: &str, other: &str) -> Result<bool, FileError> {
    let (one, other) = (resolved(one)?, resolved(other)?);
    let absolute = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => canonical(path).map(Some),
    };
    match (absolute(&one), absolute(&other)) {
        (Ok(one), Ok(other)) => Ok(one == other),
        // A missing folder is reported when the output is created.
        _ => Ok(one == other),
    }
}

/// The canonical path of the folder, joined with the file name.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    Ok(folder_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path after following symbolic links, whether or not it exists; `None` for standard output.
fn resolved(path: &str) -> Result<Option<PathBuf>, FileError> {
    if path.is_empty() {
        return Err(FileError::content("output", "the name is empty", "a file name, or - for standard output"));
    }
    if path == "-" || STANDARD.contains(&path) {
        return Ok(None);
    }
    let mut target = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        // /dev/fd/N is an open file; do not follow it.
        if target.starts_with("/dev/fd") || target.starts_with("/proc") {
            return Ok(Some(target));
        }
        let Ok(link) = fs::read_link(&target) else { return Ok(Some(target)) };
        target = folder_of(&target).join(link);
    }
    Err(FileError::content(path, format!("it leads through more than {LINKS_MAX} symbolic links"), "a file"))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.sink {
            Sink::Standard => io::stdout().write(bytes),
            Sink::Direct(file) => file.write(bytes),
            Sink::Pending(pending) => pending.file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Standard => io::stdout().flush(),
            Sink::Direct(file) => file.flush(),
            Sink::Pending(pending) => pending.file.flush(),
        }
    }
}

/// Only regular files can seek.
impl Seek for Output {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match &mut self.sink {
            Sink::Pending(pending) => pending.file.seek(position),
            Sink::Standard | Sink::Direct(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }
}

impl Pending {
    /// Creates a file in the target's folder; `named` forces a temporary name.
    fn create(path: &str, target: PathBuf, before: Option<Before>, named: bool) -> Result<Self, FileError> {
        let folder = folder_of(&target).to_owned();
        if !folder.is_dir() {
            let got = if folder.exists() { "is not a folder" } else { "does not exist" };
            let got = format!("{} {got}", folder.display());
            return Err(FileError::content(path, got, "a folder to write to: create it, or choose another output"));
        }
        let failed = |source: io::Error| {
            let folder = folder.display();
            FileError::content(
                path,
                format!("cannot create a file in {folder} ({source})"),
                "a folder that can be written to",
            )
        };
        let without_name = if named { None } else { without_name(&folder).map_err(failed)? };
        let (file, name) = match without_name {
            Some(file) => (file, None),
            None => {
                let (file, name) = with_name(&target, |path| options().open(path)).map_err(failed)?;
                #[cfg(feature = "server")]
                if IS_PROGRAM.load(Ordering::Relaxed) {
                    remove_at_interrupt(name.to_path_buf());
                }
                (file, Some(name))
            }
        };
        Ok(Self { file, name, target, folder, before })
    }

    fn finish(mut self) -> io::Result<()> {
        if let Some(before) = &self.before {
            // Owner first: changing it clears mode bits. The user may lack the right to do either.
            let _ = std::os::unix::fs::fchown(&self.file, Some(before.owner), Some(before.group));
            let _ = self.file.set_permissions(before.permissions.clone());
        }
        self.file.sync_all()?;
        let name = match self.name.take() {
            Some(name) => name,
            None => self.give_name()?,
        };
        name.persist(&self.target).map_err(|error| error.error)?;
        // The result is in place. Syncing the folder makes its name survive a crash of the machine.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Gives the unnamed file a temporary name next to the target.
    fn give_name(&mut self) -> io::Result<TempPath> {
        if let Ok(((), name)) = with_name(&self.target, |path| link(&self.file, path)) {
            return Ok(name);
        }
        // Some file systems create unnamed files but cannot link them later: copy the content.
        let (mut copy, name) = with_name(&self.target, |path| options().open(path))?;
        self.file.seek(SeekFrom::Start(0))?;
        io::copy(&mut self.file, &mut copy)?;
        if let Some(before) = &self.before {
            let _ = copy.set_permissions(before.permissions.clone());
        }
        copy.sync_all()?;
        Ok(name)
    }
}

/// Options that create a new file and fail if it exists.
fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    options
}

/// Calls `make` with a hidden name next to the target until a name is free.
fn with_name<T>(target: &Path, make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, TempPath)> {
    let mut prefix = std::ffi::OsString::from(".");
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // File names are limited to 255 bytes.
    prefix.push(first_chars(&name, 50));
    prefix.push(".");
    let made = tempfile::Builder::new().prefix(&prefix).suffix(".part").make_in(folder_of(target), make)?;
    Ok(made.into_parts())
}

/// Opens an unnamed file in a folder; it disappears when closed. `None` if the system does not support this.
#[cfg(target_os = "linux")]
fn without_name(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    // `link` needs this folder to name the file.
    if !Path::new("/proc/self/fd").is_dir() {
        return Ok(None);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)) {
        Ok(file) => Ok(Some(File::from(file))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn without_name(_: &Path) -> io::Result<Option<File>> {
    Ok(None)
}

/// Links an unnamed file to a path.
#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, linkat};
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn link(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether this process is the program. A library leaves signals to its user.
#[cfg(feature = "server")]
static IS_PROGRAM: AtomicBool = AtomicBool::new(false);

/// From now on, Ctrl-C and SIGTERM remove unfinished output files and end the process.
#[cfg(feature = "server")]
pub fn remove_unfinished_at_interrupt() {
    IS_PROGRAM.store(true, Ordering::Relaxed);
}

/// Removes a temporary file on Ctrl-C or SIGTERM, which end the process without running destructors. Only called where
/// the file has a name.
#[cfg(feature = "server")]
fn remove_at_interrupt(name: PathBuf) {
    use tokio::signal::unix::{SignalKind, signal};
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return };
            // The exit code of shells: 128 plus the signal number.
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            let _ = fs::remove_file(&name);
            std::process::exit(code);
        });
    });
}

/// A temporary file for a result that must be complete before its first byte can be written.
pub(super) struct Spool {
    file: File,
}

impl Spool {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()? })
    }

    /// Copies the whole content to `output`.
    pub(super) fn copy_to(mut self, output: &mut Output) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                return output.flush();
            }
            output.write_all(&buffer[..read])?;
        }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn text(path: &Path) -> String {
        path.to_str().expect("text").to_owned()
    }

    fn count(folder: &TempDir) -> usize {
        fs::read_dir(folder.path()).expect("a folder").count()
    }

    #[track_caller]
    fn check_refused(path: &Path, expected: &str) {
        let error = Output::create(&text(path)).expect_err("refused").to_string();
        assert!(error.contains(expected) && error.contains(&text(path)), "{error}");
    }

    fn write(path: &Path, content: &str) {
        let mut output = Output::create(&text(path)).expect("creates");
        output.write_all(content.as_bytes()).expect("writes");
        output.finish().expect("finishes");
    }

    #[test]
    fn a_result_appears_only_when_complete() {
        let folder = folder();
        let path = folder.path().join("rows.csv");
        for content in ["a longer result", "a result"] {
            let before = fs::read_to_string(&path).ok();
            let mut output = Output::create(&text(&path)).expect("creates");
            output.write_all(content.as_bytes()).expect("writes");
            output.flush().expect("flushes");
            assert_eq!(fs::read_to_string(&path).ok(), before, "until it is whole");
            output.finish().expect("finishes");
            assert_eq!(fs::read_to_string(&path).expect("is there"), content);
        }
        assert_eq!(count(&folder), 1, "nothing beside it");
    }

    #[test]
    fn a_dropped_result_leaves_the_old_one() {
        let folder = folder();
        let path = folder.path().join("rows.csv");
        let drop_half = || {
            let mut output = Output::create(&text(&path)).expect("creates");
            output.write_all(b"half").expect("writes");
        };
        drop_half();
        assert_eq!(count(&folder), 0);
        fs::write(&path, "old").expect("writes");
        drop_half();
        assert_eq!((fs::read_to_string(&path).expect("is there").as_str(), count(&folder)), ("old", 1));
    }

    #[test]
    fn hidden_temporary_files_are_removed() {
        let folder = folder();
        let path = folder.path().join("rows.csv");
        let create = || Pending::create("rows.csv", path.clone(), None, true).expect("creates");
        let mut pending = create();
        pending.file.write_all(b"new").expect("writes");
        assert_eq!(count(&folder), 1, "a hidden file");
        drop(pending);
        assert_eq!(count(&folder), 0);
        let mut pending = create();
        pending.file.write_all(b"new").expect("writes");
        pending.finish().expect("finishes");
        assert_eq!((fs::read_to_string(&path).expect("is there").as_str(), count(&folder)), ("new", 1));
    }

    #[test]
    fn permissions_stay_and_new_files_have_the_usual_ones() {
        let folder = folder();
        let (old, new, plain) = (folder.path().join("old"), folder.path().join("new"), folder.path().join("plain"));
        fs::write(&old, "old").expect("writes");
        fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).expect("sets");
        write(&old, "new");
        write(&new, "new");
        fs::write(&plain, "").expect("writes");
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&old), mode(&new)), (0o640, mode(&plain)));
    }

    #[test]
    fn links_stay_and_the_file_behind_them_is_replaced() {
        let folder = folder();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("creates");
        let (link, dangling) = (folder.path().join("link"), folder.path().join("dangling"));
        symlink("inner/rows.csv", &link).expect("links");
        fs::write(inner.join("rows.csv"), "old").expect("writes");
        symlink("inner/later.csv", &dangling).expect("links");
        for (link, file) in [(&link, "rows.csv"), (&dangling, "later.csv")] {
            write(link, "new");
            assert!(fs::symlink_metadata(link).expect("is there").is_symlink());
            assert_eq!(fs::read_to_string(inner.join(file)).expect("is there"), "new");
        }
        let circle = folder.path().join("circle");
        symlink("circle", &circle).expect("links");
        assert!(Output::create(&text(&circle)).is_err());
    }

    #[test]
    fn places_that_cannot_be_written_are_refused_with_the_reason() {
        let folder = folder();
        fs::write(folder.path().join("file"), "").expect("writes");
        check_refused(folder.path(), "it is a folder, expected a file");
        check_refused(&folder.path().join("away/rows.csv"), "away does not exist, expected a folder");
        check_refused(&folder.path().join("file/rows.csv"), "file is not a folder, expected a folder");
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("binds");
        check_refused(&folder.path().join("socket"), "it is a socket");
        assert!(Output::create("").is_err());
        assert_eq!(count(&folder), 2, "nothing is left of them");
    }

    #[test]
    fn devices_are_written_and_not_replaced() {
        let mut output = Output::create("/dev/null").expect("opens");
        output.write_all(b"gone").expect("writes");
        output.finish().expect("finishes");
        assert!(fs::metadata("/dev/null").expect("is there").file_type().is_char_device());
        assert_eq!(Output::create("/dev/stdout").expect("opens").path(), "-");
        let full = Output::create("/dev/full").expect("opens").write_all(b"x").expect_err("full");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn one_file_under_two_names_is_recognized() {
        let folder = folder();
        let at = |name: &str| text(&folder.path().join(name));
        symlink("rows.csv", folder.path().join("link")).expect("links");
        fs::create_dir(folder.path().join("deep")).expect("creates");
        for (one, other, expected) in [
            (at("rows.csv"), at("rows.csv"), true),
            (at("rows.csv"), at("deep/../rows.csv"), true),
            (at("rows.csv"), at("link"), true),
            (at("rows.csv"), at("other.csv"), false),
            ("-".to_owned(), "/dev/stdout".to_owned(), true),
            ("-".to_owned(), at("rows.csv"), false),
        ] {
            assert_eq!(is_same(&one, &other).expect("looks"), expected, "{one} and {other}");
        }
    }
}
