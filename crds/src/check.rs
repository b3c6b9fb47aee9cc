//! The rules of the definition's CEL expressions, for files that no API server has seen.

use raftmq_config::{ClientAuth, ConfigError};

use crate::{MqttCluster, NodePlacement, ServiceType, TranslateError, broker_config};

/// What is wrong with a resource whose schema holds: (path, message).
pub(crate) fn violations(cluster: &MqttCluster) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut wrong = |path: String, message: String| found.push((path, message));
    check_name(cluster.metadata.name.as_deref(), &mut wrong);
    check_listeners(cluster, &mut wrong);
    let spec = &cluster.spec;
    if RESERVED.contains(&spec.metrics.port) {
        wrong("spec.metrics.port".into(), format!("{} {TAKEN}", spec.metrics.port));
    }
    if spec.storage.bytes().is_none() {
        wrong("spec.storage.size".into(), format!("{:?} is not a size, as 8Gi", spec.storage.size));
    }
    if let Some(resources) = &spec.resources {
        for (list, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
            for (name, quantity) in quantities.iter().flatten().filter(|(_, quantity)| !is_quantity(&quantity.0)) {
                let message = format!("{:?} is not a quantity, as 500m or 1Gi", quantity.0);
                wrong(format!("spec.resources.{list}.{name}"), message);
            }
        }
    }
    if let Some(template) = &spec.pod_template {
        for (index, env) in template.env.iter().enumerate() {
            if env.name.starts_with("RAFTMQ__") {
                let message = format!("{} is a setting of the broker; write it in spec.config", env.name);
                wrong(format!("spec.podTemplate.env[{index}].name"), message);
            }
            if env.name.starts_with("RAFTMQ_CTL_") {
                let message =
                    format!("{} is set by the operator, for raftmq ctl in the pod; use another name", env.name);
                wrong(format!("spec.podTemplate.env[{index}].name"), message);
            }
            if let Some(first) = template.env[..index].iter().position(|other| other.name == env.name) {
                let message = format!("{} is already the name of spec.podTemplate.env[{first}]; remove one", env.name);
                wrong(format!("spec.podTemplate.env[{index}].name"), message);
            }
        }
        for label in template.labels.keys().filter(|l| OWN_LABELS.contains(&l.as_str())) {
            let message = "selects the pods and belongs to the operator; use another label".to_owned();
            wrong(format!("spec.podTemplate.labels.{label}"), message);
        }
    }
    if found.is_empty() {
        found.extend(settings(cluster));
    }
    found
}

/// Whether the API server takes it as an amount of a resource: a number, and a unit or an exponent.
fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 15] = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_number = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = unit.strip_prefix(['e', 'E']).map(|power| power.strip_prefix(['+', '-']).unwrap_or(power));
    is_number && (UNITS.contains(&unit) || unit == "Ei" || exponent.is_some_and(digits))
}

const RESERVED: [u16; 2] = [18083, raftmq_config::Links::DEFAULT_PORT];
const TAKEN: &str = "is taken: 18083 is HTTP and 9883 is node links; use another port";
const OWN_LABELS: [&str; 3] = ["app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"];

fn check_name(name: Option<&str>, wrong: &mut impl FnMut(String, String)) {
    let Some(name) = name else {
        wrong("metadata.name".into(), "missing; the cluster needs a name".into());
        return;
    };
    if name.len() > 40 {
        let message =
            format!("{name:?} has more than 40 characters; the names of pods, Services and volumes are made from it");
        wrong("metadata.name".into(), message);
    }
    if !raftmq_config::is_rfc1123_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let message = format!("{name:?}: use lower-case letters, digits and hyphens, beginning with a letter");
        wrong("metadata.name".into(), message);
    }
}

fn check_listeners(cluster: &MqttCluster, wrong: &mut impl FnMut(String, String)) {
    let spec = &cluster.spec;
    if spec.listeners.is_empty() {
        wrong("spec.listeners".into(), "is empty; a broker needs at least one".into());
    }
    for (index, listener) in spec.listeners.iter().enumerate() {
        let at = |field: &str| format!("spec.listeners[{index}].{field}");
        let before = &spec.listeners[..index];
        if let Some(first) = before.iter().position(|l| l.name == listener.name) {
            let message = format!("{:?} is already the name of spec.listeners[{first}]; rename one", listener.name);
            wrong(at("name"), message);
        }
        if let Some(first) = before.iter().position(|l| l.port == listener.port) {
            let message = format!("{} is already the port of spec.listeners[{first}]; use another one", listener.port);
            wrong(at("port"), message);
        }
        if RESERVED.contains(&listener.port) {
            wrong(at("port"), format!("{} {TAKEN}", listener.port));
        }
        if listener.port == spec.metrics.port {
            wrong(at("port"), format!("{} is the port of spec.metrics.port; use another one", listener.port));
        }
        match (&listener.tls, listener.type_.uses_tls()) {
            (None, true) => {
                let message = "missing: a listener of type tls, wss or quic needs tls.secretName, a Secret with tls.crt and \
                               tls.key";
                wrong(at("tls"), message.into());
            }
            (Some(_), false) => {
                wrong(at("tls"), "is for listeners of type tls, wss and quic; change the type or remove tls".into())
            }
            (Some(tls), true) => {
                let asked = tls.client_auth != ClientAuth::None;
                if !asked && (tls.ca_secret_name.is_some() || tls.crl_secret_name.is_some()) {
                    let message = "none: caSecretName and crlSecretName check nobody; set it to optional or required";
                    wrong(at("tls.clientAuth"), message.into());
                }
            }
            (None, false) => {}
        }
        if listener.service.node_port.is_some() && listener.service.type_ == ServiceType::ClusterIp {
            let message = "needs service.type NodePort or LoadBalancer; change the type or remove nodePort";
            wrong(at("service.nodePort"), message.into());
        }
    }
}

/// What the brokers themselves would refuse.
fn settings(cluster: &MqttCluster) -> Vec<(String, String)> {
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or("default");
    let translated = NodePlacement::pod(cluster, 0, namespace).and_then(|placement| broker_config(cluster, &placement));
    match translated {
        Ok(_) => Vec::new(),
        Err(TranslateError::Config(ConfigError::Invalid(problems))) => {
            problems.into_iter().map(|p| (p.path, p.message)).collect()
        }
        Err(other) => vec![(String::new(), other.to_string())],
    }
}
