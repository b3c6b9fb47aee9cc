//! The Lease against an API server in memory: who acts, and when he must not any more.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod fake_api;

use std::sync::Arc;
use std::time::Duration;

use fake_api::FakeApi;
use k8s_openapi::jiff::Timestamp;
use raftmq_operator::leader::{Claim, Leadership};
use raftmq_operator::progress::Progress;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/operator";
const DEADLINE: Duration = Duration::from_secs(20);

fn lease(holder: &str) -> Value {
    let spec = json!({"holderIdentity": holder, "renewTime": Timestamp::now().to_string(), "leaseDurationSeconds": 15});
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "operator"}, "spec": spec})
}

fn claim(api: &FakeApi, identity: &str) -> Claim {
    Claim::new(api.client(), "system", "operator", identity)
}

/// How long this process may act, in seconds, when meanwhile this happens.
async fn ends_after(api: &FakeApi, meanwhile: impl Future<Output = ()>) -> u64 {
    let (claim, progress) = (claim(api, "first"), Arc::<Progress>::default());
    let begun = Instant::now();
    tokio::select! {
        () = claim.ends(&progress) => {}
        () = async { meanwhile.await; sleep(DEADLINE * 10).await } => {}
    }
    begun.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn who_does_not_renew_ends_within_the_duration() {
    let api = FakeApi::default();
    api.put(LEASE, lease("first"));
    // Nobody renews it, and nothing fails.
    let seconds = ends_after(&api, async {}).await;
    assert!((10..=15).contains(&seconds), "{seconds}");
    // It is renewed for a minute; then the API server does not let it be read.
    api.put(LEASE, lease("first"));
    let renewing = async {
        for _ in 0..12 {
            sleep(Duration::from_secs(5)).await;
            api.put(LEASE, lease("first"));
        }
        api.hide(LEASE, true);
    };
    let seconds = ends_after(&api, renewing).await;
    assert!((65..75).contains(&seconds), "{seconds}");
    // It was never heard of.
    assert_eq!(ends_after(&api, async {}).await, 5);
}

#[tokio::test(start_paused = true)]
async fn who_is_deposed_ends_at_once() {
    let api = FakeApi::default();
    api.put(LEASE, lease("first"));
    let deposing = async {
        sleep(Duration::from_secs(4)).await;
        api.put(LEASE, lease("second"));
    };
    assert_eq!(ends_after(&api, deposing).await, 6);
    api.remove(LEASE);
    assert_eq!(ends_after(&api, async {}).await, 5);
}

#[tokio::test]
async fn one_acts_and_the_next_when_it_is_given_back() {
    let api = FakeApi::default();
    let progress: Arc<Progress> = Arc::default();
    let mut first = Leadership::join(api.client(), claim(&api, "first")).await.unwrap();
    assert!(timeout(DEADLINE, first.gained()).await.unwrap());
    assert!(claim(&api, "first").is_held().await.unwrap());
    assert!(!claim(&api, "second").is_held().await.unwrap());
    first.release().await;
    assert!(!claim(&api, "first").is_held().await.unwrap());

    let mut second = Leadership::join(api.client(), claim(&api, "second")).await.unwrap();
    assert!(timeout(DEADLINE, second.gained()).await.unwrap());
    assert!(claim(&api, "second").is_held().await.unwrap());
    api.put(LEASE, lease("third"));
    timeout(DEADLINE, second.lost(&progress)).await.unwrap();
}
