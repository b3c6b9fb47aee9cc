//! `raftmq node --check`, and a start with wrong settings: status 2, and each thing with its setting and its place.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::pki::Ca;

/// Status and what is said, `@dir` for the directory. It ends by itself: the settings are wrong, or only checked.
fn node(directory: &TempDir, settings: &str, arguments: &[&str]) -> (i32, String) {
    let dir = directory.path().display().to_string();
    let file = directory.path().join("node.yaml");
    fs::write(&file, settings.replace("@dir", &dir)).unwrap();
    let binary = std::env::var("RAFTMQ_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_raftmq").into());
    let output = Command::new(binary).args(["node", "--config"]).arg(&file).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap().replace(&dir, "@dir"))
}

#[track_caller]
fn refused(directory: &TempDir, settings: &str, expected: &[&str]) {
    for arguments in [&["--check"][..], &[]] {
        let (status, said) = node(directory, settings, arguments);
        let lines: Vec<&str> = said.trim_end().lines().collect();
        assert_eq!(status, 2, "{said}");
        assert_eq!(lines.len(), expected.len(), "{said}");
        for (line, start) in lines.iter().zip(expected) {
            let line = line.strip_prefix("raftmq: ").unwrap_or(line);
            assert!(line.starts_with(start), "{line}\nis not\n{start}");
        }
    }
}

#[test]
fn wrong_features_and_modules_are_named_with_their_place() {
    let directory = TempDir::new().unwrap();
    let settings = "\
mqtt:
  rewrite:
    - { source: a/#, regex: ^a/(.*)$, destination: b/$1 }
    - { source: a/#, regex: ^a/(.*)$, destination: b/$2 }
  autoSubscribe:
    - topic: a/${client}
";
    let expected = [
        "@dir/node.yaml:4:52: mqtt.rewrite[1].destination: '$2' at byte 2:",
        "@dir/node.yaml:6:14: mqtt.autoSubscribe[0].topic: '${client}' at byte 2",
    ];
    refused(&directory, settings, &expected);
    let settings = "log:\n  modules: raftmq=info,foo=loud\n";
    refused(&directory, settings, &["@dir/node.yaml:2:12: log.modules: \"foo=loud\": \"loud\" is not a level;"]);
}

#[test]
fn files_of_certificates_are_read() {
    let directory = TempDir::new().unwrap();
    let ca = Ca::new();
    let ((cert, _), (_, other_key)) = (ca.issue("a", 1), ca.issue("b", 2));
    let (own_cert, own_key) = ca.issue("c", 3);
    let files = [
        ("a.pem", cert),
        ("b.key", other_key),
        ("c.pem", own_cert),
        ("c.key", own_key),
        ("ca.pem", ca.pem),
        ("x", "x".into()),
    ];
    for (name, text) in &files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let settings = "\
listeners:
  - name: a
    type: tls
    bind: 127.0.0.1:0
    tls:
      certFile: @dir/nope.crt
      keyFile: @dir/nope.key
  - name: b
    type: wss
    bind: 127.0.0.1:0
    tls:
      certFile: @dir/c.pem
      keyFile: @dir/c.key
      certificates:
        - certFile: @dir/a.pem
          keyFile: @dir/b.key
http:
  bind: 127.0.0.1:18083
  tls:
    caFile: @dir/ca.pem
    certFile: @dir/a.pem
    keyFile: @dir/b.key
";
    let expected = [
        "@dir/node.yaml:6:17: listeners[0].tls.certFile: @dir/nope.crt: No such file",
        "@dir/node.yaml:7:16: listeners[0].tls.keyFile: @dir/nope.key: No such file",
        "@dir/node.yaml:16:20: listeners[1].tls.certificates[0].keyFile: @dir/b.key: it is not the key of the certificate @dir/a.pem",
        "@dir/node.yaml:22:14: http.tls.keyFile: @dir/b.key: it is not the key of the certificate @dir/a.pem",
    ];
    refused(&directory, settings, &expected);
    let (status, said) = node(&directory, settings, &["--check", "--skip-files"]);
    assert_eq!((status, said.as_str()), (0, ""));

    let one = |tls: &str| format!("listeners:\n  - name: a\n    type: quic\n    bind: 127.0.0.1:0\n    tls: {tls}\n");
    for (tls, expected) in [
        (
            "{certFile: @dir/x, keyFile: @dir/c.key}",
            "listeners[0].tls.certFile: @dir/x: the certificate is not usable PEM",
        ),
        ("{certFile: @dir/c.pem, keyFile: @dir/x}", "listeners[0].tls.keyFile: @dir/x: the key is not usable PEM"),
        (
            "{certFile: @dir/c.pem, keyFile: @dir/c.key, clientAuth: required, caFile: @dir/x}",
            "listeners[0].tls.caFile: @dir/x: the authorities' file is not usable PEM",
        ),
        (
            "{certFile: @dir/c.pem, keyFile: @dir/c.key, clientAuth: required, caFile: @dir/ca.pem, crlFile: @dir/x}",
            "listeners[0].tls.crlFile: @dir/x: the revocation list is not usable PEM",
        ),
    ] {
        let (status, said) = node(&directory, &one(tls), &["--check"]);
        assert_eq!(status, 2, "{said}");
        assert!(said.contains(expected), "{said}");
    }
    let (status, said) = node(&directory, &one("{certFile: @dir/c.pem, keyFile: @dir/c.key}"), &["--check"]);
    assert_eq!((status, said.as_str()), (0, ""));
}
