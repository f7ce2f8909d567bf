//! Load: some connections that ask again as soon as they are answered.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;

use crate::audit;
use crate::connection::{Connection, Target};

/// Stands in a body where the number of the request goes: an acknowledgement that says what the
/// last one said would be answered without a write.
pub const NUMBER: &str = "@@number@@";

/// One connection, and what it asks again and again.
pub struct Lane {
    target: Target,
    method: Method,
    path: String,
    before: String,
    after: String,
    content: &'static str,
}

/// What one window has brought.
pub struct Run {
    took: Duration,
    /// Each answer's time in ms, sorted.
    answers: Vec<f64>,
}

impl Lane {
    /// A lane; `body` has [`NUMBER`] in it once.
    pub fn new(
        target: Target,
        method: Method,
        path: String,
        body: String,
        content: &'static str,
    ) -> Self {
        let (before, after) = body.split_once(NUMBER).unwrap_or((&body, ""));
        Self {
            target,
            method,
            path,
            before: before.to_owned(),
            after: after.to_owned(),
            content,
        }
    }

    fn request(&self, number: u64) -> Request<Full<Bytes>> {
        let body = format!("{}{number}{}", self.before, self.after);
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header(HOST, self.target.authority())
            .header(USER_AGENT, audit::BARE_CLIENT)
            .header(CONTENT_TYPE, self.content);
        if let Some(token) = &self.target.token {
            let token = format!("Bearer {}", token.expose_secret());
            request = request.header(AUTHORIZATION, token);
        }
        request
            .body(Full::from(body))
            .expect("a request of known parts")
    }

    async fn drive(
        &self,
        mut connection: Connection,
        until: Instant,
        first: u64,
    ) -> Result<Vec<f64>, String> {
        let mut answers = Vec::new();
        let mut number = first;
        loop {
            let asked = Instant::now();
            if asked >= until {
                return Ok(answers);
            }
            connection.ask(self.request(number)).await?;
            answers.push(asked.elapsed().as_secs_f64() * 1e3);
            number += 1;
        }
    }
}

/// All lanes at once for that long. One refusal and there is no result.
pub async fn run(lanes: Vec<Lane>, window: Duration) -> Result<Run, String> {
    let mut open = Vec::new();
    for lane in lanes {
        let connection = lane.target.connect().await?;
        open.push((lane, connection));
    }
    let began = Instant::now();
    let first = number_now();
    let mut tasks = JoinSet::new();
    for (lane, connection) in open {
        tasks.spawn(async move { lane.drive(connection, began + window, first).await });
    }
    let mut answers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        answers.extend(done.map_err(|e| e.to_string())??);
    }
    let took = began.elapsed();
    answers.sort_by(f64::total_cmp);
    Ok(Run { took, answers })
}

/// One request on a connection of its own.
pub async fn once(lane: Lane) -> Result<(), String> {
    let mut connection = lane.target.connect().await?;
    connection.ask(lane.request(number_now())).await
}

impl Run {
    /// How many were answered.
    pub fn count(&self) -> usize {
        self.answers.len()
    }

    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.took.as_secs_f64()
    }

    /// The time in ms that this share of the answers took at most.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = (self.count() as f64 * share).ceil() as usize;
        let answer = self.answers.get(place.saturating_sub(1));
        answer.copied().unwrap_or(f64::NAN)
    }
}

/// Never what an earlier run has sent.
fn number_now() -> u64 {
    let now = jiff::Timestamp::now().as_microsecond();
    u64::try_from(now).unwrap_or_default()
}
