//! How long a certificate that was refused waits before it is tried again. That stands in its
//! status, so that neither a restart nor another leader begins anew; and it is for the order that was
//! refused: whatever else is asked for is tried at once.
//!
//! | refused in a row | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 and more |
//! |---|---|---|---|---|---|---|---|---|---|---|
//! | wait (s) | 8 | 16 | 32 | 64 | 128 | 256 | 512 | 1024 | 2048 | 3600 |

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::HookCertificateStatus;

/// The wait after so many refusals in a row.
pub fn wait(refusals: u32) -> SignedDuration {
    let doubled = refusals.saturating_sub(1).min(9);
    SignedDuration::from_secs((8 << doubled).min(3600))
}

/// Until when an order waits, if it was refused; a clock that was set back waits for nothing.
pub fn until(status: &HookCertificateStatus, order: &str, now: Timestamp) -> Option<Timestamp> {
    let last = status.last_failure_time.as_ref()?.0;
    let same = status.failed_order.as_deref() == Some(order);
    let until = last + wait(refusals(status));
    (same && last <= now && now < until).then_some(until)
}

/// Notes that an order was refused.
pub fn note(status: &mut HookCertificateStatus, order: &str, now: Timestamp) {
    let same = status.failed_order.as_deref() == Some(order);
    let before = if same { refusals(status) } else { 0 };
    status.failed_attempts = Some(i64::from(before.saturating_add(1)));
    status.failed_order = Some(order.to_owned());
    status.last_failure_time = Some(Time(now));
}

fn refusals(status: &HookCertificateStatus) -> u32 {
    let refusals = status.failed_attempts.unwrap_or_default();
    u32::try_from(refusals).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_an_hour_for_the_same_order() {
        let waits: Vec<_> = (1..=11).map(|refusals| wait(refusals).as_secs()).collect();
        let table = [8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600];
        assert_eq!(waits, table);
        assert_eq!(wait(u32::MAX).as_secs(), 3600);
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut status = HookCertificateStatus::default();
        assert_eq!(until(&status, "a", at(0)), None);
        for second in [1000, 1008, 1024] {
            assert_eq!(until(&status, "a", at(second)), None, "{second}");
            note(&mut status, "a", at(second));
        }
        assert_eq!(until(&status, "a", at(1024)), Some(at(1056)));
        assert_eq!(until(&status, "a", at(1056)), None);
        assert_eq!(
            until(&status, "a", at(1023)),
            None,
            "the clock was set back"
        );
        assert_eq!(until(&status, "b", at(1024)), None);
        note(&mut status, "b", at(1024));
        assert_eq!(status.failed_attempts, Some(1));
    }
}
