//! When what has no label is looked for. Each reason by itself: where one is enough, another is not
//! to stand in for it.

use super::operator::Operator;
use super::stories;
use crate::decide::Seen;
use crate::decide::bare::{may_have_pods, may_have_sets};
use crate::testing::build::{self, NAME};

fn armed() -> Seen {
    let mut operator = Operator::new(true, false, None, false);
    operator.act(stories::workload);
    operator.act(stories::hook);
    operator.world.observe(NAME).expect("the hook is there")
}

fn looked_for(change: impl FnOnce(&mut Seen)) -> (bool, bool) {
    let mut seen = armed();
    change(&mut seen);
    let workload = seen.workload.clone().expect("the workload is there");
    (
        may_have_sets(&seen, &workload),
        may_have_pods(&seen, &workload),
    )
}

#[test]
fn an_armed_workload_that_is_as_it_was_costs_no_look() {
    assert_eq!(looked_for(|_| {}), (false, false));
}

#[test]
fn each_reason_by_itself() {
    let cases: [(&str, fn(&mut Seen), (bool, bool)); 5] = [
        (
            "not armed yet",
            |seen| {
                let status = seen.hook.status.as_mut().expect("a status");
                status
                    .conditions
                    .retain(|condition| condition.type_ != "Armed");
            },
            (true, false),
        ),
        (
            "the template has lost the label",
            |seen| {
                let workload = seen.workload.as_mut().expect("a workload");
                workload.template.metadata = None;
            },
            (true, false),
        ),
        (
            "more pods than are known",
            |seen| drop(seen.pods.pop()),
            (true, true),
        ),
        (
            "on its way out",
            |seen| {
                let workload = seen.workload.as_mut().expect("a workload");
                workload.metadata.deletion_timestamp = Some(build::time(9));
            },
            (true, false),
        ),
        (
            "nothing is to be held",
            |seen| {
                seen.pods.clear();
                seen.hook.spec.shutdown = None;
            },
            (false, false),
        ),
    ];
    for (why, change, expected) in cases {
        assert_eq!(looked_for(change), expected, "{why}");
    }
}
