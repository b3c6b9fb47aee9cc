//! The state of the meta group and how each command changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bans::{BanList, BanRefusal};
use crate::command::{InitialMember, MetaCommand, MetaResponse, NodeAddresses, Refusal};
use crate::shards::ShardTable;
use crate::{BANS_LEVEL, FENCES_LEVEL, MAX_MEMBERS, MAX_NAME, SHARDS_LEVEL};

/// How many data directories that left are remembered, so that one that returns is told so.
const MAX_LEFT: usize = 1024;
/// Longest address or version text, in bytes.
const MAX_TEXT: usize = 300;

/// Which cluster this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Random identity.
    pub id: u128,
    /// Name.
    pub name: String,
}

/// Whether a member stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberStatus {
    /// Takes part.
    Active,
    /// Was asked to leave.
    Leaving,
    /// Another data directory has its name: to be removed at once.
    Replaced,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Raft id, never used twice.
    pub id: u64,
    /// Name.
    pub name: String,
    /// Random number of the data directory.
    pub incarnation: u128,
    /// Highest count of its starts.
    pub boot: u64,
    /// Random number of that start.
    pub nonce: u64,
    /// Where it is reached.
    pub addresses: NodeAddresses,
    /// Version of its binary.
    pub version: String,
    /// Highest feature level it knows.
    pub feature_level: u32,
    /// Whether it stays.
    pub status: MemberStatus,
    /// Whether it is held to be alive: true from its first lease until 1.1 D after its last.
    pub up: bool,
    /// Term of the meta leader that said so last.
    pub epoch: u64,
}

impl Member {
    /// Whether the member takes part and stays.
    pub fn is_active(&self) -> bool {
        self.status == MemberStatus::Active
    }
}

/// What the meta group agrees on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaState {
    /// Which cluster; none before the first entry.
    pub cluster: Option<ClusterInfo>,
    /// Members by Raft id.
    pub members: BTreeMap<u64, Member>,
    /// The next Raft id.
    pub next_id: u64,
    /// The features in use.
    pub feature_level: u32,
    /// Data directories that left, and the ids they had; the latest of them.
    pub left: BTreeMap<u128, u64>,
    /// Who may not connect. In snapshots it stands beside the rest, which is as it was before there were bans.
    #[serde(skip)]
    pub bans: BanList,
    /// The shards and the members' zones; in snapshots beside the rest, too.
    #[serde(skip)]
    pub shards: Arc<ShardTable>,
    /// How often others relied on it that a member is fenced; in snapshots beside the rest, too.
    #[serde(skip)]
    pub fences: BTreeMap<u64, u64>,
}

impl Default for MetaState {
    fn default() -> Self {
        Self {
            cluster: None,
            members: BTreeMap::new(),
            next_id: 1,
            feature_level: 1,
            left: BTreeMap::new(),
            bans: BanList::default(),
            shards: Arc::default(),
            fences: BTreeMap::new(),
        }
    }
}

impl MetaState {
    /// Members that take part and stay, in the order of their ids.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|m| m.is_active())
    }

    /// The member of that name that is not on its way out.
    pub fn by_name(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|m| m.name == name && m.status != MemberStatus::Replaced)
    }

    /// The member with that data directory.
    pub fn by_incarnation(&self, incarnation: u128) -> Option<&Member> {
        self.members.values().find(|m| m.incarnation == incarnation)
    }

    /// Applies one command. What it answers depends on the state and the command alone.
    pub fn apply(&mut self, command: MetaCommand) -> MetaResponse {
        self.try_apply(command).unwrap_or_else(MetaResponse::Refused)
    }

    fn try_apply(&mut self, command: MetaCommand) -> Result<MetaResponse, Refusal> {
        if self.cluster.is_none() && !matches!(command, MetaCommand::Init { .. }) {
            return Err(Refusal::NotInitialised);
        }
        match command {
            MetaCommand::Init { cluster_id, name, members } => self.init(cluster_id, name, members),
            MetaCommand::Join { name, incarnation, boot, nonce, addresses, version, feature_level } => {
                let new = Member {
                    id: 0,
                    name,
                    incarnation,
                    boot,
                    nonce,
                    addresses,
                    version,
                    feature_level,
                    status: MemberStatus::Active,
                    up: false,
                    epoch: 0,
                };
                self.join(new)
            }
            MetaCommand::Boot { id, incarnation, boot, nonce, addresses, version, feature_level } => {
                check_texts("", &addresses, &version)?;
                self.check_feature(feature_level)?;
                if let Some(&id) = self.left.get(&incarnation) {
                    return Err(Refusal::Left { id });
                }
                match self.members.get_mut(&id) {
                    Some(m) if m.incarnation == incarnation => {
                        boot_member(m, boot, nonce, addresses, version, feature_level)?;
                        Ok(MetaResponse::Done)
                    }
                    _ => Err(Refusal::NotMember { id }),
                }
            }
            MetaCommand::Leave { id } => {
                let member = self.members.get_mut(&id).ok_or(Refusal::NotMember { id })?;
                if member.status == MemberStatus::Active {
                    member.status = MemberStatus::Leaving;
                }
                Ok(MetaResponse::Done)
            }
            MetaCommand::Removed { id } => self.removed(id),
            MetaCommand::NodeDown { id, epoch } => self.set_up(id, epoch, false),
            MetaCommand::NodeUp { id, epoch } => self.set_up(id, epoch, true),
            MetaCommand::FeatureLevel { level } => self.set_feature_level(level),
            MetaCommand::Ban { bans } => {
                self.needs(BANS_LEVEL)?;
                let left_out = self.bans.add(bans).map_err(|refusal| match refusal {
                    BanRefusal::Invalid(what) => Refusal::Invalid(what),
                    BanRefusal::Full => Refusal::BansFull,
                })?;
                match u32::try_from(left_out).unwrap_or(u32::MAX) {
                    0 => Ok(MetaResponse::Done),
                    count => Ok(MetaResponse::BansLeftOut { count }),
                }
            }
            MetaCommand::Unban { target } => {
                self.needs(BANS_LEVEL)?;
                if self.bans.remove(&target) { Ok(MetaResponse::Done) } else { Err(Refusal::NoSuchBan) }
            }
            MetaCommand::BansOver { now_ms } => {
                self.needs(BANS_LEVEL)?;
                self.bans.expire(now_ms);
                Ok(MetaResponse::Done)
            }
            MetaCommand::Fenced { id } => {
                self.needs(FENCES_LEVEL)?;
                if !self.members.contains_key(&id) {
                    return Err(Refusal::NotMember { id });
                }
                let count = self.fences.entry(id).or_default();
                *count += 1;
                Ok(MetaResponse::Fenced { count: *count })
            }
            command @ (MetaCommand::CreateShards { .. }
            | MetaCommand::PlaceShards { .. }
            | MetaCommand::FormShard { .. }
            | MetaCommand::ShardFormed { .. }
            | MetaCommand::ShardReplicas { .. }
            | MetaCommand::MoveSlots { .. }
            | MetaCommand::Zone { .. }
            | MetaCommand::RenewShard { .. }) => {
                self.needs(SHARDS_LEVEL)?;
                Arc::make_mut(&mut self.shards).apply(command, &self.members)?;
                Ok(MetaResponse::Done)
            }
        }
    }

    fn init(&mut self, cluster_id: u128, name: String, members: Vec<InitialMember>) -> Result<MetaResponse, Refusal> {
        if let Some(cluster) = &self.cluster {
            return if cluster.id == cluster_id {
                Ok(MetaResponse::Done)
            } else {
                Err(Refusal::AlreadyInitialised { cluster_id: cluster.id })
            };
        }
        check_name(&name)?;
        if members.is_empty() || members.len() > MAX_MEMBERS {
            return Err(Refusal::Invalid(format!("{} initial members", members.len())));
        }
        let mut made = BTreeMap::new();
        for m in members {
            check_name(&m.name)?;
            check_texts(&m.name, &m.addresses, &m.version)?;
            let twice =
                made.values().any(|o: &Member| o.name == m.name || o.incarnation == m.incarnation || o.id == m.id);
            if twice || m.id == 0 || m.incarnation == 0 {
                return Err(Refusal::Invalid(format!("initial member {} is not unique", m.name)));
            }
            made.insert(
                m.id,
                Member {
                    id: m.id,
                    name: m.name,
                    incarnation: m.incarnation,
                    boot: m.boot,
                    nonce: m.nonce,
                    addresses: m.addresses,
                    version: m.version,
                    feature_level: m.feature_level,
                    status: MemberStatus::Active,
                    up: false,
                    epoch: 0,
                },
            );
        }
        self.next_id = made.keys().next_back().map_or(1, |id| id.saturating_add(1));
        self.members = made;
        self.cluster = Some(ClusterInfo { id: cluster_id, name });
        Ok(MetaResponse::Done)
    }

    fn join(&mut self, mut new: Member) -> Result<MetaResponse, Refusal> {
        check_name(&new.name)?;
        check_texts(&new.name, &new.addresses, &new.version)?;
        self.check_feature(new.feature_level)?;
        if new.incarnation == 0 {
            return Err(Refusal::Invalid("incarnation 0".into()));
        }
        if let Some(&id) = self.left.get(&new.incarnation) {
            return Err(Refusal::Left { id });
        }
        let cluster_id = self.cluster.as_ref().map_or(0, |c| c.id);
        // The answer to the first request was lost, or the node died before it wrote it down.
        if let Some(old) = self.members.values_mut().find(|m| m.incarnation == new.incarnation) {
            if old.name != new.name {
                return Err(Refusal::Invalid(format!("this data directory is {}", old.name)));
            }
            boot_member(old, new.boot, new.nonce, new.addresses, new.version, new.feature_level)?;
            return Ok(MetaResponse::Joined { id: old.id, cluster_id });
        }
        if self.members.len() >= MAX_MEMBERS {
            return Err(Refusal::Full);
        }
        for old in self.members.values_mut().filter(|m| m.name == new.name) {
            old.status = MemberStatus::Replaced;
        }
        let id = self.next_id;
        self.next_id += 1;
        new.id = id;
        self.members.insert(id, new);
        Ok(MetaResponse::Joined { id, cluster_id })
    }

    fn removed(&mut self, id: u64) -> Result<MetaResponse, Refusal> {
        match self.members.get(&id) {
            // Repeated: it is gone already.
            None => return Ok(MetaResponse::Done),
            Some(m) if m.is_active() => {
                return Err(Refusal::Invalid(format!("node {id} was not asked to leave")));
            }
            Some(_) => {}
        }
        if let Some(member) = self.members.remove(&id) {
            self.left.insert(member.incarnation, id);
            self.fences.remove(&id);
            if !self.shards.zone(id).is_empty() {
                Arc::make_mut(&mut self.shards).forget(id);
            }
        }
        while self.left.len() > MAX_LEFT {
            // The lowest id left first.
            let oldest = self.left.iter().min_by_key(|(_, id)| **id).map(|(i, _)| *i);
            if let Some(oldest) = oldest {
                self.left.remove(&oldest);
            }
        }
        Ok(MetaResponse::Done)
    }

    fn set_up(&mut self, id: u64, epoch: u64, up: bool) -> Result<MetaResponse, Refusal> {
        let member = self.members.get_mut(&id).ok_or(Refusal::NotMember { id })?;
        // A leader that was deposed may not judge after its successor has.
        if epoch < member.epoch {
            return Err(Refusal::Invalid(format!("epoch {epoch} is over")));
        }
        member.epoch = epoch;
        member.up = up;
        Ok(MetaResponse::Done)
    }

    fn set_feature_level(&mut self, level: u32) -> Result<MetaResponse, Refusal> {
        if level <= self.feature_level {
            return Ok(MetaResponse::Done);
        }
        if let Some(m) = self.members.values().find(|m| m.feature_level < level) {
            return Err(Refusal::FeatureUnknown { id: m.id, known: m.feature_level });
        }
        self.feature_level = level;
        Ok(MetaResponse::Done)
    }

    /// An older binary takes the command for one that it cannot read and changes nothing: so does this one until all know it.
    fn needs(&self, level: u32) -> Result<(), Refusal> {
        if self.feature_level < level {
            return Err(Refusal::FeatureOff { needed: level, level: self.feature_level });
        }
        Ok(())
    }

    fn check_feature(&self, known: u32) -> Result<(), Refusal> {
        if known < self.feature_level {
            return Err(Refusal::TooOld { needed: self.feature_level, known });
        }
        Ok(())
    }
}

fn boot_member(
    member: &mut Member,
    boot: u64,
    nonce: u64,
    addresses: NodeAddresses,
    version: String,
    feature_level: u32,
) -> Result<(), Refusal> {
    if member.status == MemberStatus::Replaced {
        return Err(Refusal::Replaced { id: member.id });
    }
    let repeated = boot == member.boot && nonce == member.nonce;
    if boot < member.boot || (boot == member.boot && !repeated) {
        return Err(Refusal::Stale { boot, recorded: member.boot });
    }
    member.boot = boot;
    member.nonce = nonce;
    member.addresses = addresses;
    member.version = version;
    member.feature_level = feature_level;
    Ok(())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let ok = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if ok { Ok(()) } else { Err(Refusal::Invalid(format!("name {:?}", clip(name)))) }
}

fn check_texts(name: &str, addresses: &NodeAddresses, version: &str) -> Result<(), Refusal> {
    let short = [addresses.link.as_str(), &addresses.control, version].iter().all(|t| t.len() <= MAX_TEXT);
    if short && !addresses.link.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Invalid(format!("addresses or version of {}", clip(name))))
    }
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}
