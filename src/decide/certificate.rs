//! When a certificate is issued.
