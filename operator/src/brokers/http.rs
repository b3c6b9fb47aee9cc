//! The brokers over their control API.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use raftmq_control_api::api::{BootstrapRequest, LeaveRequest, Loss};
use raftmq_control_api::client::{ClientError, ControlClient, Target};

use super::{Access, Broker, BrokerError, Brokers, ClusterView, NodeView};

/// For questions that a broker answers from what it knows.
const QUICK: Duration = Duration::from_secs(2);
/// For what other brokers have a part in.
const OPERATION: Duration = Duration::from_secs(15);

/// Asks real brokers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpBrokers;

fn client(access: &Access, broker: &Broker, deadline: Duration) -> ControlClient {
    let target = Target {
        address: broker.address.clone(),
        cluster: Some(access.cluster.clone()),
        node: Some(broker.name.clone()),
    };
    ControlClient::new(target, access.tls.clone(), deadline)
}

async fn node(access: &Access, broker: &Broker) -> Result<NodeView, ClientError> {
    let client = client(access, broker, QUICK);
    let (status, join) = futures::try_join!(client.status(), client.join_info())?;
    Ok(NodeView { status, phase: join.phase })
}

impl Brokers for HttpBrokers {
    fn observe<'a>(&'a self, access: &'a Access, brokers: &'a [Broker]) -> BoxFuture<'a, ClusterView> {
        async move {
            let asked = brokers.iter().map(|broker| async move {
                let answer = node(access, broker).await.map_err(|error| error.to_string());
                (broker.name.clone(), answer)
            });
            let mut view = ClusterView { nodes: join_all(asked).await.into_iter().collect(), ..ClusterView::default() };
            // A node that serves holds a lease: what it knows of the members is of now.
            let mut knowing: Vec<&Broker> = Vec::new();
            for ready in [true, false] {
                knowing.extend(brokers.iter().filter(|broker| {
                    matches!(&view.nodes[&broker.name], Ok(n) if n.status.cluster.is_some() && n.status.ready == ready)
                }));
            }
            for broker in knowing {
                let client = client(access, broker, QUICK);
                let Ok((members, leaders)) = futures::try_join!(client.members(), client.leaders()) else {
                    continue;
                };
                if members.cluster.is_none() {
                    continue;
                }
                view.members = Some(members.members);
                let meta = leaders.groups.into_iter().find(|group| group.group == "meta");
                view.leader = meta.and_then(|group| group.name);
                break;
            }
            view
        }
        .boxed()
    }

    fn bootstrap<'a>(
        &'a self,
        access: &'a Access,
        broker: &'a Broker,
        members: &'a [String],
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let request = BootstrapRequest { cluster: Some(access.cluster.clone()), members: members.to_vec() };
            let answer = client(access, broker, OPERATION).bootstrap(&request).await;
            answer.map(drop).map_err(|error| BrokerError(error.to_string()))
        }
        .boxed()
    }

    fn loss<'a>(
        &'a self,
        access: &'a Access,
        brokers: &'a [Broker],
        node: &'a str,
    ) -> BoxFuture<'a, Result<Loss, BrokerError>> {
        async move { first(brokers, |broker| async move { client(access, broker, OPERATION).loss(node).await }).await }
            .boxed()
    }

    fn leave<'a>(
        &'a self,
        access: &'a Access,
        brokers: &'a [Broker],
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let request = &LeaveRequest { node: node.to_owned() };
            first(brokers, |broker| async move { client(access, broker, OPERATION).leave(request).await.map(drop) })
                .await
        }
        .boxed()
    }
}

/// The first answer that is not an error, else the last error.
async fn first<'a, R, F: Future<Output = Result<R, ClientError>>>(
    brokers: &'a [Broker],
    call: impl Fn(&'a Broker) -> F,
) -> Result<R, BrokerError> {
    let mut last = BrokerError("no broker can be asked".to_owned());
    for broker in brokers {
        match call(broker).await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = BrokerError(error.to_string()),
        }
    }
    Err(last)
}
