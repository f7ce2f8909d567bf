use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A removal that waits, ten seconds before its deadline at second 100.
fn waiting() -> Question {
    Question {
        deleting: true,
        stopping: false,
        stopped: false,
        finalizer: true,
        wants_hold: true,
        orphan: false,
        skip: None,
        completed: false,
        namespace_terminating: false,
        called: true,
        request: Some(open()),
        acknowledged: 0,
        running: true,
    }
}

fn open() -> Asked {
    Asked {
        state: RequestState::Open,
        outcome: None,
        message: None,
        mine: true,
        deadline: Some(at(100)),
        round: 1,
        retries: 0,
        on_timeout: OnTimeout::Delete,
        needed: 1,
    }
}

fn outcome(hold: &Hold) -> Option<Outcome> {
    match hold {
        Hold::Release(outcome, _) => Some(*outcome),
        _ => None,
    }
}

type Row = (&'static str, fn(&mut Question), fn(&Hold) -> bool);

#[test]
fn the_table_line_by_line() {
    let now = at(90);
    let rows: &[Row] = &[
        (
            "wanted and not armed",
            |q| (q.deleting, q.finalizer) = (false, false),
            |h| *h == Hold::Arm,
        ),
        (
            "armed and no longer wanted",
            |q| (q.deleting, q.wants_hold) = (false, false),
            |h| *h == Hold::Disarm,
        ),
        ("armed", |q| q.deleting = false, |h| *h == Hold::Leave),
        (
            "neither armed nor wanted",
            |q| (q.deleting, q.finalizer, q.wants_hold) = (false, false, false),
            |h| *h == Hold::Leave,
        ),
        (
            "deleted before it was armed",
            |q| q.finalizer = false,
            |h| *h == Hold::Leave,
        ),
        (
            "a closed request goes on with its outcome whatever else is true",
            |q| {
                let asked = q.request.as_mut().unwrap();
                asked.state = RequestState::Closed;
                asked.outcome = Some(Outcome::TimedOut);
                q.acknowledged = 3;
                q.orphan = true;
            },
            |h| outcome(h) == Some(Outcome::TimedOut),
        ),
        (
            "orphan before everything that would delete",
            |q| {
                q.orphan = true;
                q.wants_hold = false;
                q.skip = Some("x".into());
            },
            |h| outcome(h) == Some(Outcome::Orphaned),
        ),
        (
            "hook gone",
            |q| q.wants_hold = false,
            |h| outcome(h) == Some(Outcome::HookGone),
        ),
        (
            "skip",
            |q| q.skip = Some("on call says so".into()),
            |h| matches!(h, Hold::Release(Outcome::Skipped, m) if m.contains("on call")),
        ),
        (
            "completed",
            |q| q.completed = true,
            |h| outcome(h) == Some(Outcome::Completed),
        ),
        (
            "namespace goes, app called",
            |q| q.namespace_terminating = true,
            |h| outcome(h) == Some(Outcome::NamespaceTerminating),
        ),
        (
            "namespace goes, app not called yet",
            |q| {
                q.namespace_terminating = true;
                q.called = false;
                q.request = None;
            },
            |h| *h == Hold::Open,
        ),
        (
            "namespace goes, workload not deleted yet",
            |q| {
                q.namespace_terminating = true;
                q.deleting = false;
                q.request = None;
            },
            |h| *h == Hold::Open,
        ),
        (
            "nobody asked yet",
            |q| q.request = None,
            |h| *h == Hold::Open,
        ),
        (
            "stopped, and nothing else runs",
            |q| {
                q.request = None;
                q.stopped = true;
                q.running = false;
            },
            |h| outcome(h) == Some(Outcome::NothingRunning),
        ),
        (
            "stopped, and somebody has scaled it up since",
            |q| {
                q.request = None;
                q.stopped = true;
            },
            |h| *h == Hold::Open,
        ),
        (
            "acknowledged",
            |q| q.acknowledged = 1,
            |h| outcome(h) == Some(Outcome::Acknowledged),
        ),
        (
            "acknowledged although nothing runs any more",
            |q| {
                q.acknowledged = 1;
                q.running = false;
            },
            |h| outcome(h) == Some(Outcome::Acknowledged),
        ),
        (
            "nothing runs",
            |q| q.running = false,
            |h| outcome(h) == Some(Outcome::NothingRunning),
        ),
        (
            "another leader's",
            |q| q.request.as_mut().unwrap().mine = false,
            |h| *h == Hold::TakeOver,
        ),
        (
            "no attempt has finished",
            |q| q.request.as_mut().unwrap().deadline = None,
            |h| *h == Hold::AwaitAttempt,
        ),
        (
            "before the deadline",
            |_| {},
            |h| *h == Hold::Wait { until: at(100) },
        ),
    ];
    for (name, change, expected) in rows {
        let mut question = waiting();
        change(&mut question);
        let answer = question.answer(now);
        assert!(expected(&answer), "{name}: {answer:?}");
    }
}

/// Without a deletion, armed or not: the same answers, for as long as they make sense.
#[test]
fn a_stop_takes_the_same_way() {
    let rows: &[Row] = &[
        ("to be stopped", |q| q.request = None, |h| *h == Hold::Open),
        (
            "not armed yet",
            |q| {
                q.finalizer = false;
                q.request = None;
            },
            |h| *h == Hold::Open,
        ),
        ("waiting", |_| {}, |h| *h == Hold::Wait { until: at(100) }),
        (
            "acknowledged",
            |q| q.acknowledged = 1,
            |h| outcome(h) == Some(Outcome::Acknowledged),
        ),
        (
            "nothing runs",
            |q| q.running = false,
            |h| outcome(h) == Some(Outcome::NothingRunning),
        ),
        (
            "skipped",
            |q| q.skip = Some("x".into()),
            |h| outcome(h) == Some(Outcome::Skipped),
        ),
        (
            "no hold is wanted any more",
            |q| q.wants_hold = false,
            |h| outcome(h) == Some(Outcome::HookGone),
        ),
        (
            "another leader's",
            |q| q.request.as_mut().unwrap().mine = false,
            |h| *h == Hold::TakeOver,
        ),
        (
            "closed",
            |q| {
                let asked = q.request.as_mut().unwrap();
                asked.state = RequestState::Closed;
                asked.outcome = Some(Outcome::TimedOut);
            },
            |h| outcome(h) == Some(Outcome::TimedOut),
        ),
    ];
    for (name, change, expected) in rows {
        let mut question = waiting();
        (question.deleting, question.stopping) = (false, true);
        change(&mut question);
        let answer = question.answer(at(90));
        assert!(expected(&answer), "{name}: {answer:?}");
    }
}

#[test]
fn the_deadline_is_exact_and_rounds_come_before_the_end() {
    let mut question = waiting();
    assert_eq!(question.answer(at(99)), Hold::Wait { until: at(100) });
    assert_eq!(outcome(&question.answer(at(100))), Some(Outcome::TimedOut));
    question.request.as_mut().unwrap().on_timeout = OnTimeout::Retain;
    assert_eq!(question.answer(at(100)), Hold::Retain);
    question.request.as_mut().unwrap().retries = 1;
    assert_eq!(question.answer(at(100)), Hold::NextRound);
    question.request.as_mut().unwrap().round = 2;
    assert_eq!(question.answer(at(100)), Hold::Retain);
    question.acknowledged = 1;
    assert_eq!(
        outcome(&question.answer(at(500))),
        Some(Outcome::Acknowledged)
    );
}
