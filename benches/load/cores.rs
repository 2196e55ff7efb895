//! Runs server and clients on separate cores, so that neither takes time from the other.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// One core for the server and one for the clients; `None` if the system cannot pin threads or has only one core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    pinned: Option<(usize, usize)>,
}

impl Cores {
    /// Takes the first two allowed cores. Pins this process, and processes it starts, to the second.
    pub(crate) fn take() -> Self {
        let allowed = allowed();
        let pinned = match allowed.as_slice() {
            [server, client, ..] if pin(std::process::id(), *client).is_ok() => Some((*server, *client)),
            _ => None,
        };
        Self { pinned }
    }

    /// A description for the report.
    pub(crate) fn describe(self) -> String {
        match self.pinned {
            Some((server, client)) => format!("server on core {server}, clients on core {client}"),
            None => "server and clients share the cores (no taskset, or one core): ratios are unreliable".to_owned(),
        }
    }

    /// A command that runs `program` on the server's core.
    pub(crate) fn server_command(self, program: &Path) -> Command {
        match self.pinned {
            Some((server, _)) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &server.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Runs `work` on one thread on the server's core.
    pub(crate) fn on_server_core<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        let pinned_work = move || {
            if let Some((server, _)) = self.pinned
                && let Some(thread) = this_thread()
            {
                // Pinning worked for the whole process; if it fails here, the figures are only noisier.
                let _ = pin(thread, server);
            }
            work()
        };
        std::thread::scope(|scope| scope.spawn(pinned_work).join()).expect("the work does not panic")
    }
}

/// Pins a thread with `taskset`, because safe Rust has no API for it.
fn pin(thread: u32, core: usize) -> io::Result<()> {
    let status = Command::new("taskset")
        .args(["-c", "-p", &core.to_string(), &thread.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("refused")) }
}

/// The system's id of this thread: /proc/thread-self points at PID/task/ID.
fn this_thread() -> Option<u32> {
    fs::read_link("/proc/thread-self").ok()?.file_name()?.to_str()?.parse().ok()
}

/// The cores that this process may use, from a list such as `0-2,5`.
fn allowed() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let bounds = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    bounds.flatten().collect()
}
