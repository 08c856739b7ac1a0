"""An operator by kopf: it answers each ConfigMap with a Secret, with finalizers, status by annotations, and events."""

import asyncio
import threading
import time

import kopf
from kubernetes import client, config

config.load_kube_config()
core = client.CoreV1Api()
NS = "default"
stop, ready = threading.Event(), threading.Event()
problems = []


@kopf.on.login()
def login(**kwargs):
    return kopf.login_via_client(**kwargs)


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_):
    settings.posting.level = 20
    settings.watching.server_timeout = 30


@kopf.on.create("v1", "configmaps", labels={"kopf": "yes"})
def create(name, namespace, body, **_):
    secret = {"metadata": {"name": name}, "stringData": dict(body["data"])}
    kopf.adopt(secret, owner=body)
    core.create_namespaced_secret(namespace, secret)
    kopf.info(body, reason="Made", message="a secret was made")
    return {"made": True}


@kopf.on.update("v1", "configmaps", labels={"kopf": "yes"})
def update(name, namespace, body, diff, **_):
    core.patch_namespaced_secret(name, namespace, {"stringData": dict(body["data"])})


@kopf.on.delete("v1", "configmaps", labels={"kopf": "yes"})
def delete(name, namespace, **_):
    core.patch_namespaced_secret(name, namespace, {"metadata": {"labels": {"orphan": "yes"}}})


def operate():
    try:
        asyncio.run(kopf.operator(standalone=True, namespaces=[NS], ready_flag=ready, stop_flag=stop))
    except BaseException as problem:  # the main thread tells
        problems.append(problem)


def wait(what, condition):
    for _ in range(600):
        assert not problems, problems
        try:
            found = condition()
        except client.ApiException as error:
            found = None
            assert error.status == 404, error
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not in time: {what}")


thread = threading.Thread(target=operate)
thread.start()
try:
    assert ready.wait(60), "the operator does not start"
    core.create_namespaced_config_map(NS, {"metadata": {"name": "k", "labels": {"kopf": "yes"}}, "data": {"a": "b"}})
    secret = wait("the secret", lambda: core.read_namespaced_secret("k", NS))
    assert secret.metadata.owner_references[0].name == "k"
    finalizers = wait("the finalizer", lambda: core.read_namespaced_config_map("k", NS).metadata.finalizers)
    assert finalizers == ["kopf.zalando.org/KopfFinalizerMarker"], finalizers
    wait("the event", lambda: [e for e in core.list_namespaced_event(NS).items if e.reason == "Made"])
    wait(
        "what was handled last",
        lambda: "kopf.zalando.org/last-handled-configuration"
        in (core.read_namespaced_config_map("k", NS).metadata.annotations or {}),
    )
    core.patch_namespaced_config_map("k", NS, {"data": {"a": "c"}})
    wait("the update", lambda: core.read_namespaced_secret("k", NS).data["a"] == "Yw==")
    core.delete_namespaced_config_map("k", NS)

    def gone():
        try:
            core.read_namespaced_config_map("k", NS)
        except client.ApiException as error:
            assert error.status == 404
            return True

    wait("the deletion", gone)
finally:
    stop.set()
    thread.join(60)
assert not problems, problems
print("ok")
