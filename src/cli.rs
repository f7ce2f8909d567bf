//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::telemetry::LogFormat;

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
