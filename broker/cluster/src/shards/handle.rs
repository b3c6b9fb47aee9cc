//! What the rest of the server uses of the shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use raftmq_meta::SHARDS_LEVEL;
use raftmq_raft::GroupStatus;
use raftmq_shard::{
    ClientInfo, Deliveries, Name, NodeBoot, Numbers, Older, PageLimits, RetainedCursor, RetainedPage, StoreError,
    group_name, slot,
};
use tokio::sync::watch;

use crate::barrier::BarrierError;
use crate::node::{Node, Running};

use super::lanes::{AnswerSink, Port};
use super::{
    InGroup, KickHandler, LiveHandler, RemoteQueue, Session, ShardId, ShardListener, ShardReadError, kick, read,
    session, shard_id,
};

/// Between two looks at whether a note has come to a group's shard.
const JOINED: Duration = Duration::from_millis(5);

/// The shards as this node has them.
#[derive(Clone)]
pub struct Shards {
    node: Arc<Node>,
}

/// A replica of this node, for tests, metrics and people.
#[derive(Debug, Clone)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// Its generation.
    pub generation: u32,
    /// The group.
    pub group: GroupStatus,
    /// The last entry that the state has, and a hash over all entries and answers up to there: the same on all replicas.
    pub state: Option<(u64, u64)>,
    /// What is in the shard.
    pub numbers: Option<Numbers>,
}

impl ShardStatus {
    /// The name of its group, as people use it.
    #[must_use]
    pub fn name(&self) -> String {
        super::group_name(self.shard)
    }
}

impl Shards {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// How many shards the cluster has; 0 before they were created.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.node.meta_state().shards.count()
    }

    /// Whether clients' sessions are in shards, or are about to be: not while a member is of a version that knows none.
    #[must_use]
    pub fn in_use(&self) -> bool {
        let state = self.node.meta_state();
        let knows = |member: &raftmq_meta::Member| member.feature_level >= SHARDS_LEVEL;
        state.feature_level >= SHARDS_LEVEL || (!state.members.is_empty() && state.members.values().all(knows))
    }

    /// How many shards were not formed yet; `None`: they have not been created.
    #[must_use]
    pub fn unformed(&self) -> Option<usize> {
        let state = self.node.meta_state();
        let shards = &state.shards;
        (shards.count() > 0).then(|| shards.iter().filter(|(_, shard)| !shard.is_formed()).count())
    }

    /// The shard that has a name: the identifier of a client, a topic that is retained, the name of a group. `None`: there are no shards.
    #[must_use]
    pub fn shard_of(&self, namespace: u32, name: &str) -> Option<u16> {
        self.node.meta_state().shards.slots().shard(slot(namespace, name))
    }

    /// A worker's way to all shards. A worker has one, and each worker another number; one that is made again for the same number while the node lives must go on
    /// with the same sink.
    #[must_use]
    pub fn port(&self, worker: u16, sink: AnswerSink) -> Port {
        Port::new(Arc::clone(self.node.lanes()), worker, sink)
    }

    /// As what this node is known to shards; `None` while it cannot serve. When it changes, every claim of the one before is over, or will be.
    #[must_use]
    pub fn life(&self) -> watch::Receiver<Option<NodeBoot>> {
        self.node.lanes().life()
    }

    /// What this node's replica of a client's shard knows of the client; it may lag behind. `None`: no replica here.
    #[must_use]
    pub fn client(&self, client: &Name) -> Option<Result<Option<ClientInfo>, StoreError>> {
        let (running, id) = self.place_of(client)?;
        running.shards.replica(id)?.machine.with(|machine| machine.client(client))
    }

    /// Whether a shard is read at this node's replica: then the listener hears of everything that is new there ([`Shards::listen`]).
    #[must_use]
    pub fn reads_here(&self, shard: u16) -> bool {
        let Some(running) = self.node.running() else { return false };
        super::shard_id(&self.node.meta_state(), shard).is_some_and(|id| running.shards.own(id).is_some())
    }

    /// What a client that is connected here is to be sent; see [`raftmq_shard::ShardMachine::deliveries`]. `None`: it cannot be read now.
    ///
    /// It is read at this node's replica, or else at another node's, and then it is not there at first: when it is, the listener hears of it
    /// ([`Shards::listen`]), as of everything new. `queue` is kept with the connection.
    #[must_use]
    pub fn deliveries(
        &self,
        client: &Name,
        queue: &mut RemoteQueue,
        after: u64,
        max: usize,
        max_bytes: usize,
    ) -> Option<Result<Option<Deliveries>, StoreError>> {
        let (running, id) = self.place_of(client)?;
        if let Some(replica) = running.shards.own(id) {
            queue.leave();
            return replica.machine.with(|machine| machine.deliveries(client, after, max, max_bytes));
        }
        let read = running.remote.deliveries(&self.node, id, client, queue, (after, max, max_bytes));
        Some(Ok(Some(read)))
    }

    /// What a durable session is that a client resumes, or begins, by a connection of this epoch, as of some moment after its claim. Waits until it can be read.
    pub async fn session(&self, client: &Name, epoch: u64, is_new: bool) -> Session {
        loop {
            if let Some((_, id)) = self.place_of(client) {
                return session::session(&self.node, id, client, epoch, is_new).await;
            }
            tokio::time::sleep(JOINED).await;
        }
    }

    /// A part of the retained messages of a shard whose topics match a filter: of what was committed when this was called, from this node's replica or another's. The caller
    /// asks all shards for a filter with wildcards, and goes on with the cursor.
    ///
    /// # Errors
    /// [`ShardReadError`]; asked again later it may be there.
    pub async fn retained(
        &self,
        shard: u16,
        namespace: u32,
        filter: &str,
        cursor: Option<RetainedCursor>,
        limits: PageLimits,
    ) -> Result<RetainedPage, ShardReadError> {
        let id = shard_id(&self.node.meta_state(), shard).ok_or(ShardReadError::Unknown)?;
        read::retained(&self.node, id, namespace, filter, cursor, limits).await
    }

    /// The number of the last change of what a shard retains ([`RetainedPage::last`]) at some moment after this call.
    ///
    /// # Errors
    /// [`ShardReadError`]
    pub async fn last_retained(&self, shard: u16) -> Result<u64, ShardReadError> {
        let id = shard_id(&self.node.meta_state(), shard).ok_or(ShardReadError::Unknown)?;
        read::last_retained(&self.node, id).await
    }

    /// Waits until a note of the shard of a client's session ([`raftmq_shard::Subscribed::Joined`]) has come to the shard of a group, and every node that may be serving
    /// knows that the group has a queue. False: it has no room for the client. What became of an earlier membership of the client makes no difference.
    ///
    /// # Errors
    /// [`BarrierError::Timeout`]; [`BarrierError::Shutdown`] where the node ends; [`BarrierError::NotServing`] without shards.
    pub async fn joined(&self, group: &Name, member: &Name, note: u64) -> Result<bool, BarrierError> {
        let (shard, found) = self.noted(group, member, note).await?;
        self.announced(shard, found.route.unwrap_or(found.last)).await?;
        Ok(found.route.is_some())
    }

    /// The same for one that is a member no more ([`raftmq_shard::Unsubscribed::Left`]): if it was the last, every node knows that the group has no queue.
    ///
    /// # Errors
    /// As [`Shards::joined`].
    pub async fn left(&self, group: &Name, member: &Name, note: u64) -> Result<(), BarrierError> {
        let (shard, found) = self.noted(group, member, note).await?;
        self.announced(shard, found.last).await
    }

    /// Waits until a note from the shard of a client's session has come to a group's shard. That, and what is known of the client there.
    async fn noted(&self, group: &Name, member: &Name, note: u64) -> Result<(u16, InGroup), BarrierError> {
        let shard = self.shard_of(group.namespace, &group_name(&group.id)).ok_or(BarrierError::NotServing)?;
        let source = self.shard_of(member.namespace, &member.id).ok_or(BarrierError::NotServing)?;
        let noted = async {
            loop {
                if let Some(id) = shard_id(&self.node.meta_state(), shard)
                    && let Some(found) = read::in_group(&self.node, id, group, &member.id, source).await
                    && found.noted >= note
                {
                    return found;
                }
                tokio::time::sleep(JOINED).await;
            }
        };
        let found = tokio::time::timeout(self.node.config.barrier_deadline, noted).await;
        found.map(|found| (shard, found)).map_err(|_| BarrierError::Timeout)
    }

    /// Waits until every node that may be serving knows a change of a shard's routes: what is published from then on comes to the subscription that the change is
    /// about.
    ///
    /// # Errors
    /// [`BarrierError::Timeout`]; [`BarrierError::Shutdown`] where the node ends.
    pub async fn announced(&self, shard: u16, route: u64) -> Result<(), BarrierError> {
        let node = &self.node;
        let running = node.running().ok_or(BarrierError::NotServing)?;
        let covered = async {
            let mut routes = running.routes.status();
            loop {
                routes.borrow_and_update();
                if let Some((known, applied)) = running.machine.shard_routes(shard)
                    && known.next > route
                {
                    node.barriers.covered(applied).await;
                    return Ok(());
                }
                if routes.changed().await.is_err() {
                    return Err(BarrierError::Shutdown);
                }
            }
        };
        tokio::time::timeout(node.config.barrier_deadline, covered).await.unwrap_or(Err(BarrierError::Timeout))
    }

    /// Has an older connection of a client closed on the node that has it. Says whether it is closed.
    pub async fn kick(&self, older: &Older, client: &Name) -> bool {
        kick::kick(&self.node, older.node, client.clone(), older.epoch).await
    }

    /// Who hears of what the replicas of this node apply, who closes connections, and who publishes to live subscribers. Once, before the node serves.
    pub fn listen(&self, applied: ShardListener, kick: KickHandler, live: LiveHandler) {
        // Set once: a server starts once.
        let _ = self.node.shard_listener.set(applied);
        let _ = self.node.on_kick.set(kick);
        let _ = self.node.on_live.set(live);
    }

    /// The node is about to end, and those who publish to live subscribers are with it: what its shards have for them is left to those who lead these next. To be called while
    /// they still send what they were handed.
    pub fn end_live(&self) {
        self.node.live_ends.store(true, Ordering::Release);
    }

    /// Whether this node leads a shard.
    #[must_use]
    pub fn leads(&self, shard: u16) -> bool {
        let Some(running) = self.node.running() else { return false };
        let Some(id) = shard_id(&self.node.meta_state(), shard) else { return false };
        running.shards.replica(id).is_some_and(|replica| replica.group.status().borrow().is_leader())
    }

    /// Operations of this node's workers that were answered, since the start.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.node.lanes().answered.load(Ordering::Relaxed)
    }

    /// The replicas that run here.
    #[must_use]
    pub fn replicas(&self) -> Vec<ShardStatus> {
        let Some(running) = self.node.running() else { return Vec::new() };
        let of = |replica: super::Replica| {
            let read = replica.machine.with(|m| ((m.applied(), m.rolling_hash()), m.numbers()));
            ShardStatus {
                shard: replica.id.number,
                generation: replica.id.generation,
                group: replica.group.status().borrow().clone(),
                state: read.map(|(state, _)| state),
                numbers: read.map(|(_, numbers)| numbers),
            }
        };
        running.shards.all().into_iter().map(of).collect()
    }

    fn place_of(&self, client: &Name) -> Option<(&Running, ShardId)> {
        let running = self.node.running()?;
        let state = self.node.meta_state();
        let number = state.shards.slots().shard(slot(client.namespace, &client.id))?;
        Some((running, shard_id(&state, number)?))
    }
}
