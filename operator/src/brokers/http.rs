//! The brokers over their control API.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use raftmq_control_api::api::{BootstrapRequest, LeaveRequest, Loss, Member, MemberState, Members, NodeStatus};
use raftmq_control_api::client::{ClientError, ControlClient, Target};
use tokio::time::{Instant, timeout, timeout_at};

use super::{Access, Broker, BrokerError, Brokers, ClusterView, NodeView};

/// For questions that a broker answers from what it knows.
const QUICK: Duration = Duration::from_secs(2);
/// For what other brokers have a part in, whoever of them does it.
const OPERATION: Duration = Duration::from_secs(12);
/// For one of them: another one may be able to.
const TRY: Duration = Duration::from_secs(6);
/// For what the leader says, whoever passes the question on.
const QUESTION: Duration = Duration::from_secs(5);
/// After which the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(500);

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

/// What a broker says of the others.
struct Told {
    by: String,
    members: Vec<Member>,
    leader: Option<String>,
}

impl Told {
    fn leads(&self) -> bool {
        self.leader.as_ref() == Some(&self.by)
    }
}

impl From<Told> for (Option<Vec<Member>>, Option<String>) {
    fn from(told: Told) -> Self {
        (Some(told.members), told.leader)
    }
}

/// What the first of those that are ready, or are not, says of the members.
async fn first_told(
    access: &Access,
    brokers: &[Broker],
    nodes: &BTreeMap<String, Result<NodeView, String>>,
    ready: bool,
) -> Option<Told> {
    for broker in brokers {
        let Some(Ok(NodeView { status, .. })) = nodes.get(&broker.name) else {
            continue;
        };
        if status.cluster.is_none() || status.ready != ready {
            continue;
        }
        let client = client(access, broker, QUICK);
        let Ok((members, leaders)) = futures::try_join!(client.members(), client.leaders()) else {
            continue;
        };
        if knows_itself(status, &members) {
            let meta = leaders.groups.into_iter().find(|group| group.group == "meta");
            let leader = meta.and_then(|group| group.name);
            return Some(Told { by: broker.name.clone(), members: members.members, leader });
        }
    }
    None
}

/// A member that has just started knows its cluster from its disk, and no member before the others have told it; one that
/// left knows an old list. Both lack itself.
fn knows_itself(status: &NodeStatus, members: &Members) -> bool {
    let own = |member: &Member| Some(member.id) == status.raft_id && member.state != MemberState::Replaced;
    members.cluster.is_some() && members.members.iter().any(own)
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
            if let Some(told) = first_told(access, brokers, &view.nodes, true).await {
                view.certain = true;
                let leader = told.leader.as_ref().filter(|leader| **leader != told.by);
                let leader = leader.and_then(|leader| brokers.iter().find(|broker| broker.name == *leader));
                let of_leader = match leader {
                    Some(leader) => first_told(access, std::slice::from_ref(leader), &view.nodes, true).await,
                    None => None,
                };
                // Others learn a little later what it has decided.
                (view.members, view.leader) = of_leader.filter(|of_leader| of_leader.leads()).unwrap_or(told).into();
            } else if let Some(told) = first_told(access, brokers, &view.nodes, false).await {
                (view.members, view.leader) = told.into();
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
        soonest(brokers, move |broker| async move { client(access, broker, QUESTION).loss(node).await }).boxed()
    }

    fn leave<'a>(
        &'a self,
        access: &'a Access,
        brokers: &'a [Broker],
        node: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        async move {
            let request = &LeaveRequest { node: node.to_owned() };
            first(brokers, |broker| async move { client(access, broker, TRY).leave(request).await.map(drop) }).await
        }
        .boxed()
    }
}

/// The first answer that is not an error, else the last error. One is asked after the other.
async fn first<'a, R, F: Future<Output = Result<R, ClientError>>>(
    brokers: &'a [Broker],
    call: impl Fn(&'a Broker) -> F,
) -> Result<R, BrokerError> {
    let deadline = Instant::now() + OPERATION;
    let mut last = BrokerError("no broker can be asked".to_owned());
    for broker in brokers {
        match timeout_at(deadline, call(broker)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => last = BrokerError(error.to_string()),
            Err(_) => return Err(late(OPERATION)),
        }
    }
    Err(last)
}

/// The same for a question, which may be put to several at once: the next one has its turn when the one before refuses, or takes its time.
async fn soonest<'a, R, F: Future<Output = Result<R, ClientError>>>(
    brokers: &'a [Broker],
    call: impl Fn(&'a Broker) -> F,
) -> Result<R, BrokerError> {
    let all = async {
        let mut last = BrokerError("no broker can be asked".to_owned());
        let mut rest = brokers.iter();
        let mut asked = FuturesUnordered::new();
        loop {
            asked.extend(rest.next().map(&call));
            let patience = if rest.len() > 0 { HEAD_START } else { QUESTION };
            match timeout(patience, asked.next()).await {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(error))) => last = BrokerError(error.to_string()),
                Ok(None) => return Err(last),
                Err(_) => {}
            }
        }
    };
    timeout(QUESTION, all).await.unwrap_or_else(|_| Err(late(QUESTION)))
}

fn late(after: Duration) -> BrokerError {
    BrokerError(format!("no broker gave an answer within {} s", after.as_secs()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::controller::plan::tests::{member, node};
    use raftmq_control_api::api::JoinPhase;

    fn called(names: &[&str]) -> Vec<Broker> {
        names.iter().map(|name| Broker { name: (*name).into(), address: String::new() }).collect()
    }

    /// One that refuses, one that never answers, one that answers after a second.
    async fn answer(broker: &Broker) -> Result<&str, ClientError> {
        match broker.name.as_str() {
            "refuses" => Err(ClientError::Broken { address: "x".into(), reason: "refused".into() }),
            "hangs" => std::future::pending().await,
            name => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(name)
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_answered_while_one_of_many_can() {
        let cases: [(&[&str], Result<&str, &str>, u64); 7] = [
            (&["good"], Ok("good"), 1000),
            (&["good", "other"], Ok("good"), 1000),
            (&["refuses", "good"], Ok("good"), 1000),
            (&["hangs", "refuses", "hangs", "good"], Ok("good"), 2000),
            (&["refuses", "refuses"], Err("refused"), 0),
            (&["hangs", "hangs", "hangs"], Err("no broker gave an answer within 5 s"), 5000),
            (&[], Err("no broker can be asked"), 0),
        ];
        for (names, expected, millis) in cases {
            let (brokers, begun) = (called(names), Instant::now());
            match (soonest(&brokers, answer).await, expected) {
                (Ok(answer), Ok(expected)) => assert_eq!(answer, expected),
                (Err(BrokerError(error)), Err(expected)) => assert!(error.contains(expected), "{names:?}: {error}"),
                (other, _) => panic!("{names:?}: {other:?}"),
            }
            assert_eq!(begun.elapsed().as_millis() as u64 / 10, millis / 10, "{names:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_ends_in_time_whoever_hangs() {
        let (brokers, begun) = (called(&["refuses", "hangs", "good"]), Instant::now());
        let BrokerError(error) = first(&brokers, answer).await.unwrap_err();
        assert!(error.contains("within 12 s"), "{error}");
        assert_eq!(begun.elapsed().as_secs(), OPERATION.as_secs());
        let brokers = called(&["refuses", "good"]);
        assert_eq!(first(&brokers, answer).await.unwrap(), "good");
    }

    #[test]
    fn a_list_without_the_one_that_tells_it_is_none() {
        let mut status = node(JoinPhase::Member).status;
        status.raft_id = Some(2);
        let mut told = Members { cluster: status.cluster.clone(), members: Vec::new() };
        assert!(!knows_itself(&status, &told), "it has just started");
        told.members = vec![member(0), member(2)];
        assert!(!knows_itself(&status, &told), "it has left");
        told.members.push(member(1));
        assert!(knows_itself(&status, &told));
        told.members[2].state = MemberState::Replaced;
        assert!(!knows_itself(&status, &told), "its name is another one's");
        told.members[2].state = MemberState::Leaving;
        assert!(knows_itself(&status, &told));
        told.cluster = None;
        assert!(!knows_itself(&status, &told));
    }
}
