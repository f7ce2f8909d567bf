//! stub
use crate::config::Config;
use crate::pki::{Authority, Ring};
#[derive(Debug, thiserror::Error)]
#[error("boot")]
pub struct BootError;
pub async fn load_or_create_ring(
    _c: &kube::Client,
    _ns: &str,
    _g: impl Future<Output = Result<bool, kube::Error>>,
) -> Result<Ring, BootError> {
    Ok(Ring::generate([7; 32]))
}
pub fn endpoint_names(_c: &Config, _ns: &str) -> Vec<String> {
    vec![]
}
pub async fn load_or_create_authority(
    _c: &kube::Client,
    _ns: &str,
    _cfg: &Config,
    _n: &[String],
    _now: jiff::Timestamp,
) -> Result<Authority, BootError> {
    Err(BootError)
}
