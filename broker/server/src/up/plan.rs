//! From the resource and what is on the disk to what is to run: which nodes, on which ports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use raftmq_crds::{LocalPorts, MqttCluster, NodePlacement, PortPlan, broker_config};

use super::UpError;
use super::options::UpOptions;
use super::ports::{PortError, Ports};
use super::state::{NodePorts, UpDir, UpState};
use crate::files::write_durably;

/// What `up` reads when no file is named and there is none in the folder.
pub(crate) const SAMPLE_PATH: &str = "deploy/samples/mqttcluster.yaml";
const SAMPLE: &str = include_str!("../../../../deploy/samples/mqttcluster.yaml");

/// Reads the resource: the file named, else the sample of the checkout, else the one built in.
pub(crate) fn read_resource(file: Option<&Path>) -> Result<(MqttCluster, String), UpError> {
    let path = file.unwrap_or(Path::new(SAMPLE_PATH));
    let name = path.display().to_string();
    let (text, name) = match std::fs::read_to_string(path) {
        Ok(text) => (text, name),
        Err(_) if file.is_none() && !path.exists() => (SAMPLE.to_owned(), format!("{name} (built in)")),
        Err(source) => {
            return Err(UpError::Read { path: path.to_owned(), source });
        }
    };
    Ok((MqttCluster::from_yaml(&text, &name)?, name))
}

/// The nodes to start, in order of their numbers. Those from `replicas` on are there from a larger cluster
/// and have to leave.
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    pub(crate) names: Vec<String>,
    pub(crate) ports: Vec<NodePorts>,
}

impl Plan {
    pub(crate) fn make(cluster: &MqttCluster, state: &UpState, options: &UpOptions) -> Result<Self, UpError> {
        let spec = &cluster.spec;
        let replicas = usize::from(spec.replicas);
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        let numbered = |ordinal| NodePlacement::node_name(name, ordinal);
        // Whoever has data may be a member: a node left out without a word would cost the cluster its quorum.
        let mut count = replicas;
        while state.nodes.contains_key(&numbered(count)) {
            count += 1;
        }
        let planned = PortPlan::of(spec).nodes(count)?;
        let mut ports = Ports::default();
        let mut chosen = Vec::new();
        for (ordinal, planned) in planned.iter().enumerate() {
            let node = numbered(ordinal);
            let known = state.nodes.get(&node).filter(|known| known.listeners.len() == planned.listeners.len());
            chosen.push(choose(ordinal, &node, planned, known, options, &mut ports)?);
        }
        Ok(Self { replicas, names: (0..count).map(numbered).collect(), ports: chosen })
    }

    /// Writes each node's settings and returns where.
    pub(crate) fn write_configs(&self, cluster: &MqttCluster, dir: &UpDir) -> Result<Vec<PathBuf>, UpError> {
        let ports: Vec<LocalPorts> = self
            .ports
            .iter()
            .map(|ports| LocalPorts {
                listeners: ports.listeners.iter().copied().map(Some).collect(),
                http: Some(ports.http),
                metrics: Some(ports.metrics),
                links: Some(ports.links),
            })
            .collect();
        let mut files = Vec::new();
        for (ordinal, name) in self.names.iter().enumerate() {
            let folder = dir.node(name);
            let io = |source| UpError::Io { path: folder.clone(), source };
            let mut placement = NodePlacement::local(cluster, ordinal, &ports, &dir.root().join("nodes"))?;
            placement.tls = raftmq_config::TlsFiles {
                ca_file: dir.pki().join("ca.pem"),
                cert_file: dir.pki().join(format!("{name}.pem")),
                key_file: dir.pki().join(format!("{name}.key")),
            };
            placement.secrets_dir = dir.root().join("secrets");
            let config = broker_config(cluster, &placement)?;
            std::fs::create_dir_all(&folder).map_err(io)?;
            let file = folder.join("config.yaml");
            write_durably(&file, config.to_yaml().as_bytes(), 0o644).map_err(io)?;
            files.push(file);
        }
        Ok(files)
    }

    /// The ports of all nodes, for `up.json`.
    pub(crate) fn nodes(&self) -> BTreeMap<String, NodePorts> {
        self.names.iter().cloned().zip(self.ports.iter().cloned()).collect()
    }
}

/// A flag's port counts first, then that of the last run, then the planned one, then any that is free.
fn choose(
    ordinal: usize,
    node: &str,
    planned: &LocalPorts,
    known: Option<&NodePorts>,
    options: &UpOptions,
    ports: &mut Ports,
) -> Result<NodePorts, PortError> {
    let mut pick = |flags: &[u16], known: Option<u16>, planned: Option<u16>, purpose, flag| {
        match flags.get(ordinal).copied() {
            Some(0) => return ports.free(),
            Some(port) => return ports.take(port, purpose, node, flag),
            None => {}
        }
        if options.free_ports {
            return match known.map(|port| ports.take(port, purpose, node, flag)) {
                Some(Ok(port)) => Ok(port),
                _ => ports.free(),
            };
        }
        match planned.or(known) {
            Some(port) => ports.take(port, purpose, node, flag),
            None => ports.free(),
        }
    };
    let listeners = planned
        .listeners
        .iter()
        .enumerate()
        .map(|(at, planned)| {
            let flags = if at == 0 { &options.mqtt_ports[..] } else { &[] };
            pick(flags, known.map(|known| known.listeners[at]), *planned, "MQTT", "--mqtt-ports")
        })
        .collect::<Result<_, _>>()?;
    Ok(NodePorts {
        listeners,
        http: pick(&options.http_ports, known.map(|k| k.http), planned.http, "HTTP", "--http-ports")?,
        metrics: pick(&options.metrics_ports, known.map(|k| k.metrics), planned.metrics, "metrics", "--metrics-ports")?,
        links: pick(&options.links_ports, known.map(|k| k.links), planned.links, "links", "--links-ports")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::up::state::Bootstrap;

    fn cluster(replicas: usize) -> MqttCluster {
        let text = SAMPLE.replace("replicas: 3", &format!("replicas: {replicas}"));
        MqttCluster::from_yaml(&text, "sample").unwrap()
    }

    fn options(more: &[&str]) -> UpOptions {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            up: UpOptions,
        }
        let line = ["up"].iter().chain(more);
        <Cli as clap::Parser>::try_parse_from(line).unwrap().up
    }

    fn state(nodes: BTreeMap<String, NodePorts>) -> UpState {
        UpState { format: 1, cluster: "raftmq".into(), bootstrap: Bootstrap::None, nodes }
    }

    #[test]
    fn nodes_with_data_are_started_although_they_are_to_leave() {
        let free = options(&["--free-ports"]);
        let five = Plan::make(&cluster(5), &state(BTreeMap::new()), &free).unwrap();
        let three = Plan::make(&cluster(3), &state(five.nodes()), &free).unwrap();
        assert_eq!((three.replicas, three.names.len()), (3, 5));
        // Free ports stay the same from run to run while they are free.
        assert_eq!(three.ports, five.ports);
    }

    #[test]
    fn a_flag_counts_before_free_ports_and_these_before_the_plan() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let none = state(BTreeMap::new());
        let flags = options(&["--free-ports", "--mqtt-ports", &format!("0,{port}")]);
        let error = Plan::make(&cluster(3), &none, &flags).err().unwrap().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("raftmq-1"), "{error}");
        drop(taken);
        let plan = Plan::make(&cluster(3), &none, &flags).unwrap();
        assert_eq!(plan.ports[1].listeners, [port]);
    }

    #[test]
    fn the_settings_name_the_certificates_and_all_peers() {
        let dir = tempfile::tempdir().unwrap();
        let up = UpDir::open(dir.path()).unwrap();
        let plan = Plan::make(&cluster(3), &state(BTreeMap::new()), &options(&["--free-ports"])).unwrap();
        let files = plan.write_configs(&cluster(3), &up).unwrap();
        for (name, file) in plan.names.iter().zip(&files) {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("pki/{name}.key")), "{text}");
            for ports in &plan.ports {
                assert!(text.contains(&format!("127.0.0.1:{}", ports.links)), "{text}");
            }
        }
    }
}
