//! Where clients connect.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec as KubernetesSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use raftmq_crds::{ListenerSpec, ServiceSpec, ServiceType};

use super::ValidatedCluster;

/// A Service for each set of listeners with the same options: that of the first listener has the cluster's name, a further
/// one is `CLUSTER-LISTENER-svc` by its first listener.
#[must_use]
pub fn client_services(cluster: &ValidatedCluster) -> Vec<Service> {
    groups(cluster).iter().map(|group| service(cluster, group)).collect()
}

/// Where clients of the Kubernetes cluster connect, as `tcp://name:port`, in the order of the listeners.
#[must_use]
pub fn endpoints(cluster: &ValidatedCluster) -> Vec<String> {
    let groups = groups(cluster);
    let endpoint = |listener: &ListenerSpec| {
        let group = groups.iter().find(|group| group.listeners.iter().any(|l| l.name == listener.name))?;
        let (scheme, port) = (listener.type_.as_str(), listener.port);
        Some(format!("{scheme}://{}.{}.svc:{port}", group.name, cluster.namespace))
    };
    cluster.spec.listeners.iter().filter_map(endpoint).collect()
}

struct Group<'a> {
    name: String,
    listeners: Vec<&'a ListenerSpec>,
}

fn groups(cluster: &ValidatedCluster) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for listener in &cluster.spec.listeners {
        // The port of the Kubernetes nodes is the listener's own, not an option of the Service.
        let same = |other: &ServiceSpec| {
            ServiceSpec { node_port: None, ..other.clone() }
                == ServiceSpec { node_port: None, ..listener.service.clone() }
        };
        match groups.iter_mut().find(|group| same(&group.listeners[0].service)) {
            Some(group) => group.listeners.push(listener),
            None => {
                let name = match groups.is_empty() {
                    true => cluster.name.clone(),
                    false => format!("{}-{}-svc", cluster.name, listener.name),
                };
                groups.push(Group { name, listeners: vec![listener] });
            }
        }
    }
    groups
}

fn service(cluster: &ValidatedCluster, group: &Group<'_>) -> Service {
    let options = &group.listeners[0].service;
    let mut metadata = cluster.meta(&group.name);
    if !options.annotations.is_empty() {
        metadata.annotations = Some(options.annotations.clone());
    }
    let ports = group.listeners.iter().map(|listener| ServicePort {
        name: Some(listener.name.clone()),
        port: i32::from(listener.port),
        protocol: Some(protocol(listener).into()),
        // By number: a listener may be called as another port of the pod is.
        target_port: Some(IntOrString::Int(i32::from(listener.port))),
        node_port: listener.service.node_port.map(i32::from),
        ..ServicePort::default()
    });
    Service {
        metadata,
        spec: Some(KubernetesSpec {
            type_: Some(type_name(options.type_).to_owned()),
            selector: Some(cluster.selector_labels()),
            ports: Some(ports.collect()),
            load_balancer_class: options
                .load_balancer_class
                .clone()
                .filter(|_| options.type_ == ServiceType::LoadBalancer),
            ..KubernetesSpec::default()
        }),
        ..Service::default()
    }
}

/// What is below a listener's ports.
pub(super) fn protocol(listener: &ListenerSpec) -> &'static str {
    if listener.type_.uses_udp() { "UDP" } else { "TCP" }
}

fn type_name(type_: ServiceType) -> &'static str {
    match type_ {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    }
}
