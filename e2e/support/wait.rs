//! Waiting for something to become true, or to stay true; never for time to pass.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// How long anything that ought to happen soon may take on a slow and busy machine.
pub const SOON: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(150);

/// Looks until `look` answers `Ok`; what it saw last is in the panic when the time is up.
pub async fn until<T, E: Display>(
    what: impl Display,
    most: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if begin.elapsed() > most => {
                panic!("waited {} s for: {what}\nlast seen: {seen}", most.as_secs())
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Looks for a while, and panics at the first look that answers `Err`.
pub async fn stays<E: Display>(
    what: impl Display,
    span: Duration,
    mut look: impl AsyncFnMut() -> Result<(), E>,
) {
    let begin = Instant::now();
    while begin.elapsed() < span {
        if let Err(seen) = look().await {
            panic!(
                "should have stayed for {} s, and was lost after {:.1} s: {what}\nseen: {seen}",
                span.as_secs(),
                begin.elapsed().as_secs_f32()
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}
