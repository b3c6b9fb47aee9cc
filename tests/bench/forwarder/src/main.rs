//! A bare forwarder: the least that can be done between two sockets and still be called publish and subscribe.
//!
//! `raftmq-bench-forwarder ADDRESS` takes connections, subscriptions to exact topics and messages of QoS 0 and 1, of MQTT 3.1.1 or 5
//! (without properties in a PUBLISH). Nothing is checked, nothing is kept, nobody is authenticated; acknowledgements of subscribers are skipped; a client that
//! sends what it does not know is cut off. One thread, one epoll, one read a readiness, one write a client and turn. What a broker takes beyond it for
//! the same work is what the broker costs; what it takes itself is the kernel's.

mod packets;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use crate::packets::{Packet, next};

/// The event of the listener.
const LISTENER: u64 = u64::MAX;
/// What may wait for a client that does not read; then it is cut off.
const MAX_WAITING: usize = 64 << 20;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1).and_then(|text| text.parse().ok()) else {
        eprintln!("usage: raftmq-bench-forwarder ADDRESS:PORT");
        return ExitCode::from(2);
    };
    match Forwarder::new(address).and_then(Forwarder::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq-bench-forwarder: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Client {
    socket: TcpStream,
    v5: bool,
    /// The begin of a packet whose end has not come yet.
    partial: Vec<u8>,
    /// What is to be written.
    out: Vec<u8>,
    /// It is in the list of those that are written to at the end of the turn.
    dirty: bool,
    /// The socket took less than all: epoll says when it takes more.
    blocked: bool,
    last_id: u16,
    topics: Vec<Box<[u8]>>,
}

struct Forwarder {
    epoll: OwnedFd,
    listener: TcpListener,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    /// Topic → clients, and the highest QoS of each.
    subscribers: HashMap<Box<[u8]>, Vec<(usize, u8)>, ahash::RandomState>,
    dirty: Vec<usize>,
}

impl Forwarder {
    fn new(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        // The standard library's backlog is 128: a storm of connects would wait for SYNs to be sent again.
        rustix::net::listen(&listener, 4096)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let (clients, free, dirty) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { epoll, listener, clients, free, subscribers: HashMap::default(), dirty })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(1024);
        let mut buffer = vec![0; 256 * 1024];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for event in &events {
                if event.data.u64() == LISTENER {
                    self.accept()?;
                } else {
                    let index = event.data.u64() as usize;
                    let (flags, writable) = (event.flags, EventFlags::OUT);
                    if flags.contains(writable) {
                        self.mark(index);
                    }
                    if flags.intersects(!writable) && !self.read(index, &mut buffer) {
                        self.close(index);
                    }
                }
            }
            for index in std::mem::take(&mut self.dirty) {
                if !self.write(index) {
                    self.close(index);
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
            self.clients[index] = Some(Client {
                socket,
                v5: false,
                partial: Vec::new(),
                out: Vec::new(),
                dirty: false,
                blocked: false,
                last_id: 0,
                topics: Vec::new(),
            });
        }
    }

    fn mark(&mut self, index: usize) {
        if let Some(client) = &mut self.clients[index]
            && !client.dirty
        {
            client.dirty = true;
            self.dirty.push(index);
        }
    }

    /// `false`: the client is gone, or sent what is not known here.
    fn read(&mut self, index: usize, buffer: &mut [u8]) -> bool {
        let Some(client) = &mut self.clients[index] else { return true };
        let count = match client.socket.read(buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        if client.partial.is_empty() {
            let Some(used) = self.packets(index, &buffer[..count]) else { return false };
            if let Some(client) = &mut self.clients[index] {
                client.partial.extend_from_slice(&buffer[used..count]);
            }
        } else {
            let mut bytes = std::mem::take(&mut client.partial);
            bytes.extend_from_slice(&buffer[..count]);
            let Some(used) = self.packets(index, &bytes) else { return false };
            bytes.drain(..used);
            if let Some(client) = &mut self.clients[index] {
                client.partial = bytes;
            }
        }
        true
    }

    /// Handles all whole packets, and says how many bytes they are.
    fn packets(&mut self, index: usize, bytes: &[u8]) -> Option<usize> {
        let mut used = 0;
        loop {
            let v5 = self.clients[index].as_ref()?.v5;
            let (packet, size) = match next(&bytes[used..], v5) {
                Ok(Some(found)) => found,
                Ok(None) => return Some(used),
                Err(()) => return None,
            };
            used += size;
            match packet {
                Packet::Publish { topic, payload, id } => self.forward(index, topic, payload, id),
                Packet::Connect { v5 } => {
                    let client = self.clients[index].as_mut()?;
                    client.v5 = v5;
                    client.out.extend_from_slice(if v5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] });
                }
                Packet::Subscribe { id, filters } => {
                    let client = self.clients[index].as_mut()?;
                    let [high, low] = id.to_be_bytes();
                    let properties = usize::from(client.v5);
                    let size = u8::try_from(2 + properties + filters.len()).ok()?;
                    client.out.extend_from_slice(&[0x90, size, high, low]);
                    client.out.resize(client.out.len() + properties, 0);
                    for (filter, qos) in filters {
                        let qos = qos.min(1);
                        client.out.push(qos);
                        client.topics.push(filter.into());
                        self.subscribers.entry(filter.into()).or_default().push((index, qos));
                    }
                }
                Packet::Ping => self.clients[index].as_mut()?.out.extend_from_slice(&[0xd0, 0]),
                Packet::Ack => continue,
                Packet::Disconnect => return None,
            }
            self.mark(index);
        }
    }

    fn forward(&mut self, from: usize, topic: &[u8], payload: &[u8], id: Option<u16>) {
        if let Some(id) = id
            && let Some(publisher) = &mut self.clients[from]
        {
            let [high, low] = id.to_be_bytes();
            publisher.out.extend_from_slice(&[0x40, 2, high, low]);
        }
        let Some(subscribers) = self.subscribers.get(topic) else { return };
        for &(index, granted) in subscribers {
            let Some(client) = &mut self.clients[index] else { continue };
            let id = (granted > 0 && id.is_some()).then(|| {
                client.last_id = client.last_id.checked_add(1).unwrap_or(1);
                client.last_id
            });
            packets::write_publish(&mut client.out, topic, payload, client.v5, id);
            if !client.dirty {
                client.dirty = true;
                self.dirty.push(index);
            }
        }
    }

    /// `false`: the client is gone.
    fn write(&mut self, index: usize) -> bool {
        let Some(client) = &mut self.clients[index] else { return true };
        client.dirty = false;
        let mut written = 0;
        let mut alive = client.out.len() <= MAX_WAITING;
        while alive && written < client.out.len() {
            match client.socket.write(&client.out[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => alive = error.kind() == ErrorKind::Interrupted,
            }
        }
        client.out.drain(..written);
        let blocked = !client.out.is_empty();
        if alive && blocked != client.blocked {
            client.blocked = blocked;
            let flags = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            alive = epoll::modify(&self.epoll, &client.socket, EventData::new_u64(index as u64), flags).is_ok();
        }
        alive
    }

    fn close(&mut self, index: usize) {
        let Some(client) = self.clients[index].take() else { return };
        for topic in &client.topics {
            if let Some(subscribers) = self.subscribers.get_mut(topic) {
                subscribers.retain(|(subscriber, _)| *subscriber != index);
                if subscribers.is_empty() {
                    self.subscribers.remove(topic);
                }
            }
        }
        self.dirty.retain(|dirty| *dirty != index);
        self.free.push(index);
    }
}
