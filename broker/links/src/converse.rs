//! A connection to a peer that this node dialled, from its first frame to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::sync::Notify;
use tracing::debug;

use crate::dial::{self, Greeted, Trust, with_outbox};
use crate::error::LinkError;
use crate::frame::{FLAG_BUSY, FLAG_ERROR, Frame, FrameType};
use crate::handshake::{self, Known};
use crate::hello::PeerHello;
use crate::io::{Batch, FrameBuffer, write_loop};
use crate::options::Class;
use crate::peer::{Peer, Work};
use crate::shared::Shared;
use crate::vigil::Vigil;

/// Why a connection is left.
pub(crate) enum End {
    /// It broke. Whether anything had come by it.
    Broken { reason: String, progressed: bool },
    /// The peer answers on another one.
    Better(Box<Better>),
}

/// Another connection, and what is said of the one that is left for it.
pub(crate) struct Better {
    pub(crate) greeted: Greeted,
    /// Whether anything had come by it, and whether it gave no sign of life in the end.
    pub(crate) heard: bool,
    pub(crate) suspect: bool,
    /// What is to come by it.
    pub(crate) remains: Option<Remains>,
}

/// Answers by a connection that is left and works, so that nobody has to ask again. Ends when there are no more.
pub(crate) type Remains = BoxFuture<'static, ()>;

/// Runs a connection until it is to be left, and beside it what remains of the last one.
pub(crate) async fn converse(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    greeted: Greeted,
    number: u64,
    trust: Trust,
    remains: Option<Remains>,
) -> End {
    let Greeted { stream, known, via } = greeted;
    let Known { peer: identity, buffer, hello } = known;
    let (reader, writer) = tokio::io::split(stream);
    let lane = peer.lane(class);
    let vigil = Arc::new(Vigil::new());
    let left = Arc::new(AtomicBool::new(false));
    let mut writing: BoxFuture<'static, io::Result<()>> = {
        let (shared, peer, vigil, left) = (Arc::clone(shared), Arc::clone(peer), Arc::clone(&vigil), Arc::clone(&left));
        Box::pin(async move {
            let fill = |batch: &mut Batch| {
                if let Some(ping) = vigil.take_ping() {
                    batch.push(&Frame::new(FrameType::Ping, ping));
                }
                peer.with(&shared, class, |work| work.fill(batch));
                if !batch.is_empty() {
                    vigil.written();
                }
            };
            let notify = &peer.lane(class).notify;
            write_loop(writer, notify, hello, shared.metrics.class(class), &left, fill, || vigil.progressed()).await
        })
    };
    let original = Arc::clone(&identity);
    let obsolete = async {
        while !peer.is_obsolete(&original.hello) {
            lane.poke.notified().await;
        }
    };
    let listener =
        Listener { shared: Arc::clone(shared), peer: Arc::clone(peer), class, identity, vigil: Arc::clone(&vigil) };
    let mut listening: BoxFuture<'static, String> = Box::pin(listener.listen(reader, buffer));
    let remains = async {
        if let Some(remains) = remains {
            remains.await;
        }
        std::future::pending::<()>().await;
    };
    let reason = tokio::select! {
        reason = &mut listening => reason,
        written = &mut writing => match written {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.to_string(),
        },
        () = watch_over(shared, &lane.notify, &vigil) => {
            format!("nothing heard for {:?}", shared.options.dead_after)
        }
        () = obsolete => "another boot of the peer is known".to_owned(),
        (better, suspect) = better(shared, peer, class, via.is_some(), trust, &vigil) => {
            debug!(address = peer.address, class = class.name(), suspect, "another way to a peer is taken");
            left.store(true, Ordering::Relaxed);
            // One-way frames go on where they stood, by the other one.
            let works = class != Class::Data && !suspect;
            let remains = works.then(|| remain(shared, peer, class, number, listening, writing));
            return End::Better(Box::new(Better { greeted: better, heard: vigil.has_heard(), suspect, remains }));
        }
        () = remains => unreachable!("it goes on for ever"),
    };
    debug!(address = peer.address, class = class.name(), reason, "connection to a peer ended");
    End::Broken { reason, progressed: vigil.has_heard() }
}

fn remain(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    number: u64,
    listening: BoxFuture<'static, String>,
    writing: BoxFuture<'static, io::Result<()>>,
) -> Remains {
    let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
    Box::pin(async move {
        let answered = async {
            while peer.is_waiting_on(&shared, class, number) {
                tokio::time::sleep(shared.options.tick() / 10).await;
            }
        };
        let writing = async {
            let _ = writing.await;
            // It may have been woken for what goes by the other connection.
            peer.lane(class).notify.notify_one();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = listening => {}
            () = writing => {}
            () = answered => {}
            () = tokio::time::sleep(shared.options.dead_after) => {}
        }
        peer.fail_written(&shared, class, number, LEFT);
    })
}

/// Why those who wait for an answer by a connection that was left have none.
pub(crate) const LEFT: &str = "another way to the peer was taken";

/// Pings, now and then and where an answer takes its time; ends when the connection is dead.
async fn watch_over(shared: &Shared, notify: &Notify, vigil: &Vigil) {
    let options = &shared.options;
    let tick = options.tick();
    let mut next_ping = Instant::now();
    while !vigil.is_silent(options.dead_after) {
        if Instant::now() >= next_ping || vigil.is_silent(tick) {
            next_ping = Instant::now() + options.ping_interval;
            if vigil.ping() {
                notify.notify_one();
            }
        }
        tokio::time::sleep(tick).await;
    }
}

/// Ends with another connection to the peer: on which it answers while it does not on this one (true), or that is straight while this one is not.
async fn better(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    class: Class,
    relayed: bool,
    trust: Trust,
    vigil: &Vigil,
) -> (Greeted, bool) {
    let suspect_after = shared.options.suspect_after();
    let straight_after = trust.straight_after(shared.options.dead_after);
    let mut try_straight = Instant::now() + straight_after;
    loop {
        tokio::time::sleep(shared.options.tick()).await;
        let suspect = vigil.is_suspect(suspect_after);
        peer.set_suspect(class, suspect);
        if suspect {
            if let Ok(found) = dial::dial(shared, peer, class, trust.order_of_suspect()).await
                && vigil.is_suspect(suspect_after)
            {
                return (found, true);
            }
        } else if relayed && Instant::now() >= try_straight {
            if let Ok(found) = dial::straight(shared, peer, class).await {
                return (found, false);
            }
            try_straight = Instant::now() + straight_after;
        }
    }
}

/// The reading side.
struct Listener {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    class: Class,
    identity: Arc<PeerHello>,
    vigil: Arc<Vigil>,
}

impl Listener {
    /// Until the connection ends; returns why.
    async fn listen<R: AsyncRead + Unpin>(mut self, mut io: R, mut buffer: FrameBuffer) -> String {
        let metrics = self.shared.metrics.class(self.class);
        loop {
            loop {
                let frame = match buffer.pop() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return error.to_string(),
                };
                self.vigil.frame();
                match frame.frame_type {
                    FrameType::Answer => {
                        metrics.frames_in.fetch_add(1, Ordering::Relaxed);
                        let result = match frame.flags {
                            0 => Ok(frame.payload),
                            flags if flags & FLAG_BUSY != 0 => Err(LinkError::Busy),
                            _ => {
                                debug_assert_eq!(frame.flags, FLAG_ERROR);
                                let text = String::from_utf8_lossy(&frame.payload).into_owned();
                                Err(LinkError::Remote(text))
                            }
                        };
                        self.peer.with(&self.shared, self.class, |work| {
                            if let Work::Requests(requests) = work {
                                requests.answer(frame.id, result);
                            }
                        });
                    }
                    FrameType::Ack => {
                        let taken = with_outbox(&self.shared, &self.peer, |outbox| outbox.acknowledged(frame.id));
                        match taken {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => return error.to_string(),
                            Err(_) => return "forgotten".to_owned(),
                        }
                    }
                    FrameType::Pong => {
                        if let Some(took) = self.vigil.pong(frame.id) {
                            self.peer.measured(took);
                        }
                    }
                    FrameType::Hello => match handshake::renew(&self.shared, &self.identity, &frame) {
                        Ok(renewed) => {
                            self.identity = renewed;
                            self.peer.renewed(&self.identity.hello);
                        }
                        Err(error) => return error.to_string(),
                    },
                    other => return format!("unexpected {other:?} from the peer"),
                }
            }
            self.vigil.heard(self.peer.with(&self.shared, self.class, |work| work.is_waiting()));
            match buffer.fill(&mut io).await {
                Ok(read) => {
                    metrics.bytes_in.fetch_add(read as u64, Ordering::Relaxed);
                }
                Err(error) => return error.to_string(),
            }
        }
    }
}
