//! How the pods find each other.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use raftmq_config::Links;
use raftmq_crds::NodePlacement;

use super::ValidatedCluster;
use super::pod::CONTROL_PORT;

/// Headless: a name for each pod, ready or not, since pods must reach each other to become ready.
#[must_use]
pub fn links_service(cluster: &ValidatedCluster) -> Service {
    let port = |name: &str, port: u16| ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: cluster.meta(&NodePlacement::links_service(&cluster.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cluster.selector_labels()),
            // SRV records and discovery go by the name of the port.
            ports: Some(vec![port("links", Links::DEFAULT_PORT), port("control", CONTROL_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
