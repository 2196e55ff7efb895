//! Child processes that end with their owner, and their resource use.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Sub;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Why a measurement failed.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Maximum number of output lines before the one with the server's address.
const LINES_BEFORE_ADDRESS_MAX: usize = 20;

/// A child process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    child: Child,
}

impl Owned {
    /// Starts a server, and reads its address from the output line that ends with `http://ADDRESS`.
    ///
    /// Its standard input stays open as long as this process lives, so a child can watch for its end.
    pub(crate) fn server(mut command: Command) -> Result<(Self, SocketAddr), Failure> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut owned = Self { child };
        let output = owned.child.stdout.take().ok_or("no output")?;
        for line in BufReader::new(output).lines().take(LINES_BEFORE_ADDRESS_MAX) {
            if let Some((_, address)) = line?.rsplit_once("http://") {
                return Ok((owned, address.trim().parse()?));
            }
        }
        Err("the server ended before it listened".into())
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(mut self, wait_max: Duration) -> Result<ExitStatus, Failure> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let until = Instant::now() + wait_max;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(5));
        }
        Err(format!("the server did not stop within {wait_max:?}").into())
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        cpu_of(self.child.id())
    }

    /// Scheduler statistics so far of its threads whose names begin with `prefix`.
    pub(crate) fn scheduled(&self, prefix: &str) -> Result<Scheduled, Failure> {
        let mut all = Scheduled::default();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let thread = thread?.path();
            // The thread may have ended meanwhile.
            if !fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.starts_with(prefix)) {
                continue;
            }
            let text = fs::read_to_string(thread.join("schedstat"))?;
            let nanoseconds: Vec<u64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [ran, waited, _] = nanoseconds[..] else { return Err("no schedstat".into()) };
            all.ran += Duration::from_nanos(ran);
            all.waited += Duration::from_nanos(waited);
        }
        Ok(all)
    }

    /// A handle to read its memory while it runs.
    pub(crate) fn memory(&self) -> Memory {
        Memory { process: self.child.id() }
    }
}

/// How long threads ran, and how long they waited although runnable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scheduled {
    ran: Duration,
    waited: Duration,
}

impl Scheduled {
    pub(crate) fn ran(self) -> Duration {
        self.ran
    }

    pub(crate) fn ran_share(self) -> f64 {
        self.ran.as_secs_f64() / (self.ran + self.waited).as_secs_f64()
    }
}

impl Sub for Scheduled {
    type Output = Self;

    /// The increase since `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self { ran: self.ran.saturating_sub(earlier.ran), waited: self.waited.saturating_sub(earlier.waited) }
    }
}

/// Reads the memory of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    process: u32,
}

impl Memory {
    /// Anonymous resident memory, in KiB.
    pub(crate) fn anonymous_kib(self) -> Result<u64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// CPU time of all threads of a process so far.
pub(crate) fn cpu_of(process: u32) -> Result<Duration, Failure> {
    cpu_in(&format!("/proc/{process}/stat"))
}

/// CPU time of this thread so far.
pub(crate) fn cpu_of_this_thread() -> Result<Duration, Failure> {
    cpu_in("/proc/thread-self/stat")
}

fn cpu_in(path: &str) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(path)?;
    // The second field is the name in parentheses, with arbitrary text. utime and stime are fields 14 and 15, in ticks;
    // Linux reports 100 ticks per second to programs.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
