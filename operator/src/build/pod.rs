//! A broker's pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SeccompProfile, SecretVolumeSource, SecurityContext, Sysctl, TopologySpreadConstraint, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use raftmq_config::Links;
use raftmq_crds::{ListenerTls, NodePlacement, PodTemplate};

use super::client_services::protocol;
use super::config_map::{FILE, config_map_name};
use super::secrets::{AUTHORITY, CERT, KEY};
use super::stateful_set::DATA;
use super::{Inputs, ValidatedCluster};

/// Port of the brokers' control API.
pub const CONTROL_PORT: u16 = 18083;
/// Annotation of the pods: which certificates they were started for.
pub const TEMPLATE_CERTIFICATES: &str = "raftmq.io/certificates";

/// User and group of the image.
const USER: i64 = 65532;
const CONFIG_DIR: &str = "/etc/raftmq/config";
const PKI_DIR: &str = "/etc/raftmq/pki";
const DATA_DIR: &str = "/var/lib/raftmq";
/// The label of nodes, and of pods from Kubernetes 1.35 on, that says what fails as a whole.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The template of the StatefulSet: restricted by Pod Security Standards, without a token where nothing needs one.
pub(super) fn pod_template(cluster: &ValidatedCluster, inputs: &Inputs) -> PodTemplateSpec {
    let added = cluster.spec.pod_template.clone().unwrap_or_default();
    let mut labels = added.labels.clone();
    labels.extend(cluster.labels());
    let mut annotations = BTreeMap::from([
        // The convention of Prometheus' usual configuration for pods.
        ("prometheus.io/scrape".to_owned(), "true".to_owned()),
        ("prometheus.io/port".to_owned(), cluster.spec.metrics.port.to_string()),
        ("prometheus.io/path".to_owned(), "/metrics".to_owned()),
    ]);
    annotations.extend(added.annotations.clone());
    annotations.insert(TEMPLATE_CERTIFICATES.into(), inputs.certificates.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(pod(cluster, added)),
    }
}

fn pod(cluster: &ValidatedCluster, added: PodTemplate) -> PodSpec {
    let some = |list: Vec<TopologySpreadConstraint>| if list.is_empty() { spread(cluster) } else { list };
    PodSpec {
        service_account_name: Some(cluster.name.clone()),
        automount_service_account_token: Some(cluster.reads_endpoint_slices()),
        // Environment variables of every Service of the namespace: nothing here reads them.
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            // Else a volume with many files delays every start.
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
            sysctls: low_ports(cluster).map(|sysctl| vec![sysctl]),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(cluster, &added)],
        volumes: Some(volumes(cluster)),
        termination_grace_period_seconds: Some(60),
        node_selector: Some(added.node_selector).filter(|map| !map.is_empty()),
        tolerations: Some(added.tolerations).filter(|list| !list.is_empty()),
        affinity: Some(added.affinity.unwrap_or_else(|| apart(cluster))),
        topology_spread_constraints: Some(some(added.topology_spread_constraints)),
        priority_class_name: added.priority_class_name,
        image_pull_secrets: Some(added.image_pull_secrets).filter(|list| !list.is_empty()),
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidatedCluster, added: &PodTemplate) -> Container {
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    // A listener's name could be that of a port of ours; names of ports are at most 15 characters long, as listeners' are.
    let listeners = cluster.spec.listeners.iter().map(|listener| ContainerPort {
        name: Some(listener.name.clone()).filter(|name| !["links", "control", "metrics"].contains(&name.as_str())),
        protocol: Some(protocol(listener).into()),
        ..port("", listener.port)
    });
    let mut ports: Vec<ContainerPort> = listeners.collect();
    ports.extend([
        port("links", Links::DEFAULT_PORT),
        port("control", CONTROL_PORT),
        port("metrics", cluster.spec.metrics.port),
    ]);
    Container {
        name: "broker".into(),
        image: Some(cluster.image.clone()),
        args: Some(vec!["node".into(), "--config".into(), format!("{CONFIG_DIR}/{FILE}")]),
        env: Some(environment(cluster, added)),
        ports: Some(ports),
        resources: cluster.spec.resources.clone(),
        volume_mounts: Some(mounts(cluster)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        // A start reads the log back first; after five minutes it is taken for stuck.
        startup_probe: Some(probe("/healthz", 2, 150)),
        liveness_probe: Some(probe("/healthz", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        ..Container::default()
    }
}

/// Ports below 1024 are those of root, which the broker is not, unless the pod's own network says otherwise. Every pod may say that: the
/// sysctl is one of those that Kubernetes calls safe.
fn low_ports(cluster: &ValidatedCluster) -> Option<Sysctl> {
    let spec = &cluster.spec;
    let ports = spec.listeners.iter().map(|listener| listener.port).chain([spec.metrics.port]);
    let lowest = ports.min().filter(|port| *port < 1024)?;
    Some(Sysctl { name: "net.ipv4.ip_unprivileged_port_start".into(), value: lowest.to_string() })
}

/// What differs from pod to pod: the rest of the settings is one file.
fn environment(cluster: &ValidatedCluster, added: &PodTemplate) -> Vec<EnvVar> {
    let service = NodePlacement::links_service(&cluster.name);
    let domain = &cluster.spec.discovery.cluster_domain;
    let advertise =
        format!("$(RAFTMQ__NODE__NAME).{service}.{}.svc.{domain}:{}", cluster.namespace, Links::DEFAULT_PORT);
    let of_pod = |name: &str, path: String| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path, ..ObjectFieldSelector::default() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let mut environment = vec![
        of_pod("RAFTMQ__NODE__NAME", "metadata.name".into()),
        // Kubernetes copies it from the node when it binds the pod, before anything starts. Where it does not, it is empty: a broker without a zone.
        of_pod("RAFTMQ__NODE__ZONE", format!("metadata.labels['{ZONE}']")),
        EnvVar { name: "RAFTMQ__CLUSTER__LINKS__ADVERTISE".into(), value: Some(advertise), ..EnvVar::default() },
    ];
    // So that `kubectl exec POD -- /raftmq ctl members` needs no flags.
    let files =
        [("CA", AUTHORITY), ("CERT", CERT), ("KEY", KEY)].map(|(name, file)| (name, format!("{PKI_DIR}/{file}")));
    let endpoint = ("ENDPOINT", format!("https://127.0.0.1:{CONTROL_PORT}"));
    environment.extend([endpoint].into_iter().chain(files).map(|(name, value)| EnvVar {
        name: format!("RAFTMQ_CTL_{name}"),
        value: Some(value),
        ..EnvVar::default()
    }));
    environment.extend(added.env.iter().cloned());
    environment
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("metrics".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only).filter(|only| *only),
        ..VolumeMount::default()
    }
}

fn mounts(cluster: &ValidatedCluster) -> Vec<VolumeMount> {
    let mut mounts = vec![mount(DATA, DATA_DIR, false), mount("config", CONFIG_DIR, true), mount("pki", PKI_DIR, true)];
    // Whole folders: what is mounted file by file does not change with its Secret.
    let secrets = listener_secrets(cluster);
    mounts.extend(
        secrets.map(|(volume, secret)| mount(&volume, &format!("{}/{secret}", NodePlacement::POD_SECRETS), true)),
    );
    mounts
}

/// The Secrets of the listeners' certificates, each once, with the names of their volumes: a Secret's own name may be too long.
fn listener_secrets(cluster: &ValidatedCluster) -> impl Iterator<Item = (String, String)> {
    let tls = cluster.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    let names: BTreeSet<String> = tls.flat_map(ListenerTls::secrets).map(str::to_owned).collect();
    names.into_iter().enumerate().map(|(index, secret)| (format!("tls-{index}"), secret))
}

fn volumes(cluster: &ValidatedCluster) -> Vec<Volume> {
    let own = vec![
        Volume {
            name: "config".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: config_map_name(cluster),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "pki".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(format!("{}-nodes", cluster.name)),
                // The group is the pod's own (fsGroup).
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ];
    let listeners = listener_secrets(cluster).map(|(name, secret)| Volume {
        name,
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    });
    own.into_iter().chain(listeners).collect()
}

/// Over zones and nodes of Kubernetes where there are enough, without keeping a pod from running where there are not.
fn spread(cluster: &ValidatedCluster) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(cluster.selector()),
        ..TopologySpreadConstraint::default()
    };
    vec![over(ZONE), over("kubernetes.io/hostname")]
}

/// On different nodes of Kubernetes where there are enough.
fn apart(cluster: &ValidatedCluster) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(cluster.selector()),
        topology_key: "kubernetes.io/hostname".into(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}
