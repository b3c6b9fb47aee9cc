//! From file, environment and flags to a [`Config`].

use std::path::Path;

use crate::{Config, ConfigError};

impl Config {
    /// Reads a YAML file, then environment variables `RAFTMQ__…`, then flags (`(dotted path, value)`); checks the result.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or settings are unknown or wrong; all of them are named.
    pub fn load(
        _path: Option<&Path>,
        _env: impl Iterator<Item = (String, String)>,
        _overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        Ok(Self::default())
    }

    /// Checks ranges, names and combinations.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    /// The settings as a YAML document that [`Config::load`] reads back.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).expect("settings are plain maps, lists and text")
    }
}
