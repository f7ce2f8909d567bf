//! The body of an acknowledgement: read within bounds, parsed whatever its content type.
//!
//! The documented client (`curl -d`) calls its JSON a form. A refusal names the field and never
//! repeats its value, which may be a token.

use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper::body::Buf;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::api::status::AckResult;

/// The largest body.
pub const MOST_BYTES: usize = 8 * 1024;
/// The longest message, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// The longest token that is accepted.
const LONGEST_TOKEN: usize = 512;
/// How many bytes beyond the limit are read before the refusal, so that a client that writes first
/// and reads later receives it.
const DRAINED_BYTES: usize = 4 * 1024 * 1024;

/// The parsed body.
#[derive(Debug)]
pub struct Said {
    /// Its token.
    pub token: SecretString,
    /// Of its work.
    pub result: AckResult,
    /// In words.
    pub message: Option<String>,
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// Larger than allowed.
    TooLarge,
    /// Took too long.
    TooSlow,
    /// A field is not what it should be.
    Malformed {
        /// The field; `body` for the whole.
        field: &'static str,
        /// What it should be.
        problem: String,
    },
}

/// Reads and understands a body.
pub async fn read<B: Buf, E>(
    body: impl Stream<Item = Result<B, E>>,
    within: Duration,
) -> Result<Said, BodyFault> {
    let bytes = tokio::time::timeout(within, collect(body))
        .await
        .map_err(|_| BodyFault::TooSlow)??;
    understand(&bytes)
}

async fn collect<B: Buf, E>(body: impl Stream<Item = Result<B, E>>) -> Result<Vec<u8>, BodyFault> {
    let mut body = std::pin::pin!(body);
    let (mut bytes, mut seen) = (Vec::new(), 0);
    while let Some(part) = body.next().await {
        let mut part = part.map_err(|_| malformed("body", "it ends too early"))?;
        seen += part.remaining();
        if seen > DRAINED_BYTES {
            break;
        }
        if seen <= MOST_BYTES {
            while part.has_remaining() {
                let chunk = part.chunk();
                let length = chunk.len();
                bytes.extend_from_slice(chunk);
                part.advance(length);
            }
        }
    }
    if seen > MOST_BYTES {
        return Err(BodyFault::TooLarge);
    }
    Ok(bytes)
}

/// Reads a body and drops it: a request over HTTP/2 that is refused before it is read is reset, and
/// its client may see that instead of the answer.
pub async fn drain<B: Buf, E>(body: impl Stream<Item = Result<B, E>>, within: Duration) {
    let mut body = std::pin::pin!(body);
    let reading = async {
        let mut seen = 0;
        while let Some(Ok(part)) = body.next().await {
            seen += part.remaining();
            if seen > DRAINED_BYTES {
                break;
            }
        }
    };
    // In time or not, the answer is the same.
    let _ = tokio::time::timeout(within, reading).await;
}

fn understand(bytes: &[u8]) -> Result<Said, BodyFault> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        malformed("body", format!("not JSON at line {line}, column {column}"))
    })?;
    let Value::Object(fields) = value else {
        return Err(malformed("body", "not a JSON object"));
    };
    let token = match fields.get("token") {
        Some(Value::String(token)) if (1..=LONGEST_TOKEN).contains(&token.len()) => {
            SecretString::from(token.as_str())
        }
        Some(Value::String(_)) => return Err(malformed("token", "empty or too long")),
        Some(_) => return Err(malformed("token", "not a string")),
        None => return Err(malformed("token", "missing")),
    };
    let result = match optional(&fields, "result")? {
        None | Some("Success") => AckResult::Success,
        Some("Failure") => AckResult::Failure,
        Some(_) => return Err(malformed("result", "neither Success nor Failure")),
    };
    let message = match optional(&fields, "message")? {
        Some(text) if text.len() > LONGEST_MESSAGE => {
            let problem = format!("longer than {LONGEST_MESSAGE} bytes");
            return Err(malformed("message", problem));
        }
        other => other.map(str::to_owned),
    };
    Ok(Said {
        token,
        result,
        message,
    })
}

/// A string that may be missing; null counts as missing, because many clients write that.
fn optional<'a>(
    fields: &'a Map<String, Value>,
    field: &'static str,
) -> Result<Option<&'a str>, BodyFault> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(malformed(field, "not a string")),
    }
}

fn malformed(field: &'static str, problem: impl Into<String>) -> BodyFault {
    BodyFault::Malformed {
        field,
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::convert::Infallible;

    const WITHIN: Duration = Duration::from_secs(10);

    async fn read(
        body: impl Stream<Item = Result<hyper::body::Bytes, Infallible>>,
    ) -> Result<Said, BodyFault> {
        super::read(body, WITHIN).await
    }

    fn parts(parts: &[&str]) -> impl Stream<Item = Result<hyper::body::Bytes, Infallible>> {
        let owned: Vec<_> = parts
            .iter()
            .map(|part| Ok(part.to_string().into()))
            .collect();
        futures::stream::iter(owned)
    }

    #[tokio::test]
    async fn what_is_understood() {
        let said = read(parts(&["{\"tok", "en\":\"t\",\"more\":[1]}"]))
            .await
            .unwrap();
        assert_eq!(said.token.expose_secret(), "t");
        assert_eq!((said.result, said.message), (AckResult::Success, None));
        let said = read(parts(&[
            r#"{"token":"t","result":"Failure","message":"disk full"}"#,
        ]))
        .await
        .unwrap();
        assert_eq!(said.result, AckResult::Failure);
        assert_eq!(said.message.as_deref(), Some("disk full"));
        let said = read(parts(&[r#"{"token":"t","result":null,"message":null}"#])).await;
        assert_eq!(said.unwrap().message, None);
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_repeats_nothing() {
        let long = format!(r#"{{"token":"s3cret","message":"{}"}}"#, "x".repeat(1025));
        for (text, expected) in [
            ("", "body"),
            ("token=s3cret", "body"),
            ("\"s3cret\"", "body"),
            ("{}", "token"),
            (r#"{"token":""}"#, "token"),
            (r#"{"token":["s3cret"]}"#, "token"),
            (r#"{"token":"s3cret","result":"s3cret"}"#, "result"),
            (r#"{"token":"s3cret","result":1}"#, "result"),
            (r#"{"token":"s3cret","message":{}}"#, "message"),
            (long.as_str(), "message"),
        ] {
            let fault = read(parts(&[text])).await.unwrap_err();
            let BodyFault::Malformed { field, problem } = fault else {
                panic!("{text}: {fault:?}");
            };
            assert_eq!(field, expected, "{text}");
            assert!(!problem.contains("s3cret"), "{text}: {problem}");
        }
    }

    #[tokio::test]
    async fn the_bound_is_exact() {
        let filler = MOST_BYTES - r#"{"token":"t","x":""}"#.len();
        let largest = format!(r#"{{"token":"t","x":"{}"}}"#, "x".repeat(filler));
        assert_eq!(largest.len(), MOST_BYTES);
        assert!(read(parts(&[&largest])).await.is_ok());
        let larger = format!("{largest} ");
        let fault = read(parts(&[&larger])).await.unwrap_err();
        assert_eq!(fault, BodyFault::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_too_slow() {
        let begun = parts(&["{"]).chain(futures::stream::pending());
        let started = tokio::time::Instant::now();
        assert_eq!(read(begun).await.unwrap_err(), BodyFault::TooSlow);
        assert_eq!(started.elapsed(), WITHIN);
    }
}
