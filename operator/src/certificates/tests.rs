#![allow(clippy::unwrap_used)]
use super::*;
use k8s_openapi::ByteString;
use raftmq_links::pki::{CertIdentity, TlsMaterial, client_config, server_config};

fn subject() -> Subject<'static> {
    Subject::new("demo", "mq", "cluster.local")
}

fn secret(pem: &Pem) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = [(AUTHORITY, bytes(&pem.authority)), (CERT, bytes(&pem.cert)), (KEY, bytes(pem.key.expose()))];
    Secret { data: Some(data.map(|(k, v)| (k.to_owned(), v)).into()), ..Secret::default() }
}

fn tls(pem: &Pem) -> TlsMaterial {
    TlsMaterial { ca_pem: pem.authority.clone(), cert_pem: pem.cert.clone(), key_pem: pem.key.clone() }
}

fn error(result: Result<Certificates, CertificateError>) -> String {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.to_string(),
    }
}

fn later(days: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + days * 86_400).unwrap()
}

struct Made {
    ca: Secret,
    nodes: Secret,
    control: Secret,
}

impl Made {
    fn new() -> Self {
        let made = certificates(&subject(), Existing::default(), Timestamp::now()).unwrap();
        assert!(made.new_nodes && made.new_control);
        Self { ca: secret(&made.new_ca.unwrap()), nodes: secret(&made.nodes), control: secret(&made.control) }
    }

    fn existing(&self) -> Existing<'_> {
        Existing { ca: Some(&self.ca), nodes: Some(&self.nodes), control: Some(&self.control) }
    }
}

#[test]
fn the_first_time_everything_is_issued_and_works_together() {
    let made = certificates(&subject(), Existing::default(), Timestamp::now()).unwrap();
    server_config(&tls(&made.nodes), &[]).unwrap();
    client_config(&tls(&made.control), &[]).unwrap();
    let (_, pem) = parse_x509_pem(made.nodes.cert.as_bytes()).unwrap();
    let identity = CertIdentity::from_der(&pem.contents).unwrap();
    for node in ["demo-0", "demo-41"] {
        assert!(identity.is_node("demo", node), "{node}");
    }
    assert!(!identity.is_node("other", "demo-0"));
    let names = facts(&made.nodes.cert).unwrap().names;
    for name in ["*.demo-links.mq.svc", "*.demo-links.mq.svc.cluster.local"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}

#[test]
fn what_serves_is_kept() {
    let made = Made::new();
    for days in [0, 200] {
        let kept = certificates(&subject(), made.existing(), later(days)).unwrap();
        assert!(kept.new_ca.is_none() && !kept.new_nodes && !kept.new_control, "{days}");
        assert_eq!(secret(&kept.nodes), made.nodes);
    }
}

#[test]
fn certificates_are_renewed_before_they_end_and_when_names_change() {
    let made = Made::new();
    let renewed = certificates(&subject(), made.existing(), later(365 - 121)).unwrap();
    assert!(renewed.new_ca.is_none() && renewed.new_nodes && renewed.new_control);
    let moved = Subject::new("demo", "mq", "example.org");
    let renewed = certificates(&moved, made.existing(), Timestamp::now()).unwrap();
    assert!(renewed.new_nodes && !renewed.new_control);
}

#[test]
fn certificates_of_another_authority_are_issued_anew() {
    let (made, other) = (Made::new(), Made::new());
    let mixed = Existing { ca: Some(&other.ca), ..made.existing() };
    let renewed = certificates(&subject(), mixed, Timestamp::now()).unwrap();
    assert!(renewed.new_nodes && renewed.new_control);
    // Even where the bundle beside it was exchanged.
    let mut patched = made.nodes.clone();
    let authority = other.ca.data.as_ref().unwrap()[CERT].clone();
    patched.data.as_mut().unwrap().insert(AUTHORITY.into(), authority);
    let mixed = Existing { ca: Some(&other.ca), nodes: Some(&patched), ..made.existing() };
    assert!(certificates(&subject(), mixed, Timestamp::now()).unwrap().new_nodes);
}

#[test]
fn a_lost_or_damaged_authority_is_never_replaced_and_what_it_issued_serves_to_its_end() {
    let made = Made::new();
    let now = Timestamp::now();
    let mut lost = vec![(None, "demo-ca is gone")];
    let damaged = [(KEY, "nothing"), (CERT, "nothing")].map(|(key, value)| {
        let mut damaged = made.ca.clone();
        damaged.data.as_mut().unwrap().insert(key.into(), ByteString(value.into()));
        damaged
    });
    lost.extend(damaged.iter().map(|damaged| (Some(damaged), "demo-ca cannot be used")));
    let empty = Secret::default();
    lost.push((Some(&empty), "no tls.crt"));
    for (ca, problem) in lost {
        let existing = Existing { ca, ..made.existing() };
        // Also where it should have been renewed.
        for days in [0, 300] {
            let kept = certificates(&subject(), existing, later(days)).unwrap();
            assert!(kept.new_ca.is_none() && !kept.new_nodes && !kept.new_control);
            assert_eq!((secret(&kept.nodes), secret(&kept.control)), (made.nodes.clone(), made.control.clone()));
            let said = kept.problem.unwrap().to_string();
            assert!(said.contains(problem), "{said}");
        }
        let said = error(certificates(&subject(), existing, later(366)));
        assert!(said.contains(problem), "{said}");
        let moved = Subject::new("demo", "mq", "example.org");
        error(certificates(&moved, existing, now));
        error(certificates(&subject(), Existing { control: None, ..existing }, now));
        let other = Made::new();
        error(certificates(&subject(), Existing { control: Some(&other.control), ..existing }, now));
    }
    assert!(certificates(&subject(), made.existing(), now).unwrap().problem.is_none());
}
