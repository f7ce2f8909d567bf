//! What a peer shows: a certificate, and the addresses in it.
#![no_main]

use krake_hooks::fuzz::{CertificateUri, HookUri, Identity};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(identity) = Identity::from_der(data) {
        let _ = (identity.hook(), identity.certificate());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(uri) = text.parse::<HookUri>() {
            assert_eq!(uri.to_string(), text);
        }
        if let Ok(uri) = text.parse::<CertificateUri>() {
            assert_eq!(uri.to_string(), text);
        }
    }
});
