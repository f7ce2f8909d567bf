//! Which mistake this process makes. It is part of no build but the one of `hack/planted`, which puts it
//! into `src` and the mistakes themselves, each a patch, into the files that they are about.

use std::sync::LazyLock;

/// Whether this process makes this mistake: the one that `KRAKE_PLANTED_BUG` names. One that does not
/// exist ends the process: a harness that misspells it would find nothing, and be content.
pub fn is(mistake: &str) -> bool {
    static PLANTED: LazyLock<String> = LazyLock::new(|| {
        let name = std::env::var("KRAKE_PLANTED_BUG").unwrap_or_default();
        let known = env!("KRAKE_PLANTED_BUGS").split(' ');
        assert!(
            name.is_empty() || known.into_iter().any(|known| known == name),
            "no such mistake: {name}"
        );
        name
    });
    *PLANTED == mistake
}
