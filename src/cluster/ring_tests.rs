use serde_json::json;

use super::*;
use crate::testing::operator_secrets::{NAMESPACE, Server};

async fn ring(server: &Server, guards: bool) -> Result<Ring, BootError> {
    load_or_create_ring(&server.client(), NAMESPACE, async { Ok(guards) }).await
}

fn creates(server: &Server) -> usize {
    server.state().writes.len()
}

#[tokio::test]
async fn a_ring_is_made_once_and_read_ever_after() {
    let server = Server::default();
    let first = ring(&server, false).await.unwrap();
    let secret = server.get(names::RING_SECRET).unwrap();
    assert_eq!(
        secret["metadata"]["labels"][names::MANAGED_BY_LABEL],
        names::MANAGED_BY
    );
    for guards in [false, true] {
        let again = ring(&server, guards).await.unwrap();
        assert_eq!(again.current_id(), first.current_id());
        assert!(again.verify(first.token("h", "w").expose_secret(), "h", "w"));
    }
    assert_eq!(creates(&server), 1);
}

#[tokio::test]
async fn a_lost_ring_is_never_replaced_while_guards_exist() {
    let server = Server::default();
    let refusal = ring(&server, true).await.unwrap_err();
    assert!(
        matches!(refusal, BootError::MasterKeyLost { .. }),
        "{refusal}"
    );
    let message = refusal.to_string();
    for word in [
        "MasterKeyLost",
        "krake-system/krake-hooks-master-keys",
        "backup",
        "release-all",
    ] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(creates(&server), 0);

    let client = server.client();
    let unknown = load_or_create_ring(&client, NAMESPACE, async {
        Err(kube::Error::LinesCodecMaxLineLengthExceeded)
    });
    assert!(matches!(unknown.await, Err(BootError::Guards(_))));
    assert_eq!(creates(&server), 0);
}

#[tokio::test]
async fn a_ring_that_came_with_the_first_guard_is_no_lost_one() {
    let server = Server::default();
    let other = Server::default();
    let made = ring(&other, false).await.unwrap();
    let client = server.client();
    let result = load_or_create_ring(&client, NAMESPACE, async {
        // Between our look at the Secret and our look at the guards.
        let secret = other.get(names::RING_SECRET).unwrap();
        server.put(names::RING_SECRET, &secret["data"]);
        Ok(true)
    });
    assert_eq!(result.await.unwrap().current_id(), made.current_id());
}

#[tokio::test]
async fn who_loses_the_race_takes_what_the_winner_wrote() {
    let winner = Server::default();
    let made = ring(&winner, false).await.unwrap();
    let server = Server::default();
    server.state().rival = winner.get(names::RING_SECRET);
    let read = ring(&server, false).await.unwrap();
    assert_eq!(read.current_id(), made.current_id());
}

#[tokio::test]
async fn a_ring_that_is_damaged_is_named_and_left_alone() {
    let server = Server::default();
    server.put(names::RING_SECRET, &json!({"current": "eA=="}));
    let before = server.get(names::RING_SECRET);
    let refusal = ring(&server, false).await.unwrap_err();
    assert!(matches!(refusal, BootError::Ring { .. }), "{refusal}");
    assert!(refusal.to_string().contains(names::RING_SECRET));
    assert_eq!(server.get(names::RING_SECRET), before);
}

#[tokio::test]
async fn an_answer_that_is_no_secret_is_not_quoted() {
    let server = Server::default();
    server.put(names::RING_SECRET, &json!("s3cret"));
    let error = ring(&server, false).await.unwrap_err();
    assert!(
        !format!("{error} {error:?}").contains("s3cret"),
        "{error:?}"
    );
}
