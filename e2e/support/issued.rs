//! Authorities of a user's, made for a story: what no tool would be asked to make.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};

use super::authority::Files;

/// A certificate, with what is needed to sign the next one.
pub struct Made {
    params: CertificateParams,
    key: KeyPair,
    /// The certificate.
    pub pem: String,
}

impl Made {
    /// An authority below another one, or a root; it differs from a good one by `change`.
    pub fn new(
        name: &str,
        above: Option<&Self>,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = match above {
            Some(above) => params.signed_by(&key, &Issuer::from_params(&above.params, &above.key)),
            None => params.self_signed(&key),
        };
        let pem = certificate.expect("a certificate").pem();
        Self { params, key, pem }
    }

    /// Its private key.
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }
}

/// The files of an intermediate that differs from a good one by `change`.
pub fn files(change: impl FnOnce(&mut CertificateParams)) -> Files {
    let root = Made::new("Example root", None, |_| {});
    let signer = Made::new("Example intermediate", Some(&root), change);
    Files::new(&signer.pem, signer.key(), &root.pem)
}

/// The files of one that may sign for other names alone.
pub fn constrained() -> Files {
    files(|params| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
            excluded_subtrees: Vec::new(),
        });
    })
}

/// The files of one below an authority that allows none below it.
pub fn too_deep() -> Files {
    let root = Made::new("Example root", None, |_| {});
    let upper = Made::new("Example upper", Some(&root), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let signer = Made::new("Example lower", Some(&upper), |_| {});
    Files::new(
        [signer.pem.as_str(), &upper.pem].concat(),
        signer.key(),
        &root.pem,
    )
}

/// The files of one whose chain lacks its middle.
pub fn broken() -> Files {
    let root = Made::new("Example root", None, |_| {});
    let upper = Made::new("Example upper", Some(&root), |_| {});
    let signer = Made::new("Example lower", Some(&upper), |_| {});
    Files::new(&signer.pem, signer.key(), &root.pem)
}

/// The files of a good one with three certificates, in an order of its own.
pub fn in_another_order() -> Files {
    let root = Made::new("Example root", None, |_| {});
    let upper = Made::new("Example upper", Some(&root), |_| {});
    let signer = Made::new("Example lower", Some(&upper), |_| {});
    Files::new(
        [upper.pem.as_str(), &signer.pem].concat(),
        signer.key(),
        &root.pem,
    )
}
