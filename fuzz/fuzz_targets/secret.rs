//! The operator's own Secrets: entries parted by NUL, a name first and then what it says.
#![no_main]

use krake_hooks::fuzz::{Ring, SecretData, Succession};
use libfuzzer_sys::fuzz_target;
use secrecy::{ExposeSecret, SecretSlice};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == 0);
    let mut entries = SecretData::new();
    while let (Some(name), Some(content)) = (parts.next(), parts.next()) {
        let name = String::from_utf8_lossy(name).into_owned();
        entries.insert(name, SecretSlice::from(content.to_vec()));
    }
    let now = "2040-06-01T12:00:00Z".parse().expect("a time");
    if let Ok(read) = Succession::from_secret(&entries, now) {
        let again = Succession::from_secret(&read.to_secret(), now).expect("what was written");
        assert_eq!(again.ledger(), read.ledger());
        assert_eq!(again.bundle(), read.bundle());
        assert!(!format!("{read:?}").contains("PRIVATE KEY"));
    }
    let ring = entries.iter().map(|(name, content)| (name.as_str(), content.expose_secret()));
    let _ = Ring::from_secret(ring);
});
