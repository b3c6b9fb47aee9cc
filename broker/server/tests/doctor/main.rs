//! `raftmq doctor` as people run it: the process, its lines and its exit status, against real sockets.

#![allow(clippy::unwrap_used)]

mod server;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use server::{Authority, Server};
use tempfile::TempDir;

/// Exit status and standard output.
fn doctor(arguments: &[&str]) -> (i32, String) {
    doctor_with(arguments, &[])
}

fn doctor_with(arguments: &[&str], environment: &[(&str, &Path)]) -> (i32, String) {
    let binary = std::env::var("RAFTMQ_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_raftmq").into());
    let mut command = Command::new(binary);
    command.arg("doctor").args(arguments).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    command.envs(environment.iter().copied());
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Of what was found, the line of one check: its mark and its text.
fn line<'a>(text: &'a str, check: &str) -> (&'a str, &'a str) {
    let found = text.lines().find_map(|line| {
        let (mark, rest) = line.split_once(' ')?;
        Some((mark, rest.trim_start().strip_prefix(check)?.strip_prefix("  ")?.trim_start()))
    });
    found.unwrap_or_else(|| panic!("no line {check:?} in:\n{text}"))
}

fn connect_tls(server: &Server, ca: &Path, more: &[&str]) -> (i32, String) {
    let address = format!("localhost:{}", server.address.port());
    doctor(&[&["connect", &address, "--tls", "--ca", ca.to_str().unwrap()], more].concat())
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

#[test]
fn the_exit_status_says_whether_there_is_a_problem() {
    let (status, json) = doctor(&["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let findings = report["findings"].as_array().unwrap();
    for check in ["version", "user", "name servers", "root certificates", "open files", "memory limit", "clock"] {
        assert!(findings.iter().any(|finding| finding["check"] == check), "{check}: {json}");
    }
    let ok = findings.iter().all(|finding| finding["ok"] == true);
    assert_eq!(report["ok"], ok);
    assert_eq!(status, i32::from(!ok), "{json}");
}

#[test]
fn roots_are_counted_and_none_are_a_problem() {
    let files = Files::new();
    let authorities: String = ["a", "b"].iter().map(|name| Authority::new(name).pem()).collect();
    let two = files.write("two.pem", &authorities);
    let (_, text) = doctor_with(&[], &[("SSL_CERT_FILE", &two)]);
    assert_eq!(line(&text, "root certificates"), ("ok", &*format!("2 of SSL_CERT_FILE={}", two.display())));

    let missing = files.0.path().join("missing.pem");
    let (status, text) = doctor_with(&[], &[("SSL_CERT_FILE", &missing)]);
    let (mark, found) = line(&text, "root certificates");
    assert_eq!((status, mark), (1, "PROBLEM"));
    assert!(found.starts_with("0 of ") && found.contains("No such file"), "{found}");
}

#[test]
fn the_data_directory_is_that_of_the_settings() {
    let files = Files::new();
    let data = files.0.path().join("data");
    let settings =
        |text: &str| files.write("node.yaml", &format!("node: {{name: a, dataDir: '{}'}}\n{text}", data.display()));
    let cluster = "cluster: {name: demo, links: {advertise: '127.0.0.1:9883', tls: {caFile: a, certFile: b, keyFile: c}}}\n\
                   http: {tls: {caFile: a, certFile: b, keyFile: c}}\n";

    let look = |path: PathBuf| doctor(&["--config", path.to_str().unwrap()]).1;
    assert!(line(&look(settings("")), "data directory").1.starts_with("not used"));
    let text = look(settings("nonsense: 1\nfurther: 2\n"));
    let (mark, found) = line(&text, "settings");
    assert!(mark == "PROBLEM" && found.contains("nonsense") && found.contains("; "), "{found}");
    assert!(!text.contains("data directory"));

    let text = look(settings(cluster));
    assert!(line(&text, "data directory").1.contains(", not there yet: "), "{text}");
    fs::create_dir(&data).unwrap();
    let text = look(settings(cluster));
    let (_, found) = line(&text, "data directory");
    // How much is free is the machine's business.
    assert!(found.starts_with(&*format!("{}: ", data.display())) && found.contains(" free"), "{found}");
}

#[test]
fn localhost_is_in_the_hosts_file() {
    let (status, text) = doctor(&["resolve", "localhost"]);
    assert_eq!(status, 0, "{text}");
    assert!(line(&text, "name").1.starts_with("localhost: "), "{text}");
    let addresses: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert!(addresses.contains(&"127.0.0.1"), "{text}");

    let (status, text) = doctor(&["resolve", "2001:db8::1"]);
    assert_eq!((status, line(&text, "address")), (0, ("ok", "2001:db8::1")));
}

#[test]
fn a_name_that_does_not_exist_says_what_was_tried() {
    for arguments in [&["resolve", "nobody.invalid."][..], &["resolve", "--srv", "_mqtt._tcp.nobody.invalid."]] {
        let (status, text) = doctor(arguments);
        assert_eq!(status, 1, "{text}");
        assert!(text.starts_with("PROBLEM  ") && text.contains("nobody.invalid"), "{text}");
        assert!(text.contains("tried: /etc/hosts, name servers ") || text.contains("/etc/resolv.conf"), "{text}");
    }
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in [
        &["resolve"][..],
        &["resolve", "a:1883"],
        &["connect", "a"],
        &["connect", "a:1", "--timeout", "5"],
        &["connect", "a:1", "--ca", "ca.pem"],
        &["--config", "a.yaml", "resolve", "localhost"],
    ] {
        assert_eq!(doctor(arguments).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_port_is_open_or_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (status, text) = doctor(&["connect", &address]);
    let (mark, found) = line(&text, "connection");
    assert_eq!((status, mark), (0, "ok"), "{text}");
    assert!(found.starts_with(&format!("{address} in ")) && found.ends_with(" ms"), "{found}");

    drop(listener);
    let (status, text) = doctor(&["connect", &address]);
    assert_eq!(status, 1);
    assert_eq!(line(&text, "connection"), ("PROBLEM", &*format!("{address}: refused: nothing listens there")));
}

#[test]
fn a_handshake_shows_the_certificate() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["localhost", "127.0.0.1"], server::VALID), None);
    let (status, text) = connect_tls(&server, &files.write("ca.pem", &authority.pem()), &[]);
    assert_eq!(status, 0, "{text}");
    let (_, found) = line(&text, "TLS");
    assert!(found.starts_with("TLS 1.3, the certificate is good for localhost by 1 of "), "{found}");
    assert!(!found.contains("asks its clients"), "{found}");
    let (mark, found) = line(&text, "certificate");
    assert_eq!(mark, "ok");
    let wanted = "subject CN=server; names localhost 127.0.0.1; issued by CN=plant; valid until 2090-01-01T00:00:00Z";
    assert_eq!(found, wanted);
}

#[test]
fn the_images_roots_count_without_a_file() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["localhost"], server::VALID), None);
    let roots = files.write("roots.pem", &authority.pem());
    let address = format!("localhost:{}", server.address.port());
    let (status, text) = doctor_with(&["connect", &address, "--tls"], &[("SSL_CERT_FILE", &roots)]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn a_server_that_wants_certificates_is_told_from_one_that_does_not() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["localhost"], server::VALID), Some(&authority));
    let (_, text) = connect_tls(&server, &files.write("ca.pem", &authority.pem()), &[]);
    assert!(line(&text, "TLS").1.contains("the server asks its clients for a certificate"), "{text}");
}

#[test]
fn an_unknown_authority_is_named_and_the_certificate_is_shown() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["localhost"], server::VALID), None);
    // The second has the same name and another key, as a cluster's authority that was made anew.
    for other in ["other", "plant"] {
        let (status, text) = connect_tls(&server, &files.write("ca.pem", &Authority::new(other).pem()), &[]);
        assert_eq!(status, 1);
        let (mark, found) = line(&text, "TLS");
        assert_eq!(mark, "PROBLEM");
        assert!(found.starts_with("unknown authority"), "{found}");
        let (mark, found) = line(&text, "certificate");
        assert!(mark == "PROBLEM" && found.contains("issued by CN=plant"), "{text}");
    }
}

#[test]
fn an_expired_certificate_is_called_that() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["localhost"], server::EXPIRED), None);
    let (status, text) = connect_tls(&server, &files.write("ca.pem", &authority.pem()), &[]);
    assert_eq!(status, 1);
    assert!(line(&text, "TLS").1.ends_with("has expired"), "{text}");
    let (mark, found) = line(&text, "certificate");
    assert_eq!(mark, "PROBLEM");
    assert!(found.ends_with("expired 2001-01-01T00:00:00Z"), "{found}");
}

#[test]
fn the_name_of_the_server_counts() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let server = Server::start(authority.issue(&["broker.example.org"], server::VALID), None);
    let ca = files.write("ca.pem", &authority.pem());
    let (status, text) = connect_tls(&server, &ca, &[]);
    assert_eq!(status, 1);
    assert!(line(&text, "TLS").1.starts_with("the certificate is not for localhost"), "{text}");
    let (status, text) = connect_tls(&server, &ca, &["--server-name", "broker.example.org"]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn what_is_not_tls_is_said() {
    let (files, authority) = (Files::new(), Authority::new("plant"));
    let ca = files.write("ca.pem", &authority.pem());
    let look = |address: SocketAddr, timeout: &str| {
        let arguments = ["connect", &address.to_string(), "--tls", "--ca", ca.to_str().unwrap(), "--timeout", timeout]
            .map(str::to_owned);
        let (status, text) = doctor(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(status, 1);
        text
    };
    let text = look(server::answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "5s");
    assert!(line(&text, "TLS").1.starts_with("what answers is not TLS"), "{text}");
    let text = look(server::answering(b""), "5s");
    assert!(line(&text, "TLS").1.starts_with("the server ended the handshake"), "{text}");

    // Nobody accepts: the kernel connects, and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begin = Instant::now();
    let text = look(silent.local_addr().unwrap(), "300ms");
    assert!(line(&text, "TLS").1.starts_with("timed out: the handshake took longer than 300 ms"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn a_file_without_certificates_is_named() {
    let files = Files::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for (content, said) in [(Some("nothing"), "it holds no certificate"), (None, "No such file")] {
        let path = files.0.path().join("ca.pem");
        let _ = fs::remove_file(&path);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let (status, text) = doctor(&["connect", &address, "--tls", "--ca", path.to_str().unwrap()]);
        assert_eq!(status, 1);
        assert!(line(&text, "TLS").1.contains(said), "{text}");
    }
}
