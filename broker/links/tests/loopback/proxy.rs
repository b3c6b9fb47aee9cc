//! A TCP proxy that cuts connections, stalls them, slows them down, or passes only so many bytes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

#[derive(Default)]
struct Control {
    connections: Mutex<Vec<JoinHandle<()>>>,
    accepted: AtomicU64,
    /// Bytes that may pass from dialler to target before a connection is cut; 0: all.
    budget: AtomicU64,
    stalled: AtomicBool,
    /// What is over the budget gets lost, and the connection is not cut.
    loses: AtomicBool,
    /// Bytes a second that pass from dialler to target; 0: all.
    rate: AtomicU64,
    passed: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    control: Arc<Control>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Proxy {
        Proxy::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), target)
    }

    /// Takes two mebibytes a second at most from who dials, who notices that: little is buffered.
    pub(crate) fn start_narrow(target: SocketAddr) -> Proxy {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let proxy = Proxy::on(socket.listen(64).unwrap(), target);
        proxy.control.rate.store(2 << 20, Ordering::SeqCst);
        proxy
    }

    fn on(listener: TcpListener, target: SocketAddr) -> Proxy {
        let addr = listener.local_addr().unwrap();
        let control = Arc::new(Control::default());
        let shared = Arc::clone(&control);
        let task = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let own = Arc::clone(&shared);
                let connection = tokio::spawn(async move {
                    if let Ok(to) = TcpStream::connect(target).await {
                        relay(from, to, &own).await;
                    }
                });
                shared.connections.lock().unwrap().push(connection);
            }
        });
        Proxy { addr, control, task }
    }

    pub(crate) fn cut(&self) {
        for connection in self.control.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    pub(crate) fn set_budget(&self, bytes: u64) {
        self.control.budget.store(bytes, Ordering::SeqCst);
    }

    /// Of each connection so many bytes come through, and what is sent after them is lost.
    pub(crate) fn lose_after(&self, bytes: u64) {
        self.control.loses.store(true, Ordering::SeqCst);
        self.set_budget(bytes);
    }

    pub(crate) fn stall(&self, stalled: bool) {
        self.control.stalled.store(stalled, Ordering::SeqCst);
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.control.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn passed(&self) -> u64 {
        self.control.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(from: TcpStream, to: TcpStream, control: &Control) {
    let (mut from_read, mut from_write) = from.into_split();
    let (mut to_read, mut to_write) = to.into_split();
    let mut passed = 0;
    let mut next = Instant::now();
    let there = async {
        let mut buf = vec![0; 8192];
        while let Ok(read @ 1..) = from_read.read(&mut buf).await {
            wait(control).await;
            let budget = control.budget.load(Ordering::SeqCst);
            let allowed = if budget == 0 { read } else { read.min(budget.saturating_sub(passed) as usize) };
            let lost = allowed < read && control.loses.load(Ordering::SeqCst);
            if to_write.write_all(&buf[..allowed]).await.is_err() || (allowed < read && !lost) {
                break;
            }
            let rate = control.rate.load(Ordering::SeqCst);
            if rate > 0 {
                // What a late timer costs is caught up with, within bounds.
                let earliest = Instant::now().checked_sub(Duration::from_millis(100)).unwrap();
                next = next.max(earliest) + Duration::from_secs_f64(read as f64 / rate as f64);
                tokio::time::sleep_until(next).await;
            }
            passed += read as u64;
            control.passed.fetch_add(read as u64, Ordering::SeqCst);
        }
    };
    let back = async {
        let mut buf = vec![0; 8192];
        while let Ok(read @ 1..) = to_read.read(&mut buf).await {
            wait(control).await;
            if from_write.write_all(&buf[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn wait(control: &Control) {
    while control.stalled.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
