//! One pod of the app: what it was called with, and what it is made to do.
//!
//! Everything goes through the API server's proxy, so it works wherever there is a kubeconfig.

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

use krake_hooks::api::HookKind;

use super::seed;
use super::wait::{SOON, until};

/// A pod of the app.
#[derive(Clone)]
pub struct App {
    /// Uid of the pod.
    pub uid: String,
    /// Name of the pod.
    pub name: String,
    namespace: String,
    client: Client,
}

/// What the app wrote down about one call of the operator.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// When, in seconds since 1970.
    pub at: f64,
    /// What it answered.
    pub code: u16,
    /// Body of the request.
    pub body: String,
    /// Whether the body was sent in chunks, which Krake's sample server cannot read.
    pub chunked: bool,
    /// `Krake-Hook`.
    pub hook: Option<String>,
    /// `Krake-Request-Id`.
    pub request: Option<String>,
    /// `Krake-Deadline`.
    pub deadline: Option<String>,
    /// Bytes of an answer without end that the app got rid of so far.
    #[serde(default)]
    pub taken: u64,
    /// Whether the operator has hung up on it.
    #[serde(default)]
    pub hung_up: bool,
}

/// What a shell script did.
#[derive(Clone, Debug, Deserialize)]
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// What the operator answered to an acknowledgement. `code` is 0 where there was no answer, as
/// with a TLS alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Body; `Null` where it was not JSON.
    pub body: Value,
    /// What curl complained about.
    pub complaint: String,
}

impl App {
    /// The app in a pod.
    pub fn of(pod: &Pod, client: Client) -> Self {
        Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            namespace: pod.namespace().unwrap_or_default(),
            client,
        }
    }

    /// What it was called with so far.
    pub async fn calls(&self) -> Result<Vec<Call>, String> {
        serde_json::from_value(self.ask("GET", "calls", String::new()).await?)
            .map_err(|e| e.to_string())
    }

    /// Waits until it was called that often.
    pub async fn called(&self, times: usize) -> Vec<Call> {
        until(
            format!("{} called {times} times", self.name),
            SOON,
            async || match self.calls().await {
                Ok(calls) if calls.len() >= times => Ok(calls),
                other => Err(format!("{other:?}")),
            },
        )
        .await
    }

    /// From now on calls are answered with this HTTP status.
    pub async fn answer_with(&self, code: u16) {
        self.ask("PUT", "answer", code.to_string())
            .await
            .expect("the app can be steered");
    }

    /// Makes it answer calls with 200 and a body that has no end.
    pub async fn answer_without_end(&self) {
        self.answer_with(0).await;
    }

    /// Runs a shell script in the app's container.
    pub async fn run(&self, script: &str) -> Ran {
        let ran = self.ask("POST", "run", script.to_owned()).await;
        let ran = ran.unwrap_or_else(|error| panic!("{}: {error}\n{script}", self.name));
        serde_json::from_value(ran).expect("what the app answers")
    }

    /// What a script printed; panics if it failed.
    pub async fn output(&self, script: &str) -> String {
        let ran = self.run(script).await;
        assert_eq!(ran.status, 0, "{script}\n{ran:?}");
        ran.out.trim().to_owned()
    }

    /// Acknowledges by the manual's curl line.
    pub async fn acknowledge(&self, kind: HookKind) -> Answer {
        self.curl(&seed::of(kind, seed::CURL_TLS)).await
    }

    /// Acknowledges by the manual's Python lines, which do not look at the answer.
    pub async fn acknowledge_in_python(&self, kind: HookKind) {
        let lines = seed::of(kind, seed::PYTHON_TLS);
        self.output(&format!("python3 -c '{lines}'")).await;
    }

    /// Runs a curl command line and looks at the answer.
    ///
    /// While nobody listens it tries again: a Service has no address for a moment after all
    /// replicas have gone and come back, and the stories about that ask in ways of their own.
    pub async fn curl(&self, line: &str) -> Answer {
        let script = format!("{line} -sS --max-time 20 -w '\\n%{{http_code}}'");
        let ran = until("the endpoint can be connected to", SOON, async || {
            let ran = self.run(&script).await;
            match ran.status {
                CANNOT_CONNECT => Err(ran.err),
                _ => Ok(ran),
            }
        })
        .await;
        let (body, code) = ran.out.trim().rsplit_once('\n').unwrap_or(("", &ran.out));
        Answer {
            code: code.trim().parse().unwrap_or(0),
            body: serde_json::from_str(body).unwrap_or(Value::Null),
            complaint: ran.err.trim().to_owned(),
        }
    }

    /// Acknowledges with a token and a directory of certificates of the test's choice.
    pub async fn put(&self, url: &str, token: &str, certificates: &str) -> Answer {
        let files = format!(
            "--cacert {certificates}/ca-bundle.pem \
             --cert {certificates}/cert.pem --key {certificates}/key.pem"
        );
        self.curl(&format!(
            r#"curl -X PUT -d '{{"token":"{token}"}}' {url} {files}"#
        ))
        .await
    }

    /// Value of an environment variable of the app.
    pub async fn environment(&self, name: &str) -> String {
        self.output(&format!("printenv {name}")).await
    }

    async fn ask(&self, method: &str, path: &str, body: String) -> Result<Value, String> {
        let uri = format!(
            "/api/v1/namespaces/{}/pods/{}:8080/proxy/{path}",
            self.namespace, self.name
        );
        let request = hyper::Request::builder()
            .method(method)
            .uri(uri)
            .body(body.into_bytes())
            .expect("a request");
        let text = self.client.request_text(request).await;
        serde_json::from_str(&text.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }
}

/// Exit code of curl.
const CANNOT_CONNECT: i32 = 7;

impl Answer {
    /// `reason` of a refusal.
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    /// Panics unless the acknowledgement counts.
    pub fn counts(&self) -> &Self {
        assert_eq!(self.code, 200, "{self:?}");
        assert_eq!(self.body["acknowledged"], true, "{self:?}");
        self
    }

    /// Panics unless it was refused like this.
    pub fn is_refused(&self, code: u16, reason: &str) {
        assert_eq!((self.code, self.reason()), (code, reason), "{self:?}");
        assert_eq!(self.body["acknowledged"], false, "{self:?}");
    }
}
