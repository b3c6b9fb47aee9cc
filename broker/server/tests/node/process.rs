//! A broker in a process of its own, standalone, with two workers.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::PATIENCE;

pub(crate) struct Node {
    child: Child,
    /// The first of `addresses`.
    pub(crate) mqtt: SocketAddr,
    pub(crate) addresses: [SocketAddr; 8],
    metrics: SocketAddr,
    http: SocketAddr,
    directory: TempDir,
}

/// What a node is started with.
#[derive(Clone, Copy)]
struct Settings<'a> {
    mqtt: &'a str,
    /// Items of `listeners`; `@0`, `@1` … are free addresses, `@dir` is the node's directory.
    listeners: &'a str,
    /// Files in that directory.
    files: &'a [(&'a str, &'a str)],
    open_files: Option<u32>,
    log: &'a str,
    /// The control API is served, for [`Node::ctl`].
    control: bool,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with("", "", None)
    }

    /// With more settings (YAML): of `mqtt` and of the listener, and a limit of open files.
    pub(crate) fn start_with(mqtt: &str, listener: &str, open_files: Option<u32>) -> Self {
        let listeners = format!("- {{name: mqtt, bind: '@0' {listener}}}");
        Self::begin(Settings { mqtt, listeners: &listeners, files: &[], open_files, log: "info", control: false })
    }

    /// With these listeners, YAML items in which `@0` to `@7` are free addresses and `@dir` is a directory with these files.
    pub(crate) fn with_listeners(listeners: &str, files: &[(&str, &str)]) -> Self {
        Self::begin(Settings { mqtt: "", listeners, files, open_files: None, log: "debug", control: false })
    }

    /// The same, and operators may call it.
    pub(crate) fn with_control(listeners: &str, files: &[(&str, &str)]) -> Self {
        Self::begin(Settings { mqtt: "", listeners, files, open_files: None, log: "debug", control: true })
    }

    fn begin(settings: Settings<'_>) -> Self {
        // A port that is free now may be taken a moment later: then the broker ends, and another is tried.
        for _ in 0..5 {
            if let Some(node) = Self::try_start(settings) {
                return node;
            }
        }
        panic!("the broker does not start");
    }

    fn try_start(settings: Settings<'_>) -> Option<Self> {
        let Settings { mqtt, listeners, files, open_files, log, control } = settings;
        let directory = TempDir::new().unwrap();
        let [metrics, http, addresses @ ..] = free_ports::<10>();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut listeners = listeners.replace("@dir", &directory.path().display().to_string());
        for (number, address) in addresses.iter().enumerate() {
            listeners = listeners.replace(&format!("@{number}"), &address.to_string());
        }
        let pki = directory.path().join("pki");
        let mut control_tls = String::new();
        if control {
            let made = raftmq().args(["certs", "--cluster", "test", "test", "--out"]).arg(&pki).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            let pki = pki.display();
            control_tls =
                format!(", tls: {{caFile: '{pki}/ca.pem', certFile: '{pki}/test.pem', keyFile: '{pki}/test.key'}}");
        }
        let file = directory.path().join("node.yaml");
        let mqtt = if mqtt.is_empty() { "{}" } else { mqtt };
        fs::write(
            &file,
            format!(
                "workers: 2\nnode: {{name: test, dataDir: {data}}}\nlisteners:\n{listeners}\n\
                 metrics: {{bind: '{metrics}'}}\nhttp: {{bind: '{http}' {control_tls}}}\nmqtt: {mqtt}\nlog: {{level: {log}}}\n\
                 overload: {{loopDelayRefuse: 0s, loopDelayShed: 0s}}\n",
                data = directory.path().join("data").display(),
            ),
        )
        .unwrap();
        let mut command = match open_files {
            None => raftmq(),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), &binary()]);
                shell
            }
        };
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .args(["node", "--exit-with-stdin", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut node = Self { child, mqtt: addresses[0], addresses, metrics, http, directory };
        let deadline = Instant::now() + PATIENCE;
        while node.http("/readyz").is_none_or(|answer| !answer.starts_with("HTTP/1.1 200")) {
            if node.child.try_wait().unwrap().is_some() {
                eprintln!("{}", node.log());
                return None;
            }
            assert!(Instant::now() < deadline, "not ready: {}", node.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(node)
    }

    /// Replaces a file in the node's directory as a whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, self.directory.path().join(name)).unwrap();
    }

    /// Changes the node's settings file, in which `from` must stand.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.directory.path().join("node.yaml")).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        self.write("node.yaml", &text.replacen(from, to, 1));
    }

    /// SIGHUP; the line of the log that says what came of it, behind its `before` first ones.
    pub(crate) fn reload(&self, before: usize) -> String {
        self.signal("-HUP");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let said = log.lines().filter(|line| line.contains("read again")).nth(before);
            if let Some(line) = said {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no word of it: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `raftmq ctl`, which must succeed: what it prints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let pki = self.directory.path().join("pki");
        let mut command = raftmq();
        command.args(["ctl", "--endpoint", &format!("https://{}", self.http)]);
        for (flag, file) in [("--ca", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key")] {
            command.arg(flag).arg(pki.join(file));
        }
        let done = command.args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let done = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    /// Waits until the process has ended.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A number of `/metrics`, by name with labels; 0 where it is not there.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.http("/metrics").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.trim().parse::<f64>().unwrap() as u64)
    }

    /// Waits until a number is what it should be.
    pub(crate) fn wait_metric(&self, name: &str, wanted: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.metric(name);
            if value == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {value}, not {wanted}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    fn http(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(self.metrics).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> String {
    std::env::var("RAFTMQ_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_raftmq").into())
}

fn raftmq() -> Command {
    Command::new(binary())
}

fn free_ports<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let sockets = [0; COUNT].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}
