"""The official Python client: typed and dynamic, watches, patches, apply, leases."""

import threading
import datetime

import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
api = client.ApiClient()
core = client.CoreV1Api(api)
apps = client.AppsV1Api(api)
NS = "default"


def refused(code, call, *args, **kwargs):
    """The call has to fail with this code; the status."""
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        return yaml.safe_load(error.body) if isinstance(error.body, str) else error.body
    raise AssertionError(f"{call} should have been refused")


def versions_and_discovery():
    assert client.VersionApi(api).get_code().major == "1"
    assert "apps" in [group.name for group in client.ApisApi(api).get_api_versions().groups]
    names = [resource.name for resource in core.get_api_resources().resources]
    assert "pods" in names and "pods/log" in names


def config_maps():
    made = core.create_namespaced_config_map(NS, {"metadata": {"name": "py"}, "data": {"a": "1"}})
    assert made.metadata.managed_fields[0].manager == "OpenAPI-Generator", made.metadata.managed_fields
    status = refused(409, core.create_namespaced_config_map, NS, {"metadata": {"name": "py"}})
    assert status["reason"] == "AlreadyExists"
    made.data["b"] = "2"
    new = core.replace_namespaced_config_map("py", NS, made)
    assert new.data == {"a": "1", "b": "2"}
    assert refused(409, core.replace_namespaced_config_map, "py", NS, made)["reason"] == "Conflict"
    patched = core.patch_namespaced_config_map("py", NS, {"data": {"a": None, "c": "3"}})
    assert patched.data == {"b": "2", "c": "3"}
    patch = [{"op": "replace", "path": "/data/b", "value": "4"}]
    assert core.patch_namespaced_config_map("py", NS, patch).data["b"] == "4"
    dry = core.patch_namespaced_config_map("py", NS, {"data": {"d": "1"}}, dry_run="All")
    assert dry.data["d"] == "1" and "d" not in core.read_namespaced_config_map("py", NS).data
    binary = {"metadata": {"name": "binary"}, "binaryData": {"x": "AAEC"}}
    assert core.create_namespaced_config_map(NS, binary).binary_data == {"x": "AAEC"}
    status = refused(422, core.create_namespaced_config_map, NS, {"metadata": {"name": "No_Name"}})
    assert status["details"]["causes"][0]["field"] == "metadata.name"
    for name in ("py", "binary"):
        core.delete_namespaced_config_map(name, NS)
    assert refused(404, core.read_namespaced_config_map, "py", NS)["reason"] == "NotFound"


def pages():
    for number in range(7):
        core.create_namespaced_secret(
            NS, client.V1Secret(metadata={"name": f"s{number}", "labels": {"set": "pages"}}, string_data={"k": "v"})
        )
    seen, token = [], None
    while True:
        page = core.list_namespaced_secret(NS, label_selector="set=pages", limit=3, _continue=token)
        seen += [secret.metadata.name for secret in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count is None  # upstream counts only without selectors
    assert seen == [f"s{number}" for number in range(7)]
    core.delete_collection_namespaced_secret(NS, label_selector="set=pages")
    assert core.list_namespaced_secret(NS, label_selector="set=pages").items == []


def deployments():
    body = client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=2,
            selector=client.V1LabelSelector(match_labels={"app": "web"}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": "web"}),
                spec=client.V1PodSpec(containers=[client.V1Container(name="c", image="nginx")]),
            ),
        ),
    )
    made = apps.create_namespaced_deployment(NS, body)
    assert made.spec.strategy.rolling_update.max_surge == "25%"
    assert isinstance(made.metadata.creation_timestamp, datetime.datetime)
    scale = apps.read_namespaced_deployment_scale("web", NS)
    scale.spec.replicas = 3
    # Controllers write to the deployment, too.
    scale.metadata.resource_version = None
    assert apps.replace_namespaced_deployment_scale("web", NS, scale).spec.replicas == 3
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "x"}]}}}}
    names = {c.name for c in apps.patch_namespaced_deployment("web", NS, patch).spec.template.spec.containers}
    assert names == {"c", "side"}, names
    for event in watch.Watch().stream(core.list_namespaced_pod, NS, label_selector="app=web", timeout_seconds=30):
        assert event["object"].metadata.owner_references[0].kind == "ReplicaSet"
        break
    apps.delete_namespaced_deployment("web", NS, propagation_policy="Foreground")
    for event in watch.Watch().stream(apps.list_namespaced_deployment, NS, timeout_seconds=30):
        if event["type"] == "DELETED":
            break
    else:
        raise AssertionError("the deployment was not deleted")


def watches():
    start = core.list_namespaced_config_map(NS).metadata.resource_version
    seen = []

    def follow():
        stream = watch.Watch().stream(core.list_namespaced_config_map, NS, resource_version=start, timeout_seconds=30)
        for event in stream:
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                return

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(NS, {"metadata": {"name": "w"}})
    core.patch_namespaced_config_map("w", NS, {"data": {"a": "1"}})
    core.delete_namespaced_config_map("w", NS)
    thread.join(30)
    assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen


def dynamic_client():
    dyn = dynamic.DynamicClient(api)
    maps = dyn.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "1"}}
    applied = maps.server_side_apply(body=body, namespace=NS, field_manager="one")
    assert applied.metadata.managedFields[0].operation == "Apply"
    body["data"]["a"] = "2"
    try:
        maps.server_side_apply(body=body, namespace=NS, field_manager="two")
        raise AssertionError("no conflict")
    except dynamic.exceptions.ConflictError as error:
        assert "conflict with" in str(error.body) and ".data.a" in str(error.body), error.body
    applied = maps.server_side_apply(body=body, namespace=NS, field_manager="two", force_conflicts=True)
    assert applied.data.a == "2"
    maps.delete(name="dyn", namespace=NS)
    dyn.resources.get(api_version="apps/v1", kind="Deployment")


def leases():
    coordination = client.CoordinationV1Api(api)
    now = datetime.datetime.now(datetime.timezone.utc)
    spec = client.V1LeaseSpec(holder_identity="me", lease_duration_seconds=15, renew_time=now)
    lease = client.V1Lease(metadata=client.V1ObjectMeta(name="l"), spec=spec)
    made = coordination.create_namespaced_lease(NS, lease)
    assert made.spec.renew_time == now, (made.spec.renew_time, now)
    made.spec.holder_identity = "you"
    assert coordination.replace_namespaced_lease("l", NS, made).spec.holder_identity == "you"


def reviews():
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(
            resource_attributes=client.V1ResourceAttributes(verb="list", resource="pods", namespace=NS)
        )
    )
    assert client.AuthorizationV1Api(api).create_self_subject_access_review(review).status.allowed
    token = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    made = core.create_namespaced_service_account_token("default", NS, token)
    assert made.status.token.count(".") == 2
    mine = client.Configuration.get_default_copy()
    mine.api_key = {"authorization": "Bearer " + made.status.token}
    mine.cert_file = mine.key_file = None
    as_account = client.CoreV1Api(client.ApiClient(mine))
    assert refused(403, as_account.list_namespaced_pod, NS)["message"].startswith(
        'pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods"'
    )


for case in (
    versions_and_discovery, config_maps, pages, deployments, watches, dynamic_client, leases, reviews,
):
    print("case", case.__name__, flush=True)
    case()
print("ok")
