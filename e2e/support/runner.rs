//! Runs the stories: most of them side by side on one cluster, each in its own namespace; those
//! that break the operator or its configuration for everybody one by one, on a cluster of their
//! own where one can be made, and on the first one when the others have ended.
//!
//! `cargo test --test e2e [WORD...]` runs the stories whose names contain a word.
//! `E2E_PARALLEL` (4): how many side by side. `KEEP=1`: namespaces and the second cluster stay.
//! `E2E_SAMPLE=1`: of what is played with each kind of workload, a part.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Provider};
use super::install::install;
use super::report;
use super::stage::Stage;

/// Where and when a story runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Side by side with others.
    Together,
    /// With nobody else on the cluster.
    Alone,
    /// When all others have ended, on the cluster where they ran together.
    Last,
}

/// A story, by its name.
#[derive(Clone, Copy)]
pub struct Story {
    /// Module and function.
    pub name: &'static str,
    /// Where and when.
    pub lane: Lane,
    /// The story; it panics when a promise is broken.
    pub play: fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>,
}

/// `stories![Lane: a, b]`: the stories of a module by the names of their functions.
#[macro_export]
macro_rules! stories {
    ($lane:ident: $($story:ident),+ $(,)?) => {
        vec![$($crate::support::runner::Story {
            name: concat!(module_path!(), "::", stringify!($story)),
            lane: $crate::support::runner::Lane::$lane,
            play: |stage| Box::pin($story(stage)),
        }),+]
    };
}

/// What a story panics with when it cannot be played here.
struct Skipped(String);

/// Ends a story that cannot be played here.
pub fn skip(reason: &str) -> ! {
    std::panic::panic_any(Skipped(reason.to_owned()))
}

enum Verdict {
    Kept,
    Skipped(String),
    Broken(String),
}

struct Ended {
    name: &'static str,
    verdict: Verdict,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

const KEEP: &str = "KEEP";

/// Plays the stories that the command line asks for.
pub fn main(stories: Vec<Story>) -> ExitCode {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let wanted = |story: &&Story| words.is_empty() || words.iter().any(|w| story.name.contains(w));
    let stories: Vec<Story> = stories.iter().filter(wanted).copied().collect();
    if std::env::args().any(|word| word == "--list") {
        stories
            .iter()
            .for_each(|story| println!("{}", title(story)));
        return ExitCode::SUCCESS;
    }
    std::panic::set_hook(Box::new(|panic| {
        PANIC.with_borrow_mut(|text| *text = panic.to_string());
    }));
    match play_all(&stories) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("e2e: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn play_all(stories: &[Story]) -> Result<bool, String> {
    let begin = Instant::now();
    let name = std::env::var("CLUSTER_NAME").unwrap_or_else(|_| "krake".to_owned());
    let shared = Arc::new(block_on(Cluster::find(&name))?.map_err(no_cluster)?);
    let nodes = block_on(shared.nodes())?.map_err(no_cluster)?;
    if nodes == 0 {
        for story in stories {
            println!(
                "skipped: {}: this cluster has no node for pods",
                title(story)
            );
        }
        return Ok(true);
    }
    block_on(prepare(&shared))??;

    let run = format!("{:08x}", rand::random::<u32>());
    let of = |lane| {
        stories
            .iter()
            .filter(|story| story.lane == lane)
            .copied()
            .collect()
    };
    let (together, alone, last): (VecDeque<_>, VecDeque<_>, VecDeque<_>) =
        (of(Lane::Together), of(Lane::Alone), of(Lane::Last));
    let apart = shared.provider == Provider::Local && !together.is_empty() && !alone.is_empty();
    let ended = Mutex::new(Vec::new());
    let (queue, alone) = (Mutex::new(together), Mutex::new(alone));
    std::thread::scope(|scope| {
        if apart {
            scope.spawn(|| play_apart(&name, &alone, &run, &ended));
        }
        std::thread::scope(|scope| {
            for _ in 0..parallel() {
                scope.spawn(|| {
                    while let Some(story) = next(&queue) {
                        note(&ended, play(&shared, &run, story));
                    }
                });
            }
        });
        play_one_by_one(&shared, &alone, &run, &ended);
    });
    for story in last {
        note(&ended, play(&shared, &run, story));
    }
    Ok(summary(
        &ended.into_inner().expect("no story panics here"),
        begin,
    ))
}

async fn prepare(cluster: &Cluster) -> Result<(), String> {
    install(cluster).await?;
    cluster.operator().await.ready().await;
    Ok(())
}

/// The second cluster is there for as long as it is needed. Where there is none, the first one is left.
fn play_apart(name: &str, stories: &Mutex<VecDeque<Story>>, run: &str, ended: &Mutex<Vec<Ended>>) {
    let name = format!("{name}-alone");
    let cluster = block_on(async {
        let cluster = Cluster::find(&name).await?;
        cluster.script(&["up"]).await?;
        let cluster = Cluster::find(&name).await?;
        prepare(&cluster).await?;
        Ok::<_, String>(cluster)
    });
    match cluster.and_then(|cluster| cluster) {
        Ok(cluster) => {
            let cluster = Arc::new(cluster);
            play_one_by_one(&cluster, stories, run, ended);
            if std::env::var_os(KEEP).is_none() {
                let down = block_on(cluster.script(&["down"]));
                if let Ok(Err(complaint)) | Err(complaint) = down {
                    eprintln!("cluster {name} could not be removed: {complaint}");
                }
            }
        }
        Err(complaint) => eprintln!("no cluster {name}: {complaint}"),
    }
}

fn play_one_by_one(
    cluster: &Arc<Cluster>,
    stories: &Mutex<VecDeque<Story>>,
    run: &str,
    ended: &Mutex<Vec<Ended>>,
) {
    let configuration = block_on(async { cluster.operator().await.configuration().await });
    while let Some(story) = next(stories) {
        let (mut one, took) = play(cluster, run, story);
        let restored = block_on(async {
            let configuration = configuration.as_ref().map_err(Clone::clone)?;
            cluster.operator().await.restore(configuration).await;
            Ok::<_, String>(())
        });
        if let (Verdict::Kept, Err(complaint) | Ok(Err(complaint))) = (&one.verdict, restored) {
            one.verdict = Verdict::Broken(format!("the operator was left broken: {complaint}"));
        }
        note(ended, (one, took));
    }
}

fn play(cluster: &Arc<Cluster>, run: &str, story: Story) -> (Ended, Duration) {
    let begin = Instant::now();
    let name = title(&story);
    let keep = std::env::var_os(KEEP).is_some();
    let verdict = runtime().block_on(async {
        let stage = match Stage::open(cluster.clone(), run, name).await {
            Ok(stage) => stage,
            Err(complaint) => return Verdict::Broken(complaint),
        };
        let played =
            futures::FutureExt::catch_unwind(AssertUnwindSafe((story.play)(stage.clone())));
        let verdict = match played.await {
            Ok(()) => Verdict::Kept,
            Err(panic) => match panic.downcast::<Skipped>() {
                Ok(skipped) => Verdict::Skipped(skipped.0),
                Err(_) => {
                    let what = PANIC.take();
                    Verdict::Broken(format!("{what}\n\n{}", report::describe(&stage).await))
                }
            },
        };
        if !keep {
            stage.close().await;
        }
        verdict
    });
    (Ended { name, verdict }, begin.elapsed())
}

fn note(ended: &Mutex<Vec<Ended>>, (one, took): (Ended, Duration)) {
    let seconds = took.as_secs_f32();
    match &one.verdict {
        Verdict::Kept => println!("ok      {seconds:5.1} s  {}", one.name),
        Verdict::Skipped(reason) => println!("skipped: {}: {reason}", one.name),
        Verdict::Broken(what) => println!("FAILED  {seconds:5.1} s  {}\n{what}\n", one.name),
    }
    ended.lock().expect("no story panics here").push(one);
}

fn summary(ended: &[Ended], begin: Instant) -> bool {
    let count = |wanted: fn(&Verdict) -> bool| ended.iter().filter(|e| wanted(&e.verdict)).count();
    let broken = count(|verdict| matches!(verdict, Verdict::Broken(_)));
    println!(
        "\n{} stories: {} kept, {broken} failed, {} skipped, in {:.0} s",
        ended.len(),
        count(|verdict| matches!(verdict, Verdict::Kept)),
        count(|verdict| matches!(verdict, Verdict::Skipped(_))),
        begin.elapsed().as_secs_f32()
    );
    for one in ended {
        if matches!(one.verdict, Verdict::Broken(_)) {
            println!("failed: {}", one.name);
        }
    }
    broken == 0
}

/// Whether a part of what is much alike is enough.
pub fn is_sample() -> bool {
    std::env::var_os("E2E_SAMPLE").is_some()
}

fn title(story: &Story) -> &'static str {
    story.name.strip_prefix("e2e::").unwrap_or(story.name)
}

fn parallel() -> usize {
    let asked = std::env::var("E2E_PARALLEL").ok();
    asked.and_then(|number| number.parse().ok()).unwrap_or(4)
}

fn next(queue: &Mutex<VecDeque<Story>>) -> Option<Story> {
    queue.lock().expect("no story panics here").pop_front()
}

fn no_cluster(complaint: String) -> String {
    format!("no cluster to play on: run `make cluster`, or set E2E_KUBECONFIG ({complaint})")
}

/// Runs something outside of a story; a panic in it becomes a complaint.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(|| runtime().block_on(work)))
        .map_err(|_: Box<dyn Any + Send>| PANIC.take())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}
