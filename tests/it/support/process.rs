//! The binary as a process of its own: to be killed, measured, and told to stop.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use halfhitch::rpc::pb::autoencoder_service_client::AutoencoderServiceClient;
use halfhitch::rpc::pb::model_service_client::ModelServiceClient;
use tonic::transport::Channel;

/// `halfhitch` with no setting of the environment around.
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

    /// With more flags.
    pub(crate) fn start_with(store: &Path, flags: &[&str]) -> Self {
        Self::start_in(store, flags, &[])
    }

    /// With more flags, and variables of the environment.
    pub(crate) fn start_in(store: &Path, flags: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = halfhitch();
        // Before the flags, which may say otherwise.
        command.env("HALFHITCH_DRAIN_SECONDS", "0");
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store).args(flags);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Self::spawn(command, Stdio::null())
    }

    /// With more flags, and a file for its log.
    pub(crate) fn start_logging(store: &Path, flags: &[&str], log: File) -> Self {
        let mut command = halfhitch();
        command.env("HALFHITCH_DRAIN_SECONDS", "0");
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store).args(flags);
        Self::spawn(command, log.into())
    }

    /// In a mount namespace of its own, over a disk of `size` that ends with it.
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

    /// In a mount namespace of its own where nothing can be written but `store`, a small disk that ends with it; none where
    /// this machine does not permit that.
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
        // Of so small a disk nothing can be left free.
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

    /// The id of its process.
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

    /// SIGKILL: no instruction of the server runs after this.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it has ended");
    }

    /// Sends it a signal, for example `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill exists");
        assert!(sent.success(), "the server runs");
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().expect("it has ended").code()
    }

    /// Its exit code, without holding up other tasks of the test.
    pub(crate) async fn wait(mut self) -> Option<i32> {
        let ended = move || self.child.wait().expect("it has ended").code();
        tokio::task::spawn_blocking(ended).await.expect("no panic")
    }

    /// A figure of /proc/PID/status in KiB, for example `RssAnon`.
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
