//! The volume of each node.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The volume of each node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.size) || !has(oldSelf.size) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0")
        .message("storage.size: a volume cannot shrink; restore the former size, or make a new cluster and move to it"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storage.storageClassName: it cannot be changed; restore the former class, or make a new cluster and move to it")
)]
pub struct StorageSpec {
    /// Size of the volume, as `8Gi`. It can grow where the storage class allows it, and never shrinks.
    #[serde(default = "default_size")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub size: String,
    /// Storage class of the volume. Absent: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What happens to the volumes when the cluster is deleted or a node is removed.
    #[serde(default)]
    pub retention: Retention,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self { size: default_size(), storage_class_name: None, retention: Retention::default() }
    }
}

impl StorageSpec {
    /// The size in bytes, rounded down; `None` where [`StorageSpec::size`] is not a size.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        const UNITS: [(&str, f64); 11] = [
            ("Ki", 1024.0),
            ("Mi", 1_048_576.0),
            ("Gi", 1_073_741_824.0),
            ("Ti", 1_099_511_627_776.0),
            ("Pi", 1_125_899_906_842_624.0),
            ("k", 1e3),
            ("M", 1e6),
            ("G", 1e9),
            ("T", 1e12),
            ("P", 1e15),
            ("", 1.0),
        ];
        let (number, scale) = UNITS.iter().find_map(|(unit, scale)| Some((self.size.strip_suffix(unit)?, scale)))?;
        let shape = number.split_once('.').map_or((number, "0"), |parts| parts);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        (digits(shape.0) && digits(shape.1)).then_some(())?;
        // The factor is exact and a volume's size far below 2^53: what is rounded is less than a byte.
        Some((number.parse::<f64>().ok()? * scale) as u64)
    }
}

fn default_size() -> String {
    "8Gi".into()
}

/// What happens to the volumes when the cluster is deleted or a node is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Retention {
    /// They stay until somebody deletes them.
    #[default]
    Retain,
    /// They are deleted.
    Delete,
}
