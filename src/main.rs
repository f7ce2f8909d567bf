//! The binary: parses the command line, runs, and turns an error into one line and an exit code.

use std::process::ExitCode;

use clap::Parser;
use krake_hooks::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::parse().execute().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let line = error.to_string().replace('\n', " ");
            eprintln!("krake-hooks: {line}");
            ExitCode::FAILURE
        }
    }
}
