//! The order of calls: one queue for each namespace, served in turn.
//!
//! A call takes as long as the app likes, up to a bound, and a namespace can order as many as it
//! has pods. So a namespace has a few calls open at a time, fewer the less capacity is left, so
//! that some is always left for the next one. An order that has waited too long is given back: the
//! deadline of a removal must not be delayed by other calls.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Calls that may be open at once.
const AT_ONCE: usize = 256;
/// Calls of one namespace that may be open at once, while there is room.
const AT_ONCE_IN_A_NAMESPACE: usize = 32;
/// How long an order waits at most.
pub const WAIT_WITHIN: Duration = Duration::from_secs(60);

/// Orders that wait, and how many are carried out.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: HashMap<String, VecDeque<(Instant, T)>>,
    /// Namespaces with waiting orders; the first one is served next.
    turns: VecDeque<String>,
    open: HashMap<String, usize>,
    open_in_all: usize,
}

impl<T> Queue<T> {
    /// Nothing waits.
    pub fn new() -> Self {
        Self {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            open: HashMap::new(),
            open_in_all: 0,
        }
    }

    /// An order of a namespace comes.
    pub fn push(&mut self, namespace: String, order: T) {
        let own = self.waiting.entry(namespace.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(namespace);
        }
        own.push_back((Instant::now(), order));
    }

    /// The order that is to be carried out now, if any.
    pub fn next(&mut self) -> Option<T> {
        let left = AT_ONCE.checked_sub(self.open_in_all + 1)?;
        let most = (left / 4).clamp(1, AT_ONCE_IN_A_NAMESPACE);
        let open = |namespace: &String| self.open.get(namespace).copied().unwrap_or(0);
        let turn = self.turns.iter().position(|one| open(one) < most)?;
        let namespace = self.turns.remove(turn)?;
        let order = self.take(&namespace)?;
        *self.open.entry(namespace).or_default() += 1;
        self.open_in_all += 1;
        Some(order)
    }

    /// An order of a namespace has been carried out.
    pub fn end(&mut self, namespace: &str) {
        let Some(open) = self.open.get_mut(namespace) else {
            return;
        };
        *open -= 1;
        self.open_in_all -= 1;
        if *open == 0 {
            self.open.remove(namespace);
        }
    }

    /// When the next order will have waited too long.
    pub fn next_overdue(&self) -> Option<Instant> {
        let first = self.waiting.values().filter_map(VecDeque::front);
        first.map(|(since, _)| *since + WAIT_WITHIN).min()
    }

    /// An order that has waited too long.
    pub fn overdue(&mut self) -> Option<T> {
        let now = Instant::now();
        let is_overdue = |all: &VecDeque<(Instant, T)>| {
            let first = all.front();
            first.is_some_and(|(since, _)| *since + WAIT_WITHIN <= now)
        };
        let turn = self.turns.iter().position(|namespace| {
            let all = self.waiting.get(namespace);
            all.is_some_and(is_overdue)
        })?;
        let namespace = self.turns.remove(turn)?;
        self.take(&namespace)
    }

    /// The first order of a namespace that has no turn; it gets one behind all others if more wait.
    fn take(&mut self, namespace: &str) -> Option<T> {
        let own = self.waiting.get_mut(namespace)?;
        let (_, order) = own.pop_front()?;
        if own.is_empty() {
            self.waiting.remove(namespace);
        } else {
            self.turns.push_back(namespace.to_owned());
        }
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried_out(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn a_flood_of_one_namespace_leaves_room_for_the_next() {
        let mut queue = Queue::new();
        for _ in 0..5000 {
            queue.push("hostile".into(), "flood");
        }
        assert_eq!(carried_out(&mut queue).len(), AT_ONCE_IN_A_NAMESPACE);
        queue.push("ml".into(), "first");
        assert_eq!(carried_out(&mut queue), ["first"]);
        queue.end("hostile");
        assert_eq!(carried_out(&mut queue), ["flood"]);
    }

    #[test]
    fn a_flood_of_many_namespaces_leaves_room_too() {
        let mut queue = Queue::new();
        for number in 0..100 {
            for _ in 0..100 {
                queue.push(format!("hostile-{number}"), "flood");
            }
        }
        let open = carried_out(&mut queue).len();
        assert!((100..AT_ONCE - 1).contains(&open), "{open}");
        queue.push("ml".into(), "first");
        assert_eq!(carried_out(&mut queue), ["first"]);
    }

    #[test]
    fn where_nothing_is_left_each_gets_its_turn() {
        let mut queue = Queue::new();
        let namespaces: Vec<String> = (0..AT_ONCE).map(|n| n.to_string()).collect();
        for namespace in &namespaces {
            queue.push(namespace.clone(), "flood");
            queue.push(namespace.clone(), "flood");
        }
        assert_eq!(carried_out(&mut queue).len(), AT_ONCE);
        queue.push("ml".into(), "first");
        let mut before = 0;
        while queue.next() != Some("first") {
            queue.end(&namespaces[before % AT_ONCE]);
            before += 1;
        }
        assert!(before <= namespaces.len() + 1, "{before}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_is_given_back() {
        let mut queue = Queue::new();
        for _ in 0..AT_ONCE_IN_A_NAMESPACE {
            queue.push("ml".into(), "open");
        }
        carried_out(&mut queue);
        queue.push("ml".into(), "one");
        tokio::time::advance(WAIT_WITHIN / 2).await;
        queue.push("ml".into(), "two");
        assert_eq!(queue.overdue(), None);
        tokio::time::advance(WAIT_WITHIN / 2).await;
        assert_eq!(queue.next_overdue(), Some(Instant::now()));
        assert_eq!((queue.overdue(), queue.overdue()), (Some("one"), None));
        queue.end("ml");
        assert_eq!(carried_out(&mut queue), ["two"]);
        assert_eq!(queue.next_overdue(), None);
    }
}
