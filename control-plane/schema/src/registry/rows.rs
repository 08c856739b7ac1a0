//! The rows. What is listed here is served, and works: a kind whose controller does not exist yet has no row.
//!
//! Short names, categories and verbs are those that upstream's discovery prints.

/// A row, as it is written here.
pub(super) struct Row {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub short: &'static str,
    pub categories: &'static str,
    pub namespaced: bool,
    pub verbs: &'static str,
    pub subresources: &'static [Sub],
    /// The definition, without `io.k8s.api.`.
    pub schema: &'static str,
    pub virtual_kind: bool,
}

/// A subresource, as it is written here; an empty kind is the parent's.
pub(super) struct Sub {
    pub name: &'static str,
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static str,
}

const ALL: &str = "create delete deletecollection get list patch update watch";
const GET_PATCH_UPDATE: &str = "get patch update";
const CONNECT: &str = "create get";
const PROXY: &str = "create delete get patch update";

const fn sub(name: &'static str, kind: &'static str, verbs: &'static str) -> Sub {
    Sub { name, group: "", version: "", kind, verbs }
}

/// `status`, and likewise what exchanges the parent's kind.
const fn own(name: &'static str) -> Sub {
    sub(name, "", GET_PATCH_UPDATE)
}

const STATUS: Sub = own("status");
const SCALE: Sub = Sub { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: GET_PATCH_UPDATE };

const fn row(group: &'static str, kind: &'static str, plural: &'static str, schema: &'static str) -> Row {
    Row {
        group,
        version: "v1",
        kind,
        plural,
        short: "",
        categories: "",
        namespaced: true,
        verbs: ALL,
        subresources: &[],
        schema,
        virtual_kind: false,
    }
}

/// A kind that is answered and not stored.
const fn review(group: &'static str, kind: &'static str, plural: &'static str, schema: &'static str) -> Row {
    Row { verbs: "create", virtual_kind: true, namespaced: false, ..row(group, kind, plural, schema) }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) const ROWS: &[Row] = &[
    Row { short: "cm", ..row("", "ConfigMap", "configmaps", "core.v1.ConfigMap") },
    Row { short: "ep", ..row("", "Endpoints", "endpoints", "core.v1.Endpoints") },
    Row { short: "ev", ..row("", "Event", "events", "core.v1.Event") },
    Row { short: "limits", ..row("", "LimitRange", "limitranges", "core.v1.LimitRange") },
    Row {
        short: "ns",
        namespaced: false,
        verbs: "create delete get list patch update watch",
        subresources: &[sub("finalize", "", "update"), STATUS],
        ..row("", "Namespace", "namespaces", "core.v1.Namespace")
    },
    Row {
        short: "no",
        namespaced: false,
        subresources: &[sub("proxy", "NodeProxyOptions", PROXY), STATUS],
        ..row("", "Node", "nodes", "core.v1.Node")
    },
    Row {
        short: "po",
        categories: "all",
        subresources: &[
            sub("attach", "PodAttachOptions", CONNECT),
            sub("binding", "Binding", "create"),
            Sub { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: "create" },
            sub("exec", "PodExecOptions", CONNECT),
            sub("log", "", "get"),
            sub("portforward", "PodPortForwardOptions", CONNECT),
            STATUS,
        ],
        ..row("", "Pod", "pods", "core.v1.Pod")
    },
    row("", "PodTemplate", "podtemplates", "core.v1.PodTemplate"),
    Row {
        short: "quota",
        subresources: &[STATUS],
        ..row("", "ResourceQuota", "resourcequotas", "core.v1.ResourceQuota")
    },
    row("", "Secret", "secrets", "core.v1.Secret"),
    Row {
        short: "sa",
        subresources: &[Sub {
            name: "token",
            group: AUTHENTICATION,
            version: "v1",
            kind: "TokenRequest",
            verbs: "create",
        }],
        ..row("", "ServiceAccount", "serviceaccounts", "core.v1.ServiceAccount")
    },
    Row {
        short: "svc",
        categories: "all",
        subresources: &[sub("proxy", "ServiceProxyOptions", PROXY), STATUS],
        ..row("", "Service", "services", "core.v1.Service")
    },
    row("apps", "ControllerRevision", "controllerrevisions", "apps.v1.ControllerRevision"),
    Row {
        short: "deploy",
        categories: "all",
        subresources: &[SCALE, STATUS],
        ..row("apps", "Deployment", "deployments", "apps.v1.Deployment")
    },
    Row {
        short: "rs",
        categories: "all",
        subresources: &[SCALE, STATUS],
        ..row("apps", "ReplicaSet", "replicasets", "apps.v1.ReplicaSet")
    },
    review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", "authentication.v1.SelfSubjectReview"),
    review(AUTHENTICATION, "TokenReview", "tokenreviews", "authentication.v1.TokenReview"),
    Row {
        namespaced: true,
        ..review(
            AUTHORIZATION,
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "authorization.v1.LocalSubjectAccessReview",
        )
    },
    review(
        AUTHORIZATION,
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "authorization.v1.SelfSubjectAccessReview",
    ),
    review(
        AUTHORIZATION,
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "authorization.v1.SelfSubjectRulesReview",
    ),
    review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", "authorization.v1.SubjectAccessReview"),
    Row { categories: "all", subresources: &[STATUS], ..row("batch", "Job", "jobs", "batch.v1.Job") },
    Row {
        short: "csr",
        namespaced: false,
        subresources: &[own("approval"), STATUS],
        ..row(
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificates.v1.CertificateSigningRequest",
        )
    },
    row("coordination.k8s.io", "Lease", "leases", "coordination.v1.Lease"),
    row("discovery.k8s.io", "EndpointSlice", "endpointslices", "discovery.v1.EndpointSlice"),
    Row { short: "ev", ..row("events.k8s.io", "Event", "events", "events.v1.Event") },
    Row { namespaced: false, ..row("node.k8s.io", "RuntimeClass", "runtimeclasses", "node.v1.RuntimeClass") },
    Row {
        short: "pdb",
        subresources: &[STATUS],
        ..row("policy", "PodDisruptionBudget", "poddisruptionbudgets", "policy.v1.PodDisruptionBudget")
    },
    Row { namespaced: false, ..row(RBAC, "ClusterRole", "clusterroles", "rbac.v1.ClusterRole") },
    Row { namespaced: false, ..row(RBAC, "ClusterRoleBinding", "clusterrolebindings", "rbac.v1.ClusterRoleBinding") },
    row(RBAC, "Role", "roles", "rbac.v1.Role"),
    row(RBAC, "RoleBinding", "rolebindings", "rbac.v1.RoleBinding"),
    Row {
        short: "pc",
        namespaced: false,
        ..row("scheduling.k8s.io", "PriorityClass", "priorityclasses", "scheduling.v1.PriorityClass")
    },
];
