//! Reconciliations against an API server in memory and brokers that say what a test lets them say.
#![allow(clippy::unwrap_used)]

mod fake_api;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fake_api::FakeApi;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use raftmq_control_api::api::{ClusterIdentity, JoinPhase, Loss, Member, MemberRole, MemberState, NodeStatus};
use raftmq_crds::MqttCluster;
use raftmq_operator::brokers::{Access, Broker, BrokerError, Brokers, ClusterView, NodeView};
use raftmq_operator::build::labels;
use raftmq_operator::controller::stores::Stores;
use raftmq_operator::controller::{Context, INITIAL_MEMBERS, Scope, reconcile, run};
use raftmq_operator::leader::Claim;
use serde_json::{Value, json};

const MQC: &str = "/apis/raftmq.io/v1alpha1/namespaces/mq/mqttclusters/demo";
const SET: &str = "/apis/apps/v1/namespaces/mq/statefulsets/demo";

/// Brokers that answer for the pods that run.
#[derive(Default)]
struct FakeBrokers(Mutex<Told>);

#[derive(Default)]
struct Told {
    /// Ordinals of the members; `None` before the cluster is formed.
    members: Option<Vec<i32>>,
    /// What is said to be lost by any stop.
    loss: Option<String>,
    /// Whether who tells of the members is not ready: the list is old.
    uncertain: bool,
    /// Ordinals of nodes that have left and still run.
    left: Vec<i32>,
    /// Names of down members.
    down: Vec<String>,
    /// Whether the permission to form the cluster is not taken yet.
    busy: bool,
    calls: Vec<String>,
    /// What happens while they are asked what would be lost, after so many times.
    meanwhile: Option<(usize, Box<dyn FnOnce() + Send>)>,
}

impl FakeBrokers {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// Without the first of two same questions in a row: before anything is stopped they are asked again, about what is read live.
    fn take_calls(&self) -> Vec<String> {
        let mut calls = std::mem::take(&mut self.told().calls);
        calls.dedup();
        calls
    }
}

fn member(ordinal: i32, up: bool) -> Member {
    Member {
        id: u64::from(ordinal.unsigned_abs()) + 1,
        name: format!("demo-{ordinal}"),
        incarnation: String::new(),
        boot: 1,
        version: "0.1.0".into(),
        links_address: String::new(),
        control_address: None,
        zone: None,
        state: MemberState::Active,
        up,
        role: if ordinal == 0 { MemberRole::Leader } else { MemberRole::Voter },
        leads: Vec::new(),
    }
}

impl Brokers for FakeBrokers {
    fn observe<'a>(&'a self, _: &'a Access, brokers: &'a [Broker]) -> BoxFuture<'a, ClusterView> {
        let told = self.told();
        let identity = told.members.as_ref().map(|_| ClusterIdentity { id: "c".into(), name: "demo".into() });
        let node = |broker: &Broker| {
            let status = NodeStatus {
                node: broker.name.clone(),
                version: "0.1.0".into(),
                raft_id: None,
                incarnation: None,
                boot: None,
                cluster: identity.clone(),
                uptime_seconds: 1,
                clients: 0,
                memory: None,
                relayed: Vec::new(),
                overload: None,
                lease_remaining_ms: None,
                ready: identity.is_some(),
                failing: Vec::new(),
            };
            let phase = if told.left.iter().any(|o| broker.name == format!("demo-{o}")) {
                JoinPhase::Left
            } else if identity.is_some() {
                JoinPhase::Member
            } else {
                JoinPhase::WaitingForBootstrap
            };
            (broker.name.clone(), Ok(NodeView { status, phase }))
        };
        let members = told.members.iter().flatten().map(|o| member(*o, !told.down.contains(&format!("demo-{o}"))));
        let some = !brokers.is_empty() && told.members.is_some();
        let view = ClusterView {
            nodes: brokers.iter().map(node).collect::<BTreeMap<_, _>>(),
            members: some.then(|| members.collect()),
            certain: some && !told.uncertain,
            leader: some.then(|| "demo-0".into()),
        };
        async move { view }.boxed()
    }

    fn bootstrap<'a>(
        &'a self,
        _: &'a Access,
        broker: &'a Broker,
        members: &'a [String],
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut told = self.told();
        if told.busy {
            return async { Err(BrokerError("demo-0 answers 503: it is starting".into())) }.boxed();
        }
        told.calls.push(format!("bootstrap {} {}", broker.name, members.join(",")));
        told.members = Some((0..i32::try_from(members.len()).unwrap()).collect());
        async { Ok(()) }.boxed()
    }

    fn loss<'a>(&'a self, _: &'a Access, _: &'a [Broker], node: &'a str) -> BoxFuture<'a, Result<Loss, BrokerError>> {
        let mut told = self.told();
        match told.meanwhile.take() {
            Some((0, happens)) => happens(),
            later => told.meanwhile = later.map(|(times, happens)| (times - 1, happens)),
        }
        told.calls.push(format!("loss {node}"));
        let reasons: Vec<String> = told.loss.iter().cloned().collect();
        let group = raftmq_control_api::api::GroupLoss {
            group: "meta".into(),
            votes: true,
            live_after: 1,
            quorum: 2,
            has_quorum: true,
            loses_quorum: !reasons.is_empty(),
        };
        async move { Ok(Loss { node: Some(1), nothing: reasons.is_empty(), reasons, groups: vec![group] }) }.boxed()
    }

    fn leave<'a>(&'a self, _: &'a Access, _: &'a [Broker], node: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        let mut told = self.told();
        told.calls.push(format!("leave {node}"));
        told.members.iter_mut().for_each(|m| m.retain(|o| format!("demo-{o}") != node));
        async { Ok(()) }.boxed()
    }
}

struct World {
    api: FakeApi,
    brokers: Arc<FakeBrokers>,
    context: Arc<Context>,
}

impl World {
    fn new(spec: Value) -> Self {
        let api = FakeApi::default();
        let metadata = json!({"name": "demo", "namespace": "mq", "uid": "u", "generation": 1});
        api.put(
            MQC,
            json!({"apiVersion": "raftmq.io/v1alpha1", "kind": "MqttCluster", "metadata": metadata, "spec": spec}),
        );
        let brokers = Arc::new(FakeBrokers::default());
        let context = context(&api, &brokers);
        Self { api, brokers, context }
    }

    /// A formed cluster of this size that runs as it should, about which nothing more is to be done.
    async fn running(replicas: i32) -> Self {
        let mut world = Self::new(json!({"replicas": replicas}));
        for _ in 0..6 {
            world.reconcile().await;
            world.start_pods();
        }
        world.api.take_writes();
        world.api.take_reads();
        world.brokers.take_calls();
        world
    }

    /// Watches that have delivered everything.
    async fn try_reconcile(&mut self) -> Result<Action, String> {
        let stores = self.stores();
        self.reconcile_with(stores).await
    }

    async fn reconcile_with(&mut self, stores: Stores) -> Result<Action, String> {
        self.reconcile_of(self.api.get(MQC).unwrap(), stores).await
    }

    async fn reconcile_of(&mut self, cluster: Value, stores: Stores) -> Result<Action, String> {
        let object: DeserializeGuard<MqttCluster> = serde_json::from_value(cluster).unwrap();
        let scope = Scope { context: Arc::clone(&self.context), stores };
        reconcile(Arc::new(object), Arc::new(scope)).await.map_err(|error| error.to_string())
    }

    /// What watches deliver of what is now.
    fn stores(&self) -> Stores {
        let (stores, mut writers) = Stores::new();
        let ours = selector(&[(labels::MANAGED_BY, labels::MANAGED_BY_VALUE)]);
        for (kind, writer) in &mut writers.objects {
            let resource = kind.api_resource();
            let root = if resource.group.is_empty() { "/api" } else { "/apis" };
            let path = format!("{root}/{}/namespaces/mq/{}", resource.api_version, resource.plural);
            fill(writer, self.api.list(&path, &ours));
        }
        let brokers = selector(&[(labels::NAME, labels::NAME_VALUE), (labels::COMPONENT, labels::COMPONENT_VALUE)]);
        fill::<Secret>(&mut writers.secrets, self.api.list("/api/v1/namespaces/mq/secrets", &ours));
        fill::<Pod>(&mut writers.pods, self.api.list("/api/v1/namespaces/mq/pods", &brokers));
        let claims = self.api.list("/api/v1/namespaces/mq/persistentvolumeclaims", &brokers);
        fill::<PersistentVolumeClaim>(&mut writers.claims, claims);
        stores
    }

    async fn reconcile(&mut self) -> Action {
        self.try_reconcile().await.unwrap()
    }

    /// What the StatefulSet's controller does with `OnDelete`, and the kubelets: missing pods and claims come, surplus pods go.
    fn start_pods(&self) {
        let Some(set) = self.api.get(SET) else { return };
        let replicas = set["spec"]["replicas"].as_i64().unwrap();
        let revision = format!("rev-{}", set["spec"]["template"].to_string().len() + hash(&set["spec"]["template"]));
        let generation = set["metadata"]["generation"].clone();
        self.api.change(SET, |set| {
            set["status"] = json!({"observedGeneration": generation, "updateRevision": revision, "replicas": replicas});
        });
        for ordinal in 0..10 {
            let path = pod(ordinal);
            if ordinal >= replicas {
                self.api.remove(&path);
                continue;
            }
            let labels = set["spec"]["selector"]["matchLabels"].clone();
            let claim = claim(ordinal);
            if self.api.get(&claim).is_none() {
                let mut made = set["spec"]["volumeClaimTemplates"][0].clone();
                made["metadata"]["name"] = json!(format!("data-demo-{ordinal}"));
                made["metadata"]["namespace"] = json!("mq");
                self.api.put(&claim, made);
            }
            if self.api.get(&path).is_some() {
                continue;
            }
            let mut labels = labels.clone();
            labels["controller-revision-hash"] = json!(revision);
            let broker = json!({"name": "broker", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}});
            self.api.put(
                &path,
                json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": format!("demo-{ordinal}"), "namespace": "mq", "labels": labels},
                    "spec": set["spec"]["template"]["spec"],
                    "status": {
                        "podIP": format!("10.0.0.{ordinal}"),
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "containerStatuses": [broker],
                    },
                }),
            );
        }
    }

    fn set_spec(&self, spec: Value) {
        self.api.change(MQC, |cluster| cluster["spec"] = spec);
    }

    fn condition(&self, type_: &str) -> (String, String, String) {
        let cluster = self.api.get(MQC).unwrap();
        let conditions = cluster["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|c| c["type"] == type_).unwrap();
        let text = |field: &str| found[field].as_str().unwrap().to_owned();
        (text("status"), text("reason"), text("message"))
    }

    fn replicas(&self) -> i64 {
        self.api.get(SET).unwrap()["spec"]["replicas"].as_i64().unwrap()
    }
}

fn selector(labels: &[(&str, &str)]) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn fill<K>(writer: &mut Writer<K>, objects: Vec<Value>)
where
    K: Resource + Clone + serde::de::DeserializeOwned + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        writer.apply_watcher_event(&Event::InitApply(serde_json::from_value(object).unwrap()));
    }
    writer.apply_watcher_event(&Event::InitDone);
}

fn context(api: &FakeApi, brokers: &Arc<FakeBrokers>) -> Arc<Context> {
    let brokers: Arc<dyn Brokers> = Arc::clone(brokers) as _;
    Arc::new(Context::new(api.client(), brokers, "image:1".into(), Some("test".into())))
}

fn hash(value: &Value) -> usize {
    value.to_string().bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()) % 1_000_003)
}

fn pod(ordinal: i64) -> String {
    format!("/api/v1/namespaces/mq/pods/demo-{ordinal}")
}

fn claim(ordinal: i64) -> String {
    format!("/api/v1/namespaces/mq/persistentvolumeclaims/data-demo-{ordinal}")
}

#[tokio::test]
async fn the_first_reconciliation_applies_everything_in_order() {
    let mut world = World::new(json!({}));
    world.reconcile().await;
    let mut writes = world.api.take_writes();
    for write in &mut writes {
        if write.starts_with("PATCH configmaps/demo-config-") {
            *write = "PATCH configmaps/demo-config".into();
        }
    }
    let expected = [
        "POST secrets",
        "PATCH secrets/demo-nodes",
        "PATCH secrets/demo-control",
        "PATCH serviceaccounts/demo",
        "PATCH roles/demo-discovery",
        "PATCH rolebindings/demo-discovery",
        "PATCH configmaps/demo-config",
        "PATCH services/demo-links",
        "PATCH services/demo",
        "PATCH poddisruptionbudgets/demo",
        "PATCH statefulsets/demo",
        "PATCH mqttclusters/demo/status",
    ];
    assert_eq!(writes, expected);
    assert_eq!(world.condition("Progressing").1, "WaitingForNodes");
    assert_eq!(world.api.get(MQC).unwrap()["status"]["observedGeneration"], 1);
}

#[tokio::test]
async fn an_unchanged_cluster_asks_nothing_of_the_api_server() {
    let mut world = World::running(3).await;
    for type_ in ["Available", "Bootstrapped"] {
        assert_eq!(world.condition(type_).0, "True", "{type_}");
    }
    for type_ in ["Progressing", "Degraded", "Warning"] {
        assert_eq!(world.condition(type_).0, "False", "{type_}: {:?}", world.condition(type_));
    }
    for _ in 0..5 {
        world.reconcile().await;
    }
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    assert_eq!(world.api.take_reads(), Vec::<String>::new());
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new());
    // An operator that starts afresh applies what it cannot know to be so, which changes nothing.
    let versions = |world: &World| {
        world
            .api
            .paths()
            .iter()
            .map(|p| world.api.get(p).unwrap()["metadata"]["resourceVersion"].clone())
            .collect::<Vec<_>>()
    };
    let before = versions(&world);
    world.context = context(&world.api, &world.brokers);
    world.reconcile().await;
    assert_eq!(versions(&world), before);
    world.api.take_writes();
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_that_waits_asks_nothing_of_the_api_server() {
    // For a broker that does not come.
    let mut world = World::running(3).await;
    world.api.change(&pod(1), |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    world.reconcile().await;
    assert_eq!(world.reconcile().await, Action::requeue(std::time::Duration::from_secs(2)));
    assert_eq!(world.api.take_reads(), Vec::<String>::new());
    // For brokers that do not allow what is planned.
    let mut world = World::running(3).await;
    world.brokers.told().loss = Some("routes loses its quorum".into());
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.start_pods();
    world.reconcile().await;
    world.api.take_reads();
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-2"]);
    assert_eq!(world.api.take_reads(), Vec::<String>::new());
}

#[tokio::test]
async fn watches_that_lag_stop_no_second_pod() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.start_pods();
    world.api.take_writes();
    let old = world.stores();
    // It is stopping already, of which the watches have said nothing.
    world.api.change(&pod(2), |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    world.reconcile_with(old.clone()).await.unwrap();
    assert!(!world.api.take_writes().iter().any(|write| write.starts_with("DELETE")));
    // It is gone, then another one is there that is not ready yet.
    world.api.remove(&pod(2));
    world.reconcile_with(old.clone()).await.unwrap();
    world.start_pods();
    world.api.change(&pod(2), |pod| pod["status"]["conditions"][0]["status"] = json!("False"));
    world.reconcile_with(old.clone()).await.unwrap();
    assert!(!world.api.take_writes().iter().any(|write| write.starts_with("DELETE")));
    // What the watches still show as it was before it was applied is not applied again.
    world.reconcile_with(old).await.unwrap();
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn watches_tell_what_happens_and_nothing_is_done_before_they_have_said_all() {
    let world = World::running(3).await;
    let (roles, service) =
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/mq/roles", "/api/v1/namespaces/mq/services/demo");
    world.api.hide(roles, true);
    world.api.remove(service);
    let context = context(&world.api, &world.brokers);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn({
        let context = Arc::clone(&context);
        async move { run(context, &["mq".into()], stopped).await }
    });
    until("all but one are there", || context.metrics.waiting() == 1).await;
    until("its failure is counted", || !context.metrics.render().contains("watch_failures_total 0")).await;
    assert_eq!((world.api.get(service), world.api.take_writes()), (None, Vec::new()));

    world.api.hide(roles, false);
    until("the service is back", || world.api.get(service).is_some()).await;
    assert_eq!(context.metrics.waiting(), 0);
    let made = |world: &World| world.api.get(service).unwrap()["metadata"]["uid"].clone();
    world.api.change(service, |service| service["metadata"]["uid"] = json!("the first"));
    world.api.remove(service);
    until("the service is back again", || world.api.get(service).is_some()).await;
    assert_ne!(made(&world), "the first");
    stop.send_replace(true);
    tokio::time::timeout(DEADLINE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_spec_that_is_no_longer_so_stops_nobody() {
    // Taken back, deleted, or another one of its name by now; the watch of the MqttCluster has said nothing of it.
    let changes = [
        json!({"spec": {"replicas": 5}}),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        json!({"metadata": {"uid": "another"}}),
    ];
    for change in changes {
        let mut world = World::running(5).await;
        world.set_spec(json!({"replicas": 3}));
        let old = world.api.get(MQC).unwrap();
        world.api.change(MQC, |cluster| {
            for (section, fields) in change.as_object().unwrap() {
                cluster[section].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            }
        });
        let stores = world.stores();
        world.reconcile_of(old, stores).await.unwrap();
        assert_eq!(world.brokers.take_calls(), ["loss demo-4"], "{change}: it is asked, and nobody is told to leave");
        assert_eq!(world.api.take_writes(), Vec::<String>::new(), "{change}");
    }
}

/// About a node that is to leave, and about a pod of a former template.
async fn about_to_stop() -> [(World, &'static str); 2] {
    let leaving = World::running(5).await;
    leaving.set_spec(json!({"replicas": 3}));
    let mut rolling = World::running(5).await;
    rolling.set_spec(json!({"replicas": 5, "image": "image:2"}));
    rolling.reconcile().await;
    rolling.start_pods();
    for world in [&leaving, &rolling] {
        world.api.take_writes();
        world.brokers.take_calls();
    }
    [(leaving, "leave demo-4"), (rolling, "DELETE pods/demo-4")]
}

/// What was done to brokers.
fn stops(world: &World) -> Vec<String> {
    let stops = |call: &String| call.starts_with("leave") || call.starts_with("DELETE");
    world.brokers.take_calls().into_iter().chain(world.api.take_writes()).filter(stops).collect()
}

#[tokio::test]
async fn what_is_taken_back_while_the_brokers_are_asked_is_not_done() {
    for (mut world, _) in about_to_stop().await {
        let api = world.api.clone();
        let happens = move || api.change(MQC, |cluster| cluster["spec"] = json!({"replicas": 5}));
        // The second time is about what was read live.
        world.brokers.told().meanwhile = Some((1, Box::new(happens)));
        assert_eq!(world.reconcile().await, Action::requeue(std::time::Duration::from_secs(2)));
        assert!(world.brokers.told().meanwhile.is_none(), "they were asked twice");
        assert_eq!(stops(&world), Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_does_not_hold_the_lease_writes_nothing_and_stops_nobody() {
    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator";
    let lease = |holder: &str, renewed: &str| {
        let spec = json!({"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15});
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "operator"}, "spec": spec})
    };
    // By a clock that is ahead: it does not end while this test runs.
    let now = || (k8s_openapi::jiff::Timestamp::now() + std::time::Duration::from_secs(3600)).to_string();
    for (mut world, stop) in about_to_stop().await {
        let brokers: Arc<dyn Brokers> = Arc::clone(&world.brokers) as _;
        let claim = Claim::new(world.api.client(), "system", "operator", "test");
        let context = Context::new(world.api.client(), brokers, "image:1".into(), Some("test".into()));
        world.context = Arc::new(context.with_claim(Some(claim)));
        for (holder, renewed) in [("other", now()), ("test", "2020-01-01T00:00:00.000000Z".into())] {
            world.api.put(LEASE, lease(holder, &renewed));
            world.reconcile().await;
            assert_eq!(world.api.take_writes(), Vec::<String>::new(), "{holder}");
            assert_eq!(stops(&world), Vec::<String>::new(), "{holder}");
        }
        // Lost while the brokers are asked.
        world.api.put(LEASE, lease("test", &now()));
        let api = world.api.clone();
        let other = lease("other", &now());
        world.brokers.told().meanwhile = Some((0, Box::new(move || api.put(LEASE, other))));
        world.reconcile().await;
        assert!(world.brokers.told().meanwhile.is_none(), "they were asked");
        assert_eq!(stops(&world), Vec::<String>::new());
        world.api.hide(LEASE, true);
        assert!(world.try_reconcile().await.unwrap_err().contains("cannot read the Lease"));
        assert_eq!(stops(&world), Vec::<String>::new());
        world.api.hide(LEASE, false);
        world.api.put(LEASE, lease("test", &now()));
        world.reconcile().await;
        assert_eq!(stops(&world), [stop]);
    }
}

#[tokio::test]
async fn a_status_is_never_written_to_another_object_of_the_name() {
    let mut world = World::running(3).await;
    let old = world.api.get(MQC).unwrap();
    let stores = world.stores();
    world.api.change(MQC, |cluster| {
        cluster["metadata"]["uid"] = json!("another");
        cluster.as_object_mut().unwrap().remove("status");
    });
    // Something to tell, for which nothing is read.
    world.brokers.told().down = vec!["demo-2".into()];
    world.reconcile_of(old, stores).await.unwrap();
    assert_eq!(world.api.get(MQC).unwrap()["status"], Value::Null);
    assert!(world.api.take_writes().contains(&"PATCH mqttclusters/demo/status".to_owned()));
}

#[tokio::test]
async fn secrets_that_were_put_back_without_labels_are_found() {
    let mut world = World::running(3).await;
    world.api.change("/api/v1/namespaces/mq/secrets/demo-ca", |ca| ca["metadata"]["labels"] = json!({}));
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

#[tokio::test]
async fn what_somebody_changed_or_deleted_is_put_right() {
    let mut world = World::running(3).await;
    let service = "/api/v1/namespaces/mq/services/demo";
    world.api.change(service, |service| service["spec"]["ports"][0]["port"] = json!(1));
    world.reconcile().await;
    assert_eq!(world.api.get(service).unwrap()["spec"]["ports"][0]["port"], 1883);
    assert_eq!(world.api.take_writes(), ["PATCH services/demo"]);
    world.api.remove(service);
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), ["PATCH services/demo"]);
}

#[tokio::test]
async fn the_intent_is_noted_before_the_brokers_are_told_and_they_are_told_once() {
    let mut world = World::new(json!({}));
    world.reconcile().await;
    world.start_pods();
    world.api.take_writes();
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new());
    assert!(world.api.take_writes().contains(&"PATCH mqttclusters/demo".to_owned()));
    let noted = world.api.get(MQC).unwrap()["metadata"]["annotations"][INITIAL_MEMBERS].clone();
    assert_eq!(noted, "demo-0,demo-1,demo-2");
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["bootstrap demo-0 demo-0,demo-1,demo-2"]);
    world.reconcile().await;
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new());
    assert_eq!(world.condition("Bootstrapped").0, "True");
}

#[tokio::test]
async fn an_intent_that_was_copied_from_another_object_counts_for_nothing() {
    let mut world = World::new(json!({"replicas": 1}));
    world.api.change(MQC, |cluster| {
        cluster["metadata"]["annotations"] =
            json!({INITIAL_MEMBERS: "other-0,other-1,other-2", "raftmq.io/initial-members-of": "another"});
    });
    world.reconcile().await;
    world.start_pods();
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new());
    assert_eq!(world.api.get(MQC).unwrap()["metadata"]["annotations"][INITIAL_MEMBERS], "demo-0");
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["bootstrap demo-0 demo-0"]);
}

#[tokio::test]
async fn an_intent_that_comes_too_late_is_noted_the_next_time() {
    let mut world = World::new(json!({}));
    world.reconcile().await;
    world.start_pods();
    let old = world.api.get(MQC).unwrap();
    world.api.change(MQC, |cluster| cluster["metadata"]["labels"] = json!({"somebody": "else"}));
    let stores = world.stores();
    world.reconcile_of(old, stores).await.unwrap();
    assert_eq!(world.condition("Degraded").0, "False");
    let noted = |world: &World| world.api.get(MQC).unwrap()["metadata"]["annotations"][INITIAL_MEMBERS].clone();
    assert_eq!(noted(&world), Value::Null);
    world.reconcile().await;
    assert_eq!(noted(&world), "demo-0,demo-1,demo-2");
}

#[tokio::test]
async fn an_invalid_resource_gets_a_condition_and_is_left_alone() {
    let mut world = World::running(3).await;
    let set = world.api.get(SET);
    world.set_spec(json!({"replicas": 5, "metrics": {"port": 9883}}));
    assert_eq!(world.reconcile().await, Action::await_change());
    assert_eq!(world.api.take_writes(), ["PATCH mqttclusters/demo/status", "EVENT Invalid"]);
    let (status, reason, message) = world.condition("Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Invalid"));
    assert!(message.contains("spec.metrics.port: 9883 is taken"), "{message}");
    assert_eq!(world.condition("Available").0, "True");
    assert_eq!(world.api.get(SET), set);
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    // The former spec heals it.
    world.set_spec(json!({"replicas": 3}));
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test]
async fn an_object_that_cannot_even_be_read_gets_a_condition_too() {
    let mut world = World::new(json!({"replicas": "many"}));
    assert_eq!(world.reconcile().await, Action::await_change());
    assert_eq!(world.api.take_writes(), ["PATCH mqttclusters/demo/status", "EVENT Invalid"]);
    let (_, _, message) = world.condition("Degraded");
    assert!(message.contains("cannot be read") && message.contains("many"), "{message}");
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn out_at_once_in_one_after_the_other_and_out_again() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 5}));
    world.reconcile().await;
    assert_eq!(world.replicas(), 5);
    world.start_pods();
    world.brokers.told().members = Some((0..5).collect());
    world.reconcile().await;
    assert_eq!(world.condition("Progressing").0, "False");

    world.set_spec(json!({"replicas": 3}));
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-4", "leave demo-4"]);
    assert_eq!(world.replicas(), 5, "its pod goes after it has left");
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-3", "leave demo-3"]);
    assert_eq!(world.replicas(), 4);
    world.start_pods();
    world.reconcile().await;
    assert_eq!((world.replicas(), world.brokers.take_calls().len()), (3, 0));
    world.start_pods();
    world.reconcile().await;
    assert_eq!(world.condition("Progressing").0, "False");
    let left = |ordinal| world.api.get(&claim(ordinal)).unwrap()["metadata"]["annotations"]["raftmq.io/left"] == "true";
    assert!(left(3) && left(4) && !left(2));

    // Their volumes are of no use to nodes of these names: new ones take their place before the pods come.
    world.api.take_writes();
    world.set_spec(json!({"replicas": 5}));
    world.reconcile().await;
    assert_eq!(world.replicas(), 3);
    let deleted = world.api.take_writes();
    for ordinal in [3, 4] {
        assert!(deleted.contains(&format!("DELETE persistentvolumeclaims/data-demo-{ordinal}")), "{deleted:?}");
    }
    world.reconcile().await;
    assert_eq!(world.replicas(), 5);
}

#[tokio::test]
async fn a_scale_in_that_is_taken_back_gives_the_node_that_left_a_new_volume() {
    let mut world = World::running(5).await;
    world.set_spec(json!({"replicas": 3}));
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-4", "leave demo-4"]);
    world.brokers.told().left = vec![4];
    world.set_spec(json!({"replicas": 5}));
    world.reconcile().await;
    assert_eq!(world.api.get(&claim(4)).unwrap()["metadata"]["annotations"]["raftmq.io/left"], "true");
    world.api.take_writes();
    world.reconcile().await;
    let writes = world.api.take_writes();
    let at = |write: &str| writes.iter().position(|w| w == write).unwrap_or_else(|| panic!("{write}: {writes:?}"));
    assert!(
        at("DELETE persistentvolumeclaims/data-demo-4") < at("DELETE pods/demo-4"),
        "with its old volume it would fail"
    );
    assert_eq!(writes.iter().filter(|w| w.starts_with("DELETE")).count(), 2, "{writes:?}");
    assert_eq!(world.replicas(), 5);
    *world.brokers.told() = Told { members: Some((0..5).collect()), ..Told::default() };
    world.start_pods();
    world.reconcile().await;
    assert_eq!(world.condition("Progressing").0, "False", "{:?}", world.condition("Progressing"));
    world.api.take_writes();
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    assert!(world.api.get(&claim(4)).unwrap()["metadata"]["annotations"].is_null());
}

#[tokio::test]
async fn a_cluster_made_again_keeps_the_places_of_its_members_until_they_have_left() {
    let mut world = World::running(5).await;
    // Deleted with all that it owned but its volumes, and made again smaller.
    let of_it = |path: &&String| !path.contains("/persistentvolumeclaims/") && path.as_str() != MQC;
    world.api.paths().iter().filter(of_it).for_each(|path| world.api.remove(path));
    let metadata =
        json!({"name": "demo", "namespace": "mq", "uid": "again", "creationTimestamp": "2026-01-02T00:00:00Z"});
    let spec = json!({"replicas": 2});
    world.api.put(
        MQC,
        json!({"apiVersion": "raftmq.io/v1alpha1", "kind": "MqttCluster", "metadata": metadata, "spec": spec}),
    );
    for ordinal in 0..5 {
        world
            .api
            .change(&claim(ordinal), |claim| claim["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z"));
    }
    world.context = context(&world.api, &world.brokers);
    for _ in 0..3 {
        world.reconcile().await;
        assert_eq!(world.replicas(), 5);
    }
    for _ in 0..5 {
        world.start_pods();
        world.reconcile().await;
    }
    let left = |ordinal| world.api.get(&claim(ordinal)).unwrap()["metadata"]["annotations"]["raftmq.io/left"] == "true";
    assert_eq!((world.replicas(), world.brokers.told().members.clone()), (2, Some(vec![0, 1])));
    assert!(left(2) && left(3) && left(4) && !left(1));
}

#[tokio::test]
async fn a_refused_leave_does_not_keep_the_pod_that_it_waits_for_from_being_healed() {
    let mut world = World::running(3).await;
    world.brokers.told().loss = Some("meta loses its quorum".into());
    world.brokers.told().down = vec!["demo-1".into()];
    // It cannot start with its image; the former one is applied again, with fewer replicas.
    world.api.change(&pod(1), |pod| {
        pod["metadata"]["labels"]["controller-revision-hash"] = json!("bad");
        pod["status"] = json!({"containerStatuses": [{"name": "broker", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}]});
    });
    world.set_spec(json!({"replicas": 2}));
    world.reconcile().await;
    assert!(world.api.take_writes().contains(&"DELETE pods/demo-1".to_owned()));
    // One that runs is replaced as well where the others allow that, although they refuse the leave.
    *world.brokers.told() = Told { members: Some(vec![0, 1, 2]), down: vec!["demo-1".into()], ..Told::default() };
    world.brokers.told().loss = Some("meta loses its quorum".into());
    world.start_pods();
    world.api.change(&pod(1), |pod| pod["metadata"]["labels"]["controller-revision-hash"] = json!("bad"));
    world.brokers.take_calls();
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-2", "loss demo-1"]);
    let message = world.condition("Degraded").2;
    assert!(message.contains("demo-2 cannot leave now") && message.contains("demo-1 is not replaced now"), "{message}");
}

#[tokio::test]
async fn an_old_list_of_members_stops_no_pod() {
    let mut world = World::running(3).await;
    // All have just started, and none knows the members yet.
    *world.brokers.told() = Told { members: Some(Vec::new()), uncertain: true, ..Told::default() };
    world.brokers.told().loss = Some("never allowed".into());
    world.set_spec(json!({"replicas": 1, "image": "image:2"}));
    for _ in 0..3 {
        world.reconcile().await;
        world.start_pods();
    }
    assert_eq!(world.replicas(), 3);
    let writes = world.api.take_writes();
    assert!(!writes.iter().any(|w| w.starts_with("DELETE pods") || w.contains("persistentvolumeclaims")), "{writes:?}");
    assert!(world.condition("Progressing").2.contains("no broker that serves"), "{:?}", world.condition("Progressing"));
}

#[tokio::test]
async fn a_leave_that_would_lose_the_quorum_is_refused_with_its_reason() {
    let mut world = World::running(3).await;
    world.brokers.told().loss = Some("meta loses its quorum".into());
    world.brokers.told().down = vec!["demo-0".into()];
    world.set_spec(json!({"replicas": 2}));
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-2"]);
    assert_eq!(world.replicas(), 3);
    let expected = "demo-2 cannot leave now: meta loses its quorum; demo-0 is down";
    let (status, reason, message) = world.condition("Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Refused"));
    assert!(message.starts_with(expected), "{message}");
    // Once said, it is not said again; once it may, it goes on.
    world.api.take_writes();
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
    *world.brokers.told() = Told { members: Some(vec![0, 1, 2]), ..Told::default() };
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), ["loss demo-2", "leave demo-2"]);
}

#[tokio::test]
async fn a_new_template_replaces_one_pod_after_the_other_and_asks_before_each() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.api.change(SET, |set| set["status"]["observedGeneration"] = json!(0));
    world.reconcile().await;
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new(), "its controller has not seen it");
    let mut order = Vec::new();
    world.api.take_notes();
    for _ in 0..3 {
        world.start_pods();
        world.api.take_writes();
        world.reconcile().await;
        order.extend(world.api.take_writes().into_iter().filter(|write| write.starts_with("DELETE")));
        world.reconcile().await;
        assert!(!world.api.take_writes().iter().any(|w| w.starts_with("DELETE pods")), "one at a time");
    }
    assert_eq!(order, ["DELETE pods/demo-2", "DELETE pods/demo-1", "DELETE pods/demo-0"]);
    assert_eq!(world.brokers.take_calls(), ["loss demo-2", "loss demo-1", "loss demo-0"]);
    let said = [2, 1, 0].map(|ordinal| format!("demo-{ordinal} is replaced: its template is a former one"));
    assert_eq!(world.api.take_notes(), said);
    world.start_pods();
    world.reconcile().await;
    assert_eq!(world.condition("Progressing").0, "False");
}

#[tokio::test]
async fn a_cluster_is_not_as_specified_before_its_pods_are_of_the_new_template() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    let mut rounds = 0;
    while world.condition("Progressing").0 == "True" || rounds == 0 {
        world.reconcile().await;
        let cluster = world.api.get(MQC).unwrap();
        assert_eq!(cluster["status"]["observedGeneration"], cluster["metadata"]["generation"]);
        if world.condition("Progressing").0 == "True" {
            world.start_pods();
        }
        rounds += 1;
        assert!(rounds < 20);
    }
    for ordinal in 0..3 {
        assert_eq!(world.api.get(&pod(ordinal)).unwrap()["spec"]["containers"][0]["image"], "image:2");
    }
}

#[tokio::test]
async fn a_template_that_is_taken_back_replaces_no_pod_that_has_it() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.start_pods();
    world.reconcile().await;
    world.start_pods();
    // demo-2 has the new one; the former one again.
    world.set_spec(json!({"replicas": 3}));
    let mut order = Vec::new();
    for _ in 0..6 {
        world.api.take_writes();
        world.reconcile().await;
        order.extend(world.api.take_writes().into_iter().filter(|write| write.starts_with("DELETE pods")));
        world.start_pods();
    }
    assert_eq!(order, ["DELETE pods/demo-2"]);
}

#[tokio::test]
async fn a_pod_is_kept_where_the_brokers_say_that_something_would_be_lost() {
    let mut world = World::running(3).await;
    world.brokers.told().loss = Some("routes loses its quorum".into());
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.start_pods();
    world.api.take_writes();
    world.reconcile().await;
    assert!(!world.api.take_writes().iter().any(|write| write.starts_with("DELETE")));
    let (_, reason, message) = world.condition("Degraded");
    assert_eq!((reason.as_str(), message.as_str()), ("Refused", "demo-2 is not replaced now: routes loses its quorum"));
}

#[tokio::test]
async fn a_pod_that_is_no_member_is_replaced_although_brokers_do_not_answer_for_it() {
    let mut world = World::running(3).await;
    world.brokers.told().loss = Some("never asked".into());
    world.brokers.told().members = Some(vec![0, 1]);
    world.set_spec(json!({"replicas": 3, "image": "image:2"}));
    world.reconcile().await;
    world.start_pods();
    world.api.take_writes();
    world.reconcile().await;
    assert!(world.api.take_writes().contains(&"DELETE pods/demo-2".to_owned()));
    assert_eq!(world.brokers.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn other_settings_are_a_new_config_map_and_the_old_one_goes_when_no_pod_needs_it() {
    let mut world = World::running(3).await;
    let config_maps = |world: &World| world.api.paths().iter().filter(|p| p.contains("/configmaps/")).count();
    world.set_spec(json!({"replicas": 3, "config": {"workers": 2}}));
    for _ in 0..4 {
        world.reconcile().await;
        assert_eq!(config_maps(&world), 2);
        world.start_pods();
    }
    world.reconcile().await;
    assert_eq!(config_maps(&world), 1);
    let set = world.api.get(SET).unwrap();
    let used = set["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].as_str().unwrap().to_owned();
    assert!(world.api.get(&format!("/api/v1/namespaces/mq/configmaps/{used}")).is_some());
}

#[tokio::test]
async fn discovery_by_dns_takes_the_role_away() {
    let mut world = World::running(3).await;
    let role = "/apis/rbac.authorization.k8s.io/v1/namespaces/mq/roles/demo-discovery";
    assert!(world.api.get(role).is_some());
    world.set_spec(json!({"replicas": 3, "discovery": {"strategy": "dns"}}));
    for _ in 0..4 {
        world.reconcile().await;
        assert!(world.api.get(role).is_some(), "pods of the former template use it");
        world.start_pods();
    }
    world.reconcile().await;
    assert!(world.api.get(role).is_none());
}

#[tokio::test]
async fn a_lost_certificate_is_issued_anew_and_a_lost_authority_is_not() {
    let mut world = World::running(3).await;
    let (nodes, ca) = ("/api/v1/namespaces/mq/secrets/demo-nodes", "/api/v1/namespaces/mq/secrets/demo-ca");
    let before = world.api.get(SET).unwrap();
    world.api.remove(nodes);
    world.reconcile().await;
    assert!(world.api.get(nodes).is_some());
    assert_ne!(world.api.get(SET).unwrap()["spec"]["template"], before["spec"]["template"], "pods are replaced");
    // The operator's own, which changes nothing else.
    let control = "/api/v1/namespaces/mq/secrets/demo-control";
    world.reconcile().await;
    world.api.remove(control);
    world.reconcile().await;
    assert!(world.api.get(control).is_some());
    world.api.remove(ca);
    // What it issued serves for months: all else goes on.
    world.set_spec(json!({"replicas": 5}));
    world.reconcile().await;
    assert_eq!(world.replicas(), 5);
    let (status, reason, message) = world.condition("Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "CertificatesUnusable"));
    assert!(message.contains("demo-ca is gone"), "{message}");
    world.api.remove(control);
    let error = world.try_reconcile().await.unwrap_err();
    assert!(error.contains("demo-ca is gone"), "{error}");
    assert!(world.api.get(ca).is_none());
}

#[tokio::test]
async fn names_that_are_taken_are_left_to_their_owners() {
    let service = "/api/v1/namespaces/mq/services/demo";
    let owner = json!([{"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "other", "controller": true}]);
    let foreign = [
        (json!({"metadata": {"name": "demo"}}), "was not made by the operator"),
        (json!({"metadata": {"name": "demo", "ownerReferences": owner}}), "belongs to the Other x (uid other)"),
    ];
    for (object, expected) in foreign {
        let mut world = World::new(json!({}));
        world.api.put(service, object);
        let before = world.api.get(service);
        let error = world.try_reconcile().await.unwrap_err();
        assert!(error.contains("Service demo is there") && error.contains(expected), "{error}");
        assert_eq!(world.condition("Degraded").1, "NameTaken");
        assert_eq!(world.api.get(service), before);
    }
}

#[tokio::test]
async fn nothing_is_done_to_volumes_while_a_name_is_taken() {
    let mut world = World::new(json!({}));
    world.api.put(SET, json!({"metadata": {"name": "demo"}}));
    let labels =
        json!({labels::NAME: labels::NAME_VALUE, labels::INSTANCE: "demo", labels::COMPONENT: labels::COMPONENT_VALUE});
    let annotations = json!({"raftmq.io/left": "true"});
    let metadata = json!({"name": "data-demo-1", "namespace": "mq", "labels": labels, "annotations": annotations});
    world.api.put(&claim(1), json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}));
    let error = world.try_reconcile().await.unwrap_err();
    assert!(error.contains("StatefulSet demo is there"), "{error}");
    assert_eq!(world.api.take_writes(), ["PATCH mqttclusters/demo/status", "EVENT NameTaken"]);
}

#[tokio::test]
async fn what_is_left_of_a_cluster_of_the_same_name_is_not_used() {
    let mut world = World::running(3).await;
    let set = "the former one";
    world.api.change(SET, |found| found["metadata"]["uid"] = json!(set));
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo", "uid": set, "controller": true}]);
    for ordinal in 0..3 {
        world.api.change(&pod(ordinal), |pod| pod["metadata"]["ownerReferences"] = owner.clone());
    }
    world.api.change(MQC, |cluster| {
        cluster["metadata"]["uid"] = json!("again");
        cluster.as_object_mut().unwrap().remove("status");
    });
    world.context = context(&world.api, &world.brokers);
    let secret = |suffix: &str| format!("/api/v1/namespaces/mq/secrets/demo-{suffix}");
    // Kubernetes takes away what the former one owned, in any order.
    let mut said = Vec::new();
    for path in [secret("nodes"), SET.to_owned(), secret("control"), secret("ca")] {
        let error = world.try_reconcile().await.unwrap_err();
        assert!(error.contains("belongs to the MqttCluster demo (uid u)"), "{error}");
        said.extend(world.api.take_writes().into_iter().filter(|write| !write.starts_with("EVENT")));
        world.api.remove(&path);
    }
    assert!(said.iter().all(|write| write == "PATCH mqttclusters/demo/status"), "{said:?}");
    let ours =
        |path: &&String| !["/persistentvolumeclaims/", "/pods/", "/mqttclusters/"].iter().any(|p| path.contains(p));
    world.api.paths().iter().filter(ours).for_each(|path| world.api.remove(path));
    // Its pods still run, and say that there is a cluster.
    world.reconcile().await;
    world.reconcile().await;
    assert_eq!(world.condition("Bootstrapped").0, "False");
    assert!(world.api.get(&secret("ca")).is_some());
}

#[tokio::test]
async fn a_birth_for_which_the_brokers_are_not_ready_yet_is_no_fault() {
    let mut world = World::new(json!({"replicas": 1}));
    world.brokers.told().busy = true;
    let started = |world: &World, ago: i64| {
        let then = k8s_openapi::jiff::Timestamp::now().as_second() - ago;
        let then = k8s_openapi::jiff::Timestamp::from_second(then).unwrap().to_string();
        world.api.change(&pod(0), |pod| {
            pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": then}});
            pod["status"]["conditions"][0]["status"] = json!("False");
        });
    };
    world.reconcile().await;
    world.start_pods();
    started(&world, 0);
    for _ in 0..3 {
        assert_eq!(world.reconcile().await, Action::requeue(std::time::Duration::from_secs(2)));
    }
    assert_eq!(world.condition("Degraded").0, "False");
    assert!(world.condition("Progressing").2.contains("503"), "{:?}", world.condition("Progressing"));
    let events = |world: &World| -> Vec<String> {
        world.api.take_writes().into_iter().filter(|write| write.starts_with("EVENT")).collect()
    };
    assert_eq!(events(&world), Vec::<String>::new());
    // For ever it is one.
    started(&world, 100);
    world.reconcile().await;
    assert_eq!(events(&world), ["EVENT Refused"]);
    world.brokers.told().busy = false;
    world.reconcile().await;
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test]
async fn a_node_whose_pod_is_gone_for_a_moment_is_no_fault_and_nothing_is_written_twice() {
    let mut world = World::running(3).await;
    world.api.remove(&pod(1));
    world.brokers.told().down = vec!["demo-1".into()];
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
    assert_eq!(world.condition("Progressing").2, "demo-1 is not there yet");
    assert_eq!(world.api.take_writes(), ["PATCH mqttclusters/demo/status"]);
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_error_shows_in_the_condition_and_passes() {
    let mut world = World::new(json!({}));
    world.api.refuse(SET, 403);
    assert_eq!(world.try_reconcile().await.unwrap_err(), "cannot apply StatefulSet demo: refused by the test");
    assert_eq!(world.condition("Degraded").1, "CannotApply");
    assert!(world.api.take_writes().contains(&"EVENT CannotApply".to_owned()));
    world.try_reconcile().await.unwrap_err();
    // Said once.
    assert_eq!(world.api.take_writes(), ["PATCH statefulsets/demo"]);
    world.api.allow();
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test]
async fn a_larger_volume_is_asked_for_and_the_template_is_left_as_it_was() {
    let mut world = World::running(3).await;
    world.set_spec(json!({"replicas": 3, "storage": {"size": "16Gi"}}));
    world.reconcile().await;
    for ordinal in 0..3 {
        assert_eq!(world.api.get(&claim(ordinal)).unwrap()["spec"]["resources"]["requests"]["storage"], "16Gi");
    }
    let template = world.api.get(SET).unwrap()["spec"]["volumeClaimTemplates"][0].clone();
    assert_eq!(template["spec"]["resources"]["requests"]["storage"], "8Gi");
    world.api.take_writes();
    world.reconcile().await;
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn volumes_that_cannot_grow_hold_nothing_else_up() {
    let mut world = World::running(3).await;
    for ordinal in 0..3 {
        world.api.refuse(&claim(ordinal), 403);
    }
    world.set_spec(json!({"replicas": 3, "image": "image:2", "storage": {"size": "16Gi"}}));
    world.reconcile().await;
    let (status, reason, message) = world.condition("Degraded");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VolumesNotGrown"));
    assert!(message.contains("data-demo-0") && message.contains("refused by the test"), "{message}");
    for _ in 0..4 {
        world.start_pods();
        world.reconcile().await;
    }
    assert_eq!(world.condition("Progressing").0, "False");
    for ordinal in 0..3 {
        assert_eq!(world.api.get(&pod(ordinal)).unwrap()["spec"]["containers"][0]["image"], "image:2");
    }
    // It is tried again, not at once, and said once.
    world.api.take_writes();
    assert_eq!(world.reconcile().await, Action::requeue(std::time::Duration::from_secs(30)));
    let tried = [0, 1, 2].map(|ordinal| format!("PATCH persistentvolumeclaims/data-demo-{ordinal}"));
    assert_eq!(world.api.take_writes(), tried);
    world.api.allow();
    world.reconcile().await;
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test]
async fn volumes_of_nodes_that_left_do_not_grow() {
    let mut world = World::running(3).await;
    let mut left = world.api.get(&claim(2)).unwrap();
    left["metadata"]["name"] = json!("data-demo-3");
    left["metadata"]["annotations"] = json!({"raftmq.io/left": "true"});
    world.api.put(&claim(3), left);
    world.set_spec(json!({"replicas": 3, "storage": {"size": "16Gi"}}));
    world.reconcile().await;
    assert_eq!(world.api.get(&claim(3)).unwrap()["spec"]["resources"]["requests"]["storage"], "8Gi");
}

#[tokio::test]
async fn a_cluster_that_is_being_deleted_is_left_to_kubernetes() {
    let mut world = World::running(3).await;
    world.api.change(MQC, |cluster| cluster["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(world.reconcile().await, Action::await_change());
    assert_eq!(world.api.take_writes(), Vec::<String>::new());
}
