//! `ctl bootstrap`: the call, and the time around it. Nodes that were just started have to find each other before it, and to agree and get
//! their leases after it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::endpoints::Endpoints;
use super::options::{Bootstrap, Output};
use super::{CtlError, print};
use crate::http::api::{BootstrapRequest, Bootstrapped, NodeStatus};
use crate::http::client::ClientError;
use crate::http::error::Reason;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(endpoints: &Endpoints, asked: &Bootstrap, output: Output) -> Result<(), CtlError> {
    let mut progress = Progress::new(asked);
    let answer = loop {
        match call(endpoints, asked).await {
            Ok(answer) => break answer,
            Err(error) if asked.no_wait || !passes(&error) => return Err(error),
            Err(error) => progress.wait(&error.to_string()).await?,
        }
    };
    print(output, &answer, || {
        let done = if answer.created { "is formed" } else { "exists already" };
        format!("cluster {} {done}, id {}\n", answer.cluster.name, answer.cluster.id)
    })?;
    if asked.no_wait {
        return Ok(());
    }
    loop {
        let looks = asked.nodes.iter().map(|node| async { (node.clone(), endpoints.status_of(node).await) });
        let missing = missing(join_all(looks).await);
        if missing.is_empty() {
            break;
        }
        progress.wait(&missing.join("; ")).await?;
    }
    match output {
        Output::Table => print(output, &(), || format!("{}: all serve\n", asked.nodes.join(", "))),
        // The answer is out, and whole.
        Output::Json => Ok(()),
    }
}

async fn call(endpoints: &Endpoints, asked: &Bootstrap) -> Result<Bootstrapped, CtlError> {
    let client = endpoints.first_that_answers().await?;
    let request = BootstrapRequest {
        cluster: asked.cluster.clone().or_else(|| client.target().cluster.clone()),
        members: asked.nodes.clone(),
    };
    Ok(client.bootstrap(&request).await?)
}

/// Whether the same call may succeed a moment later.
fn passes(error: &CtlError) -> bool {
    match error {
        CtlError::Unreachable(_) => true,
        CtlError::Client(ClientError::Api { error, .. }) => {
            matches!(error.reason, Reason::Unavailable | Reason::NoQuorum | Reason::NotLeader | Reason::Timeout)
        }
        CtlError::Client(error) => {
            matches!(error, ClientError::Connect { .. } | ClientError::Broken { .. } | ClientError::Timeout { .. })
        }
        _ => false,
    }
}

/// Who does not serve, and why.
fn missing(looks: Vec<(String, Result<NodeStatus, String>)>) -> Vec<String> {
    let by_name: BTreeMap<String, Result<NodeStatus, String>> = looks.into_iter().collect();
    let why = |(name, look): (String, Result<NodeStatus, String>)| match look {
        Ok(status) if status.ready => None,
        // The conditions come in the order in which they can be met: the others follow from the first.
        Ok(status) => {
            let reason = status.failing.first().map_or("it does not serve", |failing| failing.reason.as_str());
            Some(format!("{name}: {reason}"))
        }
        Err(error) => Some(format!("{name}: it cannot be asked: {error}")),
    };
    by_name.into_iter().filter_map(why).collect()
}

/// What is waited for, told on standard error when it changes.
struct Progress {
    begin: Instant,
    asked: Bootstrap,
    told: String,
}

impl Progress {
    fn new(asked: &Bootstrap) -> Self {
        Self { begin: Instant::now(), asked: asked.clone(), told: String::new() }
    }

    /// Tells and waits a moment.
    ///
    /// # Errors
    /// The time is over.
    async fn wait(&mut self, missing: &str) -> Result<(), CtlError> {
        let after = self.asked.timeout;
        let missing = &missing.replace('\n', " ");
        if self.begin.elapsed() + PAUSE >= after.get() {
            return Err(CtlError::NotYet { after, missing: missing.clone() });
        }
        if self.told != *missing {
            self.told.clone_from(missing);
            let _ = writeln!(std::io::stderr(), "waiting: {missing}");
        }
        sleep(PAUSE).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::http::error::ApiError;

    fn status(ready: bool, failing: serde_json::Value) -> NodeStatus {
        serde_json::from_value(serde_json::json!({
            "node": "a", "version": "1", "uptimeSeconds": 1, "clients": 0, "ready": ready, "failing": failing,
        }))
        .unwrap()
    }

    #[test]
    fn who_does_not_serve_is_named_with_the_reason() {
        let lease = serde_json::json!([{"condition": "lease", "reason": "it holds no serving lease"}]);
        let looks = vec![
            ("c".to_owned(), Err("no answer".to_owned())),
            ("b".to_owned(), Ok(status(false, lease))),
            ("a".to_owned(), Ok(status(true, serde_json::json!([])))),
        ];
        assert_eq!(missing(looks), ["b: it holds no serving lease", "c: it cannot be asked: no answer"]);
    }

    #[test]
    fn only_what_can_pass_is_waited_for() {
        let api = |reason| {
            let (address, status) = ("a:1".to_owned(), axum::http::StatusCode::CONFLICT);
            CtlError::Client(ClientError::Api { address, status, error: ApiError::new(reason, "x") })
        };
        assert!(passes(&CtlError::Unreachable("x".into())) && passes(&api(Reason::Unavailable)));
        assert!(!passes(&api(Reason::Conflict)) && !passes(&api(Reason::Invalid)) && !passes(&api(Reason::Forbidden)));
    }
}
