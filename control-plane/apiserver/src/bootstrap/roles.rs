//! The roles and bindings that exist from the first start (upstream `rbac/bootstrappolicy/policy.go`), those of the
//! controllers excepted.

use serde_json::Value;

use super::controllers;
use super::table::{ALL, EVENTS, R, READ, Role, WRITE, binding};
use crate::authz::rbac::Rule;

use R::{Named, On, Url};

const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const STORAGE: &str = "storage.k8s.io";

/// For people, in a namespace.
const USERS: &[Role] = &[
    Role::new("cluster-admin", &[On("*", "*", "*"), Url("*", "*")]),
    Role::gathering("admin", ""),
    Role::gathering("edit", "admin"),
    Role::gathering("view", "edit"),
    Role::part(
        "system:aggregate-to-admin",
        "admin",
        &[On("create", AUTHZ, "localsubjectaccessreviews"), On(ALL, "rbac.authorization.k8s.io", "rolebindings roles")],
    ),
    Role::part(
        "system:aggregate-to-edit",
        "edit",
        &[
            On(READ, "core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
            On("impersonate", "core", "serviceaccounts"),
            On(WRITE, "core", "pods pods/attach pods/exec pods/portforward pods/proxy"),
            On("create", "core", "pods/eviction"),
            On(
                WRITE,
                "core",
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
                 serviceaccounts services services/proxy",
            ),
            On("create", "core", "serviceaccounts/token"),
            On(
                WRITE,
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale \
                 statefulsets statefulsets/scale",
            ),
            On(WRITE, "autoscaling", "horizontalpodautoscalers"),
            On(WRITE, "batch", "cronjobs jobs"),
            On(WRITE, "policy", "poddisruptionbudgets"),
            On(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
            On(ALL, COORDINATION, "leases"),
            On(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
        ],
    ),
    Role::part(
        "system:aggregate-to-view",
        "view",
        &[
            On(
                READ,
                "core",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods \
                 replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
            ),
            On(
                READ,
                "core",
                "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
                 resourcequotas resourcequotas/status",
            ),
            On(READ, "core", "namespaces"),
            On(READ, "discovery.k8s.io", "endpointslices"),
            On(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
            On(
                READ,
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status \
                 replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
            ),
            On(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
            On(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
            On(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
            On(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
        ],
    ),
    Role::new(
        "system:discovery",
        &[Url("get", "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    Role::new(
        "system:basic-user",
        &[
            On("create", AUTHZ, "selfsubjectaccessreviews selfsubjectrulesreviews"),
            On("create", AUTHN, "selfsubjectreviews"),
        ],
    ),
    Role::new("system:public-info-viewer", &[Url("get", "/healthz /livez /readyz /version /version/")]),
    Role::new(
        "system:monitoring",
        &[Url("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
];

const SYSTEM_NODE: Role = Role::new(
    "system:node",
    &[
        On("create", AUTHN, "tokenreviews"),
        On("create", AUTHZ, "localsubjectaccessreviews subjectaccessreviews"),
        On(READ, "core", "services"),
        On("create get list watch", "core", "nodes"),
        On("patch update", "core", "nodes/status"),
        On("patch update", "core", "nodes"),
        EVENTS,
        On(READ, "core", "pods"),
        On("create delete", "core", "pods"),
        On("patch update", "core", "pods/status"),
        On("create", "core", "pods/eviction"),
        On(READ, "core", "configmaps secrets"),
        On("get", "core", "persistentvolumeclaims persistentvolumes"),
        On("get", "core", "endpoints"),
        On("create get list watch", CERTIFICATES, "certificatesigningrequests"),
        On("create delete get patch update", COORDINATION, "leases"),
        On("get", STORAGE, "volumeattachments"),
        On("create", "core", "serviceaccounts/token"),
        On("get patch update", "core", "persistentvolumeclaims/status"),
        On(READ, STORAGE, "csidrivers"),
        On("create delete get patch update", STORAGE, "csinodes"),
        On(READ, "node.k8s.io", "runtimeclasses"),
        On("get", "resource.k8s.io", "resourceclaims"),
        On("deletecollection", "resource.k8s.io", "resourceslices"),
        On("get", "core", "serviceaccounts"),
        On(READ, CERTIFICATES, "clustertrustbundles"),
        On("create get list watch", CERTIFICATES, "podcertificaterequests"),
    ],
);

/// For the parts of a cluster.
const PARTS: &[Role] = &[
    SYSTEM_NODE,
    Role::new(
        "system:node-proxier",
        &[
            On("list watch", "core", "endpoints services"),
            On(READ, "core", "nodes"),
            EVENTS,
            On("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    // Ours: the node's agent enforces network policy, which names pods of any node by their labels.
    Role::new(
        "xebec:node-network-policy",
        &[
            On("list watch", "core", "namespaces pods"),
            On("list watch", "networking.k8s.io", "networkpolicies"),
            On("list watch", "policy.networking.k8s.io", "adminnetworkpolicies baselineadminnetworkpolicies"),
        ],
    ),
    // Ours: nodes work out among themselves who answers for which load balancer address.
    Role::new("xebec:node-load-balancers", &[On("list watch", "net.xebec.io", "loadbalancerpools")]),
    Role::new("system:node-bootstrapper", &[On("create get list watch", CERTIFICATES, "certificatesigningrequests")]),
    Role::new(
        "system:node-problem-detector",
        &[On("get", "core", "nodes"), On("patch", "core", "nodes/status"), EVENTS],
    ),
    Role::new(
        "system:kubelet-api-admin",
        &[
            On(READ, "core", "nodes"),
            On("proxy", "core", "nodes"),
            On("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
        ],
    ),
    Role::new(
        "system:auth-delegator",
        &[On("create", AUTHN, "tokenreviews"), On("create", AUTHZ, "subjectaccessreviews")],
    ),
    Role::new("system:kube-aggregator", &[On(READ, "core", "endpoints services")]),
    Role::new(
        "system:kube-dns",
        &[On("list watch", "core", "endpoints services"), On("list watch", "discovery.k8s.io", "endpointslices")],
    ),
    Role::new(
        "system:kube-controller-manager",
        &[
            EVENTS,
            On("create", COORDINATION, "leases"),
            Named("get update", COORDINATION, "leases", "kube-controller-manager"),
            On("create", "core", "secrets serviceaccounts"),
            On("delete", "core", "secrets"),
            On("get", "core", "configmaps namespaces secrets serviceaccounts"),
            On("update", "core", "secrets serviceaccounts"),
            On("create", AUTHN, "tokenreviews"),
            On("create", AUTHZ, "subjectaccessreviews"),
            On("list watch", "*", "*"),
            On("create", "core", "serviceaccounts/token"),
        ],
    ),
    Role::new(
        "system:kube-scheduler",
        &[
            EVENTS,
            On("create", COORDINATION, "leases"),
            Named("get update", COORDINATION, "leases", "kube-scheduler"),
            On(READ, "core", "nodes"),
            On("delete get list watch", "core", "pods"),
            On("create", "core", "bindings pods/binding"),
            On("patch update", "core", "pods/status"),
            On(READ, "core", "replicationcontrollers services"),
            On(READ, "apps", "replicasets statefulsets"),
            On(READ, "policy", "poddisruptionbudgets"),
            On(READ, "core", "persistentvolumeclaims persistentvolumes"),
            On("create", AUTHN, "tokenreviews"),
            On("create", AUTHZ, "subjectaccessreviews"),
            On(READ, STORAGE, "csinodes csidrivers csistoragecapacities"),
            On(READ, "core", "namespaces"),
            On(READ, "resource.k8s.io", "deviceclasses devicetaintrules resourceslices"),
            On("get list patch update watch", "resource.k8s.io", "resourceclaims"),
            On("patch update", "resource.k8s.io", "resourceclaims/status"),
        ],
    ),
    Role::new(
        "system:volume-scheduler",
        &[
            On("get list patch update watch", "core", "persistentvolumes"),
            On(READ, STORAGE, "storageclasses"),
            On("get list patch update watch", "core", "persistentvolumeclaims"),
        ],
    ),
    Role::new(
        "system:persistent-volume-provisioner",
        &[
            On("create delete get list watch", "core", "persistentvolumes"),
            On("get list update watch", "core", "persistentvolumeclaims"),
            On(READ, STORAGE, "storageclasses"),
            On("watch", "core", "events"),
            EVENTS,
        ],
    ),
    Role::new(
        "system:service-account-issuer-discovery",
        &[Url("get", "/.well-known/openid-configuration /openid/v1/jwks")],
    ),
    Role::new(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[On("create", CERTIFICATES, "certificatesigningrequests/nodeclient")],
    ),
    Role::new(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[On("create", CERTIFICATES, "certificatesigningrequests/selfnodeclient")],
    ),
    Role::new(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[Named("approve", CERTIFICATES, "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    Role::new(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[Named("approve", CERTIFICATES, "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    Role::new(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[Named("approve", CERTIFICATES, "signers", "kubernetes.io/kubelet-serving")],
    ),
    Role::new(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[Named("approve", CERTIFICATES, "signers", "kubernetes.io/legacy-unknown")],
    ),
];

/// Role, then subjects.
const CLUSTER_BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["Group:system:masters"]),
    ("system:monitoring", "system:monitoring", &["Group:system:monitoring"]),
    ("system:discovery", "system:discovery", &["Group:system:authenticated"]),
    ("system:basic-user", "system:basic-user", &["Group:system:authenticated"]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["Group:system:authenticated", "Group:system:unauthenticated"],
    ),
    ("system:node-proxier", "system:node-proxier", &["User:system:kube-proxy"]),
    ("system:kube-controller-manager", "system:kube-controller-manager", &["User:system:kube-controller-manager"]),
    ("system:kube-dns", "system:kube-dns", &["ServiceAccount:kube-system/kube-dns"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["User:system:kube-scheduler"]),
    ("system:volume-scheduler", "system:volume-scheduler", &["User:system:kube-scheduler"]),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["Group:system:serviceaccounts"],
    ),
    // The node authorizer does this role's work; the binding is there, empty, as upstream's.
    ("system:node", "system:node", &[]),
    // Ours: the proxy, the network and DNS are in the node's agent, so that each node follows services and nodes.
    ("xebec:node-proxier", "system:node-proxier", &["Group:system:nodes"]),
    ("xebec:node-network-policy", "xebec:node-network-policy", &["Group:system:nodes"]),
    ("xebec:node-load-balancers", "xebec:node-load-balancers", &["Group:system:nodes"]),
    ("xebec:node-bootstrapper", "system:node-bootstrapper", &["Group:system:bootstrappers:xebec:nodes"]),
    (
        "xebec:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["Group:system:bootstrappers:xebec:nodes"],
    ),
    (
        "xebec:node-autoapprove-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["Group:system:nodes"],
    ),
    ("xebec:kubelet-api-admin", "system:kubelet-api-admin", &["User:kube-apiserver-kubelet-client"]),
];

/// In `kube-system`.
const NAMESPACED: &[(Role, &str, &[&str])] = &[
    (
        Role::new(
            "extension-apiserver-authentication-reader",
            &[Named(READ, "core", "configmaps", "extension-apiserver-authentication")],
        ),
        "system::extension-apiserver-authentication-reader",
        &["User:system:kube-controller-manager", "User:system:kube-scheduler"],
    ),
    (
        Role::new(
            "system::leader-locking-kube-controller-manager",
            &[On("watch", "core", "configmaps"), Named("get update", "core", "configmaps", "kube-controller-manager")],
        ),
        "system::leader-locking-kube-controller-manager",
        &["User:system:kube-controller-manager", "ServiceAccount:kube-system/kube-controller-manager"],
    ),
    (
        Role::new(
            "system::leader-locking-kube-scheduler",
            &[On("watch", "core", "configmaps"), Named("get update", "core", "configmaps", "kube-scheduler")],
        ),
        "system::leader-locking-kube-scheduler",
        &["User:system:kube-scheduler", "ServiceAccount:kube-system/kube-scheduler"],
    ),
    (
        Role::new("system:controller:token-cleaner", &[On("delete get list watch", "core", "secrets"), EVENTS]),
        "system:controller:token-cleaner",
        &["ServiceAccount:kube-system/token-cleaner"],
    ),
    (
        Role::new(
            "xebec:cluster-facts",
            &[Named(READ, "core", "configmaps", "xebec-cluster"), Named(READ, "core", "configmaps", "kube-dns")],
        ),
        "xebec:cluster-facts",
        &["Group:system:nodes"],
    ),
];

/// What every node may do alike: the rules of `system:node`.
pub(crate) fn node_rules() -> Vec<Rule> {
    SYSTEM_NODE.rules.iter().map(R::rule).collect()
}

/// All roles, then all bindings.
pub(super) fn objects() -> Vec<Value> {
    let all: Vec<&Role> = USERS.iter().chain(PARTS).chain(controllers::ROLES).collect();
    let mut out: Vec<Value> = all.iter().map(|role| role.object("", &all)).collect();
    for (name, role, subjects) in CLUSTER_BINDINGS {
        out.push(binding("", name, "ClusterRole", role, subjects));
    }
    for role in controllers::ROLES {
        let account = role.name.trim_start_matches("system:controller:");
        let subject = format!("ServiceAccount:kube-system/{account}");
        out.push(binding("", role.name, "ClusterRole", role.name, &[&subject]));
    }
    for (role, name, subjects) in NAMESPACED {
        out.push(role.object("kube-system", &[]));
        out.push(binding("kube-system", name, "Role", role.name, subjects));
    }
    out
}
