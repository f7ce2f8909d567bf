use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::pki::{AuthorityNames, AuthoritySerials, AuthorityValidity, TextDigest};

fn now() -> Timestamp {
    "2040-06-01T12:00:00Z".parse().unwrap()
}

fn made(number: u8) -> (Arc<Authority>, Entry) {
    let serials = AuthoritySerials {
        root: [number; 16],
        intermediate: [number + 100; 16],
    };
    let validity = AuthorityValidity::default();
    let made = Authority::generate(&AuthorityNames::default(), now(), validity, serials).unwrap();
    let entry = made.entry(None, now());
    (Arc::new(made), entry)
}

/// The first one, always the same.
static FIRST: LazyLock<(Arc<Authority>, Entry)> = LazyLock::new(|| made(1));

fn begun() -> Succession {
    let (authority, entry) = FIRST.clone();
    Succession::begin(authority, entry, None)
}

fn prepare(succession: &Succession, number: u8) -> Succession {
    let step = Step::Prepare {
        answering: Some("now".into()),
    };
    succession.after(&step, Some(made(number)), now())
}

fn again(succession: &Succession) -> Succession {
    Succession::from_secret(&succession.to_secret(), now()).unwrap()
}

fn names(entries: &SecretData) -> Vec<&str> {
    entries.keys().map(String::as_str).collect()
}

#[test]
fn what_is_written_is_read_in_every_phase() {
    let first = begun();
    let second = prepare(&first, 2);
    let fingerprint = second.ledger().next.as_ref().unwrap().fingerprint.clone();
    let settled = second.after(&Step::Settle { fingerprint }, None, now());
    let third = settled.after(&Step::Activate, None, now() + Duration::from_secs(9));
    for (succession, entries) in [
        (&first, 4),
        (&second, 7),
        (&settled, 7),
        // One more file of certificates, and no key of the old one.
        (&third, 5),
    ] {
        let read = again(succession);
        assert_eq!(read.ledger(), succession.ledger());
        assert_eq!(read.bundle(), succession.bundle());
        assert_eq!(read.anchors(), succession.anchors());
        assert_eq!(
            read.signer().fingerprint(),
            succession.signer().fingerprint()
        );
        assert_eq!(succession.to_secret().len(), entries);
        assert!(
            succession
                .to_secret()
                .keys()
                .all(|name| Succession::is_entry(name))
        );
    }
    let keys = |entries: &SecretData| {
        let all = entries
            .values()
            .map(|content| String::from_utf8_lossy(content.expose_secret()).into_owned());
        all.filter(|content| content.contains("PRIVATE KEY"))
            .count()
    };
    assert_eq!(keys(&second.to_secret()), 2);
    assert_eq!(keys(&third.to_secret()), 1);
    assert!(!format!("{third:?}").contains("PRIVATE"));
}

/// Each ConfigMap is written once when an authority comes, and once when it goes.
#[test]
fn a_bundle_changes_only_when_one_comes_or_goes() {
    let second = prepare(&begun(), 2);
    assert!(second.bundle().pem().starts_with(begun().bundle().pem()));
    let told = TextDigest::of(second.bundle().pem());
    assert!(second.next_bundle().unwrap().is_in(&told));
    let third = second.after(&Step::Activate, None, now());
    assert_eq!(third.bundle(), second.bundle());
    assert_eq!(third.anchors(), second.anchors());
    let fingerprint = third.ledger().retiring[0].fingerprint.clone();
    let fourth = third.after(&Step::Retire { fingerprint }, None, now());
    assert_eq!(fourth.bundle(), fourth.signer().bundle());
    assert_eq!(fourth.anchors().len(), 1);
    let discarded = second.after(&Step::Discard, None, now());
    assert_eq!(discarded.bundle(), begun().bundle());
    assert_eq!(
        names(&discarded.to_secret()),
        ["ca.crt", "ledger.json", "tls.crt", "tls.key"]
    );
}

#[test]
fn a_secret_of_an_earlier_version_holds_one_that_was_always_active() {
    let (authority, _) = made(1);
    let read = Succession::from_secret(&authority.to_secret(), now()).unwrap();
    assert_eq!(read.signer().fingerprint(), authority.fingerprint());
    let ledger = read.ledger();
    assert_eq!(ledger.active.since, authority.not_before());
    assert!(ledger.next.is_none() && ledger.retiring.is_empty());
    assert_eq!(read.bundle(), authority.bundle());
}

#[test]
fn what_has_expired_and_what_is_for_later_can_be_read() {
    let day = Duration::from_secs(86_400);
    for at in [
        now() - day * 400,
        now() + day * 1095,
        now() + day * 1096,
        now() + day * 9999,
    ] {
        let read = Succession::from_secret(&begun().to_secret(), at).unwrap();
        assert_eq!(read.ledger(), begun().ledger());
    }
}

#[test]
fn what_is_damaged_costs_no_more_than_itself() {
    let second = prepare(&begun(), 2);
    let third = second.after(&Step::Activate, None, now());
    let third = prepare(&third, 3);
    let spoilt = |name: &str, content: &[u8]| {
        let mut entries = third.to_secret();
        let name = entries
            .keys()
            .find(|key| key.starts_with(name))
            .unwrap()
            .clone();
        entries.insert(name, SecretSlice::from(content.to_vec()));
        Succession::from_secret(&entries, now())
    };
    let without_next = spoilt("next.crt", b"garbage").unwrap();
    assert!(without_next.ledger().next.is_none() && without_next.next_bundle().is_none());
    assert_eq!(without_next.ledger().retiring.len(), 1);
    let without_retiring = spoilt("retiring-", b"garbage").unwrap();
    assert!(without_retiring.ledger().retiring.is_empty());
    assert!(without_retiring.ledger().next.is_some());
    for (name, content, reason) in [
        ("tls.crt", b"garbage".as_slice(), "AuthorityNotPem"),
        ("tls.key", b"", "AuthorityNotPem"),
        ("ca.crt", b"", "AuthorityRootMissing"),
        ("ledger.json", b"{", "AuthorityLedgerUnreadable"),
        ("ledger.json", &[b' '; 100_000], "AuthorityLedgerUnreadable"),
    ] {
        let fault = spoilt(name, content).unwrap_err();
        let expected = if name == "tls.key" {
            "AuthorityEmpty"
        } else {
            reason
        };
        assert_eq!(fault.reason(), expected, "{name}");
    }
}

#[test]
fn a_certificate_put_there_by_hand_speaks_for_itself() {
    let (other, _) = made(9);
    let mut entries = begun().to_secret();
    entries.extend(other.to_secret());
    let read = Succession::from_secret(&entries, now()).unwrap();
    assert_eq!(read.ledger().active.fingerprint, other.fingerprint());
    assert_eq!(read.signer().fingerprint(), other.fingerprint());
}

#[test]
fn one_that_is_taken_up_again_is_not_retired_as_well() {
    let old = FIRST.clone();
    let third = prepare(&begun(), 2).after(&Step::Activate, None, now());
    let back = third.after(&Step::Prepare { answering: None }, Some(old.clone()), now());
    assert_eq!(back.ledger().retiring.len(), 1);
    // Its bundle says nothing twice.
    assert_eq!(back.bundle(), third.bundle());
    let discarded = back.after(&Step::Discard, None, now());
    assert_eq!(discarded.anchors(), third.anchors());
    let active = again(&back).after(&Step::Activate, None, now());
    assert_eq!(active.signer().fingerprint(), old.0.fingerprint());
    let retiring = &active.ledger().retiring;
    assert_eq!(retiring.len(), 1);
    assert_ne!(retiring[0].fingerprint, old.0.fingerprint());
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_secret_panics(
        contents in proptest::collection::btree_map(
            prop_oneof![
                Just("tls.crt"), Just("tls.key"), Just("ca.crt"), Just("next.crt"),
                Just("next.key"), Just("next-ca.crt"), Just("ledger.json"),
                Just("retiring-0123456789abcdef.crt"),
            ],
            bytes(), 0..8,
        ),
        good in any::<bool>(),
        at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut entries = if good { begun().to_secret() } else { SecretData::new() };
        for (name, content) in contents {
            entries.insert(name.to_owned(), SecretSlice::from(content));
        }
        let _ = Succession::from_secret(&entries, now());
        // One byte of a good one changed.
        let mut entries = prepare(&begun(), 2).to_secret();
        let name = at.get(&entries.keys().cloned().collect::<Vec<_>>()).clone();
        let mut content = entries[&name].expose_secret().to_vec();
        let place = at.index(content.len());
        content[place] = byte;
        entries.insert(name, SecretSlice::from(content));
        if let Ok(read) = Succession::from_secret(&entries, now()) {
            let again = Succession::from_secret(&read.to_secret(), now()).unwrap();
            prop_assert_eq!(again.ledger(), read.ledger());
        }
    }
}
