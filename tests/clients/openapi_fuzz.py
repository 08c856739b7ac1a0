"""Schemathesis: requests made up from what the server's own OpenAPI v3 documents say, right ones and wrong ones.

Whatever is sent: the server answers soon, never breaks (no 5xx), what it says of success is of the documented schema,
and what it says of failure is a Status that agrees with the code. The same seed sends the same requests.

Environment: KUBECONFIG; FUZZ_EXAMPLES (a mode and operation), FUZZ_SECONDS (in all), FUZZ_SEED, FUZZ_ONLY (a part of an operation's label).
"""

import base64
import collections
import http.client
import json
import os
import random
import re
import sys
import tempfile
import time
import warnings

import hypothesis
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, settings
from schemathesis import GenerationMode

warnings.filterwarnings("ignore")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))
SECONDS = float(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ONLY = os.environ.get("FUZZ_ONLY", "")
PATIENCE = 20
# Connections that last, and what has to reach a node.
STREAMS = ("proxy", "exec", "attach", "portforward", "log")
# Objects to aim at, one of a kind.
SEEDS = """
{apiVersion: v1, kind: ConfigMap, metadata: {name: fuzz}, data: {a: b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: fuzz}, stringData: {a: b}}
---
{apiVersion: v1, kind: Service, metadata: {name: fuzz}, spec: {selector: {a: b}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: fuzz}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: fuzz},
 spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: v1, kind: ResourceQuota, metadata: {name: fuzz}, spec: {hard: {configmaps: 50}}}
---
{apiVersion: v1, kind: LimitRange, metadata: {name: fuzz}, spec: {limits: [{type: Container, default: {cpu: 1}}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: fuzz}, spec: {selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: fuzz}, spec: {serviceName: fuzz, selector: {matchLabels: {a: b}},
 template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: fuzz},
 spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: fuzz}, spec: {schedule: "@daily",
 jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: b}]}}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: fuzz},
 spec: {defaultBackend: {service: {name: fuzz, port: {number: 80}}}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: fuzz}, spec: {podSelector: {}}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: fuzz}, spec: {selector: {}, minAvailable: 1}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: fuzz},
 spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: fuzz}, maxReplicas: 3}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: fuzz}, rules: []}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: fuzz}, spec: {}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fuzz}, provisioner: example.com/x}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: fuzzes.example.com},
 spec: {group: example.com, scope: Namespaced, names: {plural: fuzzes, kind: Fuzz}, versions: [{name: v1, served: true,
 storage: true, subresources: {status: {}, scale: {specReplicasPath: .spec.n, statusReplicasPath: .status.n}},
 schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {n: {type: integer},
 s: {type: string, maxLength: 9}, l: {type: array, items: {type: string}}},
 x-kubernetes-validations: [{rule: "!has(self.n) || self.n < 9"}]},
 status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}}]}}
---
{apiVersion: example.com/v1, kind: Fuzz, metadata: {name: fuzz}, spec: {n: 1}}
"""
SUCCESS = {"get": {200}, "put": {200, 201}, "post": {200, 201, 202}, "patch": {200, 201}, "delete": {200, 202}}
# Where upstream contradicts its own documents, and this server does as upstream. Server-side apply of a field that is not
# in the schema is a 500 (kubernetes/kubernetes#139253; `what_is_applied_is_of_the_kind_and_of_the_path` has its words).
UNDECLARED = re.compile(r"failed to create typed patch object \([^)]*\): .*: field not declared in schema", re.DOTALL)
UNDONE = "the server rejected our request due to an error in our request"
# An event of the core group need not have the time that events.k8s.io, which shows the same object, calls required.
EVENTS = "/apis/events.k8s.io/v1/"
REFUSED = {400, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429}


def connect():
    """A session as the administrator, and where the server is."""
    with open(os.environ["KUBECONFIG"]) as file:
        config = yaml.safe_load(file)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    session = requests.Session()
    # The certificates and proxies of the surroundings are not this server's.
    session.trust_env = False

    def kept(text):
        file = tempfile.NamedTemporaryFile(delete=False)
        file.write(base64.b64decode(text))
        file.close()
        return file.name

    session.verify = kept(cluster["certificate-authority-data"])
    session.cert = (kept(user["client-certificate-data"]), kept(user["client-key-data"]))
    return session, cluster["server"]


session, server = connect()
# Upstream sends as many warnings as there are unknown fields; the library's limit is 100 headers.
http.client._MAXHEADERS = 5000
# Objects as they were, by path; and bodies that were made up, by kind.
live, made = {}, {}
problems = collections.OrderedDict()
codes = collections.Counter()


def problem(label, what, case):
    entry = problems.setdefault((label, what[:60]), [what, 0, describe(case)])
    entry[1] += 1


def describe(case):
    return f"{case.method} {case.formatted_path} {case.query} {case.media_type} {str(case.body)[:1500]!r}"


def aimed(case, kind, rng):
    """Makes of any request one that gets past the door more often than not: a wrong address teaches nothing."""
    parameters = case.path_parameters or {}
    for name in parameters:
        if rng.random() < 0.9:
            parameters[name] = {"namespace": "default", "name": "fuzz"}.get(name, parameters[name])
    query = case.query or {}
    # A watch has no end.
    for name in ("watch", "follow", "timeoutSeconds"):
        query.pop(name, None)
    if case.method != "GET" and case.method != "DELETE" and rng.random() < 0.7:
        query.pop("dryRun", None)
        query.pop("fieldValidation", None)
    if case.method == "DELETE" and rng.random() < 0.7:
        query.clear()
    body = case.body
    known = live.get(case.formatted_path)
    key = json.dumps(kind, sort_keys=True)
    if isinstance(body, dict) and case.method in ("POST", "PUT"):
        made[key] = body
    if known and rng.random() < 0.8:
        if case.method == "PUT" and isinstance(body, dict):
            case.body = changed(known, body, rng)
            return
        if case.method == "PATCH" and rng.random() < 0.8:
            case.body, case.media_type = patch(known, made.get(key, {}), rng)
            query["fieldManager"] = "fuzz"
            return
    if not isinstance(body, dict) or kind is None or case.method not in ("POST", "PUT") or rng.random() < 0.1:
        return
    group = kind["group"]
    body["apiVersion"] = f"{group}/{kind['version']}" if group else kind["version"]
    body["kind"] = kind["kind"]
    metadata = body.setdefault("metadata", {})
    if isinstance(metadata, dict) and rng.random() < 0.9:
        metadata["name"] = "fuzz"
        metadata.pop("namespace", None)
        for field in ("resourceVersion", "uid", "deletionTimestamp", "finalizers", "ownerReferences"):
            metadata.pop(field, None)
        for field in ("labels", "annotations"):
            if rng.random() < 0.8:
                metadata.pop(field, None)


def changed(known, other, rng):
    """The object, with a part of another one: as one who writes by hand gets it wrong."""
    out = json.loads(json.dumps(known))
    for part in ("spec", "status", "metadata", "data"):
        theirs, ours = other.get(part), out.get(part)
        if isinstance(theirs, dict) and isinstance(ours, dict) and theirs and rng.random() < 0.6:
            name = rng.choice(sorted(theirs))
            if name not in ("name", "namespace", "uid", "deletionTimestamp", "resourceVersion"):
                ours[name] = theirs[name]
    out.get("metadata", {}).pop("resourceVersion", None)
    return out


def patch(known, other, rng):
    """A patch of any sort, towards another object."""
    part = {name: other[name] for name in ("spec", "status", "data") if name in other and rng.random() < 0.7}
    sort = rng.choice(["json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"])
    if sort == "json-patch+json":
        op = rng.choice(["add", "replace", "remove", "test"])
        return [{"op": op, "path": f"/{name}", "value": value} for name, value in part.items()], f"application/{sort}"
    if sort == "apply-patch+yaml":
        part.update(apiVersion=known["apiVersion"], kind=known["kind"], metadata={"name": known["metadata"]["name"]})
    return part, f"application/{sort}"


def plant():
    """Makes the seeds."""
    for seed in yaml.safe_load_all(SEEDS):
        group = f"/apis/{seed['apiVersion']}" if "/" in seed["apiVersion"] else "/api/v1"
        until = time.monotonic() + PATIENCE
        while True:
            kinds = session.get(server + group, timeout=PATIENCE).json().get("resources", [])
            rows = [row for row in kinds if row["kind"] == seed["kind"] and "/" not in row["name"]]
            if rows or time.monotonic() > until:
                break
            time.sleep(0.1)
        scope = "/namespaces/default" if rows[0]["namespaced"] else ""
        path = f"{group}{scope}/{rows[0]['name']}"
        answer = session.post(server + path, json=seed, timeout=PATIENCE)
        assert answer.status_code in (201, 409), answer.text
        answer = session.get(f"{server}{path}/{seed['metadata']['name']}", timeout=PATIENCE)
        for sub in ("", "/status"):
            live[f"{path}/{seed['metadata']['name']}{sub}"] = answer.json()


def message_of(response):
    try:
        return response.json().get("message", "")
    except (ValueError, AttributeError):
        return ""


def judge(operation, case, response):
    label = operation.label
    code = response.status_code
    codes[code] += 1
    if code == 500 and UNDECLARED.fullmatch(message_of(response)) and case.media_type == "application/apply-patch+yaml":
        return None
    if code >= 500:
        return problem(label, f"{code}: {response.text[:400]}", case)
    if code in SUCCESS[case.method.lower()]:
        # What is not gone yet (it has finalizers) is shown, as upstream does against its own documents.
        if case.method == "DELETE" and "deletionTimestamp" in response.text:
            return None
        try:
            case.validate_response(response, checks=[schemathesis.checks.response_schema_conformance])
        except BaseException as error:  # noqa: BLE001 a group of failures is none of the usual exceptions
            if '"eventTime" is a required property' in str(error) and label.split()[1].startswith(EVENTS):
                return None
            problem(label, f"schema: {str(error)[:1500]}", case)
        return None
    if code not in REFUSED:
        return problem(label, f"code {code}: {response.text[:400]}", case)
    try:
        status = response.json()
    except ValueError:
        # Go's own server answers what is no HTTP at all.
        return None if code in (400, 404) and not case.formatted_path.startswith("/api") else problem(
            label, f"no JSON in a {code}: {response.text[:200]}", case)
    sound = (
        status.get("kind") == "Status"
        and status.get("apiVersion") == "v1"
        and status.get("status") == "Failure"
        and status.get("code") == code
        and status.get("message")
        and (status.get("reason") or code in (405, 406, 415))
    )
    if not sound:
        problem(label, f"no sound Status in a {code}: {response.text[:400]}", case)
    # A JSON patch that cannot be done has no field to name (upstream `jsonPatcher.applyJSPatch`, NewGenericServerResponse).
    undone = case.media_type == "application/json-patch+json" and status.get("message") == UNDONE
    if code == 422 and not undone and not (status.get("details") or {}).get("causes"):
        problem(label, f"a 422 without causes: {response.text[:400]}", case)
    return None


def exercise(operation, mode, deadline):
    kind = operation.definition.raw.get("x-kubernetes-group-version-kind")
    rng = random.Random(f"{SEED} {operation.label} {mode}")

    @hypothesis.seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def run(case):
        if time.monotonic() > deadline:
            return
        aimed(case, kind, rng)
        try:
            response = case.call(base_url=server, session=session, timeout=PATIENCE, verify=session.verify,
                                 cert=session.cert)
        except requests.Timeout:
            return problem(operation.label, "no answer", case)
        except requests.ConnectionError as error:
            return problem(operation.label, f"connection: {error}", case)
        except (requests.exceptions.InvalidHeader, UnicodeError):
            return None  # what the client's own library will not send
        return judge(operation, case, response)

    run()


def operations():
    index = session.get(f"{server}/openapi/v3", timeout=PATIENCE).json()["paths"]
    for version, entry in sorted(index.items()):
        if not version.startswith("api"):
            continue
        document = session.get(server + entry["serverRelativeURL"], timeout=PATIENCE).json()
        schema = schemathesis.openapi.from_dict(document)
        for result in schema.get_all_operations():
            operation = result.ok()
            if operation.path.rsplit("/", 1)[-1] in STREAMS or "/proxy/" in operation.path or "/watch/" in operation.path:
                continue
            yield operation


def main():
    began = time.monotonic()
    plant()
    deadline = began + SECONDS
    chosen = [operation for operation in operations() if ONLY in operation.label]
    random.Random(SEED).shuffle(chosen)
    done = 0
    errors = collections.Counter()
    for operation in chosen:
        if time.monotonic() > deadline:
            break
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                exercise(operation, mode, deadline)
            except Exception as error:  # noqa: BLE001 what cannot be made up
                errors[f"{type(error).__name__}: {str(error)[:100]}"] += 1
        done += 1
    alive = session.get(f"{server}/readyz", timeout=PATIENCE)
    assert alive.status_code == 200, alive.text
    print(f"{done} of {len(chosen)} operations, {sum(codes.values())} requests in {time.monotonic() - began:.0f} s: {dict(codes)}")
    for what, count in errors.most_common(10):
        print("not made:", count, what)
    for (label, _), (what, count, example) in problems.items():
        print(f"\n{label} ({count} times)\n  {what}\n  {example}")
    assert sum(codes.values()) > 0, "nothing was sent"
    sys.exit(1 if problems else 0)


main()
