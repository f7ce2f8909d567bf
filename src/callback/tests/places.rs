//! The table of `places.rs`.

use std::time::Duration;

use super::*;
use crate::callback::activity::UnderWay;

/// Connections that have places, and what goes on on them.
struct Held {
    places: Places,
    all: Vec<(Source, Arc<Activity>, Option<Place>)>,
}

impl Held {
    fn new(total: usize, per_source: usize) -> Self {
        Self {
            places: Places::new(Share { total, per_source }),
            all: Vec::new(),
        }
    }

    fn take(&mut self, from: &str) -> Option<usize> {
        let (source, activity) = (source(from), Activity::new());
        let place = self.places.take(source, &activity)?;
        self.all.push((source, activity, Some(place)));
        Some(self.all.len() - 1)
    }

    fn activity(&self, number: usize) -> Arc<Activity> {
        Arc::clone(&self.all[number].1)
    }

    fn is_displaced(&self, number: usize) -> bool {
        self.all[number].1.displaced.is_cancelled()
    }

    /// How many a source has that have not been told to give way.
    fn of(&self, from: &str) -> usize {
        let source = source(from);
        let own = self.all.iter().filter(|(of, _, _)| *of == source);
        own.filter(|(_, activity, place)| place.is_some() && !activity.displaced.is_cancelled())
            .count()
    }
}

fn source(address: &str) -> Source {
    Source::from(address.parse::<IpAddr>().unwrap())
}

#[test]
fn a_source_is_an_ipv4_address_or_a_network_of_ipv6() {
    for (one, other, same) in [
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
        ("10.0.0.1", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
        ("fd00:1:2:3::1", "fd00:1:2:3:ffff:ffff:ffff:ffff", true),
        ("fd00:1:2:3::1", "fd00:1:2:4::1", false),
    ] {
        assert_eq!(source(one) == source(other), same, "{one} {other}");
    }
}

#[test]
fn one_source_floods_and_every_other_gets_in() {
    let mut held = Held::new(64, 64);
    for _ in 0..10_000 {
        assert!(held.take("10.0.0.1").is_some());
    }
    assert_eq!(held.of("10.0.0.1"), 64);
    let others: Vec<String> = (0..20).map(|n| format!("10.1.0.{n}")).collect();
    for other in &others {
        assert!(held.take(other).is_some());
        held.take("10.0.0.1");
    }
    assert!(others.iter().all(|other| held.of(other) == 1));
    assert_eq!(held.of("10.0.0.1"), 44);
}

#[test]
fn a_source_with_as_many_as_it_may_have_takes_from_itself_alone() {
    let mut held = Held::new(10, 3);
    let (first, second) = (
        held.take("10.0.0.1").unwrap(),
        held.take("10.0.0.1").unwrap(),
    );
    held.take("10.0.0.2");
    held.take("10.0.0.1");
    assert!(held.take("10.0.0.1").is_some());
    assert!(held.is_displaced(first) && !held.is_displaced(second));
    assert_eq!((held.of("10.0.0.1"), held.of("10.0.0.2")), (3, 1));
    // What is free again can be taken again.
    held.all.truncate(3);
    held.take("10.0.0.1");
    assert!(!held.is_displaced(second));
}

#[test]
fn who_has_a_request_under_way_does_not_give_way_to_its_own_source() {
    let mut held = Held::new(10, 2);
    let numbers = [
        held.take("10.0.0.1").unwrap(),
        held.take("10.0.0.1").unwrap(),
    ];
    let busy = numbers.map(|number| UnderWay::new(held.activity(number)));
    assert_eq!(held.take("10.0.0.1"), None);
    drop(busy);
    assert!(held.take("10.0.0.1").is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_request_before_idle_and_the_longest_first() {
    let mut held = Held::new(4, 4);
    let second = Duration::from_secs(1);
    let mut numbers = Vec::new();
    for _ in 0..4 {
        numbers.push(held.take("10.0.0.1").unwrap());
        tokio::time::advance(second).await;
    }
    let asks = |held: &Held, number: usize| drop(UnderWay::new(held.activity(number)));
    asks(&held, numbers[1]);
    tokio::time::advance(second).await;
    asks(&held, numbers[0]);
    let busy = UnderWay::new(held.activity(numbers[3]));
    for expected in [numbers[2], numbers[1], numbers[0]] {
        assert!(!held.is_displaced(expected));
        let newcomer = held.take("10.0.0.2").unwrap();
        assert!(held.is_displaced(expected), "{expected}");
        asks(&held, newcomer);
    }
    // It has one, the other three: idle ones of the largest first.
    drop(busy);
}

#[test]
fn a_source_at_work_with_two_more_gives_way_to_one_with_less() {
    let mut held = Held::new(4, 4);
    let numbers: Vec<usize> = (0..4).map(|_| held.take("10.0.0.1").unwrap()).collect();
    let busy: Vec<UnderWay> = numbers
        .iter()
        .map(|number| UnderWay::new(held.activity(*number)))
        .collect();
    let newcomers: Vec<usize> = (0..2).map(|_| held.take("10.0.0.2").unwrap()).collect();
    assert_eq!((held.of("10.0.0.1"), held.of("10.0.0.2")), (2, 2));
    let also: Vec<UnderWay> = newcomers
        .iter()
        .map(|number| UnderWay::new(held.activity(*number)))
        .collect();
    // All at work, and nobody has more than its share.
    assert_eq!(held.take("10.0.0.2"), None);
    assert!(held.take("10.0.0.3").is_some());
    drop((busy, also));
}

#[test]
fn as_many_sources_as_places_keep_nobody_out() {
    let mut held = Held::new(8, 2);
    for number in 0..100 {
        assert!(held.take(&format!("10.2.0.{number}")).is_some());
    }
}

#[test]
fn requests_are_counted_for_each_source_and_in_all() {
    let requests = Requests::new(Share {
        total: 3,
        per_source: 2,
    });
    let (one, other) = (source("10.0.0.1"), source("10.0.0.2"));
    let first = requests.begin(one).unwrap();
    let second = requests.begin(one);
    assert!(requests.begin(one).is_none());
    let third = requests.begin(other);
    assert!(second.is_some() && third.is_some() && requests.begin(other).is_none());
    drop(first);
    assert!(requests.begin(other).is_some());
}
