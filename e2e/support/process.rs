//! An operator that runs on this machine, outside of its pod, with the rights of whoever plays.

use std::path::PathBuf;

use tokio::process::{Child, Command};

use super::operator::NAMESPACE;
use super::stage::Stage;

const BINARY: &str = env!("CARGO_BIN_EXE_krake-hooks");

/// How it is started.
pub struct Process<'a> {
    stage: &'a Stage,
    directory: PathBuf,
}

/// It runs until this ends.
pub struct Running(Child);

impl<'a> Process<'a> {
    /// With this configuration; ports are any that are free.
    pub fn of(stage: &'a Stage, configuration: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("{}-operator", stage.namespace));
        std::fs::create_dir_all(&directory).expect("a scratch directory");
        let ports = "admin: {listen: '127.0.0.1:0'}\ncallback: {listen: '127.0.0.1:0'}\n";
        let text = format!("{ports}{configuration}");
        std::fs::write(directory.join("config.yaml"), text).expect("a scratch file");
        Self { stage, directory }
    }

    /// Starts it.
    pub fn start(&self) -> Running {
        let config = self.directory.join("config.yaml").display().to_string();
        let mut command: Command = self
            .stage
            .cluster
            .command(BINARY, &["run", "--config", &config]);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a scratch file");
        command
            .env("POD_NAMESPACE", NAMESPACE)
            .env("POD_NAME", "outside")
            .stderr(log);
        command.stdout(std::process::Stdio::null());
        Running(
            command
                .kill_on_drop(true)
                .spawn()
                .expect("the binary can be started"),
        )
    }
}

impl Running {
    /// Kills it, with SIGKILL.
    pub async fn kill(&mut self) {
        self.0.kill().await.expect("it can be killed");
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // What is left in a temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
