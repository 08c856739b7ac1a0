//! The kinds that controllers read and write: what a request path and an owner reference need.

use std::borrow::Cow;

/// A kind of object and where the API serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// `v1`.
    pub version: Cow<'static, str>,
    /// The name in URLs, `deployments`.
    pub plural: Cow<'static, str>,
    /// `Deployment`.
    pub kind: Cow<'static, str>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
}

impl Kind {
    const fn builtin(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed("v1"),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// `apps/v1`, `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The path of the collection; `namespace` empty means all namespaces.
    pub fn path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() { "/api/" } else { "/apis/" };
        let api_version = self.api_version();
        if namespace.is_empty() || !self.namespaced {
            format!("{root}{api_version}/{}", self.plural)
        } else {
            format!("{root}{api_version}/namespaces/{namespace}/{}", self.plural)
        }
    }

    /// The path of an object or, if `subresource` is not empty, of what is served below it.
    pub fn object_path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = self.path(namespace);
        path.push('/');
        path.push_str(name);
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

macro_rules! kinds {
    ($($name:ident = $group:literal $plural:literal $kind:literal $namespaced:literal;)*) => {
        $(
            #[doc = concat!("`", $kind, "` of the group `", $group, "`.")]
            pub static $name: Kind = Kind::builtin($group, $plural, $kind, $namespaced);
        )*
    };
}

/// `HorizontalPodAutoscaler` of the group `autoscaling`, in the version in which it is stored.
pub static HORIZONTAL_POD_AUTOSCALER: Kind = Kind {
    group: Cow::Borrowed("autoscaling"),
    version: Cow::Borrowed("v2"),
    plural: Cow::Borrowed("horizontalpodautoscalers"),
    kind: Cow::Borrowed("HorizontalPodAutoscaler"),
    namespaced: true,
};

kinds! {
    POD = "" "pods" "Pod" true;
    NODE = "" "nodes" "Node" false;
    SERVICE = "" "services" "Service" true;
    ENDPOINTS = "" "endpoints" "Endpoints" true;
    NAMESPACE = "" "namespaces" "Namespace" false;
    PERSISTENT_VOLUME = "" "persistentvolumes" "PersistentVolume" false;
    PERSISTENT_VOLUME_CLAIM = "" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    RESOURCE_QUOTA = "" "resourcequotas" "ResourceQuota" true;
    SERVICE_ACCOUNT = "" "serviceaccounts" "ServiceAccount" true;
    CONFIG_MAP = "" "configmaps" "ConfigMap" true;
    SECRET = "" "secrets" "Secret" true;
    EVENT = "" "events" "Event" true;
    REPLICATION_CONTROLLER = "" "replicationcontrollers" "ReplicationController" true;
    REPLICA_SET = "apps" "replicasets" "ReplicaSet" true;
    DEPLOYMENT = "apps" "deployments" "Deployment" true;
    STATEFUL_SET = "apps" "statefulsets" "StatefulSet" true;
    DAEMON_SET = "apps" "daemonsets" "DaemonSet" true;
    CONTROLLER_REVISION = "apps" "controllerrevisions" "ControllerRevision" true;
    JOB = "batch" "jobs" "Job" true;
    CRON_JOB = "batch" "cronjobs" "CronJob" true;
    ENDPOINT_SLICE = "discovery.k8s.io" "endpointslices" "EndpointSlice" true;
    LEASE = "coordination.k8s.io" "leases" "Lease" true;
    CERTIFICATE_SIGNING_REQUEST =
        "certificates.k8s.io" "certificatesigningrequests" "CertificateSigningRequest" false;
    CLUSTER_ROLE = "rbac.authorization.k8s.io" "clusterroles" "ClusterRole" false;
    STORAGE_CLASS = "storage.k8s.io" "storageclasses" "StorageClass" false;
    VALIDATING_ADMISSION_POLICY =
        "admissionregistration.k8s.io" "validatingadmissionpolicies" "ValidatingAdmissionPolicy" false;
    CUSTOM_RESOURCE_DEFINITION =
        "apiextensions.k8s.io" "customresourcedefinitions" "CustomResourceDefinition" false;
    VOLUME_ATTRIBUTES_CLASS = "storage.k8s.io" "volumeattributesclasses" "VolumeAttributesClass" false;
    STORAGE_VERSION_MIGRATION =
        "storagemigration.k8s.io" "storageversionmigrations" "StorageVersionMigration" false;
    SERVICE_CIDR = "networking.k8s.io" "servicecidrs" "ServiceCIDR" false;
    IP_ADDRESS = "networking.k8s.io" "ipaddresses" "IPAddress" false;
    RESOURCE_CLAIM = "resource.k8s.io" "resourceclaims" "ResourceClaim" true;
    RESOURCE_CLAIM_TEMPLATE = "resource.k8s.io" "resourceclaimtemplates" "ResourceClaimTemplate" true;
    RESOURCE_SLICE = "resource.k8s.io" "resourceslices" "ResourceSlice" false;
    DEVICE_CLASS = "resource.k8s.io" "deviceclasses" "DeviceClass" false;
    DEVICE_TAINT_RULE = "resource.k8s.io" "devicetaintrules" "DeviceTaintRule" false;
    POD_DISRUPTION_BUDGET = "policy" "poddisruptionbudgets" "PodDisruptionBudget" true;
}

/// `LoadBalancerPool`, a custom resource.
pub static LOAD_BALANCER_POOL: Kind = Kind {
    group: Cow::Borrowed("net.xebec.io"),
    version: Cow::Borrowed("v1alpha1"),
    plural: Cow::Borrowed("loadbalancerpools"),
    kind: Cow::Borrowed("LoadBalancerPool"),
    namespaced: false,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(POD.path("default"), "/api/v1/namespaces/default/pods");
        assert_eq!(POD.path(""), "/api/v1/pods");
        assert_eq!(NODE.object_path("", "n1", "status"), "/api/v1/nodes/n1/status");
        assert_eq!(DEPLOYMENT.object_path("a", "web", ""), "/apis/apps/v1/namespaces/a/deployments/web");
    }
}
