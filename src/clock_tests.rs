//! Clocks that the test moves: nothing here waits.

use tokio::time::advance;

use super::*;
use crate::testing::clock::Machine;

const SECOND: Duration = Duration::from_secs(1);

/// Time goes by in a process that runs.
async fn run(clock: &SteadyClock, seconds: u32) {
    for _ in 0..5 * seconds {
        advance(TICK).await;
        clock.now();
    }
}

#[tokio::test(start_paused = true)]
async fn no_step_of_the_wall_clock_moves_it() {
    let time = Machine::default();
    let clock = SteadyClock::begin(&time.clocks());
    let begin = clock.now();
    for step in [3600, -7200, 86_400 * 365 * 50] {
        time.set_wall_clock(step);
        assert_eq!(clock.now(), begin);
        assert!(clock.drift() >= 3600 * SECOND);
    }
    run(&clock, 5).await;
    assert_eq!(clock.now().duration_since(begin).as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn while_the_process_is_stopped_or_the_machine_suspended_it_stands() {
    let time = Machine::default();
    let clock = SteadyClock::begin(&time.clocks());
    let begin = clock.now();
    let passed = || clock.now().duration_since(begin);
    run(&clock, 5).await;
    advance(3600 * SECOND).await;
    assert_eq!(passed().as_secs(), 5, "stopped");
    // What has waited for it comes first.
    run(&clock, 2).await;
    assert_eq!(passed().as_secs(), 5);
    run(&clock, 3).await;
    assert_eq!(passed().as_secs(), 8);
    time.suspend(3600 * SECOND);
    assert_eq!(passed().as_secs(), 8, "suspended");
    run(&clock, 4).await;
    assert_eq!(passed().as_secs(), 10);
}

/// Otherwise a busy machine would keep a removal waiting for ever.
#[tokio::test(start_paused = true)]
async fn a_process_that_always_comes_late_has_a_slow_clock_that_goes_on() {
    let clock = SteadyClock::begin(&Machine::default().clocks());
    let begin = clock.now();
    for _ in 0..100 {
        advance(5 * SECOND).await;
        clock.now();
    }
    let passed = clock.now().duration_since(begin).as_secs();
    assert!((30..200).contains(&passed), "{passed}");
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_at_for_as_long_as_somebody_keeps_it() {
    let (time, stop) = (Machine::default(), CancellationToken::new());
    let clock = SteadyClock::begin(&time.clocks());
    let begin = clock.now();
    let kept = tokio::spawn(clock.clone().keep(stop.clone()));
    tokio::time::sleep(100 * SECOND).await;
    assert_eq!(clock.now().duration_since(begin).as_secs(), 100);
    stop.cancel();
    assert!(kept.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn moments_pass_whatever_stands() {
    let time = Machine::default();
    let clocks = time.clocks();
    let begin = clocks.moment();
    advance(3 * SECOND).await;
    time.suspend(4 * SECOND);
    time.set_wall_clock(-100);
    assert_eq!(clocks.moment() - begin, 7 * SECOND);
}

#[test]
fn those_of_this_machine_go_on() {
    let clocks = Clocks::of_the_machine();
    let (moment, wall) = (clocks.moment(), clocks.wall());
    assert!(clocks.moment() >= moment);
    assert!(clocks.wall() >= wall);
}
