//! The three files of a user's authority, parted by NUL: whatever is loaded can be written and
//! loaded again, as the same authority.
#![no_main]

use krake_hooks::fuzz::Authority;
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret;

fuzz_target!(|data: &[u8]| {
    let mut files = data.splitn(3, |byte| *byte == 0);
    let [chain, key, root] = std::array::from_fn(|_| files.next().unwrap_or_default());
    let now = "2040-06-01T12:00:00Z".parse().expect("a time");
    let names = ["krake-hooks.krake-system.svc".to_owned()];
    if let Ok(loaded) = Authority::load(chain, key, root, now, &names) {
        let entries = loaded.to_secret();
        let entry = |name: &str| entries[name].expose_secret().to_vec();
        let [chain, key, root] = ["tls.crt", "tls.key", "ca.crt"].map(entry);
        let again = Authority::load(&chain, &key, &root, now, &names).expect("what was written");
        assert_eq!(again.fingerprint(), loaded.fingerprint());
        assert_eq!(again.bundle(), loaded.bundle());
    }
    let _ = Authority::restore(chain, key, root, jiff::Timestamp::UNIX_EPOCH);
});
