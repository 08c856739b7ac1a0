//! The rows: every kind that upstream serves by default.
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
    /// The definition, as `data/types.txt` shortens its name.
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

/// A kind whose objects are in no namespace.
const fn cluster(group: &'static str, kind: &'static str, plural: &'static str, schema: &'static str) -> Row {
    Row { namespaced: false, ..row(group, kind, plural, schema) }
}

/// A kind that shapes the API itself.
const fn extension(kind: &'static str, plural: &'static str, schema: &'static str) -> Row {
    Row { categories: "api-extensions", ..cluster(ADMISSION, kind, plural, schema) }
}

/// A kind that is answered and not stored.
const fn review(group: &'static str, kind: &'static str, plural: &'static str, schema: &'static str) -> Row {
    Row { verbs: "create", virtual_kind: true, namespaced: false, ..row(group, kind, plural, schema) }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const CERTIFICATES: &str = "certificates.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const RESOURCE: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

const HPA_PLURAL: &str = "horizontalpodautoscalers";

pub(super) const ROWS: &[Row] = &[
    Row { namespaced: true, ..review("", "Binding", "bindings", "core.v1.Binding") },
    Row {
        short: "cs",
        verbs: "get list",
        ..review("", "ComponentStatus", "componentstatuses", "core.v1.ComponentStatus")
    },
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
        short: "pvc",
        subresources: &[STATUS],
        ..row("", "PersistentVolumeClaim", "persistentvolumeclaims", "core.v1.PersistentVolumeClaim")
    },
    Row {
        short: "pv",
        subresources: &[STATUS],
        ..cluster("", "PersistentVolume", "persistentvolumes", "core.v1.PersistentVolume")
    },
    Row {
        short: "po",
        categories: "all",
        subresources: &[
            sub("attach", "PodAttachOptions", CONNECT),
            sub("binding", "Binding", "create"),
            own("ephemeralcontainers"),
            Sub { name: "eviction", group: "policy", version: "v1", kind: "Eviction", verbs: "create" },
            sub("exec", "PodExecOptions", CONNECT),
            sub("log", "", "get"),
            sub("portforward", "PodPortForwardOptions", CONNECT),
            sub("proxy", "PodProxyOptions", PROXY),
            own("resize"),
            STATUS,
        ],
        ..row("", "Pod", "pods", "core.v1.Pod")
    },
    row("", "PodTemplate", "podtemplates", "core.v1.PodTemplate"),
    Row {
        short: "rc",
        categories: "all",
        subresources: &[SCALE, STATUS],
        ..row("", "ReplicationController", "replicationcontrollers", "core.v1.ReplicationController")
    },
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
    extension(
        "MutatingAdmissionPolicy",
        "mutatingadmissionpolicies",
        "admissionregistration.v1.MutatingAdmissionPolicy",
    ),
    extension(
        "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings",
        "admissionregistration.v1.MutatingAdmissionPolicyBinding",
    ),
    extension(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "admissionregistration.v1.MutatingWebhookConfiguration",
    ),
    Row {
        subresources: &[STATUS],
        ..extension(
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "admissionregistration.v1.ValidatingAdmissionPolicy",
        )
    },
    extension(
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    ),
    extension(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "admissionregistration.v1.ValidatingWebhookConfiguration",
    ),
    row("apps", "ControllerRevision", "controllerrevisions", "apps.v1.ControllerRevision"),
    Row {
        short: "ds",
        categories: "all",
        subresources: &[STATUS],
        ..row("apps", "DaemonSet", "daemonsets", "apps.v1.DaemonSet")
    },
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
    Row {
        short: "sts",
        categories: "all",
        subresources: &[SCALE, STATUS],
        ..row("apps", "StatefulSet", "statefulsets", "apps.v1.StatefulSet")
    },
    Row {
        categories: "api-extensions",
        namespaced: false,
        subresources: &[STATUS],
        ..row("apiregistration.k8s.io", "APIService", "apiservices", "apiregistration.v1.APIService")
    },
    Row {
        short: "crd crds",
        categories: "api-extensions",
        namespaced: false,
        subresources: &[STATUS],
        ..row(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "apiextensions.v1.CustomResourceDefinition",
        )
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
    Row {
        short: "hpa",
        categories: "all",
        subresources: &[STATUS],
        ..row("autoscaling", "HorizontalPodAutoscaler", HPA_PLURAL, "autoscaling.v1.HorizontalPodAutoscaler")
    },
    Row {
        version: "v2",
        short: "hpa",
        categories: "all",
        subresources: &[STATUS],
        ..row("autoscaling", "HorizontalPodAutoscaler", HPA_PLURAL, "autoscaling.v2.HorizontalPodAutoscaler")
    },
    Row {
        short: "cj",
        categories: "all",
        subresources: &[STATUS],
        ..row("batch", "CronJob", "cronjobs", "batch.v1.CronJob")
    },
    Row { categories: "all", subresources: &[STATUS], ..row("batch", "Job", "jobs", "batch.v1.Job") },
    Row {
        short: "csr",
        namespaced: false,
        subresources: &[own("approval"), STATUS],
        ..row(
            CERTIFICATES,
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificates.v1.CertificateSigningRequest",
        )
    },
    cluster(CERTIFICATES, "ClusterTrustBundle", "clustertrustbundles", "certificates.v1.ClusterTrustBundle"),
    Row {
        subresources: &[STATUS],
        ..row(CERTIFICATES, "PodCertificateRequest", "podcertificaterequests", "certificates.v1.PodCertificateRequest")
    },
    row("coordination.k8s.io", "Lease", "leases", "coordination.v1.Lease"),
    row("discovery.k8s.io", "EndpointSlice", "endpointslices", "discovery.v1.EndpointSlice"),
    Row { short: "ev", ..row("events.k8s.io", "Event", "events", "events.v1.Event") },
    Row { subresources: &[STATUS], ..cluster(FLOW_CONTROL, "FlowSchema", "flowschemas", "flowcontrol.v1.FlowSchema") },
    Row {
        subresources: &[STATUS],
        ..cluster(
            FLOW_CONTROL,
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "flowcontrol.v1.PriorityLevelConfiguration",
        )
    },
    Row { short: "ing", subresources: &[STATUS], ..row(NETWORKING, "Ingress", "ingresses", "networking.v1.Ingress") },
    cluster(NETWORKING, "IngressClass", "ingressclasses", "networking.v1.IngressClass"),
    Row { short: "ip", ..cluster(NETWORKING, "IPAddress", "ipaddresses", "networking.v1.IPAddress") },
    Row { short: "netpol", ..row(NETWORKING, "NetworkPolicy", "networkpolicies", "networking.v1.NetworkPolicy") },
    Row { subresources: &[STATUS], ..cluster(NETWORKING, "ServiceCIDR", "servicecidrs", "networking.v1.ServiceCIDR") },
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
    cluster(RESOURCE, "DeviceClass", "deviceclasses", "resource.v1.DeviceClass"),
    Row {
        subresources: &[STATUS],
        ..cluster(RESOURCE, "DeviceTaintRule", "devicetaintrules", "resource.v1.DeviceTaintRule")
    },
    Row { subresources: &[STATUS], ..row(RESOURCE, "ResourceClaim", "resourceclaims", "resource.v1.ResourceClaim") },
    row(RESOURCE, "ResourceClaimTemplate", "resourceclaimtemplates", "resource.v1.ResourceClaimTemplate"),
    cluster(RESOURCE, "ResourceSlice", "resourceslices", "resource.v1.ResourceSlice"),
    Row {
        short: "pc",
        namespaced: false,
        ..row("scheduling.k8s.io", "PriorityClass", "priorityclasses", "scheduling.v1.PriorityClass")
    },
    cluster(STORAGE, "CSIDriver", "csidrivers", "storage.v1.CSIDriver"),
    cluster(STORAGE, "CSINode", "csinodes", "storage.v1.CSINode"),
    row(STORAGE, "CSIStorageCapacity", "csistoragecapacities", "storage.v1.CSIStorageCapacity"),
    Row { short: "sc", ..cluster(STORAGE, "StorageClass", "storageclasses", "storage.v1.StorageClass") },
    Row {
        subresources: &[STATUS],
        ..cluster(STORAGE, "VolumeAttachment", "volumeattachments", "storage.v1.VolumeAttachment")
    },
    Row {
        short: "vac",
        ..cluster(STORAGE, "VolumeAttributesClass", "volumeattributesclasses", "storage.v1.VolumeAttributesClass")
    },
    Row {
        subresources: &[STATUS],
        ..cluster(
            "storagemigration.k8s.io",
            "StorageVersionMigration",
            "storageversionmigrations",
            "storagemigration.v1.StorageVersionMigration",
        )
    },
];
