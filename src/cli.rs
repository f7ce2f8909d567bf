//! The command line.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::api::crds;
use crate::config::Config;
use crate::telemetry::{self, LogFormat};
use crate::{release, run};

/// Application hooks for Kubernetes: a removal waits until the app has acknowledged.
#[derive(Debug, Parser)]
#[command(name = "krake-hooks", version, about, max_term_width = 100)]
pub struct Cli {
    /// How log lines look; auto: JSON unless standard error is a terminal.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "KRAKE_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run {
        /// The configuration; without it, all defaults.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the CustomResourceDefinitions as YAML.
    Crds {
        /// Write one file each into this directory instead.
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Take every finalizer, guard and injected entry of ours off everything that lives.
    ///
    /// For the time before uninstalling, with the operator stopped: while it is not installed, armed
    /// workloads cannot be deleted. Removals that wait are let go on. Safe to interrupt and to repeat.
    ReleaseAll {
        /// How long to wait for pods that still use injected Secrets to be replaced, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait_seconds: u64,
    },
}

impl Cli {
    /// Does what the command line says; an error is one for people.
    pub async fn execute(self) -> Result<(), Box<dyn Error>> {
        match self.command {
            Command::Run { config } => {
                let config = match config {
                    Some(path) => Config::load(&path)?,
                    None => Config::default(),
                };
                telemetry::init(self.log_format);
                Ok(run::run(config).await?)
            }
            Command::Crds { directory } => {
                for (file, crd) in crds::all() {
                    match &directory {
                        Some(directory) => {
                            let path = directory.join(file);
                            std::fs::write(&path, crds::yaml(&crd))
                                .map_err(|error| format!("{}: {error}", path.display()))?;
                        }
                        None => print!("---\n{}", crds::yaml(&crd)),
                    }
                }
                Ok(())
            }
            Command::ReleaseAll { wait_seconds } => {
                telemetry::init(self.log_format);
                Ok(release::release_all(Duration::from_secs(wait_seconds)).await?)
            }
        }
    }
}
