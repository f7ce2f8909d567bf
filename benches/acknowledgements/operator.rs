//! The operator, a process of its own on this machine.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A tick of `/proc/PID/stat`: Linux tells it to programs as 10 ms, whatever the kernel's own is.
const TICK: Duration = Duration::from_millis(10);
/// Quiet is a tick at most in this time.
const LISTEN: Duration = Duration::from_millis(300);
const QUIET_WITHIN: Duration = Duration::from_secs(20);
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The process; it ends with this.
pub struct Operator {
    child: Child,
    identity: u32,
    port: u16,
    admin: u16,
}

impl Operator {
    /// Starts it and waits until it is ready and leads.
    pub async fn start(binary: &Path, kubeconfig: &Path) -> Result<Self, String> {
        let (port, admin) = (free_port()?, free_port()?);
        let directory = kubeconfig.parent().unwrap_or(Path::new("."));
        let config = directory.join("operator.yaml");
        let text = format!(
            "callback: {{listen: \"127.0.0.1:{port}\", externalEndpoint: \"https://127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:{admin}\"}}\n"
        );
        std::fs::write(&config, text).map_err(|e| format!("{}: {e}", config.display()))?;
        let log = directory.join("operator.log");
        let log_file =
            std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let child = Command::new(binary)
            .args(["run", "--config"])
            .arg(&config)
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAMESPACE", "krake-system")
            .env("POD_NAME", "krake-hooks-bench")
            .env_remove("RUST_LOG")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(log_file)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{}: {e}", binary.display()))?;
        let identity = child.id().ok_or("the operator has ended at once")?;
        let operator = Self {
            child,
            identity,
            port,
            admin,
        };
        let began = Instant::now();
        while !operator.is_ready().await {
            if began.elapsed() > READY_WITHIN {
                return Err(format!("the operator is not ready; see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(operator)
    }

    /// URL of the callback endpoint.
    pub fn endpoint(&self) -> Uri {
        let url = format!("https://127.0.0.1:{}", self.port);
        url.parse().expect("a URL of known parts")
    }

    /// Processor time, user and system, of all its threads so far.
    pub fn processor(&self) -> Result<Duration, String> {
        let stat = self.proc("stat")?;
        // The name, in parentheses, may have anything in it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = fields.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u32>().ok();
        match (ticks(), ticks()) {
            (Some(user), Some(system)) => Ok(TICK * (user + system)),
            _ => Err(format!("/proc/{}/stat is not understood", self.identity)),
        }
    }

    /// Resident memory in MiB.
    pub fn resident(&self) -> Result<f64, String> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        let kibibytes = kibibytes.ok_or("no VmRSS in /proc")?;
        Ok(kibibytes / 1024.0)
    }

    /// Waits until it has nothing to do.
    pub async fn quiet(&self) {
        let began = Instant::now();
        let mut in_a_row = 0;
        while began.elapsed() < QUIET_WITHIN && in_a_row < 2 {
            let before = self.processor();
            tokio::time::sleep(LISTEN).await;
            match (before, self.processor()) {
                (Ok(before), Ok(after)) if after - before <= TICK => in_a_row += 1,
                _ => in_a_row = 0,
            }
        }
    }

    /// Ends it as a kubelet does, so that the next one need not wait for its lease to end.
    pub async fn stop(mut self) {
        let term = Command::new("kill").arg(self.identity.to_string()).status();
        if term.await.is_ok_and(|sent| sent.success()) {
            let _ = tokio::time::timeout(QUIET_WITHIN, self.child.wait()).await;
        }
        let _ = self.child.kill().await;
    }

    /// Ready, and the leader: one that waits for another's lease to end does nothing, and is quiet.
    async fn is_ready(&self) -> bool {
        let ready = self.admin("/readyz").await;
        let metrics = self.admin("/metrics").await;
        ready.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
            && metrics.is_ok_and(|answer| answer.contains("\nkrake_hooks_is_leader 1\n"))
    }

    async fn admin(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn proc(&self, file: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{file}", self.identity);
        std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}; has the operator ended?"))
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
