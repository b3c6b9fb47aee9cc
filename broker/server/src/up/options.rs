//! The flags of `raftmq up`.

use std::path::PathBuf;

/// Run a local cluster from an MqttCluster resource
///
/// Starts one broker process for each replica on the loopback address, forms the cluster, shows the
/// nodes' health as it changes, and stops them on Ctrl-C. The data stays, and the next `up` resumes from it.
/// A larger or smaller `replicas` than in the last run lets nodes join or leave.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct UpOptions {
    /// The resource [default: deploy/samples/mqttcluster.yaml, or the same built in]
    pub(crate) file: Option<PathBuf>,
    /// Directory of the cluster's data, certificates and logs
    #[arg(long, default_value = "./.raftmq", value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// MQTT ports of the nodes, in order; 0 means a free one [default: 1883,2883,3883,…]
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub(crate) mqtt_ports: Vec<u16>,
    /// HTTP ports of the nodes, in order; 0 means a free one [default: 18083,28083,38083,…]
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub(crate) http_ports: Vec<u16>,
    /// Metrics ports of the nodes, in order; 0 means a free one [default: 9100,9200,9300,…]
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub(crate) metrics_ports: Vec<u16>,
    /// Ports of the links between the nodes, in order; 0 means a free one [default: 9883,9983,10083,…]
    #[arg(long, value_delimiter = ',', value_name = "PORT,…")]
    pub(crate) links_ports: Vec<u16>,
    /// Use free ports for all that no other flag names; they are kept for the next run
    #[arg(long)]
    pub(crate) free_ports: bool,
    /// Do not start a broker again that died; it is shown as stopped
    #[arg(long)]
    pub(crate) no_restart: bool,
}
