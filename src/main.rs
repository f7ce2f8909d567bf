//! The binary: parses the command line, runs, and turns an error into one line and an exit code.

use std::process::ExitCode;

use clap::Parser;
use krake_hooks::api::crds;
use krake_hooks::cli::{Cli, Command};
use krake_hooks::config::Config;
use krake_hooks::{release, run, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = error.to_string().replace('\n', " ");
            eprintln!("krake-hooks: {line}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    match cli.command {
        Command::Run { config } => {
            let config = match config {
                Some(path) => Config::load(&path)?,
                None => Config::default(),
            };
            telemetry::init(cli.log_format);
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
            telemetry::init(cli.log_format);
            Ok(release::release_all(std::time::Duration::from_secs(wait_seconds)).await?)
        }
    }
}
