//! The operator, a process of this machine that talks to the API server through a proxy, and what a
//! kubelet would do about it: when it ends, it is started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

/// Environment variable that chooses the mistake of a build that has some.
pub const PLANTED: &str = "KRAKE_PLANTED_BUG";
/// Name of the Lease that it leads by.
const LEASE: &str = "krake-hooks";
/// How long one that ended by itself stays away.
const PAUSE: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How one operator is run.
#[derive(Clone, Debug)]
pub struct Order {
    /// The binary.
    pub binary: PathBuf,
    /// Where its files are.
    pub directory: PathBuf,
    /// The mistake it makes.
    pub planted: Option<String>,
    /// Its `POD_NAME`.
    pub pod: String,
    /// Port of the callback endpoint.
    pub port: u16,
    /// Port of the health checks.
    pub admin: u16,
}

/// Kills the operator; clones are the same.
#[derive(Clone)]
pub struct Killer(mpsc::UnboundedSender<Wish>);

/// The other end of a [`Killer`].
pub struct Wishes(mpsc::UnboundedReceiver<Wish>);

enum Wish {
    /// Kill it; answered when it is dead.
    Kill(oneshot::Sender<()>),
    /// Whether it is to run at all; answered when it is dead, if it is not.
    Run(bool, oneshot::Sender<()>),
}

/// A running operator; it ends with this.
pub struct Operator {
    /// How it is run.
    pub order: Order,
    killer: Killer,
    starts: Arc<Mutex<Vec<Timestamp>>>,

    task: tokio::task::JoinHandle<()>,
}

impl Killer {
    /// A killer, for who is to be told about the operator before it is there.
    pub fn new() -> (Self, Wishes) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Wishes(receiver))
    }

    /// SIGKILL; comes back when the process is dead. It is started again.
    pub async fn kill(&self) {
        self.wish(Wish::Kill).await;
    }

    async fn wish(&self, wish: impl FnOnce(oneshot::Sender<()>) -> Wish) {
        let (done, dead) = oneshot::channel();
        // Without an operator there is nobody to kill.
        if self.0.send(wish(done)).is_ok() {
            let _ = dead.await;
        }
    }
}

impl Order {
    /// An order with free ports and a configuration, for a kubeconfig at the usual place.
    pub fn new(binary: &Path, directory: &Path, pod: &str) -> Result<Self, String> {
        let order = Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            planted: None,
            pod: pod.to_owned(),
            port: free_port()?,
            admin: free_port()?,
        };
        let (port, admin) = (order.port, order.admin);
        let text = format!(
            "callback: {{listen: \"127.0.0.1:{port}\", externalEndpoint: \"https://127.0.0.1:{port}\"}}\n\
             admin: {{listen: \"127.0.0.1:{admin}\"}}\n\
             hooks: {{disarmDelaySeconds: 3}}\n"
        );
        let path = order.directory.join("config.yaml");
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(order)
    }

    /// Where it finds the API server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    fn spawn(&self) -> Result<Child, String> {
        let log = self.directory.join("operator.log");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--config"])
            .arg(self.directory.join("config.yaml"))
            .env("KUBECONFIG", self.kubeconfig())
            .env("POD_NAMESPACE", crate::cluster::SYSTEM)
            .env("POD_NAME", &self.pod)
            .env_remove(PLANTED)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        if let Some(bug) = &self.planted {
            command.env(PLANTED, bug);
        }
        command
            .spawn()
            .map_err(|e| format!("{}: {e}", self.binary.display()))
    }
}

impl Operator {
    /// Starts it and waits until it is ready.
    ///
    /// With a `lease` of its own, one that was killed has lost it by the time the next one starts:
    /// what it is to wait for the end of a lease is not to be found out each time.
    pub async fn start(
        order: Order,
        killer: Killer,
        wishes: Wishes,
        lease: Option<Api<Lease>>,
    ) -> Result<Self, String> {
        let starts = Arc::new(Mutex::new(Vec::new()));

        let task = tokio::spawn(keep_running(
            order.clone(),
            wishes,
            Arc::clone(&starts),
            lease,
        ));
        let operator = Self {
            order,
            killer,
            starts,

            task,
        };
        operator.ready().await?;
        Ok(operator)
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<(), String> {
        let began = Instant::now();
        while !is_ready(self.order.admin).await {
            if began.elapsed() > READY_WITHIN {
                let log = self.order.directory.join("operator.log");
                return Err(format!("the operator is not ready; see {}", log.display()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// SIGKILL; it is started again.
    pub async fn kill(&self) {
        self.killer.kill().await;
    }

    /// SIGKILL; it stays away until [`Operator::come_back`].
    pub async fn leave(&self) {
        self.killer.wish(|done| Wish::Run(false, done)).await;
    }

    /// Starts it again.
    pub async fn come_back(&self) -> Result<(), String> {
        self.killer.wish(|done| Wish::Run(true, done)).await;
        self.ready().await
    }

    /// When each of its processes was started.
    pub fn starts(&self) -> Vec<Timestamp> {
        let starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        starts.clone()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_running(
    order: Order,
    mut wishes: Wishes,
    starts: Arc<Mutex<Vec<Timestamp>>>,
    lease: Option<Api<Lease>>,
) {
    let mut wanted = true;
    loop {
        let mut child = None;
        if wanted {
            if let Some(lease) = &lease {
                // There may be none.
                let _ = lease.delete(LEASE, &DeleteParams::default()).await;
            }
            starts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Timestamp::now());
            match order.spawn() {
                Ok(process) => child = Some(process),
                Err(complaint) => eprintln!("{complaint}"),
            }
        }
        let wish = tokio::select! {
            wish = wishes.0.recv() => match wish {
                Some(wish) => wish,
                None => return,
            },
            () = ended(&mut child) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let told = match wish {
            Wish::Kill(told) => told,
            Wish::Run(run, told) => {
                wanted = run;
                told
            }
        };
        if let Some(mut process) = child {
            // SIGKILL, and its end awaited.
            let _ = process.kill().await;
        }
        let _ = told.send(());
    }
}

async fn ended(child: &mut Option<Child>) {
    match child {
        Some(process) => _ = process.wait().await,
        None => std::future::pending().await,
    }
}

async fn is_ready(port: u16) -> bool {
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let ask = b"GET /readyz HTTP/1.1\r\nHost: faults\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    answer
        .await
        .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port())
}
