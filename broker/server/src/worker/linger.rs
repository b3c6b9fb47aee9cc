//! A client that is told why its connection ends, while it still sends.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use raftmq_session::CloseReason;
use tokio::time::timeout;

use super::socket::Socket;
use super::{Conn, Worker};

/// How long what comes is taken and dropped.
const LINGER: Duration = Duration::from_secs(1);
/// Sockets of a worker at once. Others are closed without.
const MOST: usize = 64;

impl Worker {
    /// Keeps the socket for a moment, where the client was told something: if it is closed, what the client sends next is answered by a reset, and a client
    /// that meets that while it writes reads no more. It would not know that it was taken over, and come back.
    pub(super) fn hang_up(&mut self, conn: &Conn) {
        let said =
            matches!(conn.reason, Some(CloseReason::Server(_) | CloseReason::Fault(_) | CloseReason::Refused(_)));
        let told = said && conn.outlet.is_done();
        if !conn.socket.hang_up(&mut self.read_buffer) || !told || self.lingering >= MOST {
            return;
        }
        self.lingering += 1;
        let socket = Rc::clone(&conn.socket);
        self.do_later(Box::new(move |worker| {
            Box::pin(async move {
                let _ = timeout(LINGER, read_out(&worker, &socket)).await;
                worker.borrow_mut().lingering -= 1;
            })
        }));
    }
}

async fn read_out(worker: &RefCell<Worker>, socket: &Socket) {
    let read = |context: &mut std::task::Context<'_>| {
        std::task::ready!(socket.poll_read_ready(context));
        std::task::Poll::Ready(socket.try_read(context, &mut worker.borrow_mut().read_buffer))
    };
    loop {
        match poll_fn(read).await {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
        // Others have their turn.
        tokio::task::yield_now().await;
    }
}
