"""A cluster that is as it should be costs the API server no write."""

import collections
import json
import os
import pathlib
import time

from kube import OPERATOR_NAMESPACE, RELEASE, MqttCluster, needs_lab

QUIET = 300
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def writes(since, until):
    """The writes that the API server took between two times of the clock."""
    log = pathlib.Path(os.environ["RAFTMQ_LAB_AUDIT_LOG"])
    for file in sorted(log.parent.glob("audit*.log")):
        with file.open() as lines:
            for line in lines:
                event = json.loads(line)
                if event["verb"] in WRITES and since <= event["stageTimestamp"][:19] <= until:
                    yield event


@needs_lab("reads the audit log of the API server")
def test_zero_writes_in_five_quiet_minutes(quiet_cluster):
    """By whoever, to anything of the cluster; and by the operator to nothing outside the namespaces of clusters but the Lease
    that says which one acts.

    The cluster was made when the tests began. What they do to other clusters meanwhile is none of its business, so that the
    minutes need not be waited for where they have passed by now.
    """
    cluster, since = quiet_cluster
    assert isinstance(cluster, MqttCluster)
    time.sleep(max(0, QUIET - (time.time() - since)))
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(t)) for t in (since, time.time()))
    found = collections.Counter()
    seen = leases = 0
    for event in writes(start, end):
        seen += 1
        object_ref = event.get("objectRef", {})
        own = event["user"]["username"] == f"system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"
        leases += own and object_ref.get("resource") == "leases"
        elsewhere = own and object_ref.get("resource") != "leases" and object_ref.get("namespace") in (None, OPERATOR_NAMESPACE)
        if object_ref.get("namespace") == cluster.namespace or elsewhere:
            found[event["user"]["username"], event["verb"], object_ref.get("resource"), object_ref.get("name")] += 1
    assert seen, "the audit log shows no write at all, not even the Leases of Kubernetes: it proves nothing"
    assert leases, "the operator's renewals of its Lease are not seen: what it writes would not be either"
    print(f"{seen} writes to other things in {time.time() - since:.0f} s")
    assert not found, found
    assert cluster.settled(3)
