//! The roles of the controllers (upstream `rbac/bootstrappolicy/controller_policy.go`). Each is bound to the service
//! account of the same name in `kube-system`, for those who run a controller apart from the server.

use super::table::{EVENTS, R, READ, Role};

use R::{Named, On};

const APPS: &str = "apps";
const NO_CREATE: &str = "get list watch update";

/// By name.
pub(super) const ROLES: &[Role] = &[
    Role::new(
        "system:controller:attachdetach-controller",
        &[
            On("list watch", "core", "persistentvolumeclaims persistentvolumes"),
            On(READ, "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            On("list watch", "core", "pods"),
            EVENTS,
            On("create delete get list watch", "storage.k8s.io", "volumeattachments"),
            On(READ, "storage.k8s.io", "csidrivers csinodes"),
        ],
    ),
    Role::new(
        "system:controller:certificate-controller",
        &[
            On("delete get list watch", "certificates.k8s.io", "certificatesigningrequests"),
            On(
                "update",
                "certificates.k8s.io",
                "certificatesigningrequests/approval certificatesigningrequests/status",
            ),
            Named("approve", "certificates.k8s.io", "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            Named(
                "sign",
                "certificates.k8s.io",
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet \
                 kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            On("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:clusterrole-aggregation-controller",
        &[On("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    Role::new(
        "system:controller:cronjob-controller",
        &[
            On(NO_CREATE, "batch", "cronjobs"),
            On("create delete get list patch update watch", "batch", "jobs"),
            On("update", "batch", "cronjobs/status"),
            On("update", "batch", "cronjobs/finalizers"),
            On("delete list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:daemon-set-controller",
        &[
            On(READ, APPS, "daemonsets"),
            On("update", APPS, "daemonsets/status"),
            On("update", APPS, "daemonsets/finalizers"),
            On("list watch", "core", "nodes"),
            On("create delete list patch watch", "core", "pods"),
            On("create", "core", "pods/binding"),
            On("create delete get list patch update watch", APPS, "controllerrevisions"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:deployment-controller",
        &[
            On(NO_CREATE, APPS, "deployments"),
            On("update", APPS, "deployments/status"),
            On("update", APPS, "deployments/finalizers"),
            On("create delete get list patch update watch", APPS, "replicasets"),
            On(NO_CREATE, "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:disruption-controller",
        &[
            On(READ, APPS, "deployments replicasets statefulsets"),
            On(READ, "core", "replicationcontrollers"),
            On(READ, "policy", "poddisruptionbudgets"),
            On("update", "policy", "poddisruptionbudgets/status"),
            On("patch update", "core", "pods/status"),
            On("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:endpoint-controller",
        &[
            On(READ, "core", "pods services"),
            On("create delete get list update watch", "core", "endpoints"),
            On("create", "core", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:endpointslice-controller",
        &[
            On(READ, "core", "nodes pods services"),
            On("update", "core", "services/finalizers"),
            On("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:endpointslicemirroring-controller",
        &[
            On(READ, "core", "endpoints services"),
            On("update", "core", "services/finalizers"),
            On("update", "core", "endpoints/finalizers"),
            On("create delete get list update watch", "discovery.k8s.io", "endpointslices"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:ephemeral-volume-controller",
        &[
            On(READ, "core", "pods"),
            On("update", "core", "pods/finalizers"),
            On("create get list watch", "core", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:generic-garbage-collector",
        &[On("delete get list patch update watch", "*", "*"), EVENTS],
    ),
    Role::new(
        "system:controller:horizontal-pod-autoscaler",
        &[
            On(READ, "autoscaling", "horizontalpodautoscalers"),
            On("update", "autoscaling", "horizontalpodautoscalers/status"),
            On("get update", "*", "*/scale"),
            On("list watch", "core", "pods"),
            On("list watch", "metrics.k8s.io", "pods"),
            On(READ, "custom.metrics.k8s.io", "*"),
            On(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:job-controller",
        &[
            On("get list patch update watch", "batch", "jobs"),
            On("update", "batch", "jobs/status"),
            On("update", "batch", "jobs/finalizers"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:namespace-controller",
        &[
            On("delete get list watch", "core", "namespaces"),
            On("update", "core", "namespaces/finalize namespaces/status"),
            On("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    Role::new(
        "system:controller:node-controller",
        &[
            On("delete get list patch update watch", "core", "nodes"),
            On("patch update", "core", "nodes/status"),
            On("patch update", "core", "pods/status"),
            On("delete get list watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:persistent-volume-binder",
        &[
            On("create delete get list update watch", "core", "persistentvolumes"),
            On("update", "core", "persistentvolumes/status"),
            On(NO_CREATE, "core", "persistentvolumeclaims"),
            On("update", "core", "persistentvolumeclaims/status"),
            On("create delete get list watch", "core", "pods"),
            On(READ, "storage.k8s.io", "storageclasses"),
            On("list watch", "core", "nodes"),
            On("watch", "core", "events"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:pod-garbage-collector",
        &[On("delete list watch", "core", "pods"), On(READ, "core", "nodes"), On("patch", "core", "pods/status")],
    ),
    Role::new("system:controller:pv-protection-controller", &[On(NO_CREATE, "core", "persistentvolumes"), EVENTS]),
    Role::new(
        "system:controller:pvc-protection-controller",
        &[On(NO_CREATE, "core", "persistentvolumeclaims"), On(READ, "core", "pods"), EVENTS],
    ),
    Role::new(
        "system:controller:resource-claim-controller",
        &[
            On(READ, "core", "pods"),
            On("update", "core", "pods/finalizers"),
            On("create delete get list watch", "resource.k8s.io", "resourceclaims"),
            On(READ, "resource.k8s.io", "resourceclaimtemplates"),
            On("patch update", "resource.k8s.io", "resourceclaims resourceclaims/status"),
            On("patch update", "core", "pods/status"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:device-taint-eviction-controller",
        &[
            On("delete get list watch", "core", "pods"),
            On("patch", "core", "pods/status"),
            On(READ, "resource.k8s.io", "deviceclasses devicetaintrules resourceclaims resourceslices"),
            On("patch", "resource.k8s.io", "devicetaintrules/status"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:replicaset-controller",
        &[
            On(NO_CREATE, APPS, "replicasets"),
            On("update", APPS, "replicasets/status"),
            On("update", APPS, "replicasets/finalizers"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:replication-controller",
        &[
            On(NO_CREATE, "core", "replicationcontrollers"),
            On("update", "core", "replicationcontrollers/status"),
            On("update", "core", "replicationcontrollers/finalizers"),
            On("create delete list patch watch", "core", "pods"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:resourcequota-controller",
        &[On("list watch", "*", "*"), On("update", "core", "resourcequotas/status"), EVENTS],
    ),
    Role::new("system:controller:root-ca-cert-publisher", &[On("create update", "core", "configmaps"), EVENTS]),
    Role::new("system:controller:service-account-controller", &[On("create", "core", "serviceaccounts"), EVENTS]),
    Role::new(
        "system:controller:service-controller",
        &[
            On(READ, "core", "services"),
            On("patch update", "core", "services/status"),
            On("list watch", "core", "nodes"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:statefulset-controller",
        &[
            On("list watch", "core", "pods"),
            On(READ, APPS, "statefulsets"),
            On("update", APPS, "statefulsets/status"),
            On("update", APPS, "statefulsets/finalizers"),
            On("create delete get patch update", "core", "pods"),
            On("create delete get list patch update watch", APPS, "controllerrevisions"),
            On("create get list watch", "core", "persistentvolumeclaims"),
            On("delete update", "core", "persistentvolumeclaims"),
            On("update", "core", "pods/finalizers"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:controller:ttl-after-finished-controller",
        &[On("delete get list watch", "batch", "jobs"), EVENTS],
    ),
];
