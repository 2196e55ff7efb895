//! A file that replaces its target when it is complete, and leaves no trace if it never is.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
#[cfg(feature = "server")]
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempPath;

use crate::files::FileError;
use crate::model::text::first_chars;

/// An unfinished output file.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) file: File,
    /// Its temporary name; `None` where the file system supports unnamed files.
    name: Option<TempPath>,
    target: PathBuf,
    folder: PathBuf,
    /// Owner and permissions of the file that it replaces.
    before: Option<Before>,
}

/// Owner, group and permissions of a file.
#[derive(Debug)]
pub(super) struct Before {
    owner: u32,
    group: u32,
    permissions: fs::Permissions,
}

impl From<&Metadata> for Before {
    fn from(data: &Metadata) -> Self {
        Self { owner: data.uid(), group: data.gid(), permissions: data.permissions() }
    }
}

impl Pending {
    /// Creates a file in the target's folder; `named` forces a temporary name.
    pub(super) fn create(path: &str, target: PathBuf, before: Option<Before>, named: bool) -> Result<Self, FileError> {
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

    pub(super) fn finish(mut self) -> io::Result<()> {
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

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
