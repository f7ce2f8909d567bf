//! The lines that Krake's manual gives to its users, word for word. They are the contract: an app
//! that was written for Krake must run here as it is.

use krake_hooks::api::HookKind;

/// `curl`, if TLS is not enabled.
pub const CURL: &str = r#"curl -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_COMPLETE_URL"#;

/// `curl`, if TLS is enabled.
pub const CURL_TLS: &str = r#"curl -X PUT -d "{\"token\":\"$KRAKE_TOKEN\"}" $KRAKE_COMPLETE_URL \
    --cacert /etc/krake_cert/ca-bundle.pem \
    --cert /etc/krake_cert/cert.pem \
    --key /etc/krake_cert/key.pem"#;

/// Python's `requests`, if TLS is not enabled.
pub const PYTHON: &str = r#"import requests
import os

endpoint = os.getenv("KRAKE_COMPLETE_URL")
token = os.getenv("KRAKE_TOKEN")

requests.put(endpoint, json={"token": token})
"#;

/// Python's `requests`, if TLS is enabled.
pub const PYTHON_TLS: &str = r#"import requests
import os

ca_bundle = "/etc/krake_cert/ca-bundle.pem"
cert_path = "/etc/krake_cert/cert.pem"
key_path = "/etc/krake_cert/key.pem"
cert_and_key = (cert_path, key_path)
endpoint = os.getenv("KRAKE_COMPLETE_URL")
token = os.getenv("KRAKE_TOKEN")

requests.put(endpoint, verify=ca_bundle, json={"token": token}, cert=cert_and_key)
"#;

/// The manual shows the lines for `complete`; for `shutdown` only the variable's name differs.
pub fn of(kind: HookKind, lines: &str) -> String {
    match kind {
        HookKind::Complete => lines.to_owned(),
        HookKind::Shutdown => lines.replace("KRAKE_COMPLETE_URL", "KRAKE_SHUTDOWN_URL"),
    }
}
