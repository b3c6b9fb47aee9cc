#![allow(clippy::unwrap_used)]

use super::*;

fn slice(name: &str, port: &str, endpoints: &str) -> EndpointSlice {
    let text = format!(
        r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {{"name": "{name}", "namespace": "mq"}}, "ports": [{{"name": "mqtt", "port": 1883}}, {port}],
            "endpoints": [{endpoints}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn settings(domain: Option<&str>) -> KubernetesSettings {
    KubernetesSettings {
        service: "raftmq-nodes".to_owned(),
        port_name: "links".to_owned(),
        namespace: None,
        cluster_domain: domain.map(str::to_owned),
        kubeconfig: None,
    }
}

fn found(slices: &Slices) -> Vec<(String, Option<String>)> {
    let peers = slices.peers().into_iter();
    peers.map(|peer| (peer.address, peer.node)).collect()
}

fn peer(address: &str, node: &str) -> (String, Option<String>) {
    (address.to_owned(), Some(node.to_owned()))
}

const LINKS: &str = r#"{"name": "links", "port": 9883}"#;

#[test]
fn endpoints_become_peers_ready_or_not() {
    let mut slices = Slices::new(&settings(None));
    slices.take(Event::Init);
    let endpoints = r#"
        {"addresses": ["10.0.0.1", "10.9.9.9"], "hostname": "raftmq-0", "conditions": {"ready": true}},
        {"addresses": ["10.0.0.2"], "hostname": "raftmq-1", "conditions": {"ready": false}},
        {"addresses": ["fd00::3"], "targetRef": {"kind": "Pod", "name": "raftmq-2"},
         "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": []},
        {"addresses": ["not an address"]}"#;
    let other = r#"{"addresses": ["10.0.0.4"], "hostname": "raftmq-3"}"#;
    assert!(!slices.take(Event::InitApply(slice("a", LINKS, endpoints))));
    assert!(!slices.take(Event::InitApply(slice("b", r#"{"name": "other", "port": 1}"#, other))));
    assert!(found(&slices).is_empty(), "a list counts when it is complete");
    assert!(slices.take(Event::InitDone));
    assert_eq!(
        found(&slices),
        [peer("10.0.0.1:9883", "raftmq-0"), peer("10.0.0.2:9883", "raftmq-1"), peer("[fd00::3]:9883", "raftmq-2"),]
    );
}

#[test]
fn slices_change_and_go_and_a_new_list_replaces_all() {
    let endpoint = |n: u8| format!(r#"{{"addresses": ["10.0.0.{n}"], "hostname": "raftmq-{n}"}}"#);
    let mut slices = Slices::new(&settings(None));
    slices.take(Event::Apply(slice("a", LINKS, &endpoint(1))));
    slices.take(Event::Apply(slice("b", LINKS, &endpoint(2))));
    assert_eq!(found(&slices).len(), 2);
    slices.take(Event::Apply(slice("a", LINKS, &endpoint(3))));
    assert_eq!(found(&slices), [peer("10.0.0.3:9883", "raftmq-3"), peer("10.0.0.2:9883", "raftmq-2")]);
    slices.take(Event::Delete(slice("b", LINKS, "")));
    assert_eq!(found(&slices), [peer("10.0.0.3:9883", "raftmq-3")]);
    // The watch was lost and "a" deleted meanwhile.
    slices.take(Event::Init);
    slices.take(Event::InitApply(slice("c", LINKS, &endpoint(4))));
    assert_eq!(found(&slices), [peer("10.0.0.3:9883", "raftmq-3")]);
    slices.take(Event::InitDone);
    assert_eq!(found(&slices), [peer("10.0.0.4:9883", "raftmq-4")]);
}

#[test]
fn a_port_out_of_range_gives_no_peer() {
    for port in [r#"{"name": "links"}"#, r#"{"name": "links", "port": 0}"#, r#"{"name": "links", "port": 70000}"#] {
        let mut slices = Slices::new(&settings(None));
        slices.take(Event::Apply(slice("a", port, r#"{"addresses": ["10.0.0.1"]}"#)));
        assert!(found(&slices).is_empty(), "{port}");
    }
}

#[test]
fn with_a_domain_an_endpoint_with_a_host_name_is_called_by_name() {
    let mut slices = Slices::new(&settings(Some("cluster.local")));
    let endpoints = r#"{"addresses": ["10.0.0.1"], "hostname": "raftmq-0"},
        {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "raftmq-1"}}"#;
    slices.take(Event::Apply(slice("a", LINKS, endpoints)));
    assert_eq!(
        found(&slices),
        [peer("raftmq-0.raftmq-nodes.mq.svc.cluster.local:9883", "raftmq-0"), peer("10.0.0.2:9883", "raftmq-1"),]
    );
}
