//! Files that results go to: whole, or as they were before.
//!
//! A result is written to a file without a name in the folder of its target. Once it is whole and on disk it takes the
//! target's name, in one step. An error, Ctrl-C or a crash before that leaves the target as it was.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::FileError;

/// Symbolic links that are followed, as the system does.
const LINKS_MAX: usize = 40;
/// Names of standard output beside `-`.
const STANDARD: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where a result goes. Dropped before [`Output::finish`], it leaves no trace.
#[derive(Debug)]
pub struct Output {
    path: String,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    /// Standard output.
    Standard,
    /// A pipe or a device: it cannot be replaced, so it is written as the result comes.
    Direct(File),
    /// A file that is replaced at the end.
    Pending(Pending),
}

/// The result of a file, so far.
#[derive(Debug)]
struct Pending {
    file: File,
    /// Its name until it has that of the target; nothing where the file system can do without one.
    name: Option<TempPath>,
    target: PathBuf,
    folder: PathBuf,
    /// Of the file that it replaces.
    before: Option<Before>,
}

/// Whose a file is, and who may do what with it.
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
    /// Prepares a file (`-`: standard output). Call it before any work, so that a path that cannot be written costs none.
    ///
    /// # Errors
    /// If there is no such folder, or nothing can be written there.
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

    /// What it is called in errors: `-` for standard output.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether what was written can be read and written again before the end.
    pub fn is_file(&self) -> bool {
        matches!(self.sink, Sink::Pending(_))
    }

    /// Puts the result in its place.
    ///
    /// # Errors
    /// What the system says; the target is as it was then.
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

/// Whether two outputs would be the same file.
///
/// # Errors
/// If one of them cannot be looked at.
pub fn is_same(one: &str, other: &str) -> Result<bool, FileError> {
    let (one, other) = (resolved(one)?, resolved(other)?);
    let absolute = |path: &Option<PathBuf>| match path {
        None => Ok(None),
        Some(path) => canonical(path).map(Some),
    };
    match (absolute(&one), absolute(&other)) {
        (Ok(one), Ok(other)) => Ok(one == other),
        // What has no folder is refused where it is created.
        _ => Ok(one == other),
    }
}

/// The folder's real path, and the name in it.
fn canonical(path: &Path) -> io::Result<PathBuf> {
    Ok(folder_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path behind all symbolic links, whether or not anything is there; nothing for standard output.
fn resolved(path: &str) -> Result<Option<PathBuf>, FileError> {
    if path.is_empty() {
        return Err(FileError::content("output", "got no name", "that of a file, or - for standard output"));
    }
    if path == "-" || STANDARD.contains(&path) {
        return Ok(None);
    }
    let mut target = PathBuf::from(path);
    for _ in 0..LINKS_MAX {
        // What is behind /dev/fd/3 is open already.
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

/// For files alone.
impl Seek for Output {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match &mut self.sink {
            Sink::Pending(pending) => pending.file.seek(position),
            Sink::Standard | Sink::Direct(_) => Err(io::ErrorKind::NotSeekable.into()),
        }
    }
}

impl Pending {
    /// Makes a file in the target's folder; `named`: one with a name, although it could do without.
    fn create(path: &str, target: PathBuf, before: Option<Before>, named: bool) -> Result<Self, FileError> {
        let folder = folder_of(&target).to_owned();
        if !folder.is_dir() {
            let got = if folder.exists() { "is no folder" } else { "does not exist" };
            let got = format!("{} {got}", folder.display());
            return Err(FileError::content(path, got, "a folder to write to: make it, or choose another output"));
        }
        let failed = |source: io::Error| {
            let folder = folder.display();
            FileError::content(
                path,
                format!("no file can be made in {folder} ({source})"),
                "a folder that can be written to",
            )
        };
        let without_name = if named { None } else { without_name(&folder).map_err(failed)? };
        let (file, name) = match without_name {
            Some(file) => (file, None),
            None => {
                let (file, name) = with_name(&target, |path| options().open(path)).map_err(failed)?;
                #[cfg(not(test))]
                remove_at_interrupt(name.to_path_buf());
                (file, Some(name))
            }
        };
        Ok(Self { file, name, target, folder, before })
    }

    fn finish(mut self) -> io::Result<()> {
        if let Some(before) = &self.before {
            // The owner first: a change of it takes bits of the mode away. Not everybody may do either.
            let _ = std::os::unix::fs::fchown(&self.file, Some(before.owner), Some(before.group));
            let _ = self.file.set_permissions(before.permissions.clone());
        }
        self.file.sync_all()?;
        let name = match self.name.take() {
            Some(name) => name,
            None => self.give_name()?,
        };
        name.persist(&self.target).map_err(|error| error.error)?;
        // The result is there; only a crash of the machine could still take its name away.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Gives the file a name beside the target's.
    fn give_name(&mut self) -> io::Result<TempPath> {
        if let Ok(((), name)) = with_name(&self.target, |path| link(&self.file, path)) {
            return Ok(name);
        }
        // Some file systems make files without a name and give them none later.
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

/// Creates a file that does not exist yet.
fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    options
}

/// Makes something at a hidden name beside the target.
fn with_name<T>(target: &Path, make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, TempPath)> {
    let mut prefix = std::ffi::OsString::from(".");
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // The longest name of a file has 255 bytes.
    prefix.push(name.chars().take(50).collect::<String>());
    prefix.push(".");
    let made = tempfile::Builder::new().prefix(&prefix).suffix(".part").make_in(folder_of(target), make)?;
    Ok(made.into_parts())
}

/// A file that is gone when it is closed, in a folder; nothing where that is not to be had.
#[cfg(target_os = "linux")]
fn without_name(folder: &Path) -> io::Result<Option<File>> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    // It gets its name through this folder.
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

/// Gives a file without a name one.
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

/// Ctrl-C ends the process without running destructors: removes the file then. Where files need no name this is not
/// needed, and the process ends as it always does.
#[cfg(not(test))]
fn remove_at_interrupt(name: PathBuf) {
    use tokio::signal::unix::{SignalKind, signal};
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else { return };
            // As shells count: 128 and the number of the signal.
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            let _ = fs::remove_file(&name);
            std::process::exit(code);
        });
    });
}

/// A place for a result that has to be complete before its first byte can be written.
pub(super) struct Spool {
    file: File,
}

impl Spool {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()? })
    }

    /// Copies everything to `output`, from the first byte on.
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
    fn a_result_appears_when_it_is_whole() {
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
    fn a_result_that_is_dropped_leaves_the_old_one() {
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
    fn a_file_system_that_wants_names_gets_them_and_loses_them() {
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
        check_refused(&folder.path().join("file/rows.csv"), "file is no folder, expected a folder");
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
