//! WHAT USERS WRITE: the custom resources, their statuses, and every name we put into a cluster.
//!
//! Data only: nothing here decides or talks to anybody.

pub mod condition;
pub mod crds;
pub mod hook_authority;
pub mod hook_certificate;
pub mod hook_guard;
pub mod kind;
pub mod krake_hook;
pub mod names;
pub mod status;

pub use hook_authority::{HookAuthority, HookAuthorityStatus};
pub use hook_certificate::{HookCertificate, HookCertificateSpec, HookCertificateStatus};
pub use hook_guard::{HookGuard, HookGuardSpec};
pub use kind::{DependentKind, WorkloadKind};
pub use krake_hook::{HookKind, KrakeHook, KrakeHookSpec};
pub use status::KrakeHookStatus;

pub use crate::pki::KeyAlgorithm;
