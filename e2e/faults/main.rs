//! The two promises under fire: `make faults`.
//!
//! The operator is a process of its own, the very binary of the image, with the rights it is
//! installed with. Between it and a real API server stands a proxy ([`proxy`]) that carries out a
//! plan: the n-th call of a kind is delayed, dropped, answered with an error, carried out and not
//! answered, and the operator is killed there. What is played is in [`scenario`]; what must be so
//! afterwards is in [`check`], which asks the API server's audit log and the apps, never the
//! operator. `docs/faults.md` says how to read a run, and how to have it again.

mod audit;
mod check;
mod client;
mod cluster;
mod crash;
mod deletions;
mod failover;
mod lane;
mod lanes;
mod matrix;
mod operator;
mod planted;
mod proxy;
mod report;
mod scenario;
mod seed;
mod state;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::Cluster;
use lanes::Lanes;
use report::Report;
use scenario::Scenario;
use seed::Seed;

/// What is asked for on the command line.
struct Wish {
    what: String,
    seed: Seed,
    sample: Option<usize>,
    lanes: Option<usize>,
    words: Vec<String>,
}

/// Where everything is; `hack/faults` says so by environment variables.
struct Place {
    operator: PathBuf,
    /// The build that can make mistakes.
    planted: Option<PathBuf>,
    audit_log: PathBuf,
    output: PathBuf,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    // Proxies and operators have threads of their own.
    match tokio::task::LocalSet::new().block_on(&runtime, run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("faults: {complaint}");
            ExitCode::FAILURE
        }
    }
}

/// What a sample has of each part; the whole is to fit into some minutes.
const SAMPLE: [(&str, usize); 3] = [("crash", 60), ("matrix", 12), ("planted", 5)];
const ALL: [&str; 5] = ["crash", "matrix", "deletions", "planted", "failover"];

async fn run() -> Result<bool, String> {
    let (wish, place) = (Wish::of_arguments()?, Place::of_environment()?);
    let mut kept = true;
    match wish.what.as_str() {
        "all" => {
            for what in ALL {
                kept &= part(what, wish.sample, &wish, &place).await?;
            }
        }
        "sample" => {
            for (what, count) in SAMPLE {
                kept &= part(what, Some(count), &wish, &place).await?;
            }
        }
        what => kept = part(what, wish.sample, &wish, &place).await?,
    }
    Ok(kept)
}

/// One part; whether nothing was violated.
async fn part(
    what: &str,
    sample: Option<usize>,
    wish: &Wish,
    place: &Place,
) -> Result<bool, String> {
    let output = place.output.join(what);
    std::fs::create_dir_all(&output).map_err(|e| format!("{}: {e}", output.display()))?;
    let cluster = Cluster::find(place.audit_log.clone(), output).await?;
    let (seed, mut report) = (wish.seed, Report::default());
    println!("\n==> faults: {what}");
    match what {
        "planted" => {
            let binary = place.planted.as_ref();
            let binary = binary.ok_or("FAULTS_PLANTED is not set: run `make faults`")?;
            planted::prove(&cluster, binary, sample, seed, &mut report).await?;
        }
        "failover" => {
            let count = sample.unwrap_or(20_000);
            failover::prove(&cluster, &place.operator, count, seed, &mut report).await?;
        }
        "crash" | "matrix" | "deletions" => {
            // What is measured by the tenth of a second is not to wait for a core.
            let few = if what == "deletions" { 4 } else { 6 };
            let lanes = wish.lanes.unwrap_or(few);
            let lanes = Lanes::open(&cluster, &place.operator, lanes, None).await?;
            match what {
                "crash" => {
                    crash::prove(&lanes, &wish.scenarios(), sample, seed, &mut report).await?;
                }
                "matrix" => {
                    matrix::prove(&lanes, &wish.words, sample, seed, &mut report).await?;
                }
                _ => deletions::prove(&lanes, sample.unwrap_or(1000), seed, &mut report).await?,
            }
            lanes.close().await;
        }
        other => {
            let parts = ALL.join(", ");
            return Err(format!(
                "there is no '{other}'; there are: all, sample, {parts}"
            ));
        }
    }
    Ok(report.end(what, &place.output))
}

impl Wish {
    /// `WHAT [--seed N] [--sample N] [--lanes N] [WORD...]`
    fn of_arguments() -> Result<Self, String> {
        let (mut words, mut seed, mut sample, mut lanes) = (Vec::new(), None, None, None);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--") else {
                words.push(argument);
                continue;
            };
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            let value = value.ok_or_else(|| format!("--{option} needs a number"))?;
            match option {
                "seed" => seed = Some(value),
                "sample" => sample = usize::try_from(value).ok(),
                "lanes" => lanes = usize::try_from(value).ok(),
                _ => return Err(format!("there is no --{option}")),
            }
        }
        let what = match words.is_empty() {
            true => "all".to_owned(),
            false => words.remove(0),
        };
        Ok(Self {
            what,
            seed: Seed::from(seed),
            sample,
            lanes,
            words,
        })
    }

    /// Those that are named, or all.
    fn scenarios(&self) -> Vec<Scenario> {
        let wanted =
            |scenario: &Scenario| self.words.is_empty() || self.words.contains(&scenario.word());
        Scenario::ALL.into_iter().filter(wanted).collect()
    }
}

impl Place {
    fn of_environment() -> Result<Self, String> {
        let path = |name: &str| {
            let value = std::env::var_os(name);
            let value = value.ok_or_else(|| format!("{name} is not set: run `make faults`"))?;
            Ok::<_, String>(PathBuf::from(value))
        };
        Ok(Self {
            operator: path("FAULTS_OPERATOR")?,
            planted: std::env::var_os("FAULTS_PLANTED").map(PathBuf::from),
            audit_log: path("FAULTS_AUDIT_LOG")?,
            output: path("FAULTS_OUTPUT")?,
        })
    }
}
