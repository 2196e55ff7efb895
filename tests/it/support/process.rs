//! The binary as a separate process that a test can kill, measure and stop.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::model_service_client::ModelServiceClient;
use tonic::transport::Channel;

/// The `halfhitch` binary without `HALFHITCH_` and `OTEL_` variables of the environment.
pub(crate) fn halfhitch() -> Command {
    undisturbed(env!("CARGO_BIN_EXE_halfhitch"))
}

fn undisturbed(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if ["HALFHITCH_", "OTEL_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// A running `halfhitch serve`; killed when dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

impl ServerProcess {
    pub(crate) fn start(store: &Path) -> Self {
        Self::start_with(store, &[])
    }

    /// Starts with more flags.
    pub(crate) fn start_with(store: &Path, flags: &[&str]) -> Self {
        Self::start_in(store, flags, &[])
    }

    /// Starts with more flags and environment variables.
    pub(crate) fn start_in(store: &Path, flags: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = halfhitch();
        // A variable, so that a flag can override it.
        command.env("HALFHITCH_DRAIN_SECONDS", "0");
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store).args(flags);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Self::spawn(command, Stdio::null())
    }

    /// Starts with more flags, and logs to a file.
    pub(crate) fn start_logging(store: &Path, flags: &[&str], log: File) -> Self {
        let mut command = halfhitch();
        command.env("HALFHITCH_DRAIN_SECONDS", "0");
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store).args(flags);
        Self::spawn(command, log.into())
    }

    /// Starts in a separate mount namespace, with a `tmpfs` of `size` as its store. The disk disappears with the
    /// process.
    pub(crate) fn start_on_small_disk(store: &Path, size: &str, flags: &[&str]) -> Self {
        let mut command = undisturbed("unshare");
        command
            .args(["-rm", "sh", "-c", r#"mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@""#, "sh", size])
            .arg(store)
            .args([env!("CARGO_BIN_EXE_halfhitch"), "serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(store)
            .args(flags);
        Self::spawn(command, Stdio::null())
    }

    /// Starts in a separate mount namespace where only `store` is writable, a small disk that disappears with the
    /// process. `None` if the system does not permit that.
    pub(crate) fn start_on_read_only_root(store: &Path) -> Option<Self> {
        const MOUNT: &str = r#"mount -t tmpfs -o size=64m tmpfs "$1" && mount -o remount,bind,ro / \
            && ! touch "$2" 2>/dev/null"#;
        let elsewhere = store.with_extension("elsewhere");
        let shell = |script: &str| {
            let mut command = undisturbed("unshare");
            command.args(["-rm", "sh", "-c", script, "sh"]).arg(store).arg(&elsewhere);
            command
        };
        if !shell(MOUNT).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = shell(&format!(r#"{MOUNT} && shift 2 && exec "$@""#));
        command.args([env!("CARGO_BIN_EXE_halfhitch"), "serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
        // The disk is smaller than the default reserve.
        command.env("HALFHITCH_DRAIN_SECONDS", "0").env("HALFHITCH_DISK_FREE_BYTES_MIN", "0");
        Some(Self::spawn(command, Stdio::null()))
    }

    fn spawn(mut command: Command, log: Stdio) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = loop {
            let line = lines.next().expect("the server says where it listens").expect("text");
            if let Some((_, address)) = line.rsplit_once("://") {
                break address.trim().parse().expect("an address");
            }
        };
        Self { child, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn channel(&self) -> Channel {
        super::channel(self.address).await
    }

    pub(crate) async fn autoencoder(&self) -> AutoencoderServiceClient<Channel> {
        AutoencoderServiceClient::new(self.channel().await)
    }

    pub(crate) async fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel().await)
    }

    /// Kills the server with SIGKILL: it runs no clean-up.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }

    /// Sends a signal, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill exists");
        assert!(sent.success(), "the server runs");
    }

    /// Sends SIGTERM, waits for the end, and returns the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it has ended").code()
    }

    /// Waits for the end and returns the exit code. Does not block other tasks of the test.
    pub(crate) async fn wait(mut self) -> Option<i32> {
        let ended = move || self.child.wait().expect("it has ended").code();
        tokio::task::spawn_blocking(ended).await.expect("no panic")
    }

    /// A value of `/proc/PID/status` in KiB, for example `RssAnon`.
    pub(crate) fn memory_kib(&self, name: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
