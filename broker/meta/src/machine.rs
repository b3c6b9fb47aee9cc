//! The state machine as the log sees it: bytes in, bytes out.

use thiserror::Error;

use crate::command::{self, CommandError, MetaCommand, MetaResponse, Refusal};
use crate::state::MetaState;

/// Version of the encoding of snapshots.
const SNAPSHOT_VERSION: u8 = 1;
/// With bans, which binaries that know the first version only never see: the feature level keeps them out.
const WITH_BANS: u8 = 2;
/// With shards, too; the same holds for binaries that know no shards.
const WITH_SHARDS: u8 = 3;
/// With members that were fenced, likewise.
const WITH_FENCES: u8 = 4;

/// The meta group's state machine.
#[derive(Debug, Clone, Default)]
pub struct MetaMachine {
    state: MetaState,
    applied: u64,
}

/// A snapshot that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Not the encoding.
    #[error("snapshot of the meta group: {0}")]
    Format(#[from] CommandError),
    /// The content is not what was written.
    #[error("snapshot of the meta group: hash {found:016x}, written was {written:016x}")]
    Hash {
        /// Hash of what is there.
        found: u64,
        /// Hash in the snapshot.
        written: u64,
    },
}

impl MetaMachine {
    /// The empty state machine.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the group agreed on.
    pub fn state(&self) -> &MetaState {
        &self.state
    }

    /// Index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Applies the entry at `index`; the answer is an encoded [`MetaResponse`]. An entry that cannot be read changes nothing and is
    /// refused in the same way by every replica.
    pub fn apply(&mut self, index: u64, bytes: &[u8]) -> Vec<u8> {
        self.applied = index;
        let response = match MetaCommand::decode(bytes) {
            Ok(command) => self.state.apply(command),
            Err(error) => MetaResponse::Refused(Refusal::Invalid(error.to_string())),
        };
        response.encode()
    }

    /// The state as bytes: the same for every replica that applied the same entries.
    pub fn snapshot(&self) -> Vec<u8> {
        let (applied, hash, state) = (self.applied, self.hash(), &self.state);
        if !state.fences.is_empty() {
            let parts = (applied, hash, state, &state.bans, &state.shards, &state.fences);
            return command::encode(WITH_FENCES, &parts);
        }
        if !state.shards.is_empty() {
            return command::encode(WITH_SHARDS, &(applied, hash, state, &state.bans, &state.shards));
        }
        if !state.bans.is_empty() {
            return command::encode(WITH_BANS, &(applied, hash, state, &state.bans));
        }
        command::encode(SNAPSHOT_VERSION, &(applied, hash, state))
    }

    /// Takes over the state of a snapshot.
    ///
    /// # Errors
    /// When the bytes are no snapshot or damaged; the state is then as before.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let (applied, written, state): (u64, u64, MetaState) = match bytes.first() {
            Some(&WITH_FENCES) => {
                let (applied, written, state, bans, shards, fences) = command::decode(WITH_FENCES, bytes)?;
                (applied, written, MetaState { bans, shards, fences, ..state })
            }
            Some(&WITH_SHARDS) => {
                let (applied, written, state, bans, shards) = command::decode(WITH_SHARDS, bytes)?;
                (applied, written, MetaState { bans, shards, ..state })
            }
            Some(&WITH_BANS) => {
                let (applied, written, state, bans) = command::decode(WITH_BANS, bytes)?;
                (applied, written, MetaState { bans, ..state })
            }
            _ => command::decode(SNAPSHOT_VERSION, bytes)?,
        };
        let found = hash(&state);
        if found != written {
            return Err(RestoreError::Hash { found, written });
        }
        self.applied = applied;
        self.state = state;
        Ok(())
    }

    /// Hash of the state, to compare replicas at the same index.
    pub fn hash(&self) -> u64 {
        hash(&self.state)
    }
}

/// FNV-1a: the same on every machine and in every version, which std's hasher does not promise.
fn hash(state: &MetaState) -> u64 {
    let mut bytes = command::encode(SNAPSHOT_VERSION, state);
    if !state.bans.is_empty() {
        bytes.extend(command::encode(WITH_BANS, &state.bans));
    }
    if !state.shards.is_empty() {
        bytes.extend(command::encode(WITH_SHARDS, &state.shards));
    }
    if !state.fences.is_empty() {
        bytes.extend(command::encode(WITH_FENCES, &state.fences));
    }
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
