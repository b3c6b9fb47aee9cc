//! The task of one connection: waits for its socket and calls the worker.
//!
//! Written as a future by hand, because there is one for every connection: it is a few words large and owns no
//! buffer. Reads go through the worker's buffer. Writes are made by the worker (once a turn, for all messages of the
//! turn); only when the socket is full does the task wait for room.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Worker;
use super::connection::Move;
use super::inbox::{Adopted, Item};
use super::socket::Socket;
use super::wheel::Key;

/// Chunks that one connection may read before it lets others have their turn.
const CHUNKS_A_TURN: usize = 8;

/// What the worker wants of the connection's task next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for the socket: to read, to write, either or neither (then the worker wakes the task).
    Wait {
        /// Bytes from the client are wanted.
        read: bool,
        /// Bytes for the client are waiting.
        write: bool,
    },
    /// The connection is over: drop the socket.
    End,
}

pub(crate) struct ConnectionTask {
    worker: Rc<RefCell<Worker>>,
    key: Key,
    /// `None` only when the task has ended.
    socket: Option<Rc<Socket>>,
}

impl ConnectionTask {
    pub(crate) const fn new(worker: Rc<RefCell<Worker>>, key: Key, socket: Rc<Socket>) -> Self {
        Self { worker, key, socket: Some(socket) }
    }

    /// The connection is over here. Dropping the socket closes it, unless it moves on.
    fn end(&mut self) {
        let moved = self.worker.borrow_mut().ended(self.key);
        let Some(Move { worker, rest }) = moved else {
            return;
        };
        let socket = self.socket.take().and_then(|socket| Rc::try_unwrap(socket).ok());
        match socket.and_then(|socket| socket.loosen().ok()) {
            Some(socket) => {
                let adopted = Item::Adopt(Box::new(Adopted { socket, rest }));
                self.worker.borrow_mut().hand_over(worker, adopted);
            }
            None => self.worker.borrow().gone(rest.listener),
        }
    }
}

impl Future for ConnectionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut chunks = 0;
        loop {
            let next = this.worker.borrow_mut().next(this.key, context.waker());
            let (read, write) = match next {
                Next::Wait { read, write } => (read, write),
                Next::End => {
                    this.end();
                    return Poll::Ready(());
                }
            };
            let Some(socket) = &this.socket else {
                return Poll::Ready(());
            };
            let mut progress = false;
            if write && socket.poll_write_ready(context).is_ready() {
                progress |= this.worker.borrow_mut().writable(this.key);
            }
            if read {
                match socket.poll_read_ready(context) {
                    Poll::Ready(()) => {
                        progress |= this.worker.borrow_mut().readable(this.key, context);
                        chunks += 1;
                    }
                    Poll::Pending if !progress => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            if !progress {
                return Poll::Pending;
            }
            if chunks >= CHUNKS_A_TURN {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}
