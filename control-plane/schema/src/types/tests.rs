use super::*;

/// Every line of the three files is understood.
#[test]
fn the_facts_parse() {
    let mut fields = 0;
    for entry in entries() {
        let definition = definition(&full(entry.name)).unwrap();
        assert_eq!(definition.fields.len(), entry.body.lines().count(), "{}", entry.name);
        assert!(definition.fields.is_sorted_by(|a, b| a.name < b.name), "{}", entry.name);
        fields += definition.fields.len();
    }
    assert!(entries().is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(fields + entries().len(), TYPES.lines().count());
    for line in DEFAULTS.lines().chain(GO_TYPES.lines()) {
        let mut words = line.split(' ');
        let (name, field) = (words.next().unwrap(), words.next().unwrap());
        let definition = definition(&full(name)).unwrap_or_else(|| panic!("{line}: no such definition"));
        let field = definition.field(field).unwrap_or_else(|| panic!("{line}: no such field"));
        assert!(field.default.is_some() || field.go_type.is_some(), "{line}: not understood");
    }
}

#[test]
fn merging_facts_are_there() {
    let container = definition("io.k8s.api.core.v1.Container").unwrap();
    let ports = container.field("ports").unwrap();
    assert_eq!(ports.node.list, List::Map(Box::new(["containerPort".into(), "protocol".into()])));
    assert!(ports.node.patch.merge);
    assert_eq!(ports.node.patch.merge_key.as_deref(), Some("containerPort"));
    assert_eq!(ports.node.go_type(), "[]v1.ContainerPort");
    let volumes = definition("io.k8s.api.core.v1.PodSpec").unwrap().field("volumes").unwrap();
    assert!(volumes.node.patch.merge && volumes.node.patch.retain_keys);
    let finalizers = definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().field("finalizers");
    assert_eq!(finalizers.unwrap().node.list, List::Set);
    assert!(definition("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap().atomic);
    assert!(definition("io.k8s.api.core.v1.Nothing").is_none());
}

#[test]
fn defaults_know_pointers() {
    let spec = definition("io.k8s.api.apps.v1.DeploymentSpec").unwrap();
    assert_eq!(
        spec.field("replicas").unwrap().default,
        Some(Box::new(Default { value: 1.into(), zero_is_absent: false }))
    );
    let probe = definition("io.k8s.api.core.v1.Probe").unwrap();
    assert!(probe.field("periodSeconds").unwrap().default.as_ref().unwrap().zero_is_absent);
}
